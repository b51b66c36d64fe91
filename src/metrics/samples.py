"""Pictures of samples and of data."""

import torch

from src.metrics.base import EvalContext, Metric, Picture, ReportSection
from src.plots.fields import HOW_TO_READ_VIEWS
from src.plots.pictures import MAX_SHOWN, image_grid, sample_grid, slice_frames
from src.utils.ranges import PositiveInt
from src.utils.seeding import generator


class Samples(Metric):
    """Random samples; of volumes also slice by slice; of images also those a classifier is most and least sure of.

    Args:
        n: samples in each grid; by default as many as one picture shows well.
    """

    def __init__(self, n: PositiveInt | None = None):
        self.n = n

    def __call__(self, context: EvalContext) -> ReportSection:
        section = ReportSection("Samples")
        n = min(self.n or MAX_SHOWN[1 + len(context.data.shape)], len(context.x))
        chosen = torch.randperm(len(context.x), generator=generator("random samples", context.seed))[:n]
        label = None if context.label is None else context.label[chosen]
        section.pictures["random"] = Picture(
            sample_grid(context.x[chosen], label=label, kind=context.kind),
            f"{n:,} of {len(context.x):,} samples, chosen at random.",
        )
        real = context.test.some(n, "samples")["x"]
        caption = f"{len(real):,} of {len(context.test):,} test data, for comparison."
        section.pictures["data"] = Picture(sample_grid(real, kind=context.kind), caption)
        if context.kind == "volumes":
            section.notes.append(HOW_TO_READ_VIEWS)
            caption = "The same samples slice by slice along D: the frames of videos in time."
            section.pictures["slices"] = Picture(slice_frames(context.x[chosen]), caption)
        if context.kind == "images":
            self.add_extremes(context, section, n)
        return section

    def add_extremes(self, context: EvalContext, section: ReportSection, n: int) -> None:
        """Add the samples that the classifier is most and least confident about."""
        logits = context.features.logits(context.fake_features)
        if logits is None:
            return
        p = logits.softmax(1)
        labeled = context.label is not None and bool((context.label >= 0).all())
        confidence = p[torch.arange(len(p)), context.label] if labeled else p.amax(1)
        # Many confidences are 1.0: equal ones are sorted by the margin between the two largest logits.
        margin = logits.topk(2).values.diff(dim=1).abs().flatten()
        order = torch.tensor(sorted(range(len(p)), key=lambda i: (round(confidence[i].item(), 4), margin[i].item())))
        which = "their requested label" if labeled else "its predicted class"
        worst, best = order[: n // 2], order.flip(0)[: n // 2]
        section.pictures["worst"] = Picture(
            image_grid(context.x[worst], columns=8),
            f"The {len(worst)} of {len(p):,} samples with the lowest confidence of the classifier in {which}: "
            f"{confidence[worst[0]]:.0%} to {confidence[worst[-1]]:.0%}, in ascending order.",
        )
        section.pictures["best"] = Picture(
            image_grid(context.x[best], columns=8), f"The {len(best)} of {len(p):,} with the highest confidence."
        )
