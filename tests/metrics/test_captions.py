import math

import pytest
import torch
from scipy.stats import kendalltau

from src.metrics.captions import asked_values, class_value, ordered_pairs, share_value


def test_pairs_in_order_by_hand():
    asked = torch.tensor([0, 2, 1, 2, -1])
    measured = torch.tensor([1.0, 3.0, 2.0, 1.5, 9.0])
    # Of the pairs 0-1, 0-2, 0-3, 2-1 and 2-3 only the last is in the wrong order.
    assert ordered_pairs(asked, measured) == 4 / 5
    assert ordered_pairs(torch.tensor([1, 1, -1]), torch.ones(3)) is None


@pytest.mark.parametrize("n", [50, 1201])
def test_pairs_in_order_are_the_rank_correlation(n):
    """With as many values as samples the fraction is (tau + 1) / 2."""
    g = torch.Generator().manual_seed(0)
    asked, measured = torch.randperm(n, generator=g), torch.randn(n, generator=g)
    tau = kendalltau(asked.numpy(), measured.numpy()).statistic
    assert ordered_pairs(asked, measured) == pytest.approx((tau + 1) / 2, abs=1e-12)


def test_equal_measurements_are_not_in_order():
    assert ordered_pairs(torch.tensor([0, 1]), torch.ones(2)) == 0


def test_what_texts_ask_for():
    texts = ["a bold slanted 7", "three", "", "thin and left-leaning"]
    assert asked_values(texts).tolist() == [[7, 2, 2], [3, -1, -1], [-1, -1, -1], [-1, 0, 0]]


def test_the_class_counts_where_it_is_named():
    found = class_value(torch.tensor([7, 3, -1, 1]), torch.tensor([7, 5, 2, 1]), 0.99)["caption_class"]
    assert found.value == pytest.approx(2 / 3) and found.real_baseline == 0.99 and found.low < found.value < found.high
    assert class_value(torch.tensor([-1]), torch.tensor([2]), 0.99) == {}


def test_the_values_count_where_they_are_said():
    asked, found = torch.tensor([0, 2, -1]), torch.tensor([0, 1, 1])
    value = share_value("slant", (asked, asked), (found, asked))["slant_as_asked"]
    assert (value.value, value.real_baseline) == (0.5, 1.0)
    nothing = torch.tensor([-1])
    assert share_value("slant", (nothing, nothing), (nothing, nothing)) == {}
    assert not math.isnan(value.value)
