"""How different the samples are from each other."""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

from src.metrics.base import Measure, Section, Subject, Value
from src.statistics.neighbors import mean_distance
from src.utils.ranges import PositiveInt
from src.utils.seeding import generator

# The weights of the five scales; small images have room for the first few, which are then made to add up to one.
LEAST = 5  # pixels, the width of the smallest window
BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


class Diversity(Measure):
    """Mean pairwise distance in features, and structural similarity (MS-SSIM) of pairs within a class.

    Args:
        pairs: of which the structural similarity is the mean.
        most: samples whose distances from each other are taken, all pairs of them.

    Source: MS-SSIM: Wang et al. 2003, 10.1109/ACSSC.2003.1292216; within classes, as a sign of collapse: Odena et al.
        2017, arXiv:1610.09585, section 4.2.
    """

    kinds = ("images",)
    least_n = 2

    def __init__(self, pairs: PositiveInt = 1000, most: Annotated[int, Ge(2)] = 10_000):
        self.pairs, self.most = pairs, most

    def __call__(self, subject: Subject) -> Section:
        features, n = subject.features, len(subject.x)
        g = generator("floor", subject.seed)
        chosen = torch.randperm(len(features.train), generator=g)[:n]
        mean, error = mean_distance(subject.fake[: self.most])
        floor, _ = mean_distance(features.train[chosen[: self.most]])
        interval = (mean - 1.96 * error, mean + 1.96 * error)
        section = Section("Diversity")
        section.values["pair_distance"] = Value("mean distance of pairs", mean, *interval, floor)
        alike, floor_alike = (
            self.similarity(x, classes(features.logits(f)), subject.seed)
            for x, f in ((subject.x, subject.fake), (subject.train[chosen]["x"], features.train[chosen]))
        )
        if alike is not None and floor_alike is not None:
            (mean, error), interval = alike, (alike[0] - 1.96 * alike[1], alike[0] + 1.96 * alike[1])
            section.values["ms_ssim"] = Value("MS-SSIM within classes", mean, *interval, floor_alike[0])
        section.notes = [
            "Samples that are less different than the data come from a model that leaves something out; "
            "more different ones hold what is no data. MS-SSIM is 1 for equal images."
        ]
        if self.most < n:
            section.notes.append(f"The mean distance is that of all pairs of {self.most:,} of the {n:,} samples.")
        return section

    def similarity(self, x: Tensor, label: Tensor | None, seed: int) -> tuple[float, float] | None:
        """Mean MS-SSIM of pairs of images (N, C, H, W) of one class, and its standard error; None where none are."""
        label = torch.zeros(len(x), dtype=torch.long) if label is None else label
        order = torch.randperm(len(x), generator=generator("pairs", seed))
        order = order[label[order].argsort(stable=True)]  # by class, and at random within each
        a, b = order[:-1], order[1:]
        same = (label[a] == label[b]).nonzero().flatten()
        same = same[torch.randperm(len(same), generator=generator("which pairs", seed))][: self.pairs]
        if len(same) < 2 or min(x.shape[2:]) < LEAST:
            return None
        betas, sigma, size = scales_of(x)
        settings = {"sigma": sigma, "kernel_size": size, "betas": betas, "data_range": 1.0, "normalize": "relu"}
        parts = [ms_ssim(x[a[i]], x[b[i]], reduction="none", **settings) for i in same.split(250)]  # type: ignore
        values = torch.cat(parts)  # type: ignore[arg-type]
        return values.mean().item(), values.std().item() / len(values) ** 0.5


def classes(logits: Tensor | None) -> Tensor | None:
    return None if logits is None else logits.argmax(1)


def scales_of(x: Tensor) -> tuple[tuple[float, ...], float, int]:
    """The weights of as many scales as images (N, C, H, W) have room for, and the Gaussian window: its sigma and size.

    The standard ones, five scales and 1.5 pixels, need 176 pixels; smaller images are seen through one of 0.5.
    """
    side = min(x.shape[2:])
    for sigma in (1.5, 0.5):
        kernel = 2 * int(3.5 * sigma + 0.5) + 1
        for count in range(len(BETAS), 1 if sigma == 1.5 else 0, -1):
            if side // max(1, count - 1) ** 2 >= kernel and (sigma == 0.5 or count == len(BETAS)):
                return tuple(b / sum(BETAS[:count]) for b in BETAS[:count]), sigma, kernel
    return (1.0,), 0.5, 5
