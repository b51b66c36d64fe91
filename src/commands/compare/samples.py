"""A few samples of a run, with its own sampler."""

from copy import deepcopy
from typing import NamedTuple

from omegaconf import DictConfig
from torch import Tensor

from src.commands.acceleration import DEFAULTS
from src.commands.compare.records import RunRecord
from src.commands.sampling import Sampling
from src.utils.units import Kind

N_POINTS = 1000  # samples of a run on points, which are plotted as clouds
PASSED_ON = ("seed", "batch_size", "device", "precision", "ckpt", "weights", *DEFAULTS)


class SampledRun(NamedTuple):
    """Samples (N, C, *S) of a run in the units of the data, and network evaluations per sample."""

    x: Tensor
    nfe: float
    kind: Kind | None = None


def sample_run(record: RunRecord, cfg: DictConfig, settings: DictConfig) -> SampledRun:
    """Draw samples of a run with its own sampler and guidance, all classes in turn; sample i starts from noise i.

    Args:
        record: the run.
        cfg: the settings of src.compare.
        settings: the default settings of src.sample.

    Raises:
        UserError: if the run does not have these weights.
    """
    points = not record.run.config().data.size
    own = deepcopy(settings)
    own.update({key: cfg[key] for key in PASSED_ON})
    own.update({"n": N_POINTS if points else cfg.n_shown, "run": str(record.run.path)})
    sampling = Sampling.prepare(own, set())
    x = sampling.draw().x
    return SampledRun(sampling.pipeline.to_units(x), sampling.cost.evaluations / len(x), sampling.pipeline.kind)
