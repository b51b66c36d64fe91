"""Train a diffusion model: python -m src.train experiment=mnist_ddpm"""

from typing import Any

from omegaconf import DictConfig

from src.commands.main import run_command
from src.commands.overrides import training_overrides


def train(cfg: DictConfig) -> Any:
    """Settle all settings and the folder, build the parts, announce, fit, report; returns what a search looks at."""
    if cfg.get("plan"):
        from src.commands.plan.command import plan_run

        plan_run(cfg)
        return None
    from src.commands.run_setup import setup_run
    from src.commands.training import (
        Training,  # torch and Lightning take seconds to import, which --help need not wait for
    )

    run = setup_run(cfg)
    if not run.finished:
        training = Training.prepare(run)
        training.announce()
        training.fit()
        training.report()
    return run.outcome()


if __name__ == "__main__":
    run_command(train, "train", training_overrides)
