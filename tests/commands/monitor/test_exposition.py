"""Prometheus reads what is written for it."""

from math import nan

from prometheus_client.parser import text_string_to_metric_families

from src.commands.monitor.exposition import Gauge, exposition


def test_prometheus_reads_it():
    name = 'a "quoted" \\ name\nof two lines'
    gauges = [
        Gauge("p", "some p-values", [({"measure": name}, 0.25), ({"measure": "b"}, nan)]),
        Gauge("n", "n", [({}, 3)]),
    ]
    found = list(text_string_to_metric_families(exposition(gauges, {"run": "r"})))
    assert [family.name for family in found] == ["diffusion_monitor_p", "diffusion_monitor_n"]
    assert found[0].documentation == "some p-values"
    first, second = found[0].samples
    assert (first.labels, first.value) == ({"run": "r", "measure": name}, 0.25)
    assert second.value != second.value
    assert found[1].samples[0].value == 3
