"""Select the comparison that the command line asks for."""

from omegaconf import DictConfig

from src.commands.cli import to_container
from src.commands.compare.run_comparison import RunComparison
from src.commands.compare.sampler_benchmark import SamplerBenchmark
from src.commands.options import CompareOptions
from src.runs.check_config import check_options
from src.utils.console import start_logging
from src.utils.errors import UserError

WAYS = {"runs": "runs=[RUN,RUN]", "sweep_dir": "sweep_dir=FOLDER", "run": "run=RUN"}


def choose(cfg: DictConfig) -> RunComparison | SamplerBenchmark:
    """Check the settings and prepare the comparison.

    Raises:
        UserError: for every mistake in them.
    """
    start_logging(None)
    plain = to_container(cfg)
    check_options(plain, CompareOptions)
    given = [key for key in WAYS if cfg[key] is not None]
    if len(given) != 1:
        found = f"not {' and '.join(WAYS[key].split('=')[0] for key in given)}" if given else "none is given"
        raise UserError(f"one of {', '.join(WAYS.values())} is needed, {found}")
    return (SamplerBenchmark if given == ["run"] else RunComparison).prepare(cfg)
