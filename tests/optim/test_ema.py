import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn
from torch.testing import assert_close

from src.optim.ema import (
    MAX_STD,
    ConstantEMA,
    HalfLifeEMA,
    PowerFunctionEMA,
    posthoc_coefficients,
    power_function_correlation,
    reconstruct,
    std_to_exp,
)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5), nn.BatchNorm1d(2)).double()


def walk(m, n):
    """Set the weights to something new n times, as an optimizer would; yield the step and the first weight."""
    g = torch.Generator().manual_seed(1)
    for step in range(1, n + 1):
        with torch.no_grad():
            for p in m.parameters():
                p.copy_(torch.randn(p.shape, generator=g, dtype=p.dtype))
        yield step, m[0].weight.detach().clone()


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_closed_form(decay):
    m = model()
    ema = ConstantEMA(m, decay, warmup=False)
    history = [m[0].weight.detach().clone()]
    for step, weights in walk(m, 12):
        ema.update(m, step)
        history.append(weights)
    expected = decay**12 * history[0] + sum((1 - decay) * decay ** (12 - i) * history[i] for i in range(1, 13))
    assert_close(ema.model[0].weight, expected, rtol=0, atol=1e-12, check_stride=False)


def test_warm_up():
    """d_n = min(d, (1 + n) / (10 + n)), so that the first weights are soon forgotten."""
    m = model()
    ema = ConstantEMA(m, 0.4)
    history = [m[0].weight.detach().clone()]
    for step, weights in walk(m, 12):
        ema.update(m, step)
        history.append(weights)
    decays = [2 / 11, 3 / 12, 4 / 13, 5 / 14] + [0.4] * 8
    assert [ema.decay_at(n) for n in range(1, 13)] == pytest.approx(decays, abs=1e-15)
    expected = history[0]
    for d, weight in zip(decays, history[1:], strict=True):
        expected = d * expected + (1 - d) * weight
    assert_close(ema.model[0].weight, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("warmup", [True, False])
def test_start(warmup):
    """The copy follows the weights exactly until then, and counts the warm-up from there."""
    m = model()
    ema = ConstantEMA(m, 0.9, start=3, warmup=warmup)
    history = [m[0].weight.detach().clone()]
    for step, weights in walk(m, 5):
        ema.update(m, step)
        history.append(weights)
        if step <= 3:
            assert torch.equal(ema.model[0].weight, history[-1])
    expected = history[3]
    for d, weight in zip([2 / 11, 3 / 12] if warmup else [0.9, 0.9], history[4:], strict=True):
        expected = d * expected + (1 - d) * weight
    assert_close(ema.model[0].weight, expected, rtol=0, atol=1e-12)


def test_follows_a_constant():
    m = model()
    ema = ConstantEMA(m, 0.999)
    for step in range(1, 50):
        ema.update(m, step)
    assert_close(ema.model.state_dict(), m.state_dict(), rtol=0, atol=1e-15)


def test_buffers_are_copied():
    m = model()
    ema = ConstantEMA(m, 0.9)
    m[2].running_mean += 5
    m[2].num_batches_tracked += 7
    ema.update(m, 1)
    assert torch.equal(ema.model[2].running_mean, m[2].running_mean)
    assert ema.model[2].num_batches_tracked == 7


def test_is_a_copy():
    m = model()
    ema = ConstantEMA(m, 0.9)
    before = ema.model[0].weight.clone()
    with torch.no_grad():
        m[0].weight += 1
    assert torch.equal(ema.model[0].weight, before)
    again = copy.deepcopy(ema)
    ema.update(m, 1)
    assert torch.equal(again.model[0].weight, before)
    assert not torch.equal(ema.model[0].weight, before)


def test_is_never_trained():
    m = model().train()
    ema = ConstantEMA(m, 0.9)
    nn.ModuleList([ema]).train()
    assert m.training
    assert not any(module.training for module in ema.modules())
    assert not any(p.requires_grad for p in ema.parameters())
    assert all(p.requires_grad for p in m.parameters())


def test_goes_through_a_checkpoint():
    m = model()
    ema = ConstantEMA(m, 0.9)
    for step, _ in walk(m, 3):
        ema.update(m, step)
    again = ConstantEMA(model(), 0.9)
    again.load_state_dict(ema.state_dict())
    ema.update(m, 4)
    again.update(m, 4)
    assert torch.equal(again.model[0].weight, ema.model[0].weight)


@pytest.mark.parametrize("decay", [1.0, -0.1, 2])
def test_refuses(decay):
    with pytest.raises(ValueError, match=r"ema.decay must be in \[0, 1\)"):
        ConstantEMA(model(), decay)


# ---- half-life ----


def test_after_the_half_life_the_old_weights_count_half():
    """The weights jump from a to b; 1,000 samples later, in batches of 125 * 2, the average lies in the middle."""
    m = model()
    old = m[0].weight.detach().clone()
    ema = HalfLifeEMA(m, half_life=1000, batch_size=125, accumulate_grad_batches=2, rampup_ratio=None)
    with torch.no_grad():
        m[0].weight += 1
    for step in range(1, 5):
        ema.update(m, step)
    assert_close(ema.model[0].weight, old + 0.5, rtol=0, atol=1e-12)
    assert_close(ema.decay_at(1), 0.5**0.25, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("batch", "accumulate_grad_batches"), [(64, 1), (500, 4)])
@pytest.mark.parametrize("rampup", [0.05, 0.09, None])
def test_the_ramp_up_is_that_of_nvlabs(batch, accumulate_grad_batches, rampup):
    """Written a second time after training_loop.py of NVlabs/edm, where cur_nimg grows after the update."""
    ema = HalfLifeEMA(
        model(),
        half_life=50_000,
        batch_size=batch,
        accumulate_grad_batches=accumulate_grad_batches,
        rampup_ratio=rampup,
    )
    size = batch * accumulate_grad_batches
    seen = size * np.arange(2000)
    half_life = np.full(2000, 50_000.0) if rampup is None else np.minimum(50_000.0, seen * rampup)
    expected = np.power(0.5, size / np.maximum(half_life, 1e-8))
    found = [ema.decay_at(step) for step in range(1, 2001)]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=0)
    if rampup is not None:
        assert found[0] == 0, "the initial weights are forgotten"


