"""A few samples of a run, drawn as the run itself samples."""

from typing import NamedTuple

from hydra import compose
from omegaconf import DictConfig
from torch import Tensor

from src.comparing.records import Record
from src.runs import load_denoiser
from src.sampling import Sampling, build_model, labels, pick_device, take_from_run, takes_label
from src.tasks.base import Inputs
from src.tasks.generate import Generate
from src.utils.cli import to_plain

POINTS = 1000  # drawn of a run on points of the plane, which one sees in clouds only
PASSED_ON = ("seed", "batch_size", "device", "precision", "ckpt", "weights")


class Drawn(NamedTuple):
    """Samples (N, C, *S) in the units of the data, and how often the network was evaluated for each."""

    x: Tensor
    nfe: float


def draw(record: Record, cfg: DictConfig) -> Drawn:
    """Samples of a run by its own sampler and guidance, of all classes in turn; the i-th begins at the i-th noise.

    Args:
        record: the run.
        cfg: the settings of src.compare.

    Raises:
        UserError: where the run does not hold the weights.
    """
    trained = record.run.config()
    shape = (trained.data.channels, *trained.data.size)
    n = cfg.samples if len(shape) > 1 else POINTS
    own = compose("sample")
    own.update({key: cfg[key] for key in PASSED_ON} | {"n": n, "run": str(record.run.path)})
    take_from_run(own, trained, set())
    denoiser = load_denoiser(str(record.run.path), cfg.ckpt, cfg.weights).to(pick_device(cfg.device))
    known = trained.data.num_classes if takes_label(to_plain(own.guidance)) else trained.net.num_classes
    model = build_model(own, denoiser.requires_grad_(False), shape, labels(None, n, known))
    sampling = Sampling(own, record.run, model, Generate(n), Inputs())
    x = sampling.draw().x
    return Drawn(sampling.to_units(x), sampling.cost.rows / n)
