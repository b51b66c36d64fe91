"""Draw samples from a run: python -m src.sample run=latest n=64"""

from omegaconf import DictConfig

from src.commands.cli import overridden_keys
from src.commands.main import run_command
from src.commands.overrides import sampling_overrides


def sample(cfg: DictConfig) -> None:
    """Load the model of a run, sample from it or apply a task to given samples, and write the results."""
    from src.commands.sampling import Sampling  # imports torch, which --help does not need

    sampling = Sampling.prepare(cfg, overridden_keys())
    sampling.check_out()
    samples = sampling.draw()
    sampling.write(samples)


if __name__ == "__main__":
    run_command(sample, "sample", sampling_overrides)
