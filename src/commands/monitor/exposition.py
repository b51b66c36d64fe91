"""Metrics in the text format of Prometheus, for the textfile collector of the node exporter.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import NamedTuple

PREFIX = "diffusion_monitor"


class Gauge(NamedTuple):
    """A metric: its name without the prefix, its meaning, and its values with their labels."""

    name: str
    help: str
    values: Iterable[tuple[Mapping[str, str], float]]


def exposition(gauges: Iterable[Gauge], common: Mapping[str, str]) -> str:
    """The text of some metrics, with labels that all of them have."""
    lines = []
    for gauge in gauges:
        name = f"{PREFIX}_{gauge.name}"
        lines += [f"# HELP {name} {gauge.help}", f"# TYPE {name} gauge"]
        for labels, value in gauge.values:
            inside = ",".join(f'{key}="{escaped(text)}"' for key, text in {**common, **labels}.items())
            lines.append(f"{name}{{{inside}}} {value if isfinite(value) else 'NaN'}")
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """A label value."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
