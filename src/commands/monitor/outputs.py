"""The outputs of a service: those of its first requests after the deployment beside the latest."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from src.commands.monitor.service import ServiceClient
from src.metrics.base import MetricValue
from src.metrics.drift import DriftTest
from src.metrics.drift_measures import Sample, as_vectors, sample_statistics
from src.metrics.features.base import ReferenceData
from src.statistics.two_sample import energy_test
from src.utils.atomic import atomic_write
from src.utils.files import Damaged, read_arrays
from src.utils.seeding import generator

PAGE = 100  # jobs in an answer
LEAST = 10  # outputs on each side that are compared


class Outputs(NamedTuple):
    """Samples that a service made.

    Attributes:
        x: (N, C, *S) in the units of the data, all finite.
        asked: (N,) what each was asked for: sampler, steps, guidance, condition and label.
        jobs: their jobs.
    """

    x: np.ndarray
    asked: np.ndarray
    jobs: np.ndarray

    @classmethod
    def of(cls, client: ServiceClient, digest: str, n: int, oldest: bool, but: Sequence[str] = ()) -> "Outputs":
        """At most n samples of the first or the latest jobs of some weights."""
        xs, asked, ids = [], [], []
        for job in jobs_of(client, digest, oldest):
            if job["id"] in but:
                continue
            with np.load(io.BytesIO(client.fetch(f"/jobs/{job['id']}/samples.npz")), allow_pickle=False) as found:
                x, label = found["x"], found.get("label")
            settings = {key: value for key, value in job["settings"].items() if key not in ("seed", "n")}
            if label is not None and "condition" in settings:
                settings["condition"] = {k: v for k, v in settings["condition"].items() if k != "label"}
            for i in np.flatnonzero(np.isfinite(x.reshape(len(x), -1)).all(1)):
                what = settings if label is None else settings | {"label": int(label[i])}
                xs.append(x[i])
                asked.append(json.dumps(what, sort_keys=True))
                ids.append(job["id"])
            if len(xs) >= n:
                break
        x = np.stack(xs[:n]) if xs else np.zeros((0, 1), np.float32)
        return cls(x, np.array(asked[:n], dtype=str), np.array(ids[:n], dtype=str))


def jobs_of(client: ServiceClient, digest: str, oldest: bool) -> Iterator[dict[str, Any]]:
    """The jobs that drew samples with some weights, the first or the latest first."""
    beyond: dict[str, int] = {}
    while True:
        page = client.json("/jobs", kind="samples", digest=digest, oldest=oldest, limit=PAGE, **beyond)
        yield from page
        if len(page) < PAGE:
            return
        beyond = {"after" if oldest else "before": page[-1]["number"]}


def outputs_at_deployment(folder: Path, client: ServiceClient, digest: str, n: int) -> Outputs:
    """The first outputs of some weights, kept in a file once there are n, since the service forgets old jobs."""
    file = folder / f"outputs_{digest}.npz"
    if file.is_file():
        try:
            kept = read_arrays(file, {"x": "f", "asked": "U", "jobs": "U"}, "The first outputs are read again")
            return Outputs(kept["x"], kept["asked"], kept["jobs"])
        except Damaged:
            pass
    first = Outputs.of(client, digest, n, oldest=True)
    if len(first.x) >= n:
        with atomic_write(file) as partial:
            np.savez(partial, **first._asdict())  # type: ignore[arg-type]
    return first


def compare_outputs(
    first: Outputs, latest: Outputs, reference: ReferenceData, permutations: int, seed: int
) -> list[DriftTest]:
    """Test the latest outputs against the first, among those that were asked for alike; none if there are too few."""
    names, strata = np.unique(np.concatenate([latest.asked, first.asked]), return_inverse=True)
    new, old = (torch.from_numpy(part) for part in np.split(strata, [len(latest.asked)]))
    alike = [int(k) for k in range(len(names)) if min((new == k).sum(), (old == k).sum()) >= 2]
    rows = [torch.isin(part, torch.tensor(alike, dtype=part.dtype)) for part in (new, old)]
    if min(int(chosen.sum()) for chosen in rows) < LEAST:
        return []
    x, x_first = (torch.from_numpy(part.x).float() for part in (latest, first))
    tests = []
    for measure, (of_new, of_old) in output_vectors(reference, x, x_first).items():
        draws = generator("outputs", seed)
        found = energy_test(of_new, of_old, permutations, draws, strata=(new, old))
        name = f"outputs: {measure}"
        value = MetricValue(name, found.distance, found.low, found.high, better="lower")
        tests.append(DriftTest(name, "", int(rows[0].sum()), value, found.limit, found.p))
    return tests


def output_vectors(reference: ReferenceData, x: Tensor, y: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What is compared of outputs, as vectors."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    if reference.kind == "images":
        found["features of the run"] = reference.features(x), reference.features(y)
    else:
        found["elements"] = as_vectors(x), as_vectors(y)
    if reference.kind != "points":
        of_x, of_y = (sample_statistics(reference.value_range.to_unit(part)) for part in (x, y))
        scaled = Sample(of_x, of_y, of_y[:0]).standardized()
        found["mean, contrast and spectrum"] = scaled.new, scaled.train
    return found