def test_a_half_life_of_less_than_a_sample():
    assert HalfLifeEMA(model(), half_life=0.5, batch_size=1, rampup_ratio=None).decay_at(9) == pytest.approx(0.25)
    assert HalfLifeEMA(model(), half_life=2, batch_size=1, rampup_ratio=0.5).decay_at(3) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"half_life": 0}, "half_life"), ({"half_life": 9, "rampup_ratio": 0.0}, "rampup_ratio")]
)
def test_refuses_an_impossible_half_life(arguments, message):
    with pytest.raises(ValueError, match=f"ema.{message} must be"):
        HalfLifeEMA(model(), **arguments)


# ---- power functions ----

WIDTHS = [0.005, 0.03, 0.05, 0.1, 0.2, 0.28]


@pytest.mark.parametrize("width", WIDTHS)
def test_gamma_is_the_root_of_the_cubic(width):
    roots = np.roots([1, 7, 16 - width**-2, 12 - width**-2])
    assert std_to_exp(width) == pytest.approx(roots.real.max(), rel=1e-9)
    assert std_to_exp(width) > 0


@pytest.mark.parametrize("width", WIDTHS)
def test_the_weighting_is_as_wide_as_it_says(width):
    """By numerical integration: the standard deviation of t under (gamma + 1) t^gamma on [0, 1]."""
    gamma = std_to_exp(width)
    whole, mean, square = (quad(lambda t, k=k: (gamma + 1) * t ** (gamma + k), 0, 1)[0] for k in range(3))
    assert whole == pytest.approx(1, abs=1e-7)
    assert np.sqrt(square - mean**2) == pytest.approx(width, rel=1e-5)


def test_the_widest_is_the_plain_mean():
    assert std_to_exp(MAX_STD - 1e-9) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("width", [0.03, 0.1, 0.28])
def test_power_average_in_closed_form(width):
    """Weights that change at steps only: the integral of (gamma + 1) t^gamma / T^(gamma + 1) over each interval."""
    m = model()
    power = PowerFunctionEMA(m, [width])
    history = []
    for step, weights in walk(m, 40):
        power.update(m, step)
        history.append(weights)
        shares = [(b / step) ** (std_to_exp(width) + 1) for b in range(step + 1)]
        expected = sum((b - a) * weights for (a, b), weights in zip(pairwise(shares), history, strict=True))
        assert_close(power.model[0].weight, expected, rtol=0, atol=1e-12)


def test_power_average_of_a_line():
    """The mean of t under the weighting is (gamma + 1) / (gamma + 2) of the run."""
    m, n = model(), 1500
    power = PowerFunctionEMA(m, (0.05, 0.2))
    for step in range(1, n + 1):
        with torch.no_grad():
            m[0].weight.fill_((step - 0.5) / n)
        power.update(m, step)
    for average in (power, *power.others):
        expected = (average.gamma + 1) / (average.gamma + 2)
        assert_close(average.model[0].weight, torch.full((2, 3), expected).double(), rtol=0, atol=1e-5)


