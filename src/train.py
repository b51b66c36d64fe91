"""Train a diffusion model: python -m src.train experiment=mnist_ddpm"""

from typing import Any

from omegaconf import DictConfig

from src.commands.main import run_command
from src.commands.overrides import training_overrides


def train(cfg: DictConfig) -> Any:
    """Train the model of a config, or with plan= estimate the cost; returns the results of `sweep.objective`."""
    # Imported here, since torch and Lightning take seconds to import and --help needs neither.
    if cfg.get("plan"):
        from src.commands.plan.command import plan_run

        return plan_run(cfg)
    from src.commands.run_setup import setup_run
    from src.commands.training import Training

    setup = setup_run(cfg)
    if not setup.finished:
        training = Training.prepare(setup)
        training.announce()
        training.fit()
        training.report()
    return setup.result()


if __name__ == "__main__":
    run_command(train, "train", training_overrides)
