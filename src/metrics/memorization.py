"""Memorization: samples that are copies of training images."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from src.metrics.base import EvalContext, Metric, MetricValue, Picture, ReportSection
from src.metrics.features.base import BATCH_SIZE
from src.plots.pictures import image_grid, with_row_names
from src.statistics.significance import wilson_interval
from src.utils.console import progress_bar
from src.utils.ranges import NonNegativeInt, PositiveInt
from src.utils.seeding import generator

Vectors = Callable[[Tensor], Tensor]  # indices (M,) to vectors (M, D)
COPY_QUANTILE = 0.01  # a sample as close to a training image as this fraction of the test images counts as a copy
NEIGHBORS = 50


class Neighbors(NamedTuple):
    """Distances to, and indices of, the k nearest neighbors of N vectors, nearest first, both (N, k)."""

    distance: Tensor
    indices: Tensor

    @property
    def relative_distance(self) -> Tensor:
        r"""The distance of the nearest neighbor over the mean of all k, (N,): 0 for a copy, near 1 in a dense region.

        Simple images, such as a straight 1, are near many others without being copies of one.

        Source: Carlini et al. 2023, arXiv:2301.13188, section 5.1, where it is twice this.
        """
        return self.distance[:, 0] / self.distance.mean(1).clamp(min=1e-12)


class Memorization(Metric):
    """Comparison of the samples with their nearest training images, by pixels and by features.

    Args:
        n_shown: pairs in each row of the picture.
        min_test: smallest number of test images, where available, that define the distance of a copy.
        max_samples: samples whose neighbors are searched.
    """

    kinds = ("images",)

    def __init__(self, n_shown: PositiveInt = 8, min_test: NonNegativeInt = 1000, max_samples: PositiveInt = 10_000):
        self.n_shown, self.min_test, self.max_samples = n_shown, min_test, max_samples

    def __call__(self, context: EvalContext) -> ReportSection:
        section = ReportSection("Nearest training images")
        rows: dict[str, Tensor] = {}
        conclusions: list[str] = []
        for space in ("pixels", "features"):
            x, train, test = vectors(context, space)
            x = x[: self.max_samples]
            near = nearest_neighbors(x, train, torch.arange(len(context.train)), NEIGHBORS)
            nearer = self.nearer_to_training(context, x, train, test)
            copies = self.copies(context, near, train, test)
            section.values |= {
                f"nearer_to_training_{space}": MetricValue(
                    f"nearer to training than to test data, by {space}", *nearer, 0.5, "lower"
                ),
                f"copies_{space}": MetricValue(
                    f"as close to a training image as 1 % of test data, by {space}", *copies, COPY_QUANTILE, "lower"
                ),
            }
            conclusions.append(f"By {space} {interpret(*nearer[1:], *copies[:2])}.")
            closest = near.relative_distance.argsort()[: self.n_shown]
            rows[f"closest by {space}"] = context.x[closest].cpu()
            rows[f"training images by {space}"] = context.train[near.indices[closest, 0]]["x"]
        grid = image_grid(torch.cat(list(rows.values())), columns=min(self.n_shown, len(context.x)))
        caption = "The samples that are closest to a single training image, each above that image"
        section.pictures["nearest"] = Picture(with_row_names(grid, list(rows)), caption)
        section.interpretation = " ".join(conclusions)
        section.notes += HOW_TO_READ
        if self.max_samples < len(context.x):
            section.notes.append(f"Computed on {self.max_samples:,} of the {len(context.x):,} samples.")
        return section

    def nearer_to_training(
        self, context: EvalContext, x: Tensor, train: Vectors, test: Vectors
    ) -> tuple[float, float, float]:
        """The fraction of samples nearer to training than to as many test data, with its interval."""
        n = min(len(context.train), len(context.test))
        to_train, to_test = (
            nearest_neighbors(x, look, random_indices(len(real), n, context.seed)).distance[:, 0]
            for look, real in ((train, context.train), (test, context.test))
        )
        ties = int((to_train == to_test).sum())
        return fraction(int((to_train < to_test).sum()) + ties // 2, len(x))

    def copies(
        self, context: EvalContext, near: Neighbors, train: Vectors, test: Vectors
    ) -> tuple[float, float, float]:
        """The fraction of samples closer to a single training image than 1 % of the test data, with its interval."""
        chosen = random_indices(len(context.test), max(self.min_test, len(near.indices)), context.seed)
        of_test = nearest_neighbors(test(chosen), train, torch.arange(len(context.train)), NEIGHBORS).relative_distance
        return fraction(int((near.relative_distance < of_test.quantile(COPY_QUANTILE)).sum()), len(near.indices))


HOW_TO_READ = [
    "Samples of the data distribution are nearer to training than to test data in 50 % of cases, with equal numbers of "
    "both; copies of training images are more often.",
    "A sample is close to a single training image if that image is much nearer than the "
    f"{NEIGHBORS} nearest on average: plain distance would call every straight 1 a copy. The threshold is the distance "
    "that 1 % of the test images stay below; more than 1 % of the samples below it means copies. The intervals cover "
    "other samples of the model, for the same data.",
]


def vectors(context: EvalContext, space: str) -> tuple[Tensor, Vectors, Vectors]:
    """The samples (N, D), the training and the test data as vectors."""
    if space == "features":
        return context.fake_features, context.features.train.__getitem__, context.features.test.__getitem__
    return (
        context.x.flatten(1).cpu(),
        lambda rows: context.train[rows]["x"].flatten(1),
        lambda rows: context.test[rows]["x"].flatten(1),
    )


def random_indices(n: int, most: int, seed: int) -> Tensor:
    """Draw at most `most` of n indices without replacement."""
    key = "memorisation"  # part of the seed: another spelling would draw other indices
    return torch.randperm(n, generator=generator(key, seed))[:most]


def nearest_neighbors(x: Float[Tensor, "n d"], data: Vectors, indices: Tensor, k: int = 1) -> Neighbors:
    """Find the k nearest neighbors of x among the data at these indices, read in batches."""
    best = Neighbors(x.new_empty(len(x), 0), torch.empty(len(x), 0, dtype=torch.int64, device=x.device))
    with progress_bar(len(indices), "nearest images", leave=False, delay=2, unit_scale=True) as bar:
        for part in indices.split(BATCH_SIZE):
            distance = torch.cat([best.distance, torch.cdist(x, data(part).to(x))], 1)
            index = torch.cat([best.indices, part.to(x.device).expand(len(x), -1)], 1)
            distance, order = distance.topk(min(k, distance.shape[1]), largest=False)
            best = Neighbors(distance, index.gather(1, order))
            bar.update(len(part))
    # cdist computes distances from squares, and their rounding error hides that the distance of a copy is zero.
    best.distance[:, 0] = (x - data(best.indices[:, 0].cpu()).to(x)).norm(dim=1)
    return Neighbors(best.distance.cpu(), best.indices.cpu())


def fraction(count: int, n: int) -> tuple[float, float, float]:
    """count / n and its 95 % interval."""
    return count / n, *wilson_interval(count, n)


def interpret(low: float, high: float, copies: float, copies_low: float) -> str:
    """Interpret the interval of the fraction nearer to training data, and the fraction of copies."""
    if copies_low > 2 * COPY_QUANTILE:
        return f"{copies:.1%} of the samples are as close to a training image as 1 % of test data: there are copies"
    if low > 0.5:
        return "the samples are nearer to the training data than by chance, but few of them are copies"
    if high < 0.5:
        return "the samples are nearer to the test than to the training data: their distributions differ"
    return "the samples are no nearer to the training data than new data are"
