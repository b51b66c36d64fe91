"""Measure a run: python -m src.evaluate run=latest n=2000"""

from typing import Any

from omegaconf import DictConfig

from src.commands.cli import overridden_keys
from src.commands.main import run_command
from src.commands.overrides import sampling_overrides


def evaluate(cfg: DictConfig) -> Any:
    """Rebuild the model from the run folder, draw samples, measure them, and write the figures and the report.

    Returns what a sweep looks at.
    """
    from src.commands.evaluation import (  # torch takes seconds to import, which --help need not wait for
        Evaluation,
        objective,
    )

    evaluation = Evaluation.prepare(cfg, overridden_keys())
    context = evaluation.draw()
    sections = evaluation.compute_metrics(context)
    evaluation.write(context, sections)
    return objective(cfg.sweep.objective, sections)


if __name__ == "__main__":
    run_command(evaluate, "evaluate", sampling_overrides)
