"""The report of monitoring, and its metrics for Prometheus."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import localtime, strftime
from typing import Any

import torch
from torch import Tensor

from src.commands.monitor.exposition import Gauge, exposition
from src.commands.monitor.findings import Findings
from src.commands.monitor.service import Check, text_of
from src.commands.monitor.watch import Watch
from src.data.samples import Batch
from src.metrics.base import Picture, ReportSection
from src.metrics.drift import Drift, DriftTest
from src.metrics.features.base import ReferenceData
from src.metrics.report import shown_section, write_pictures_of
from src.plots.drift import DriftRow, distances_beside_limits
from src.plots.pictures import MAX_SHOWN, image_grid, sample_grid
from src.plots.report import Table, render
from src.utils.atomic import write_text

HOW_TO_READ = (
    "The distance is the energy distance to the training data, with its 95 % interval: 0 between equal distributions. "
    "Real data: that of as many held-out data of the run. Limit: 95 % of the distances of equal data are below it. The "
    "p-value of the permutation test is the larger of those against the training data and against the held-out data; "
    "it is adjusted for the number of all tests (Holm). At most {rate:g} of the reports find a difference where there "
    "is none."
)
HOW_TO_READ_OUTPUTS = (
    "The latest outputs are compared with the first of the same weights, among those that were asked for alike: with "
    "the same sampler, steps, guidance, condition and class. The distances, limits and p-values are those of the tests "
    "of new data."
)


def drift_section(found: Findings, drift: Drift, new: Batch, reference: ReferenceData) -> ReportSection:
    """The tests of new data, and the samples that are least like the training data."""
    section = ReportSection("Are the new data like those of the run?")
    names = found.named(found.of_data)
    section.interpretation = answer(names)
    section.notes = [HOW_TO_READ.format(rate=drift.false_alarm_rate)]
    if found.n > drift.max_samples:
        section.notes.append(f"The tests compare {drift.max_samples:,} of the {found.n:,} new samples.")
    section.pictures["tests"] = Picture(
        distances_beside_limits([drift_row(test, found) for test in found.of_data]),
        "Distances relative to their limits, with 95 % intervals; orange: different",
    )
    if reference.kind == "images":
        worst = farthest(reference.features(new["x"]), reference.features.train)[: MAX_SHOWN[4] // 2]
        section.pictures["farthest"] = Picture(
            image_grid(new["x"][worst], columns=8),
            f"The {len(worst)} new samples whose nearest training data are farthest, in features, in descending order",
        )
    return section


def answer(differing: Sequence[str]) -> str:
    """The answer to whether two things are alike."""
    return f"No, they differ in {', '.join(differing)}." if differing else "Yes, as far as the tests can tell."


def drift_row(test: DriftTest, found: Findings) -> DriftRow:
    """A test as a row of the plot."""
    v = test.value
    return DriftRow(test.name, v.value, *(v.interval or (v.value, v.value)), test.limit, test in found.differing)


def farthest(new: Tensor, train: Tensor) -> Tensor:
    """The new vectors (N, D) by their distance to the nearest training vector (M, D), in descending order: (N,)."""
    nearest = torch.cat([torch.cdist(part, train).amin(1) for part in new.split(200)])
    return nearest.argsort(descending=True)


def service_section(found: Findings, watch: Watch) -> ReportSection:
    """The checks of the service."""
    section = ReportSection("Does the service work?")
    failed = [check.why or check.title for check in found.checks if check.failed]
    section.interpretation = f"No: {'; '.join(failed)}." if failed else "Yes, within its limits."
    section.notes = ["Counted since the service was started." if watch.restarted else "Counted since the last look."]
    return section


def outputs_section(found: Findings, watch: Watch, reference: ReferenceData) -> ReportSection:
    """The first and the latest outputs, and their tests."""
    section = ReportSection("Are the outputs of the service like those at its deployment?", notes=[HOW_TO_READ_OUTPUTS])
    first, latest = watch.first, watch.latest
    if not found.of_outputs or first is None or latest is None:
        counts = [0 if part is None else len(part.x) for part in (first, latest)]
        section.interpretation = (
            f"Too few to compare: {counts[0]} first and {counts[1]} later outputs of these weights."
        )
        return section
    names = found.named(found.of_outputs)
    section.interpretation = answer(names)
    for name, part in (("first", first), ("latest", latest)):
        x = torch.from_numpy(part.x[: MAX_SHOWN[part.x.ndim] // 2]).float()
        caption = f"{len(x)} of the {len(part.x)} {name} outputs"
        section.pictures[f"outputs_{name}"] = Picture(sample_grid(x, kind=reference.kind), caption)
    return section


def drift_table(tests: Sequence[DriftTest], found: Findings) -> Table:
    """Tests as a table."""
    header = ["", "samples", "distance", "95 % interval", "real data", "limit", "p", "adjusted p", "result"]
    rows = []
    for test in tests:
        v = test.value
        low, high = v.interval or (v.value, v.value)
        rows.append([
            test.name, f"{test.n:,}", v.format(v.value), f"{v.format(low)} to {v.format(high)}",
            "" if v.real_baseline is None else v.format(v.real_baseline), v.format(test.limit), f"{test.p:.2g}",
            f"{test.adjusted:.2g}", "different" if test in found.differing else "alike",
        ])  # fmt: skip
    return Table(header, rows)


def service_table(checks: Sequence[Check]) -> Table:
    """Checks as a table."""
    rows = [
        [
            check.title,
            text_of(check.value),
            "" if check.limit is None else text_of(check.limit),
            "beyond" if check.failed else "fine",
        ]
        for check in checks
    ]
    return Table(["", "value", "limit", "result"], rows)


def write_page(folder: Path, record: Mapping[str, Any], found: Findings) -> None:
    """Write report.html, and its pictures as files."""
    write_pictures_of(found.sections.values(), folder)
    tables = {
        "drift": drift_table(found.of_data, found),
        "service": service_table(found.checks),
        "outputs": drift_table(found.of_outputs, found) if found.of_outputs else None,
    }
    sections = [shown_section(section) | {"table": tables.get(name, shown_section(section)["table"])}
                for name, section in found.sections.items()]  # fmt: skip
    title = f"Monitoring of {record['name'] or record['run']}"
    rows = [
        ["run", record["run"]],
        ["new data", record["new"] and f"{record['new']}, {record['n']:,} samples"],
        ["service", record["service"]],
        ["time", strftime("%Y-%m-%d %H:%M:%S", localtime(record["time"]))],
        ["result", record["result"]],
        ["features", record["features"]],
    ]
    summary = Table(["", ""], [row for row in rows if row[1]], numbers=False)
    write_text(folder / "report.html", render("evaluation.html", title=title, summary=summary, sections=sections))


def gauges_of(record: Mapping[str, Any], found: Findings) -> str:
    """The metrics for Prometheus."""
    each = [({"measure": test.measure, "group": test.group}, test) for test in found.tests]
    values = [({"name": name}, v["value"]) for name, v in record["metrics"].items() if v["value"] is not None]
    checks = [({"check": check.name}, check) for check in found.checks]
    distances = [(of, test.value.value) for of, test in each]
    limits = [(of, test.limit) for of, test in each]
    p_values = [(of, test.adjusted) for of, test in each]
    figures = [(of, check.value) for of, check in checks]
    failed = [(of, float(check.failed)) for of, check in checks]
    return exposition(
        [
            Gauge("time_seconds", "When the run was last looked at, in seconds since 1970", [({}, record["time"])]),
            Gauge("exit_code", "The exit code of src.monitor", [({}, record["exit_code"])]),
            Gauge("drift", "1 if the new data or the outputs differ", [({}, float(record["drift"]))]),
            Gauge("samples", "New samples", [({}, record["n"])]),
            Gauge("distance", "Energy distance to the training data or the first outputs", distances),
            Gauge("distance_limit", "95 % of the distances of equal data are below", limits),
            Gauge("p_value", "P-value, adjusted for the number of tests", p_values),
            Gauge("metric", "Metrics of the new data, as in the report", values),
            Gauge("service", "Figures of the service since the last look", figures),
            Gauge("service_failed", "1 if a figure of the service is beyond its limit", failed),
        ],
        {"run": record["name"] or record["run"]},
    )
