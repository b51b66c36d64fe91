"""How much samples look like real digits: the Fréchet distance between features of a classifier of digits.

ImageNet features mean nothing on digits, so a small CNN is trained once on the digits themselves and kept, with the
features of all of them, in outputs/cache, under a hash of the data and of this recipe.
"""

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F

from src.utils.cli import CONF
from src.utils.console import log, progress_bar
from src.utils.errors import UserError
from src.utils.seeding import generator

SHAPE, CLASSES, WIDTH = (1, 28, 28), 10, 64
EPOCHS, BATCH, LR = 5, 128, 4e-3
RECIPE = f"cnn 16-32-64, {WIDTH} features, {EPOCHS} epochs of {BATCH} at {LR}, shifts of 2"  # part of the hash
LEAST_ACCURACY = 0.99


class Classifier(nn.Module):
    """A small CNN: `features` (N, 64) before the last ReLU, and the `head` that makes logits (N, 10) of them.

    Takes x: (N, 1, 28, 28) in [0, 1].
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, stride in ((1, 16, 1), (16, 32, 2), (32, 64, 2)):
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(64 * 49, WIDTH))
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(WIDTH, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Moments(NamedTuple):
    """Mean (D,) and covariance (D, D), float64."""

    mean: Tensor
    cov: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """Of features (N, D)."""
        return cls(features.double().mean(0), torch.cov(features.double().T))


def frechet(a: Moments, b: Moments) -> float:
    r"""The squared Fréchet distance between two Gaussians.

    .. math:: |\mu_a - \mu_b|^2 + \mathrm{tr}\, (S_a + S_b - 2 (S_a^{1/2} S_b S_a^{1/2})^{1/2})

    Source: Heusel et al. 2017, arXiv:1706.08500, eq. 6.
    """
    values, vectors = torch.linalg.eigh(a.cov)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.cov @ root).clamp(min=0).sqrt().sum()
    return float((a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * cross)


@dataclass
class Score:
    """What is said of n samples.

    distance: Fréchet distance to the test digits, in percent of the variance of their features. It falls with n, so
        that only distances at the same n can be compared.
    low, high: 95 % interval of the distance over other samples from the same source, the same number of them.
    histogram: how many samples the classifier takes for each digit.
    confidence: mean probability that it gives to its choice.
    """

    n: int
    distance: float
    low: float
    high: float
    histogram: list[int]
    confidence: float

    def __str__(self) -> str:
        return f"{self.distance:.2f} [{self.low:.2f}, {self.high:.2f}]"


class DigitFeatures:
    """Scores digits against the test digits.

    Args:
        kept: what `train` made and the cache holds: weights, accuracy, and the features of train and test digits.
        key: its name in the cache.
    """

    def __init__(self, kept: dict[str, Any], key: str):
        self.key, self.accuracy, self.train_features = key, kept["accuracy"], kept["train"]
        self.model = Classifier()
        self.model.load_state_dict(kept["weights"])
        self.model.eval()
        self.reference = Moments.of(kept["test"])
        self.unit = float(self.reference.cov.trace()) / 100

    def score(self, x: Tensor, resamples: int = 200) -> Score:
        """Of samples (N, 1, 28, 28) in [0, 1].

        Raises:
            UserError: for another shape or range, fewer than two, or values that are not finite.
        """
        check_digits(x)
        return self.score_features(features_of(self.model, x), resamples)

    def floor(self, n: int, seed: int = 0, resamples: int = 200) -> Score:
        """Of n training digits: what a perfect model of them would have."""
        if n > len(self.train_features):
            raise UserError(f"n={n:,} is more than the {len(self.train_features):,} training digits; use fewer samples")
        chosen = torch.randperm(len(self.train_features), generator=generator("floor", seed))[:n]
        return self.score_features(self.train_features[chosen], resamples)

    @torch.no_grad()
    def score_features(self, features: Tensor, resamples: int) -> Score:
        """The interval is that of the bootstrap, moved to the distance itself.

        A resample holds fewer different samples, and the distance grows as they become fewer: percentiles as they are
        would lie above the distance.
        """
        distance = frechet(self.reference, Moments.of(features)) / self.unit
        g, n = generator("bootstrap"), len(features)
        picks = (torch.randint(n, (n,), generator=g) for _ in range(resamples))
        again = np.array([frechet(self.reference, Moments.of(features[i])) for i in picks]) / self.unit
        low, high = np.percentile(again, [2.5, 97.5]) - again.mean() + distance
        p = self.model.head(features).softmax(1)
        histogram = p.argmax(1).bincount(minlength=CLASSES).tolist()
        return Score(n, distance, max(low, 0.0), high, histogram, float(p.amax(1).mean()))


def check_digits(x: Tensor) -> None:
    """Refuse what cannot be scored."""
    if x.shape[1:] != SHAPE or len(x) < 2:
        raise UserError(f"digits are (N, 1, 28, 28) with N at least 2, not {tuple(x.shape)}")
    if not x.isfinite().all():
        raise UserError(
            f"{(~x.isfinite().flatten(1).all(1)).sum()} of {len(x)} samples have values that are not finite"
        )
    if x.min() < 0 or x.max() > 1:
        raise UserError(f"digits lie in [0, 1], not [{x.min():.3g}, {x.max():.3g}]")


@torch.no_grad()
def features_of(model: Classifier, x: Tensor) -> Tensor:
    """Features (N, 64) of x (N, 1, 28, 28) in [0, 1]."""
    return torch.cat([model.features(part) for part in x.split(1000)])


def load_or_train(data: DictConfig | None, cache: Path) -> DigitFeatures:
    """The classifier of these digits from the cache, trained where it is not there.

    Args:
        data: the config of an MNIST data module; None takes the newest classifier in the cache.
        cache: folder that holds the classifiers.

    Raises:
        UserError: where the data are missing or of another shape, or the classifier is not good enough.
    """
    if data is None:
        files = sorted(cache.glob("digits_*.pt"), key=lambda p: p.stat().st_mtime)
        if not files:
            raise UserError(f"{cache} holds no classifier of digits; give --data-root=FOLDER with MNIST to train one")
        file = files[-1]
    else:
        x, y, x_test, y_test = read_digits(data)
        file = cache / f"digits_{digest(len(x), x_test, y_test)}.pt"
        if not file.exists():
            cache.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(f".{os.getpid()}")
            torch.save(train(x, y, x_test, y_test), partial)
            partial.replace(file)
    return DigitFeatures(torch.load(file, weights_only=True), file.stem.removeprefix("digits_"))


def read_digits(data: DictConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test digits: x (N, 1, 28, 28) uint8 and labels (N,) int64 of each, read as the config says."""
    module = instantiate(data, offline="error", num_classes=CLASSES)
    if module.shape != SHAPE:
        raise UserError(f"the classifier takes digits of {SHAPE}, not {module.shape}")
    module.prepare_data()
    module.setup("fit")
    parts = [part[0, torch.arange(len(part))] for part in (module.train_set, module.val_set, module.test_set)]
    x, y = ([part[key] for part in parts] for key in ("x", "label"))
    x = [((part + 1) * 127.5).round().to(torch.uint8) for part in x]
    return torch.cat(x[:2]), torch.cat(y[:2]), x[2], y[2]


