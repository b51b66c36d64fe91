"""What the benches measure digits by: MNIST, and the features that `python -m src.evaluate` has of it."""

from typing import NamedTuple

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from src.commands.inputs import load_data
from src.metrics.features.base import Features, ReferenceData
from src.statistics.frechet import Moments, frechet, frechet_interval
from src.utils.errors import UserError
from src.utils.paths import CONF
from src.utils.seeding import generator


class Score(NamedTuple):
    """What is said of samples.

    distance: squared Fréchet distance to the test digits, in percent of the variance of their features. It falls with
        the number of samples.
    low, high: its 95 % interval over other samples from the same source.
    confidence: mean probability that the classifier gives to its choice.
    """

    distance: float
    low: float
    high: float
    confidence: float


def reference(cfg: DictConfig, root: str | None = None) -> ReferenceData:
    """The digits of a run's config with their labels; from the folder `root` if it is given, all of them or none."""
    changes = {"num_classes": 10} | ({"root": root, "offline": "error"} if root else {})
    with initialize_config_dir(str(CONF), version_base="1.3"):
        features = compose("evaluate").features
    return ReferenceData(load_data(OmegaConf.merge(cfg, {"data": changes}).data), instantiate(features))


def score(features: Features, fake: Tensor) -> Score:
    """Of the features (N, D) of samples."""
    real, logits = Moments.of(features.test), features.logits(fake)
    assert logits is not None
    confidence = logits.softmax(1).amax(1).mean().item()
    return Score(
        frechet(real, Moments.of(fake)), *frechet_interval(real, fake, 200, generator("bootstrap")), confidence
    )


def real_baseline(features: Features, n: int, seed: int = 0) -> Score:
    """Of n training digits: what a perfect model of them would have."""
    if n > (most := len(features.train)):
        raise UserError(f"n={n:,} is more than the {most:,} training digits; use fewer samples")
    return score(features, features.train[torch.randperm(most, generator=generator("floor", seed))[:n]])
