"""Which classes the samples are of."""

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_f1_score as f1_score
from torchmetrics.functional.classification import multiclass_precision, multiclass_recall

from src.metrics.base import Measure, Picture, Section, Subject, Value
from src.metrics.features.base import Features
from src.statistics.significance import share_interval
from src.utils.seeding import generator


class Classes(Measure):
    """Class frequencies of the samples by a classifier; for conditional runs the accuracy of the requested class."""

    kinds = ("images",)

    def refusal(self, subject: Subject) -> str | None:
        known = super().refusal(subject)
        if known is None and subject.data.num_classes < 2:
            return "the data of this run have no labels"
        if known is None and subject.features.accuracy is None:
            return "these features do not know the classes of the data; use features=trained"
        return known

    def __call__(self, subject: Subject) -> Section:
        from src.plots.metrics import class_bars

        features, k = subject.features, subject.data.num_classes
        drawn = torch.randperm(len(features.train), generator=generator("floor", subject.seed))[: len(subject.x)]
        p = [self.probabilities(features, x) for x in (subject.fake, features.test, features.train[drawn])]
        shares, data, other = (each.argmax(1).bincount(minlength=k) / len(each) for each in p)
        names = getattr(subject.data, "class_names", None) or [str(i) for i in range(k)]
        section = Section("Classes", tables={"classes": {"samples": shares.tolist(), "data": data.tolist()}})
        section.values["confidence"] = Value(
            "mean confidence", p[0].amax(1).mean().item(), floor=p[2].amax(1).mean().item(), better="higher"
        )
        section.values["class_distance"] = Value(
            "class histogram, total variation", distance(shares, data), floor=distance(other, data), better="lower"
        )
        section.pictures["classes"] = Picture(
            class_bars(shares, data, names), "How often each class comes among the samples, and among the test data."
        )
        if subject.label is not None and bool((subject.label >= 0).all()):
            section.values |= self.judge(subject.label, p[0].argmax(1), k, features.accuracy)
            section.notes.append(
                "Accuracy, precision, recall and F1 (means over the classes) say how often the classifier finds the "
                "class that was asked for; beside it stands how often it is right of test data."
            )
        return section

    def probabilities(self, features: Features, x: Tensor) -> Tensor:
        """Of the classes, (N, K), from features (N, D)."""
        logits = features.logits(x)
        assert logits is not None
        return logits.softmax(1)

    def judge(self, label: Tensor, found: Tensor, k: int, floor: float | None) -> dict[str, Value]:
        """How often the class that was found (N,) is the one that was asked for (N,)."""
        right = (label == found).sum().item()
        accuracy = Value("accuracy", right / len(label), *share_interval(right, len(label)), floor, "higher")
        # Of the classes that were asked for: a label that nobody asked for has neither precision nor recall.
        some = label.unique()
        per_class = {
            name: metric(found, label, k, average="none")[some].mean().item()
            for name, metric in (("precision", multiclass_precision), ("recall", multiclass_recall), ("F1", f1_score))
        }
        return {"accuracy": accuracy} | {
            f"class_{name.lower()}": Value(f"{name} of the class", value, better="higher")
            for name, value in per_class.items()
        }


def distance(p: Tensor, q: Tensor) -> float:
    """The total variation between two distributions (K,)."""
    return ((p - q).abs().sum() / 2).item()
