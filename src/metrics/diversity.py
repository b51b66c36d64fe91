"""Diversity of the samples."""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

from src.metrics.base import EvalContext, Metric, MetricValue, ReportSection
from src.statistics.neighbors import mean_distance
from src.utils.ranges import PositiveInt
from src.utils.seeding import generator

# Weights of the five scales of MS-SSIM; smaller images use the first few, normalized to a sum of one.
BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MIN_SIDE = 5  # pixels: the smallest window


class Diversity(Metric):
    """Mean pairwise distance in features, and MS-SSIM of pairs of one class.

    Args:
        pairs: pairs that the MS-SSIM is averaged over.
        max_samples: samples that the mean distance is computed on, over all their pairs.

    Source: MS-SSIM: Wang et al. 2003, 10.1109/ACSSC.2003.1292216; within classes, as a sign of mode collapse: Odena et
        al. 2017, arXiv:1610.09585, section 4.2.
    """

    kinds = ("images",)
    min_samples = 2

    def __init__(self, pairs: PositiveInt = 1000, max_samples: Annotated[int, Ge(2)] = 10_000):
        self.pairs, self.max_samples = pairs, max_samples

    def __call__(self, context: EvalContext) -> ReportSection:
        features, n = context.features, len(context.x)
        chosen = torch.randperm(len(features.train), generator=generator("floor", context.seed))[:n]
        mean, error = mean_distance(context.fake_features[: self.max_samples])
        real, _ = mean_distance(features.train[chosen[: self.max_samples]])
        interval = (mean - 1.96 * error, mean + 1.96 * error)
        section = ReportSection("Diversity")
        section.values["pair_distance"] = MetricValue("mean pairwise distance", mean, *interval, real)
        fake_ssim, real_ssim = (
            self.similarity(x, predicted_classes(features.logits(f)), context.seed)
            for x, f in (
                (context.x, context.fake_features),
                (context.train[chosen]["x"], features.train[chosen]),
            )
        )
        if fake_ssim is not None and real_ssim is not None:
            mean, error = fake_ssim
            interval = (mean - 1.96 * error, mean + 1.96 * error)
            section.values["ms_ssim"] = MetricValue("MS-SSIM within classes", mean, *interval, real_ssim[0])
        section.notes = [
            "Less diversity than the data means missing modes; more means samples that are unlike any data. "
            "The MS-SSIM of equal images is 1."
        ]
        if self.max_samples < n:
            section.notes.append(f"The mean distance is over all pairs of {self.max_samples:,} of the {n:,} samples.")
        return section

    def similarity(self, x: Tensor, label: Tensor | None, seed: int) -> tuple[float, float] | None:
        """Mean MS-SSIM of pairs of images (N, C, H, W) of one class, and its standard error; None without pairs."""
        label = torch.zeros(len(x), dtype=torch.long) if label is None else label
        order = torch.randperm(len(x), generator=generator("pairs", seed))
        order = order[label[order].argsort(stable=True)]  # by class, in random order within each
        a, b = order[:-1], order[1:]
        same = (label[a] == label[b]).nonzero().flatten()
        same = same[torch.randperm(len(same), generator=generator("which pairs", seed))][: self.pairs]
        if len(same) < 2 or min(x.shape[2:]) < MIN_SIDE:
            return None
        betas, sigma, size = ms_ssim_scales(x)
        kwargs = {"sigma": sigma, "kernel_size": size, "betas": betas, "data_range": 1.0, "normalize": "relu"}
        parts = [ms_ssim(x[a[i]], x[b[i]], reduction="none", **kwargs) for i in same.split(250)]  # type: ignore
        values = torch.cat(parts)  # type: ignore[arg-type]
        return values.mean().item(), values.std().item() / len(values) ** 0.5


def predicted_classes(logits: Tensor | None) -> Tensor | None:
    return None if logits is None else logits.argmax(1)


def ms_ssim_scales(x: Tensor) -> tuple[tuple[float, ...], float, int]:
    """Weights of the scales that fit into images (N, C, H, W), and sigma and size of the Gaussian window.

    The standard five scales with sigma 1.5 need 176 pixels; smaller images get sigma 0.5.
    """
    side = min(x.shape[2:])
    for sigma in (1.5, 0.5):
        kernel = 2 * int(3.5 * sigma + 0.5) + 1
        for count in range(len(BETAS), 1 if sigma == 1.5 else 0, -1):
            if side // max(1, count - 1) ** 2 >= kernel and (sigma == 0.5 or count == len(BETAS)):
                return tuple(b / sum(BETAS[:count]) for b in BETAS[:count]), sigma, kernel
    return (1.0,), 0.5, 5
