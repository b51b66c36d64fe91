"""Serve a run on the web: python -m src.serve run=latest"""

from omegaconf import DictConfig

from src.commands.main import run_command
from src.commands.overrides import sampling_overrides


def serve(cfg: DictConfig) -> None:
    """Load the model of a run, and answer requests until the process is stopped."""
    from src.commands.serving import Serving  # imports torch, which --help does not need

    serving = Serving.prepare(cfg)
    serving.announce()
    serving.run()


if __name__ == "__main__":
    run_command(serve, "serve", sampling_overrides)
