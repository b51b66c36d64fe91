"""Draw samples from a run: python -m src.sample run=latest n=64"""

from omegaconf import DictConfig

from src.commands.cli import overridden_keys
from src.commands.main import run_command
from src.commands.overrides import sampling_overrides


def sample(cfg: DictConfig) -> None:
    """Rebuild the model from the run folder, draw, and write samples.npz and grid.png."""
    from src.commands.sampling import Sampling  # torch takes seconds to import, which --help need not wait for

    sampling = Sampling.prepare(cfg, overridden_keys())
    sampling.check_out()
    samples = sampling.draw()
    sampling.write(samples)


if __name__ == "__main__":
    run_command(sample, "sample", sampling_overrides)
