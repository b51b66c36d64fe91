"""Agreement of handwritten digits with their captions."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from src.data.captions import Caption, read_caption
from src.data.mnist_captions import MNISTCaptions
from src.diffusion.conditions.text import decode_text
from src.metrics.base import EvalContext, Metric, MetricValue, ReportSection
from src.statistics.handwriting import slant, stroke_width
from src.statistics.significance import wilson_interval

UNSAID = -1
CHUNK = 1000  # samples that are compared with all others at a time
MEASURES = {"thickness": stroke_width, "slant": slant}


class Captions(Metric):
    """Fraction of samples of the digit that their caption names, and order of thickness and slant as they ask for."""

    kinds = ("images",)

    def why_not_applicable(self, context: EvalContext) -> str | None:
        if reason := super().why_not_applicable(context):
            return reason
        if not isinstance(context.data, MNISTCaptions):
            return f"it is for data=mnist_captions, got {type(context.data).__name__}"
        if requested_texts(context) is None:
            return "the samples have no text condition, as of a run with condition=text"
        return None

    def __call__(self, context: EvalContext) -> ReportSection:
        texts = requested_texts(context)
        assert texts is not None and isinstance(context.data, MNISTCaptions)
        section = ReportSection("Captions", notes=[*HOW_TO_READ])
        real = context.test.some(len(context.x), "captions", context.seed)
        asked, asked_of_real = (asked_values(decode_text(each)) for each in (texts, real["text"]))
        logits = context.features.logits(context.fake_features)
        if logits is not None:
            section.values |= class_value(asked[:, 0], logits.argmax(1).cpu(), context.features.accuracy)
        for i, (name, measure) in enumerate(MEASURES.items(), 1):
            found, found_in_real = measure(context.x), measure(real["x"])
            section.values |= order_values(name, (asked[:, i], found), (asked_of_real[:, i], found_in_real))
            as_asked = (context.data.values(x)[:, i - 1] for x in (context.x, real["x"]))
            section.values |= share_value(name, (asked[:, i], asked_of_real[:, i]), tuple(as_asked))
        return section


HOW_TO_READ = [
    "The class is that which a classifier sees; its real-data value is the accuracy of the classifier on test data.",
    "The order is the fraction of the pairs of samples, whose captions ask for different values such as thin and bold, "
    "that are measured in this order: the thickness as the mean stroke width, the slant by the moments of the picture. "
    "Captions of real digits are made from these measurements, so that real data are in order by definition.",
]


def requested_texts(context: EvalContext) -> Tensor | None:
    """The texts (N, length) that were given or drawn for the samples; None without any."""
    cond = context.cond
    if cond is None and not context.from_file:
        cond = context.pipeline.conditions(range(context.n))
    text = cond.get("text") if isinstance(cond, dict) else cond
    return text if text is not None and text.ndim == 2 and not text.is_floating_point() else None


def asked_values(texts: Sequence[str]) -> Int[Tensor, "n 3"]:
    """Digit, thickness and slant that each text asks for; -1 for what it leaves out."""
    said: list[Caption] = [read_caption(text) for text in texts]
    return torch.tensor([[UNSAID if value is None else value for value in one] for one in said])


def class_value(asked: Tensor, predicted: Tensor, accuracy: float | None) -> dict[str, MetricValue]:
    """The fraction of samples of the digit asked for."""
    named = asked != UNSAID
    if not named.any():
        return {}
    hits, n = int((asked == predicted)[named].sum()), int(named.sum())
    interval = wilson_interval(hits, n)
    return {"caption_class": MetricValue("class named in the caption", hits / n, *interval, accuracy, "higher")}


def order_values(name: str, samples: tuple[Tensor, Tensor], real: tuple[Tensor, Tensor]) -> dict[str, MetricValue]:
    """The fraction of pairs in the order asked for, of (asked, measured) in the samples and in real data."""
    share, real_share = ordered_pairs(*samples), ordered_pairs(*real)
    if share is None:
        return {}
    return {f"{name}_order": MetricValue(f"{name}, pairs in order", share, None, None, real_share, "higher")}


def ordered_pairs(asked: Int[Tensor, " n"], measured: Float[Tensor, " n"]) -> float | None:
    """The fraction of the pairs with different values asked for whose measured values are in the same order.

    It is None if there are no such pairs. Pairs with a value that is left out, -1, do not count.
    """
    said = asked != UNSAID
    asked, measured = asked[said], measured[said]
    pairs = right = 0
    for rows in torch.arange(len(asked)).split(CHUNK):
        above = asked[rows, None] > asked
        pairs += int(above.sum())
        right += int((above & (measured[rows, None] > measured)).sum())
    return right / pairs if pairs else None


def share_value(name: str, asked: tuple[Tensor, Tensor], found: tuple[Tensor, ...]) -> dict[str, MetricValue]:
    """The fraction of samples, and of real data, whose value is the one asked for."""
    shares = [(a == f)[a != UNSAID].float().mean().item() for a, f in zip(asked, found, strict=True)]
    if not (asked[0] != UNSAID).any():
        return {}
    return {
        f"{name}_as_asked": MetricValue(f"{name}, one of three as asked", shares[0], None, None, shares[1], "higher")
    }
