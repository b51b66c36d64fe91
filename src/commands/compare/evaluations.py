"""What evaluations say of runs, as far as it can be compared."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

from src.commands.compare.records import Record
from src.statistics.significance import Better, Estimate

Evaluation = dict[str, Any]  # a metrics.json
# What two evaluations must have in common for their numbers to be compared, and how it is called.
COMMON = {"n": "numbers of samples", "features": "features", "data": "real data"}

# Those that the first table shows, where a run has them; all others are beside it.
MAIN = ("frechet_distance", "kernel_distance", "precision", "recall", "sliced_wasserstein")
COSTS = ("nfe", "seconds_per_1000")  # which every evaluation has anyway


def comparable(records: Sequence[Record]) -> tuple[list[Evaluation | None], str | None]:
    """The evaluation of each run to compare, None where it has none, and why they cannot be compared, if so.

    The newest of those settings that all evaluated runs have in common, or without such settings the newest of each.
    """
    evaluated = [r.evaluations for r in records if r.evaluations]
    shared = set.intersection(*({settings(e) for e in there} for there in evaluated)) if evaluated else set()
    if not shared:
        chosen = [r.evaluations[0] if r.evaluations else None for r in records]
        found = [e for e in chosen if e]
        kinds = [name for key, name in COMMON.items() if len({str(e.get(key)) for e in found}) > 1]
        return chosen, f"different {' and '.join(kinds)}" if found else None
    newest = next(settings(e) for e in evaluated[0] if settings(e) in shared)
    return [next((e for e in r.evaluations if settings(e) == newest), None) for r in records], None


def settings(evaluation: Evaluation) -> tuple[Any, ...]:
    return tuple(evaluation.get(key) for key in COMMON)


def metric_names(evaluations: Sequence[Evaluation | None]) -> dict[str, str]:
    """The name to show of each metric that an evaluation has, by its key; those that are better or worse come first."""
    found = [(key, value) for e in evaluations if e for key, value in e["metrics"].items() if key not in COSTS]
    ordered = sorted(found, key=lambda item: item[1].get("better") is None)
    return {key: value.get("name") or key for key, value in ordered}


def main_names(evaluations: Sequence[Evaluation | None]) -> dict[str, str]:
    """Those that the first table shows; the very first ones where there are none of these."""
    names = metric_names(evaluations)
    return {key: names[key] for key in MAIN if key in names} or dict(list(names.items())[:3])


def direction(key: str, evaluations: Sequence[Evaluation | None]) -> Better | None:
    """Whether lower or higher is better."""
    return next((e["metrics"][key].get("better") for e in evaluations if e and key in e["metrics"]), None)


def estimate(key: str, evaluations: Sequence[Evaluation | None]) -> Estimate | None:
    """A metric over the seeds of one row; of a single one with its interval."""
    values = [value for e in evaluations if e and (value := e["metrics"].get(key)) and is_number(value["value"])]
    if not values:
        return None
    single = values[0] if len(values) == 1 else {}
    return Estimate(tuple(v["value"] for v in values), single.get("low"), single.get("high"))


def is_number(value: Any) -> bool:
    """Whether a metric is there: None and NaN stand for one that could not be measured."""
    return isinstance(value, int | float) and isfinite(value)


def real_baseline_of(key: str, evaluations: Sequence[Evaluation | None]) -> float | None:
    """The real-data baseline of a metric, if known."""
    return next((f for e in evaluations if e and is_number(f := e["metrics"].get(key, {}).get("real_baseline"))), None)


def seconds_per_thousand(evaluation: Evaluation) -> float:
    """What a thousand samples took."""
    return 1000 * evaluation["seconds"] / evaluation["n"]


def sampler_name(evaluation: Evaluation) -> str:
    """The class of the sampler, its steps, and the scale of the guidance."""
    sampler, guidance = evaluation["sampler"], evaluation.get("guidance") or {}
    name = sampler["_target_"].rpartition(".")[2]
    scale = f", guidance {guidance['scale']:g}" if "scale" in guidance else ""
    return f"{name} {sampler['steps']}{scale}" if "steps" in sampler else f"{name}{scale}"
