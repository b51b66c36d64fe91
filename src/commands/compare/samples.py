"""A few samples of a run, drawn as the run itself samples."""

from copy import deepcopy
from typing import NamedTuple

from omegaconf import DictConfig
from torch import Tensor

from src.commands.compare.records import Record
from src.commands.sampling import Sampling
from src.utils.units import Kind

POINTS = 1000  # drawn of a run on points of the plane, which one sees in clouds only
PASSED_ON = ("seed", "batch_size", "device", "precision", "ckpt", "weights")


class Drawn(NamedTuple):
    """Samples (N, C, *S) in the units of the data, and how often the network was evaluated for each."""

    x: Tensor
    nfe: float
    kind: Kind | None = None


def draw(record: Record, cfg: DictConfig, settings: DictConfig) -> Drawn:
    """Samples of a run by its own sampler and guidance, of all classes in turn; the i-th begins at the i-th noise.

    Args:
        record: the run.
        cfg: the settings of src.compare.
        settings: those of src.sample, as they are by default.

    Raises:
        UserError: where the run does not hold the weights.
    """
    points = not record.run.config().data.size
    own = deepcopy(settings)
    own.update({key: cfg[key] for key in PASSED_ON})
    own.update({"n": POINTS if points else cfg.n_shown, "run": str(record.run.path)})
    sampling = Sampling.prepare(own, set())
    x = sampling.draw().x
    return Drawn(sampling.pipeline.to_units(x), sampling.cost.evaluations / len(x), sampling.pipeline.kind)