def test_all_widths_are_tracked_as_if_alone():
    m = model()
    alone = [PowerFunctionEMA(m, [width]) for width in (0.05, 0.1, 0.2)]
    together = PowerFunctionEMA(m, [0.05, 0.1, 0.2])
    m[2].running_mean += 5
    for step, _ in walk(m, 7):
        for average in (*alone, together):
            average.update(m, step)
    for one, other in zip(alone, (together, *together.others), strict=True):
        assert one.sigma_rel == other.sigma_rel
        assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))
        assert torch.equal(other.model[2].running_mean, m[2].running_mean)
    again = PowerFunctionEMA(model(), [0.05, 0.1, 0.2])
    again.load_state_dict(together.state_dict())
    assert torch.equal(again.others[1].model[0].weight, alone[2].model[0].weight)


@pytest.mark.parametrize("widths", [[], [0.05, 0.05], [0.0], [0.05, 0.3], [12**-0.5], [-0.1], [float("nan")]])
def test_refuses_impossible_widths(widths):
    with pytest.raises(ValueError, match=r"ema.sigma_rel must be|a relative width must be between 0 and 0.289"):
        PowerFunctionEMA(model(), widths)


# ---- other widths, after the run ----


def smooth_run(n, count, widths, more):
    """A random smooth path of the weights: snapshots along it, and at its end the averages of more widths."""
    m = model()
    g = torch.Generator().manual_seed(2)
    waves = [torch.randn(6, *p.shape, generator=g, dtype=p.dtype) for p in m.parameters()]
    power, direct = PowerFunctionEMA(m, widths), {width: PowerFunctionEMA(m, [width]) for width in more}
    snapshots = []
    for step in range(1, n + 1):
        basis = torch.cos(torch.pi * step / n * torch.arange(6)).double()
        with torch.no_grad():
            for p, wave in zip(m.parameters(), waves, strict=True):
                p.copy_(torch.tensordot(basis, wave, 1))
        for average in (power, *direct.values()):
            average.update(m, step)
        if step * count % n == 0:
            snapshots.append(power.snapshot(step))
    return power, snapshots, direct


def relative_error(found, expected):
    found, expected = (torch.cat([state[k].flatten() for k in ("0.weight", "0.bias")]) for state in (found, expected))
    return ((found - expected).norm() / expected.norm()).item()


def test_a_snapshot_stays_as_it_was():
    m = model()
    power = PowerFunctionEMA(m, (0.05, 0.1))
    before = power.snapshot(1)
    kept = copy.deepcopy(before)
    shared = {x.data_ptr() for x in [*power.state_dict().values(), *m.state_dict().values()]}
    tensors = [*before["buffers"].values(), *(w for part in before["weights"] for w in part.values())]
    assert not shared & {x.data_ptr() for x in tensors}
    with torch.no_grad():
        for value in m.state_dict().values():
            value.add_(1)
    power.update(m, 2)
    assert_close(before, kept, rtol=0, atol=0)


def test_weights_that_two_layers_share_are_kept_under_both_names():
    m = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).double()
    m[1].weight = m[0].weight
    power = PowerFunctionEMA(m, [0.1])
    for step in (1, 2):
        power.update(m, step)
    (weights,) = power.snapshot(2)["weights"]
    assert {"0.weight", "1.weight"} <= weights.keys()
    m.load_state_dict(reconstruct([power.snapshot(2)], 0.1))


@pytest.mark.slow
def test_another_width_is_rebuilt():
    _, snapshots, direct = smooth_run(1000, 20, (0.05, 0.1), (0.03, 0.07, 0.08, 0.15, 0.2))
    assert len(snapshots) == 20
    for width, power in direct.items():
        rebuilt = reconstruct(snapshots, width)
        assert rebuilt.keys() == power.model.state_dict().keys()
        assert relative_error(rebuilt, power.model.state_dict()) < (3e-3 if 0.05 < width < 0.1 else 3e-2)
        nearest = min((0.05, 0.1), key=lambda stored, width=width: abs(stored - width))
        stored = snapshots[-1]["weights"][(0.05, 0.1).index(nearest)]
        assert relative_error(rebuilt, power.model.state_dict()) < 0.1 * relative_error(
            stored, power.model.state_dict()
        ), "far nearer than the stored width beside it"


def test_more_snapshots_are_better():
    errors = []
    for count in (5, 10, 40):
        _, snapshots, direct = smooth_run(400, count, (0.05, 0.1), (0.07,))
        errors.append(relative_error(reconstruct(snapshots, 0.07), direct[0.07].model.state_dict()))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-3


