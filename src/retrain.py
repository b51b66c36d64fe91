"""Retrain a model on new data, and replace it where it got better: python -m src.retrain run=RUN new=DATA"""

from omegaconf import DictConfig

from src.commands.main import run_command
from src.commands.overrides import retraining_overrides


def retrain(cfg: DictConfig) -> None:
    """Train a challenger on old and new data, and promote it if it is better; or roll back to an earlier champion."""
    from src.commands.retrain.command import Retraining, roll_back  # imports torch, which --help does not need

    if cfg.rollback not in (False, None):
        roll_back(cfg)
        return
    retraining = Retraining.prepare(cfg)
    retraining.announce()
    retraining.evaluate_champion()
    retraining.train()
    if retraining.decide().promoted:
        retraining.register()


if __name__ == "__main__":
    run_command(retrain, "retrain", retraining_overrides)
