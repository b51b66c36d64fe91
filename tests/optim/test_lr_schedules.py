"""Learning rates against closed forms and against torch's own."""

from functools import partial
from itertools import pairwise
from math import cos, pi

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, OneCycleLR, ReduceLROnPlateau

from src.optim.lr_schedules import build_lr_schedule, constant_lr, cosine_lr, one_cycle_lr, trapezoid_lr

pytestmark = pytest.mark.strength(1)

LR = 0.02


def optimizer(lr: float = LR) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rates(opt, schedule, steps: int) -> list[float]:
    """The rate that each optimizer step is made with."""
    found = []
    for _ in range(steps):
        found.append(opt.param_groups[0]["lr"])
        opt.step()
        schedule.step()
    return found


def rates_of(make, total: int, steps: int | None = None, **arguments) -> list[float]:
    opt = optimizer()
    return rates(opt, make(opt, total, **arguments), steps or total)


def test_constant():
    assert rates_of(constant_lr, 5) == [LR] * 5
    assert rates_of(constant_lr, -1, 5) == [LR] * 5


def test_constant_after_a_warm_up():
    expected = [LR * min(1, (k + 1) / 4) for k in range(8)]
    assert rates_of(constant_lr, -1, 8, warmup_steps=4) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("total", "warmup_steps", "min_lr_ratio"), [(20, 0, 0.0), (20, 5, 0.1), (101, 1, 0.0), (2, 1, 0.5)]
)
def test_cosine(total, warmup_steps, min_lr_ratio):
    expected = [
        (k + 1) / warmup_steps
        if k < warmup_steps
        else min_lr_ratio + (1 - min_lr_ratio) * (1 + cos(pi * (k - warmup_steps) / (total - warmup_steps))) / 2
        for k in range(total)
    ]
    found = rates_of(cosine_lr, total, warmup_steps=warmup_steps, min_lr_ratio=min_lr_ratio)
    assert found == pytest.approx([LR * f for f in expected], rel=1e-12, abs=1e-18)


def test_trapezoid():
    expected = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1, 1, 0.91, 0.82, 0.73, 0.64, 0.55, 0.46, 0.37, 0.28, 0.19]
    found = rates_of(trapezoid_lr, 20, warmup_steps=4, cooldown_start=0.5, min_lr_ratio=0.1)
    assert found == pytest.approx([LR * f for f in expected], rel=1e-12)
    assert rates_of(trapezoid_lr, 20, 21, warmup_steps=4, cooldown_start=0.5, min_lr_ratio=0.1)[20] == pytest.approx(
        0.1 * LR
    )


@pytest.mark.parametrize("warmup_steps", [0, 1])
@pytest.mark.parametrize("make", [constant_lr, cosine_lr, trapezoid_lr])
def test_no_warm_up_begins_at_the_top(make, warmup_steps):
    assert rates_of(make, 20, 1, warmup_steps=warmup_steps) == [LR]


@pytest.mark.parametrize("make", [trapezoid_lr, cosine_lr])
def test_a_warm_up_takes_at_most_half_of_the_run(make):
    """However long it was meant to be; then the rate is at its top, from where the cooldown begins."""
    found = rates_of(make, 10, warmup_steps=100, **({"cooldown_start": 0.5} if make is trapezoid_lr else {}))
    assert found[:5] == pytest.approx([LR * (k + 1) / 5 for k in range(5)], rel=1e-12)
    assert found[5] == pytest.approx(LR) and all(a > b for a, b in pairwise(found[5:]))


def test_trapezoid_refuses_to_hold_for_more_than_all():
    with pytest.raises(ValueError, match="cooldown_start"):
        trapezoid_lr(optimizer(), 10, cooldown_start=1.0)


def test_cosine_without_warm_up_is_that_of_torch():
    opt = optimizer()
    expected = rates(opt, CosineAnnealingLR(opt, T_max=50, eta_min=0.1 * LR), 50)
    assert rates_of(cosine_lr, 50, min_lr_ratio=0.1) == pytest.approx(expected, rel=1e-9)


def test_a_long_warm_up_takes_half_of_a_short_run():
    found = rates_of(cosine_lr, 10, warmup_steps=100)
    assert found[:6] == pytest.approx([LR * k / 5 for k in (1, 2, 3, 4, 5, 5)])
    assert found[6] < LR