def test_a_stored_width_is_rebuilt_exactly():
    power, snapshots, _ = smooth_run(100, 10, (0.05, 0.1), ())
    for average in (power, *power.others):
        assert relative_error(reconstruct(snapshots, average.sigma_rel), average.model.state_dict()) < 1e-12
    assert relative_error(reconstruct(list(reversed(snapshots)), 0.1), power.others[0].model.state_dict()) < 1e-12


def test_rebuilt_weights_keep_their_type_and_buffers_those_of_the_last_step():
    m = model().float()
    power = PowerFunctionEMA(m)
    snapshots = []
    for step in (1, 2, 3):
        m[2].num_batches_tracked += 1
        power.update(m, step)
        snapshots.append(power.snapshot(step))
    rebuilt = reconstruct(snapshots, 0.08)
    assert rebuilt["0.weight"].dtype == torch.float32 and rebuilt["2.num_batches_tracked"] == 3
    model().float().load_state_dict(rebuilt)
    assert_close(rebuilt["0.weight"], m[0].weight, rtol=0, atol=1e-6, msg="constant weights stay what they are")


def test_inner_products_are_integrals():
    t, gamma = torch.tensor([3.0, 7.0, 7.0, 10.0]).double(), torch.tensor([0.5, 2.0, 17.0, 7.0]).double()
    grid = (torch.arange(200_000).double() + 0.5) * 10 / 200_000
    profiles = (gamma[:, None] + 1) * (grid / t[:, None]) ** gamma[:, None] / t[:, None] * (grid <= t[:, None])
    integrals = profiles @ profiles.T * 10 / 200_000
    assert_close(power_function_correlation((t[:, None], gamma[:, None]), (t, gamma)), integrals, rtol=2e-4, atol=1e-7)


def test_the_fit_is_that_of_nvlabs():
    """Algorithm 3 written a second time in numpy, after phema.py of NVlabs/edm2."""
    t, gamma = np.repeat(np.arange(1.0, 11), 2), np.tile([std_to_exp(0.05), std_to_exp(0.1)], 10)

    def products(t_a, g_a, t_b, g_b):
        exponent = np.where(t_a < t_b, g_b, -g_a)
        return (g_a + 1) * (g_b + 1) * (t_a / t_b) ** exponent / ((g_a + g_b + 1) * np.maximum(t_a, t_b))

    matrix = products(t[:, None], gamma[:, None], t, gamma)
    expected = np.linalg.solve(matrix, products(t, gamma, 10.0, std_to_exp(0.07)))
    found, distance = posthoc_coefficients(torch.tensor(t), torch.tensor(gamma), 0.07)
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=0, atol=1e-10)
    assert 0 < distance < 0.01


def test_the_distance_of_the_fit_is_measured():
    t, gamma = torch.arange(1.0, 6).double(), torch.full((5,), std_to_exp(0.1)).double()
    for width in (0.05, 0.09, 0.2):
        x, distance = posthoc_coefficients(t, gamma, width)
        grid = (torch.arange(200_000).double() + 0.5) * 5 / 200_000
        profiles = (gamma[:, None] + 1) * (grid / t[:, None]) ** gamma[:, None] / t[:, None] * (grid <= t[:, None])
        wanted = (std_to_exp(width) + 1) * (grid / 5) ** std_to_exp(width) / 5
        assert distance == pytest.approx(((x @ profiles - wanted).norm() / wanted.norm()).item(), rel=1e-3)
        assert x.sum().item() == pytest.approx(1)


def test_the_distance_of_a_stored_width_is_none():
    """Nor is it lost to rounding, which may make its square negative."""
    widths = [0.05 + 0.002 * k for k in range(50)]
    for n in (2, 5):
        t = torch.arange(1.0, n + 1).double()
        for width in widths:
            x, distance = posthoc_coefficients(t, torch.full((n,), std_to_exp(width)).double(), width)
            assert distance == pytest.approx(0, abs=1e-6) and x[-1].item() == pytest.approx(1)


@pytest.mark.parametrize(("width", "message"), [(0.01, r"0\.0[2-3]\d to 0\.2"), (0.4, "between"), (-1.0, "between")])
def test_a_width_that_the_snapshots_cannot_represent(width, message):
    _, snapshots, _ = smooth_run(100, 20, (0.05, 0.1), ())
    with pytest.raises(ValueError, match=message) as caught:
        reconstruct(snapshots, width)
    assert "\n" not in str(caught.value)


def test_the_half_life_is_of_steps_unless_batches_are_given():
    default, given = (
        HalfLifeEMA(model(), half_life=7.0, rampup_ratio=None, **more) for more in ({}, {"batch_size": 1})
    )
    assert default.decay_at(3) == given.decay_at(3) == pytest.approx(0.5 ** (1 / 7))
