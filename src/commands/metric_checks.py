"""The metrics of an evaluation: which of them apply to a run, and which can be computed from its samples."""

from typing import Any

import torch

from src.metrics.base import NOT_AVAILABLE, EvalContext, Metric, ReportSection
from src.utils.errors import UserError


def without_samples(metrics: dict[str, Metric], named: bool, human: Any) -> dict[str, Metric]:
    """Select the metrics for a plain denoiser, which cannot generate samples."""
    asked = [f"metrics={name}" for name, metric in metrics.items() if metric.needs_samples and named]
    asked += [f"human={human}"] if human else []
    if asked:
        raise UserError(f"{asked[0]} needs samples, but this run is a plain denoiser, which cannot generate any")
    return {name: metric for name, metric in metrics.items() if not metric.needs_samples}


def check_counts(metrics: dict[str, Metric], context: EvalContext) -> None:
    """Check the number of samples against the minimum of every metric, before any are drawn.

    Raises:
        UserError: for too few samples, with the minimum of each such metric.
    """
    wanted = {
        name: m.min_samples_for(context) for name, m in metrics.items() if m.needs_samples and context.kind in m.kinds
    }
    short = {name: least for name, least in wanted.items() if least > context.n}
    if short:
        needed = " and ".join(f"metrics={name} needs n >= {least}" for name, least in short.items())
        others = ",".join(name for name in metrics if name not in short)
        instead = f", or metrics=[{others}]" if others else ""
        raise UserError(f"{needed}, got n={context.n}; use n={max(short.values())} or more{instead}")


def is_applicable(name: str, metric: Metric, context: EvalContext, named: bool) -> bool:
    """True if a metric applies to the run.

    Raises:
        UserError: if it does not, and the command line names it.
    """
    why = metric.why_not_applicable(context)
    if why is not None and named:
        raise UserError(f"metrics={name} does not apply to this run: {why}")
    return why is None


def unusable(x: torch.Tensor) -> str | None:
    """Why no metric can be computed from samples (N, C, *S); None if all are finite."""
    lost = len(x) - int(x.isfinite().flatten(1).all(1).sum())
    if not lost:
        return None
    return (
        f"WARNING: {NOT_AVAILABLE}: {lost:,} of {len(x):,} samples hold NaN or infinite numbers. "
        "Use another sampler, more steps, precision=32 or another checkpoint"
    )


def empty_section(name: str, why: str) -> ReportSection:
    """The section of a metric that could not be computed."""
    return ReportSection(name.replace("_", " ").capitalize(), notes=[why])
