"""Evaluate a run: python -m src.evaluate run=latest n=2000"""

from typing import Any

from omegaconf import DictConfig

from src.commands.cli import overridden_keys
from src.commands.main import run_command
from src.commands.overrides import sampling_overrides


def evaluate(cfg: DictConfig) -> Any:
    """Load the model of a run, sample from it, compute metrics and write a report.

    Returns:
        The metrics that `sweep.objective` names.
    """
    from src.commands.evaluation import Evaluation, metric_values  # imports torch, which --help does not need

    evaluation = Evaluation.prepare(cfg, overridden_keys())
    context = evaluation.draw()
    sections = evaluation.compute_metrics(context)
    evaluation.write(context, sections)
    return metric_values(cfg.sweep.objective, sections)


if __name__ == "__main__":
    run_command(evaluate, "evaluate", sampling_overrides)
