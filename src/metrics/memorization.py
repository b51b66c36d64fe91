"""Whether samples are copies of training images."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from src.metrics.base import Measure, Picture, Section, Subject, Value
from src.metrics.features.base import BATCH
from src.plots.pictures import image_grid, with_row_names
from src.statistics.significance import share_interval
from src.utils.console import progress_bar
from src.utils.ranges import NonNegativeInt, PositiveInt
from src.utils.seeding import generator

Vectors = Callable[[Tensor], Tensor]  # the vectors (M, D) of rows (M,)
COPY = 0.01  # share of test images that are as close to a training image as what is called a copy
NEIGHBOURS = 50


class Nearest(NamedTuple):
    """Of each of N vectors the k nearest of a set, the nearest first: their distances and their rows, (N, k)."""

    distance: Tensor
    row: Tensor

    @property
    def closeness(self) -> Tensor:
        r"""The distance of the nearest over the mean of them all, (N,): near 1 in the middle of many, 0 for a copy.

        Simple images, such as a straight 1, are near to many others without being copies of one.

        Source: Carlini et al. 2023, arXiv:2301.13188, section 5.1, there twice this.
        """
        return self.distance[:, 0] / self.distance.mean(1).clamp(min=1e-12)


class Memorisation(Measure):
    """Comparison of the samples with their nearest training images, by pixels and by features.

    Args:
        shown: pairs in each row of the picture.
        least: test images at least, where there are that many, whose closeness says what is a copy.
        most: samples whose neighbours are looked for.
    """

    kinds = ("images",)

    def __init__(self, shown: PositiveInt = 8, least: NonNegativeInt = 1000, most: PositiveInt = 10_000):
        self.shown, self.least, self.most = shown, least, most

    def __call__(self, subject: Subject) -> Section:
        section = Section("Nearest training images")
        rows: dict[str, Tensor] = {}
        found: list[str] = []
        for space in ("pixels", "features"):
            x, train, test = vectors(subject, space)
            x = x[: self.most]
            near = nearest(x, train, torch.arange(len(subject.train)), NEIGHBOURS)
            nearer = self.nearer_to_training(subject, x, train, test)
            copies = self.copies(subject, near, train, test)
            section.values |= {
                f"nearer_to_training_{space}": Value(f"nearer to training than to test data, by {space}", *nearer, 0.5),
                f"copies_{space}": Value(
                    f"as close to a training image as 1 % of test data, by {space}", *copies, COPY
                ),
            }
            found.append(f"By {space} {verdict(*nearer[1:], *copies[:2])}.")
            closest = near.closeness.argsort()[: self.shown]
            rows[f"closest by {space}"] = subject.x[closest].cpu()
            rows[f"training images by {space}"] = subject.train[near.row[closest, 0]]["x"]
        for value in section.values.values():
            value.better = "lower"
        grid = image_grid(torch.cat(list(rows.values())), columns=min(self.shown, len(subject.x)))
        caption = "The samples that are closest to a single training image, each above that image"
        section.pictures["nearest"] = Picture(with_row_names(grid, list(rows)), caption)
        section.verdict = " ".join(found)
        section.notes += HOW_TO_READ
        if self.most < len(subject.x):
            section.notes.append(f"Looked at are {self.most:,} of the {len(subject.x):,} samples.")
        return section

    def nearer_to_training(
        self, subject: Subject, x: Tensor, train: Vectors, test: Vectors
    ) -> tuple[float, float, float]:
        """The share of samples, with its interval, for as many training as test data."""
        n = min(len(subject.train), len(subject.test))
        to_train, to_test = (
            nearest(x, look, some(len(real), n, subject.seed)).distance[:, 0]
            for look, real in ((train, subject.train), (test, subject.test))
        )
        ties = int((to_train == to_test).sum())
        return share(int((to_train < to_test).sum()) + ties // 2, len(x))

    def copies(self, subject: Subject, near: Nearest, train: Vectors, test: Vectors) -> tuple[float, float, float]:
        """The share of samples, with its interval, closer to a single training image than 1 % of test data are."""
        chosen = some(len(subject.test), max(self.least, len(near.row)), subject.seed)
        usual = nearest(test(chosen), train, torch.arange(len(subject.train)), NEIGHBOURS).closeness
        return share(int((near.closeness < usual.quantile(COPY)).sum()), len(near.row))


HOW_TO_READ = [
    "Nearer to training than to test data is 50 % of new data of the same law, once the training data are thinned to "
    "as many as there are test data; of copies of training images it is more.",
    f"An image is close to a single one where the nearest training image is much nearer than the {NEIGHBOURS} nearest "
    "on average: plain distance would call every straight 1 a copy. What 1 % of test images come up to is counted; "
    "more than 1 % of the samples means copies. The intervals are those of other samples, beside the same data.",
]


def vectors(subject: Subject, space: str) -> tuple[Tensor, Vectors, Vectors]:
    """The samples (N, D), the training and the test data as vectors."""
    if space == "features":
        return subject.fake, subject.features.train.__getitem__, subject.features.test.__getitem__
    return (
        subject.x.flatten(1).cpu(),
        lambda rows: subject.train[rows]["x"].flatten(1),
        lambda rows: subject.test[rows]["x"].flatten(1),
    )


def some(n: int, most: int, seed: int) -> Tensor:
    """At most so many of n rows."""
    return torch.randperm(n, generator=generator("memorisation", seed))[:most]


def nearest(x: Float[Tensor, "n d"], data: Vectors, rows: Tensor, k: int = 1) -> Nearest:
    """The k nearest to x, or all where there are fewer, of the rows of the data, read a part at a time."""
    best = Nearest(x.new_empty(len(x), 0), torch.empty(len(x), 0, dtype=torch.int64, device=x.device))
    with progress_bar(len(rows), "nearest images", leave=False, delay=2, unit_scale=True) as bar:
        for part in rows.split(BATCH):
            distance = torch.cat([best.distance, torch.cdist(x, data(part).to(x))], 1)
            row = torch.cat([best.row, part.to(x.device).expand(len(x), -1)], 1)
            distance, order = distance.topk(min(k, distance.shape[1]), largest=False)
            best = Nearest(distance, row.gather(1, order))
            bar.update(len(part))
    # Distances are found by way of squares, whose rounding hides that a copy is at none at all.
    best.distance[:, 0] = (x - data(best.row[:, 0].cpu()).to(x)).norm(dim=1)
    return Nearest(best.distance.cpu(), best.row.cpu())


def share(count: int, n: int) -> tuple[float, float, float]:
    """A share of n and its 95 % interval."""
    return count / n, *share_interval(count, n)


def verdict(low: float, high: float, copies: float, copies_low: float) -> str:
    """What the two shares come to."""
    if copies_low > 2 * COPY:
        return f"{copies:.1%} of the samples are as close to a training image as 1 % of test data: there are copies"
    if low > 0.5:
        return "the samples are drawn to the training data by more than chance, but few of them are copies"
    if high < 0.5:
        return "the samples are nearer to the test than to the training data: the two are not of one law"
    return "the samples are no nearer to the training data than new data are"
