"""Values are held against annotations: their type, their range, and what a user reads of both."""

from collections.abc import Sequence
from math import inf, nan
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Interval, Le, MinLen, MultipleOf, Predicate

from src.commands.options import CompareOptions, SampleOptions, TrainOptions
from src.runs.bounds import violation
from src.runs.check_config import check_options
from src.utils.errors import UserError

Count = Annotated[int, Ge(1)]
Share = Annotated[float, Interval(gt=0, le=1)]


def is_even(n: int) -> bool:
    """an even number."""
    return n % 2 == 0


@pytest.mark.parametrize(
    ("hint", "good", "bad", "message"),
    [
        (int, [0, -1], 1.0, " must be of type int, got 1.0"),
        (int, [2**62], True, " must be of type int, got true"),
        (float, [0, -1.5, 1e30], nan, " must be finite, got nan"),
        (float, [1], inf, " must be finite, got inf"),
        (float, [1], 10**30, f" must be an integer of 64 bits, got {10**30}"),
        (float, [1], False, " must be of type float, got false"),
        (Annotated[float, Gt(0)], [1e-9, 1], 0, " must be > 0, got 0"),
        (Annotated[float, Gt(0)], [1], nan, " must be finite, got nan"),
        (Annotated[float, Gt(0), Le(inf)], [1, inf], -inf, " must be > 0, got -inf"),
        (Annotated[float, Gt(0), Le(inf)], [1, inf], nan, " must be > 0, got nan"),
        (Annotated[float, Ge(0), Le(1)], [0, 1], 2, " must be in [0, 1], got 2"),
        (Share, [0.5, 1], 0.0, " must be in (0, 1], got 0.0"),
        (Annotated[int, MultipleOf(4)], [4, 0], 6, " must be a multiple of 4, got 6"),
        (Annotated[int, Predicate(is_even)], [4], 3, " must be an even number, got 3"),
        (Count | None, [3, None], 0, " must be >= 1, got 0"),
        (Count | None, [3], "a", " must be of type int or null, got 'a'"),
        (Count | Share, [3, 0.5], 1.5, " must be in (0, 1], got 1.5"),
        (Literal[-1] | Count, [-1, 3], 0, " must be -1 or >= 1, got 0"),
        (Literal["a", "b"] | None, ["a", None], "c", " must be one of 'a', 'b', null, got 'c'"),
        (list[Count], [[1, 2], []], [1, 0], "[1] must be >= 1, got 0"),
        (Annotated[list[Count], MinLen(1)], [[1]], [], " must be at least 1 long, got []"),
        (Annotated[Sequence[Count], MinLen(1)], [[1]], [], " must be at least 1 long, got []"),
        (tuple[Share, Share], [[0.1, 1]], [0.1], " must be a list of 2, got [0.1]"),
        (tuple[Share, ...], [[0.1]], [0.1, 2], "[1] must be in (0, 1], got 2"),
        (Count | list[Count], [1, [1, 2]], [2, -1], "[1] must be >= 1, got -1"),
        (list[list[Count]], [[[1]]], [[1], [0]], "[1][0] must be >= 1, got 0"),
    ],
)
def test_what_departs_from_an_annotation_is_said(hint, good, bad, message):
    assert all(violation(value, hint) is None for value in good)
    assert str(violation(bad, hint)) == message


def test_a_part_still_to_be_made_fits():
    assert violation({"_target_": "torch.nn.Linear"}, Count) is None


@pytest.mark.parametrize(
    ("options", "setting", "good", "bad"),
    [
        (TrainOptions, "seed", [0, 1], [-1, 1.0, "abc", None]),
        (TrainOptions, "auto_resume", [True, False], ["maybe", 1, None]),
        (TrainOptions, "compile", [True, False, "default", "reduce-overhead"], ["yes", "fast", 1, None]),
        (TrainOptions, "self_conditioning_prob", [0, 0.5], [1, -0.1, nan, "yes"]),
        (SampleOptions, "n", [1], [0, -1, 2.5, "abc", None]),
        (SampleOptions, "seed", [0], [1e30, "abc", -1]),
        (SampleOptions, "batch_size", [1], [0, None]),
        (SampleOptions, "weights", ["ema", 0.07], [0.0, -1, True, None]),
        (SampleOptions, "gif", [True], ["maybe"]),
        (CompareOptions, "n_shown", [0, 16], [-1, 1.5]),
        (CompareOptions, "steps", [5, [5, 10]], [0, [5, 0], "abc", None]),
        (CompareOptions, "guidance_scales", [None, 0, [0, 1.5]], [-1, [nan], "abc"]),
        (CompareOptions, "n", [2], [1]),
    ],
)
def test_options_of_commands(options, setting, good, bad):
    for value in good:
        check_options({setting: value}, options)
    for value in bad:
        with pytest.raises(UserError, match=rf"^{setting}(\[\d\])? must be "):
            check_options({setting: value}, options)


def test_options_are_named_by_their_path():
    with pytest.raises(UserError, match=r"^sweep\.retry must be of type bool, got 'maybe'$"):
        check_options({"sweep": {"retry": "maybe", "resume": None}}, TrainOptions)
