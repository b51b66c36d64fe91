"""Train a diffusion model: python -m src.train experiment=mnist_ddpm"""

from omegaconf import DictConfig

from src.runs import words_of_resumed_run
from src.utils.cli import run_command


def train(cfg: DictConfig) -> float | None:
    """Compose and check the config, build the parts, announce, fit, report; returns the best validation loss."""
    from src.training import Training  # torch and Lightning take seconds to import, which --help need not wait for

    training = Training.prepare(cfg)
    training.announce()
    training.fit()
    return training.report()


if __name__ == "__main__":
    run_command(train, "train", words_of_resumed_run)
