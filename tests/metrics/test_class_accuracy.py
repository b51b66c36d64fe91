"""What a classifier takes samples for."""

import pytest
import torch
from sklearn.metrics import f1_score, precision_score, recall_score

from src.metrics.class_accuracy import ClassAccuracy
from tests.metrics.conftest import Pixels

K = 3


class Known(Pixels):
    """The class of an image (3, 1, 1) is its brightest channel."""

    accuracy = 0.9

    def logits(self, features):
        return 20 * features


def images(labels: list[int]) -> torch.Tensor:
    x = torch.full((len(labels), K, 1, 1), 0.1)
    x[torch.arange(len(labels)), labels] = 0.9
    return x


def make(context, samples, data, **more):
    label = torch.tensor(data)
    return context(images(samples), (images(data), label), (images(data), label), features=Known, **more)


def test_the_histogram(context):
    of = make(context, [0, 0, 0, 1], [0, 1, 2, 2])
    section = ClassAccuracy()(of)
    assert section.tables["classes"] == {"samples": [0.75, 0.25, 0], "data": [0.25, 0.25, 0.5]}
    assert section.values["class_distance"].value == pytest.approx(0.5)
    assert section.values["class_distance"].real_baseline == pytest.approx(0)
    assert "accuracy" not in section.values and "classes" in section.pictures


def test_the_share_that_is_surely_of_a_class(context):
    of = make(context, [0, 0, 1, 2], [0, 1, 2])
    of.x[2:] = torch.tensor([[[[0.1]], [[0.2]], [[0.1]]], [[[0.1]], [[0.1]], [[0.3]]]])  # p = 0.79 and 0.96
    value = ClassAccuracy()(of).values["confident"]
    assert value.value == 3 / 4 and value.low < 3 / 4 < value.high and value.real_baseline == 1


def test_the_class_that_was_asked_for(context):
    found, asked = [0, 1, 1, 2, 2, 2, 0, 1], [0, 1, 2, 2, 0, 2, 0, 1]
    values = ClassAccuracy()(make(context, found, [0, 1, 2], label=torch.tensor(asked))).values
    assert values["accuracy"].value == 6 / 8 and values["accuracy"].real_baseline == 0.9
    assert values["accuracy"].low < 6 / 8 < values["accuracy"].high
    for name, metric in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert values[f"class_{name}"].value == pytest.approx(metric(asked, found, average="macro"))


def test_only_classes_that_were_asked_for_count(context):
    values = ClassAccuracy()(make(context, [1, 1, 2, 1], [0, 1, 2], label=torch.tensor([1, 1, 1, 1]))).values
    assert values["class_recall"].value == pytest.approx(0.75) and values["class_precision"].value == 1


def test_no_label_asked_for(context):
    of = make(context, [0, 1], [0, 1, 2], label=torch.tensor([-1, -1]))
    assert "accuracy" not in ClassAccuracy()(of).values


def test_data_without_labels_and_features_without_classes(context):
    x = images([0, 1, 2])
    assert "no labels" in ClassAccuracy().why_not_applicable(context(x, x, x))
    assert "do not know the classes" in ClassAccuracy().why_not_applicable(
        context(x, (x, torch.arange(3)), (x, torch.arange(3)))
    )


def test_the_class_of_the_data_whose_condition_was_given(context):
    """For conditions that are no classes, such as a small image: the test data in turn."""
    of = make(context, [0, 1, 1, 0, 1, 1], [0, 1, 2])
    of.paired, of.cond = True, torch.zeros(6, 1, 4, 4)
    section = ClassAccuracy()(of)
    assert section.values["accuracy"].value == 4 / 6
    assert "that of the test data whose conditions they have" in section.notes[-1]
