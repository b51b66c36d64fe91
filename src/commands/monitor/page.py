"""The report of monitoring, and its metrics for Prometheus."""

from collections.abc import Mapping
from pathlib import Path
from time import localtime, strftime
from typing import Any

import torch
from torch import Tensor

from src.commands.monitor.exposition import Gauge, exposition
from src.commands.monitor.findings import Findings
from src.data.samples import Batch
from src.metrics.base import Picture, ReportSection
from src.metrics.drift import Drift
from src.metrics.features.base import ReferenceData
from src.metrics.report import shown_section, write_pictures_of
from src.plots.drift import DriftRow, distances_beside_limits
from src.plots.pictures import MAX_SHOWN, image_grid
from src.plots.report import Table, render
from src.utils.atomic import write_text

HOW_TO_READ = (
    "The distance is the energy distance to the training data, with its 95 % interval: 0 between equal distributions. "
    "Real data: that of as many held-out data of the run. Limit: 95 % of the distances of equal data are below it. The "
    "p-value of the permutation test is the larger of those against the training data and against the held-out data; "
    "it is adjusted for the number of tests (Holm). At most {rate:g} of the reports find a difference where there is "
    "none."
)


def drift_section(found: Findings, drift: Drift, new: Batch, reference: ReferenceData) -> ReportSection:
    """The tests of new data, and the samples that are least like the training data."""
    section = ReportSection("Are the new data like those of the run?")
    section.interpretation = f"{found.verdict[:1].upper()}{found.verdict[1:]}."
    section.notes = [HOW_TO_READ.format(rate=drift.false_alarm_rate)]
    if found.n > drift.max_samples:
        section.notes.append(f"The tests compare {drift.max_samples:,} of the {found.n:,} new samples.")
    caption = "Distances relative to their limits, with 95 % intervals; orange: different"
    rows = [
        DriftRow(test.name, v.value, *(v.interval or (v.value, v.value)), test.limit, test in found.differing)
        for test in found.tests
        if (v := test.value)
    ]
    section.pictures["tests"] = Picture(distances_beside_limits(rows), caption)
    if reference.kind == "images":
        worst = farthest(reference.features(new["x"]), reference.features.train)[: MAX_SHOWN[4] // 2]
        section.pictures["farthest"] = Picture(
            image_grid(new["x"][worst], columns=8),
            f"The {len(worst)} new samples whose nearest training data are farthest, in features, in descending order",
        )
    return section


def farthest(new: Tensor, train: Tensor) -> Tensor:
    """The new vectors (N, D) by their distance to the nearest training vector (M, D), in descending order: (N,)."""
    nearest = torch.cat([torch.cdist(part, train).amin(1) for part in new.split(200)])
    return nearest.argsort(descending=True)


def test_table(record: Mapping[str, Any], found: Findings) -> Table:
    """The tests as a table."""
    header = ["", "samples", "distance", "95 % interval", "real data", "limit", "p", "adjusted p", "result"]
    rows = []
    for test in found.tests:
        v = test.value
        low, high = v.interval or (v.value, v.value)
        rows.append([
            test.name, f"{test.n:,}", v.format(v.value), f"{v.format(low)} to {v.format(high)}",
            v.format(v.real_baseline or 0.0), v.format(test.limit), f"{test.p:.2g}", f"{test.adjusted:.2g}",
            "different" if test in found.differing else "alike",
        ])  # fmt: skip
    return Table(header, rows)


def write_page(folder: Path, record: Mapping[str, Any], found: Findings) -> None:
    """Write report.html, and its pictures as files."""
    write_pictures_of(found.sections.values(), folder)
    sections = [shown_section(section) for section in found.sections.values()]
    sections[0]["table"] = test_table(record, found)
    title = f"Monitoring of {record['name'] or record['run']}"
    rows = [
        ["run", record["run"]],
        ["new data", f"{record['new']}, {record['n']:,} samples"],
        ["time", strftime("%Y-%m-%d %H:%M:%S", localtime(record["time"]))],
        ["result", record["result"]],
        *([["features", record["features"]]] if record["features"] else []),
    ]
    summary = Table(["", ""], rows, numbers=False)
    write_text(folder / "report.html", render("evaluation.html", title=title, summary=summary, sections=sections))


def data_gauges(record: Mapping[str, Any], found: Findings) -> str:
    """The metrics for Prometheus."""
    each = [({"measure": test.measure, "group": test.group}, test) for test in found.tests]
    values = [
        ({"name": name}, value["value"]) for name, value in record["metrics"].items() if value["value"] is not None
    ]
    return exposition(
        [
            Gauge("time_seconds", "When the run was last looked at, in seconds since 1970", [({}, record["time"])]),
            Gauge("exit_code", "The exit code of src.monitor", [({}, record["exit_code"])]),
            Gauge("drift", "1 if the new data differ from those of the run", [({}, float(record["drift"]))]),
            Gauge("samples", "New samples", [({}, record["n"])]),
            Gauge("distance", "Energy distance to the training data", [(of, test.value.value) for of, test in each]),
            Gauge(
                "distance_limit",
                "95 % of the distances of equal data are below",
                [(of, test.limit) for of, test in each],
            ),
            Gauge("p_value", "P-value, adjusted for the number of tests", [(of, test.adjusted) for of, test in each]),
            Gauge("metric", "Metrics of the new data, as in the report", values),
        ],
        {"run": record["name"] or record["run"]},
    )