@pytest.mark.parametrize("total", [10, 37, 100, 1000])
def test_one_cycle_is_that_of_torch(total):
    opt = optimizer()
    expected = rates(opt, OneCycleLR(opt, max_lr=LR, total_steps=total, cycle_momentum=False), total - 1)
    assert rates_of(one_cycle_lr, total)[:-1] == pytest.approx(expected, rel=1e-9)
    assert expected[0] == pytest.approx(LR / 25)
    assert rates_of(one_cycle_lr, total)[-1] == pytest.approx(LR / 25 / 1e4, rel=1e-6)  # torch refuses to go past it


@pytest.mark.parametrize(("pct_start", "start_ratio", "final_ratio"), [(0.5, 0.1, 0.01), (0.1, 0.0, 0.0)])
def test_one_cycle_with_other_shares(pct_start, start_ratio, final_ratio):
    total = 40
    found = [
        rate / LR
        for rate in rates_of(one_cycle_lr, total, pct_start=pct_start, start_ratio=start_ratio, final_ratio=final_ratio)
    ]
    assert found[0] == pytest.approx(start_ratio)
    assert max(range(total), key=found.__getitem__) == pct_start * total - 1 and max(found) == pytest.approx(1)
    assert found[-1] == pytest.approx(final_ratio, abs=1e-12)


@pytest.mark.parametrize(
    ("make", "arguments", "end"),
    [
        (cosine_lr, {"min_lr_ratio": 0.3}, 0.3),
        (cosine_lr, {}, 0.0),
        (one_cycle_lr, {"final_ratio": 0.2}, 0.2),
        (constant_lr, {}, 1.0),
    ],
)
def test_the_rate_stays_after_the_end(make, arguments, end):
    found = rates_of(make, 10, 25, **arguments)
    assert found[10:] == pytest.approx([LR * end] * 15, abs=1e-15)


@pytest.mark.parametrize("make", [cosine_lr, one_cycle_lr])
@pytest.mark.parametrize("total", [-1, 0])
def test_a_run_of_unknown_length_is_refused(make, total):
    with pytest.raises(ValueError, match="number of steps of the run must be known") as caught:
        make(optimizer(), total)
    assert "trainer.max_steps" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [constant_lr, cosine_lr, one_cycle_lr])
@pytest.mark.parametrize("total", [1, 2, 3])
def test_the_shortest_runs_have_positive_rates(make, total):
    assert all(rate > 0 for rate in rates_of(make, total))


@pytest.mark.parametrize("make", [cosine_lr, one_cycle_lr])
def test_a_resumed_run_can_be_made_longer(make):
    """The state of the schedule holds the step alone, not the length."""
    opt = optimizer()
    short = make(opt, 10)
    rates(opt, short, 6)
    resumed = optimizer()
    longer = make(resumed, 20)
    longer.load_state_dict(short.state_dict())
    resumed.load_state_dict(opt.state_dict())
    resumed.step()
    longer.step()
    assert resumed.param_groups[0]["lr"] == pytest.approx(rates_of(make, 20)[7])


def test_a_schedule_is_built_with_what_it_takes():
    """The number of steps where it is asked for and not given."""
    opt = optimizer()
    assert rates(opt, build_lr_schedule(cosine_lr, opt, 4), 4) == pytest.approx(rates_of(cosine_lr, 4))
    opt = optimizer()
    assert rates(opt, build_lr_schedule(partial(cosine_lr, total_steps=9), opt, 4), 9) == pytest.approx(
        rates_of(cosine_lr, 9)
    )
    opt = optimizer()
    assert rates(opt, build_lr_schedule(partial(ExponentialLR, gamma=0.5), opt, 4), 3) == [LR, LR / 2, LR / 4]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda optimizer, factor: None,
            r"'factor'; a schedule is made of \(optimizer\) or \(optimizer, total_steps\)$",
        ),
        (ReduceLROnPlateau, "needs a loss at each step, and is not supported; use lr_schedule=cosine"),
    ],
)
def test_a_schedule_that_cannot_be_built_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        build_lr_schedule(make, optimizer(), 4)
