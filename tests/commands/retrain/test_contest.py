"""A challenger is promoted where src.compare would mark it on new data, and not the champion on old data."""

import re

import pytest

from src.commands.compare.table import MARK, Column
from src.commands.retrain.contest import CHALLENGER, CHAMPION, estimate, judge
from src.metrics.base import MetricValue


def pair(champion, challenger, margin=0.1, better="lower"):
    return [MetricValue("loss", v, v - margin, v + margin, better=better) for v in (champion, challenger)]


@pytest.mark.parametrize(
    ("old", "new", "promoted", "reason"),
    [
        (pair(1.0, 1.0), pair(2.0, 1.0), True, "new data is better, 1 .* beside 2"),
        (pair(1.0, 1.15), pair(2.0, 1.0), True, "on old data not worse"),
        (pair(1.0, 1.25), pair(2.0, 1.0), False, "on old data is worse by more than the noise: 1.25"),
        (pair(1.0, 0.5), pair(2.0, 1.85), False, "on new data is not better by more than the noise: 1.85"),
        (pair(1.0, 1.0), pair(1.0, 2.0), False, "on new data is not better"),
        (pair(0.5, 0.5, 0.01, "higher"), pair(0.2, 0.4, 0.01, "higher"), True, "better"),
        (pair(0.5, 0.4, 0.01, "higher"), pair(0.2, 0.4, 0.01, "higher"), False, "old data is worse"),
        (pair(1.0, float("nan")), pair(2.0, 1.0), False, "not finite"),
        (pair(1.0, 1.0), pair(2.0, float("inf")), False, "not finite"),
        ([MetricValue("loss", v, better="lower") for v in (1.0, 1.0)], pair(2.0, 1.0), True, "better"),
        (pair(1.0, 1.0), [MetricValue("loss", v, better="lower") for v in (2.0, 1.0)], False, "not better"),
    ],
)
def test_the_rule(old, new, promoted, reason):
    verdict = judge(old, new)
    assert verdict.promoted is promoted
    assert re.search(reason, verdict.reason), verdict.reason


@pytest.mark.parametrize("gap", [i / 20 for i in range(-10, 11)])
def test_it_is_that_of_the_table(gap):
    """Promoted exactly where the table of src.compare marks the row of the challenger."""
    new = pair(1.0, 1.0 + gap)
    cells = Column("loss", [estimate(value) for value in new], "lower").cells
    assert judge(pair(1.0, 1.0), new).promoted == cells[CHALLENGER].endswith(MARK)
    old = Column("loss", [estimate(value) for value in new], "lower").cells[CHAMPION].endswith(MARK)
    assert judge(new, pair(1.0, 0.0)).promoted is not old
