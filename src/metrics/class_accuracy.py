"""The classes of the samples, as a classifier sees them."""

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_f1_score as f1_score
from torchmetrics.functional.classification import multiclass_precision, multiclass_recall

from src.metrics.base import EvalContext, Metric, MetricValue, Picture, ReportSection
from src.metrics.features.base import Features
from src.statistics.significance import wilson_interval
from src.utils.seeding import generator

CONFIDENT = 0.9  # probability of its class from which a sample counts as surely of it


class ClassAccuracy(Metric):
    """Class histogram and confidence of the samples; accuracy, precision, recall and F1 of the requested labels.

    If other conditions of the test data are asked for, the labels are those of these test data.
    """

    kinds = ("images",)

    def why_not_applicable(self, context: EvalContext) -> str | None:
        reason = super().why_not_applicable(context)
        if reason is None and context.data.num_classes < 2:
            return "the data of this run have no labels"
        if reason is None and context.features.accuracy is None:
            return "these features do not know the classes of the data; use features=auto"
        return reason

    def __call__(self, context: EvalContext) -> ReportSection:
        from src.plots.metrics import class_bars

        features, k = context.features, context.data.num_classes
        chosen = torch.randperm(len(features.train), generator=generator("floor", context.seed))[: len(context.x)]
        p = [probabilities(features, x) for x in (context.fake_features, features.test, features.train[chosen])]
        fake, test, train = (each.argmax(1).bincount(minlength=k) / len(each) for each in p)
        names = getattr(context.data, "class_names", None) or [str(i) for i in range(k)]
        section = ReportSection("Classes", tables={"classes": {"samples": fake.tolist(), "data": test.tolist()}})
        section.values["confidence"] = MetricValue(
            "mean confidence", p[0].amax(1).mean().item(), real_baseline=p[2].amax(1).mean().item(), better="higher"
        )
        sure, real = ((each.amax(1) >= CONFIDENT).double() for each in (p[0], p[2]))
        section.values["confident"] = MetricValue(
            f"fraction with {CONFIDENT:.0%} confidence",
            sure.mean().item(),
            *wilson_interval(int(sure.sum()), len(sure)),
            real.mean().item(),
            "higher",
        )
        section.values["class_distance"] = MetricValue(
            "class histogram, total variation",
            total_variation(fake, test),
            real_baseline=total_variation(train, test),
            better="lower",
        )
        section.pictures["classes"] = Picture(
            class_bars(fake, test, names), "Fraction of each class among the samples and among the test data."
        )
        label = context.true_label if context.label is None else context.label
        if label is not None and bool((label >= 0).all()):
            section.values |= label_values(label, p[0].argmax(1), k, features.accuracy)
            asked = (
                "with that of the test data whose conditions they have"
                if context.label is None
                else "with the requested label"
            )
            section.notes.append(
                "Accuracy, precision, recall and F1 (macro averages) compare the class that the classifier predicts "
                f"{asked}. The real-data value of the accuracy is that of the classifier on test data."
            )
        return section


def probabilities(features: Features, x: Tensor) -> Tensor:
    """Class probabilities (N, K) of features (N, D)."""
    logits = features.logits(x)
    assert logits is not None
    return logits.softmax(1)


def label_values(requested: Tensor, predicted: Tensor, k: int, real_baseline: float | None) -> dict[str, MetricValue]:
    """Compare requested labels (N,) with the predicted classes (N,)."""
    hits = (requested == predicted).sum().item()
    interval = wilson_interval(hits, len(requested))
    accuracy = MetricValue("accuracy", hits / len(requested), *interval, real_baseline, "higher")
    # Macro averages over the requested classes: the others have neither precision nor recall.
    present = requested.unique()
    per_class = {
        name: metric(predicted, requested, k, average="none")[present].mean().item()
        for name, metric in (("precision", multiclass_precision), ("recall", multiclass_recall), ("F1", f1_score))
    }
    return {"accuracy": accuracy} | {
        f"class_{name.lower()}": MetricValue(f"{name} of the class", value, better="higher")
        for name, value in per_class.items()
    }


def total_variation(p: Tensor, q: Tensor) -> float:
    """The total variation distance between two distributions (K,)."""
    return ((p - q).abs().sum() / 2).item()