def data_config(root: str) -> DictConfig:
    """The config of MNIST in the folder `root`."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", ["experiment=mnist_ddpm", f"data.root={Path(root).absolute()}"]).data


def digest(n_train: int, x_test: Tensor, y_test: Tensor) -> str:
    """A hash of the data and of how the classifier is trained; the same however a run splits the training digits."""
    h = sha256(f"{RECIPE}; {n_train}".encode())
    for tensor in (x_test, y_test):
        h.update(tensor.numpy().tobytes())
    return h.hexdigest()[:12]


def train(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> dict[str, Any]:
    """Train the classifier; what the cache keeps of it."""
    log.info(f"training a classifier of digits on {len(x):,} of them, a minute or two, once")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier()
        fit(model, x, y)
    model.eval()
    x, x_test = x / 255, x_test / 255
    features, features_test = features_of(model, x), features_of(model, x_test)
    with torch.no_grad():
        accuracy = float((model.head(features_test).argmax(1) == y_test).float().mean())
    log.info(f"its accuracy on {len(x_test):,} test digits: {accuracy:.2%}")
    if accuracy < LEAST_ACCURACY:
        raise UserError(
            f"the classifier has {accuracy:.2%} on test digits, too little to judge others by; is it MNIST?"
        )
    return {"weights": model.state_dict(), "accuracy": accuracy, "train": features, "test": features_test}


def fit(model: Classifier, x: Tensor, y: Tensor) -> None:
    """AdamW with one cycle of the rate, on digits moved by up to two pixels, a batch at a time."""
    steps = EPOCHS * (len(x) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    with progress_bar(steps, "classifier", leave=False) as bar:
        for _ in range(EPOCHS):
            for i in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
                shift = torch.randint(-2, 3, (2,)).tolist()
                loss = F.cross_entropy(model(torch.roll(x[i], shift, (2, 3)) / 255), y[i])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                rate.step()
                bar.update()
