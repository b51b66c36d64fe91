"""Evaluations of runs, as far as they are comparable."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

from src.commands.compare.records import RunRecord
from src.statistics.significance import Better, Estimate

Evaluation = dict[str, Any]  # a metrics.json
# Keys that two evaluations must share to be comparable, with their names in messages.
COMMON = {"n": "numbers of samples", "features": "features", "data": "real data"}

# Metrics of the first table; the others are in a table of their own.
MAIN = (
    "frechet_distance", "kernel_distance", "precision", "recall", "sliced_wasserstein", "mean_bias_percent",
    "contrast_bias_percent", "histogram_distance",
)  # fmt: skip
COSTS = ("nfe", "seconds_per_1000")  # part of every evaluation


def comparable(records: Sequence[RunRecord]) -> tuple[list[Evaluation | None], str | None]:
    """Select an evaluation for each run, None without any; and the reason if they are not comparable, else None.

    Selects the newest evaluations with a common key, or the newest of each run if there is no common key.
    """
    evaluated = [r.evaluations for r in records if r.evaluations]
    shared = set.intersection(*({comparison_key(e) for e in there} for there in evaluated)) if evaluated else set()
    if not shared:
        chosen = [r.evaluations[0] if r.evaluations else None for r in records]
        found = [e for e in chosen if e]
        kinds = [name for key, name in COMMON.items() if len({str(e.get(key)) for e in found}) > 1]
        return chosen, f"different {' and '.join(kinds)}" if found else None
    newest = next(comparison_key(e) for e in evaluated[0] if comparison_key(e) in shared)
    return [next((e for e in r.evaluations if comparison_key(e) == newest), None) for r in records], None


def comparison_key(evaluation: Evaluation) -> tuple[Any, ...]:
    return tuple(evaluation.get(key) for key in COMMON)


def metric_names(evaluations: Sequence[Evaluation | None]) -> dict[str, str]:
    """The titles of all metrics by key; metrics with a better direction come first."""
    found = [(key, value) for e in evaluations if e for key, value in e["metrics"].items() if key not in COSTS]
    ordered = sorted(found, key=lambda item: item[1].get("better") is None)
    return {key: value.get("name") or key for key, value in ordered}


def main_names(evaluations: Sequence[Evaluation | None]) -> dict[str, str]:
    """The metrics of the first table, or the first three if there are none of these."""
    names = metric_names(evaluations)
    return {key: names[key] for key in MAIN if key in names} or dict(list(names.items())[:3])


def direction(key: str, evaluations: Sequence[Evaluation | None]) -> Better | None:
    """The better direction of a metric."""
    return next((e["metrics"][key].get("better") for e in evaluations if e and key in e["metrics"]), None)


def metric_estimate(key: str, evaluations: Sequence[Evaluation | None]) -> Estimate | None:
    """A metric over the seeds of one row; for a single seed with its interval."""
    values = [value for e in evaluations if e and (value := e["metrics"].get(key)) and is_number(value["value"])]
    if not values:
        return None
    single = values[0] if len(values) == 1 else {}
    return Estimate(tuple(v["value"] for v in values), single.get("low"), single.get("high"))


def is_number(value: Any) -> bool:
    """Return True if a value is finite; None and NaN mean not available."""
    return isinstance(value, int | float) and isfinite(value)


def real_baseline_of(key: str, evaluations: Sequence[Evaluation | None]) -> float | None:
    """The real-data baseline of a metric, if known."""
    return next((f for e in evaluations if e and is_number(f := e["metrics"].get(key, {}).get("real_baseline"))), None)


def seconds_per_thousand(evaluation: Evaluation) -> float:
    """Seconds for 1,000 samples."""
    return 1000 * evaluation["seconds"] / evaluation["n"]


def sampler_name(evaluation: Evaluation) -> str:
    """The sampler class with its steps and the guidance scale."""
    sampler, guidance = evaluation["sampler"], evaluation.get("guidance") or {}
    name = sampler["_target_"].rpartition(".")[2]
    scale = f", guidance {guidance['scale']:g}" if "scale" in guidance else ""
    return f"{name} {sampler['steps']}{scale}" if "steps" in sampler else f"{name}{scale}"
