"""Every loss against its formula, written a second time, and what a denoiser needs of it."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from src.diffusion import losses, weightings
from src.diffusion.beta_schedules import CosineSchedule
from src.diffusion.denoiser import Denoiser
from src.diffusion.learned_schedule import LearnedSchedule as LearnedSchedule
from src.diffusion.losses import BCE, L1, MSE, VLB, Huber, Hybrid, Perceptual, PseudoHuber
from src.diffusion.parameterizations import V
from src.diffusion.schedules import expand_like
from src.diffusion.variances import FixedLargeVariance, FixedSmallVariance, LearnedRangeVariance, LearnedVariance
from src.diffusion.vlb import prior_kl, vlb_term
from src.nets.random_features import RandomFeatures
from tests.diffusion.expected import SINGULAR, TRUTHS
from tests.diffusion.reference import SHAPES, Oracle, posterior

pytestmark = pytest.mark.strength(1)

T = torch.tensor([1e-3, 0.1234, 0.5, 0.97], dtype=torch.float64)


def predictor(x_t, t=None, cond=None):
    """Any prediction of the data, within (-1, 1)."""
    return 0.98 * torch.tanh(0.7 * x_t + 0.1)


class Features(nn.Module):
    """Two layers of features of any shape."""

    def forward(self, x):
        return [x**2, x.flatten(1).cumsum(1)]


# name: (the loss of a weighting, its formula of numpy arrays: one sample and its weight)
FORMULAS = {
    "mse": (MSE, lambda q, x, w: w * np.mean((q - x) ** 2)),
    "l1": (L1, lambda q, x, w: math.sqrt(w) * np.mean(np.abs(q - x))),
    "huber": (Huber, lambda q, x, w: np.mean([huber(math.sqrt(w) * r, 1.0) for r in (q - x).flat])),
    "huber 0.1": (
        lambda w: Huber(w, 0.1),
        lambda q, x, w: np.mean([huber(math.sqrt(w) * r, 0.1) for r in (q - x).flat]),
    ),
    "pseudo_huber": (
        lambda w: PseudoHuber(w, 0.3),
        lambda q, x, w: (
            (math.sqrt(w * np.sum((q - x) ** 2) + x.size * 0.3**2) - 0.3 * math.sqrt(x.size)) / math.sqrt(x.size)
        ),
    ),
    "bce": (
        BCE,
        lambda q, x, w: w * np.mean(-((x + 1) / 2 * np.log((q + 1) / 2)) - (1 - (x + 1) / 2) * np.log(1 - (q + 1) / 2)),
    ),
    "perceptual": (
        lambda w: Perceptual(w, Features()),
        lambda q, x, w: w * (np.mean((q**2 - x**2) ** 2) + np.mean((np.cumsum(q) - np.cumsum(x)) ** 2)),
    ),
}
WEIGHTED = {name: make for name, (make, _) in FORMULAS.items()}


def huber(r, delta):
    return r * r / 2 if abs(r) <= delta else delta * (abs(r) - delta / 2)


def batch(shape, randn):
    """Data within [-1, 1], and noise."""
    return torch.tanh(randn(4, *shape)), randn(4, *shape)


def check_formula(name, schedule, shape, randn):
    make, formula = FORMULAS[name]
    x_0, noise = batch(shape, randn)
    q = predictor(schedule.add_noise(x_0, T, noise))
    w = weightings.soft_min_snr_weighting(schedule, T)
    expected = [formula(q[i].numpy(), x_0[i].numpy(), float(w[i])) for i in range(4)]
    found = make(weightings.soft_min_snr_weighting)(Oracle(predictor, schedule), x_0, T, noise)
    assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("shape", SHAPES)
def test_formula_of_every_shape(name, shape, make_schedule, randn):
    check_formula(name, make_schedule("cosine"), shape, randn)


@pytest.mark.parametrize("name", FORMULAS)
def test_formula_of_every_schedule(name, schedule, randn):
    check_formula(name, schedule, (3, 4, 6), randn)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_torch(shape, make_schedule, randn):
    schedule, (x_0, noise) = make_schedule("linear"), batch(shape, randn)
    q, root = (
        predictor(schedule.add_noise(x_0, T, noise)),
        expand_like(weightings.v_weighting(schedule, T).sqrt(), x_0),
    )
    theirs = {
        "mse": F.mse_loss(root * q, root * x_0, reduction="none"),
        "l1": F.l1_loss(root * q, root * x_0, reduction="none"),
        "huber": F.huber_loss(root * q, root * x_0, reduction="none"),
        "huber 0.1": F.huber_loss(root * q, root * x_0, reduction="none", delta=0.1),
        "bce": root**2 * F.binary_cross_entropy((q + 1) / 2, (x_0 + 1) / 2, reduction="none"),
    }
    for name, expected in theirs.items():
        found = WEIGHTED[name](weightings.v_weighting)(Oracle(predictor, schedule), x_0, T, noise)
        assert_close(found, expected.flatten(1).mean(1), rtol=1e-9, atol=0)


# The derivative of each by one element of the prediction, given residual q - x, weight and number of elements D.
SLOPES = {
    "mse": lambda q, x, w, n: 2 * w * (q - x) / n,
    "l1": lambda q, x, w, n: w.sqrt() * (q - x).sign() / n,
    "huber": lambda q, x, w, n: w.sqrt() * (w.sqrt() * (q - x)).clamp(-1, 1) / n,
    "huber 0.1": lambda q, x, w, n: w.sqrt() * (w.sqrt() * (q - x)).clamp(-0.1, 0.1) / n,
    "pseudo_huber": lambda q, x, w, n: (
        w * (q - x) / n / expand_like((w * (q - x) ** 2).flatten(1).mean(1) + 0.3**2, x).sqrt()
    ),
    "bce": lambda q, x, w, n: w * (q - x) / 2 / ((q + 1) / 2 * (1 - q) / 2) / 2 / n,
    "perceptual": lambda q, x, w, n: (
        w
        * 2
        / n
        * (
            2 * q * (q**2 - x**2)
            + (q - x).flatten(1).cumsum(1).flip(1).cumsum(1).flip(1).view_as(x)  # each sum holds all before it
        )
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient(name, shape, make_schedule, randn):
    schedule, (x_0, noise) = make_schedule("flow"), batch(shape, randn)
    q = torch.tanh(randn(4, *shape)).requires_grad_()
    losses_of = WEIGHTED[name](weightings.truncated_snr_weighting)(Oracle(lambda *_: q, schedule), x_0, T, noise)
    losses_of.sum().backward()
    w = expand_like(weightings.truncated_snr_weighting(schedule, T), x_0)
    assert_close(q.grad, SLOPES[name](q.detach(), x_0, w, x_0[0].numel()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [*WEIGHTED, "vlb", "vlb limit"])
@pytest.mark.parametrize("process", ["linear", "cosine", "sub_vp_sde", "edm", "flow", "zero_snr"])
def test_the_objective_does_not_depend_on_the_parameterization(name, process, make_schedule, randn):
    schedule, (x_0, noise) = make_schedule(process), batch((3, 5), randn)
    makes = WEIGHTED | {"vlb": lambda w: VLB(100), "vlb limit": lambda w: VLB(None)}
    loss = makes[name](weightings.sigmoid_weighting)
    by_x_0 = loss(Oracle(predictor, schedule), x_0, T, noise)
    for part, _ in TRUTHS.values():
        try:
            part.check(schedule)
        except ValueError:
            assert process in ("flow", "zero_snr") and isinstance(part, tuple(type(TRUTHS[n][0]) for n in SINGULAR))
        else:
            assert_close(loss(Oracle(predictor, schedule, part), x_0, T, noise), by_x_0, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("part", ["eps", "x0", "v", "flow", "edm"])
def test_where_each_weighting_measures(part, shape, make_schedule, randn):
    """The error of the data, the noise, v and the flow's velocity, computed there from the same prediction."""
    x_0, noise = batch(shape, randn)
    for name in ("cosine", "linear"):
        schedule = make_schedule(name)
        alpha, sigma = (expand_like(v, x_0) for v in schedule.alpha_sigma(T))
        x_t = alpha * x_0 + sigma * noise
        q = predictor(x_t)
        eps = (x_t - alpha * q) / sigma
        errors = {
            weightings.uniform_weighting: q - x_0,
            weightings.simple_weighting: eps - noise,
            weightings.v_weighting: (alpha * eps - sigma * q) - (alpha * noise - sigma * x_0),
            weightings.flow_weighting: (eps - q) - (noise - x_0),
        }
        for weighting, error in errors.items():
            found = MSE(weighting)(Oracle(predictor, schedule, TRUTHS[part][0]), x_0, T, noise)
            assert_close(found, error.square().flatten(1).mean(1), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in WEIGHTED if name != "bce"])
def test_zero_for_a_perfect_prediction(name, schedule, randn):
    x_0, noise = batch((2, 3), randn)
    found = WEIGHTED[name](weightings.min_snr_weighting)(Oracle(lambda *_: x_0, schedule), x_0, T, noise)
    assert_close(found, torch.zeros(4).double(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", [*WEIGHTED, "vlb", "vlb limit", "hybrid"])
@pytest.mark.parametrize("shape", SHAPES)
def test_samples_do_not_mix(name, shape, make_schedule, randn):
    makes = WEIGHTED | {"vlb": lambda w: VLB(100), "vlb limit": lambda w: VLB(None), "hybrid": Hybrid}
    loss, schedule, (x_0, noise) = makes[name](weightings.v_weighting), make_schedule("cosine"), batch(shape, randn)
    variance = LearnedRangeVariance() if name == "hybrid" else None

    def denoiser():
        return Oracle(lambda x_t, t, cond: (predictor(x_t), *[x_t] * (variance is not None)), schedule, None, variance)

    before = loss(denoiser(), x_0, T, noise)
    x_0[2], noise[3] = 0.9, -3
    after = loss(denoiser(), x_0, T, noise)
    assert before.shape == (4,) and torch.equal(before[:2], after[:2])
    assert (before[2:] != after[2:]).all()


@pytest.mark.parametrize(
    "loss", [MSE(weightings.uniform_weighting), VLB(10), VLB(None), Hybrid(weightings.simple_weighting, 10)]
)
def test_passes_the_label_on(loss, make_schedule, randn):
    seen = []

    def echo(x_t, t, cond):
        seen.append(cond)
        return x_t, x_t

    (x_0, noise), label = batch((1, 3), randn), torch.tensor([-1, 0, 2, 5])
    loss(Oracle(echo, make_schedule("cosine"), None, LearnedVariance()), x_0, T, noise, label)
    assert len(seen) == 1 and torch.equal(seen[0], label)


@pytest.mark.parametrize("part", ["eps", "score", "x0", "v", "flow", "edm"])
@pytest.mark.parametrize(
    "weighting",
    [
        weightings.uniform_weighting,
        weightings.simple_weighting,
        weightings.v_weighting,
        weightings.flow_weighting,
        weightings.edm_weighting,
        weightings.p2_weighting,
    ],
)
def test_single_precision_suffices(part, weighting, make_schedule, randn):
    """At the smallest time drawn in training too, where the weights are largest."""
    x_0, eps, t = randn(4, 1, 16), randn(4, 1, 16), torch.tensor([1e-5, 1e-3, 0.5, 1]).double()

    class Half(nn.Module):
        def forward(self, x, c_noise, cond):
            return 0.5 * x

    for name in ("linear", "cosine", "ve_sde"):
        denoiser = Denoiser(Half(), make_schedule(name), TRUTHS[part][0])
        exact = MSE(weighting)(denoiser, x_0, t, eps)
        assert_close(MSE(weighting)(denoiser, x_0.float(), t, eps.float()).double(), exact, rtol=4e-3, atol=1e-9)


# ---- binary cross-entropy ----


def bce_at(q, p, **arguments):
    """The loss of single predictions q of p, all in [0, 1] units."""
    elementwise = BCE(weightings.uniform_weighting, **arguments).elementwise
    return elementwise((2 * q - 1)[:, None], (2 * p - 1)[:, None], torch.ones(len(q), 1).double())[:, 0]


def keras_bce(q, p, epsilon=1e-7):
    """As keras.losses.binary_crossentropy has it."""
    q = q.clamp(epsilon, 1 - epsilon)
    return -(p * q.log() + (1 - p) * (1 - q).log())


PROBABILITIES = [0.0, 1e-5, 1e-3, 1 / 255, 0.3, 0.5, 0.999, 1.0]


@pytest.mark.parametrize("p", PROBABILITIES)
class TestBCE:
    def test_equals_keras_inside(self, p):
        q = torch.linspace(1e-3, 1 - 1e-3, 501, dtype=torch.float64)
        assert_close(bce_at(q, torch.full_like(q, p)), keras_bce(q, p), rtol=1e-9, atol=1e-12)

    def test_its_minimum_is_at_the_truth(self, p):
        """The minimum is the entropy of p; the loss is monotone and convex on both sides."""
        q = torch.cat([torch.linspace(-3, 4, 70001, dtype=torch.float64), torch.tensor([p]).double()]).sort().values
        loss = bce_at(q, torch.full_like(q, p))
        assert q[loss.argmin()].item() == pytest.approx(p, abs=1e-6)
        entropy = -sum(v * math.log(v) for v in (p, 1 - p) if v > 0)
        assert loss.min().item() == pytest.approx(entropy, abs=1e-12)
        slopes = loss.diff() / q.diff().clamp(min=1e-12)
        where = q.diff() > 1e-9
        assert (slopes[where].diff() > -1e-6).all(), "convex"

    @pytest.mark.parametrize("start", [-5.0, -1e-4, 1.0001, 7.0])
    def test_is_pulled_back_from_outside(self, p, start):
        q = torch.tensor([start], dtype=torch.float64, requires_grad=True)
        loss = bce_at(q, torch.tensor([p]).double())
        (slope,) = torch.autograd.grad(loss, q)
        assert loss.isfinite() and slope.isfinite()
        assert slope.item() <= -1 if start < 0 else slope.item() >= 1

    def test_beyond_the_ends_it_rises_by_what_is_beyond(self, p):
        """From the entropy of the nearest end on, where that is the truth; otherwise at least as fast."""
        q = torch.tensor([-0.3, 1.2], dtype=torch.float64)
        loss, beyond = bce_at(q, torch.full_like(q, p)), torch.tensor([0.3, 0.2], dtype=torch.float64)
        assert (loss >= beyond - 1e-12).all()
        if p in (0.0, 1.0):
            assert loss[int(p)].item() == pytest.approx(beyond[int(p)].item())

    @pytest.mark.most(3)
    def test_a_descent_arrives(self, p):
        q = torch.tensor([-2.0, 3.0], dtype=torch.float64, requires_grad=True)
        for step in range(160):
            (slope,) = torch.autograd.grad(bce_at(q, torch.full_like(q, p)).sum(), q)
            q = (q - 0.2 * 0.95**step * slope.sign()).detach().requires_grad_()
        assert_close(q.detach(), torch.full_like(q, p).detach(), rtol=0, atol=2e-3)


def test_bce_takes_data_beyond_its_range_at_the_ends():
    """Dequantized or overshooting data."""
    q, outside = torch.tensor([0.2, 0.4]).double(), torch.tensor([-0.1, 1.3]).double()
    assert_close(bce_at(q, outside), bce_at(q, torch.tensor([0.0, 1.0]).double()))


# ---- features ----


@pytest.mark.parametrize("size", [(16,), (8, 16)])
def test_perceptual_in_random_features(size, make_schedule, randn):
    """Blind to nothing, and frozen; a single tensor of features is as good as a list of one."""
    schedule, features = make_schedule("cosine"), RandomFeatures(1, size, width=8, depth=2).double()
    before = [p.clone() for p in features.parameters()]
    loss, (x_0, noise) = Perceptual(weightings.uniform_weighting, features.train()), batch((1, *size), randn)
    assert not loss.features.training and not any(p.requires_grad for p in features.parameters())
    q = torch.zeros_like(x_0, requires_grad=True)
    optimizer = torch.optim.LBFGS([q], max_iter=150)

    def closure():
        optimizer.zero_grad()
        total = loss(Oracle(lambda *_: q, schedule), x_0, T, noise).sum()
        total.backward()
        return total

    start = closure().item()
    optimizer.step(closure)
    assert closure().item() < 1e-3 * start, "its minimum is reached"
    assert (q - x_0).square().mean() < 0.2 * x_0.square().mean(), "and is near the data"
    assert all(torch.equal(a, b) for a, b in zip(before, features.parameters(), strict=True))
    single = Perceptual(weightings.uniform_weighting, nn.Flatten())
    expected = MSE(weightings.uniform_weighting)(Oracle(predictor, schedule), x_0, T, noise)
    assert_close(single(Oracle(predictor, schedule), x_0, T, noise), expected)


# ---- the bound as a loss ----

VARIANCES = [LearnedRangeVariance, LearnedVariance]


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("num_levels", [None, 256])
@pytest.mark.parametrize("shape", [(2,), (3, 5), (1, 4, 6)])
@pytest.mark.parametrize("process", ["linear", "cosine", "ve_sde", "flow", "laplace", "sub_vp_sde"])
def test_hybrid_trains_the_mean_by_the_square_and_the_variance_by_the_bound(
    process, shape, num_levels, variance, make_schedule, randn
):
    schedule, (x_0, noise) = make_schedule(process), batch(shape, randn)
    t = torch.tensor([0.01, 0.2, 0.55, 1.0], dtype=torch.float64)  # the first step is the decoder's

    def gradients(loss):
        mean, output = (torch.tanh(v).requires_grad_() for v in leaves)
        denoiser = Oracle(lambda *_: (mean, output), schedule, None, variance())
        value = loss(denoiser, x_0, t, noise)
        return value, torch.autograd.grad(value.sum(), [mean, output], allow_unused=True)

    leaves = randn(4, *shape), randn(4, *shape)
    hybrid, (of_mean, of_variance) = gradients(Hybrid(weightings.v_weighting, steps=50, num_levels=num_levels))
    # The squared error alone is at the times as the bound rounds them up.
    _, rounded = losses.round_to_step(t, 50)
    square = MSE(weightings.v_weighting)(Oracle(lambda *_: torch.tanh(leaves[0]), schedule), x_0, rounded, noise)
    _, (square_of_mean, _) = gradients(Hybrid(weightings.v_weighting, steps=50, num_levels=num_levels, scale=0.0))
    bound, (_, bound_of_variance) = gradients(VLB(50, num_levels=num_levels))
    assert_close(hybrid, square + 0.001 * bound, rtol=1e-9, atol=1e-12)
    assert_close(of_mean, square_of_mean, rtol=1e-12, atol=0)
    w = expand_like(weightings.v_weighting(schedule, rounded), x_0)
    assert_close(of_mean, 2 * w * (torch.tanh(leaves[0]) - x_0) / x_0[0].numel(), rtol=1e-9, atol=1e-12)
    assert_close(of_variance, 0.001 * bound_of_variance, rtol=1e-9, atol=1e-15)
    assert of_variance.abs().max() > 1e-6


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize(
    ("process", "shape"),
    [("linear", (2,)), ("cosine", (3, 5)), ("edm", (2,)), ("flow", (1, 2, 3)), ("vp_sde", (1, 4))],
)
def test_hybrid_learns_the_true_variance(process, shape, variance, make_schedule, gaussian):
    """The variance of x_s given x_t, for Gaussian data: v + b^2 Var(x_0 | x_t). A quick descent on the raw output.

    Data and noise at plus and minus one standard deviation, in all four pairs, have the same second moments as the
    whole laws, so that the expectation of the loss is exact.
    """
    schedule, truth, steps = make_schedule(process), gaussian(shape), 6
    k = torch.arange(1, steps + 1, dtype=torch.float64).repeat_interleave(4)
    s, t = (k - 1) / steps, k / steps
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64).repeat(steps, 1)
    x_0 = truth.mean + expand_like(signs[:, 0], truth.mean[None]) * truth.std
    noise = expand_like(signs[:, 1], x_0) * torch.ones_like(x_0)
    # In units of log v: where the two bounds of a range are close the output itself hardly matters, and no descent
    # would find it.
    like, kind = torch.zeros(steps, *shape, dtype=torch.float64), variance()
    none, one = (kind.log_variance(schedule, s[::4], t[::4], like, like + v) for v in (0, 1))
    leaf = torch.zeros_like(like, requires_grad=True)
    denoise = truth.denoiser(schedule)
    denoiser = Oracle(
        lambda x_t, t, cond: (denoise(x_t, t), (leaf / (one - none)).repeat_interleave(4, 0)), schedule, None, kind
    )
    loss = Hybrid(weightings.uniform_weighting, steps, scale=1.0)
    optimizer = torch.optim.LBFGS(
        [leaf], max_iter=100, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        value = loss(denoiser, x_0, t, noise).mean()
        value.backward()
        return value

    optimizer.step(closure)
    _, b, v = posterior(schedule, s[::4], t[::4], x_0)
    alpha, sigma = (expand_like(value, x_0) for value in schedule.alpha_sigma(t[::4]))
    spread = truth.std**2 * sigma**2 / (alpha**2 * truth.std**2 + sigma**2)
    found = (none + leaf.detach()).exp()
    assert_close(found, v + b**2 * spread, rtol=1e-5, atol=0)


def test_the_bound_has_the_thousand_steps_of_its_paper(make_schedule, randn):
    denoiser, (x_0, noise) = Oracle(predictor, make_schedule("linear")), batch((1, 7), randn)
    t = torch.tensor([0.0512, 0.2004, 0.5006, 0.9508], dtype=torch.float64)
    assert torch.equal(VLB()(denoiser, x_0, t, noise), VLB(1000)(denoiser, x_0, t, noise))


@pytest.mark.parametrize("process", ["vp_sde", "flow", "cosine", "sub_vp_sde", "laplace", "edm"])
def test_the_bound_of_many_steps_tends_to_its_limit(process, make_schedule, randn):
    """A term counted T times tends to -1/2 dSNR/dt times the squared error; here the fixed small variance."""
    schedule, (x_0, noise), steps = make_schedule(process), batch((1, 7), randn), 100_000
    t = torch.tensor([0.0512, 0.2005, 0.5005, 0.9505], dtype=torch.float64)
    denoiser = Oracle(predictor, schedule)
    prior = prior_kl(schedule, x_0) / math.log(2)
    assert_close(
        VLB(steps)(denoiser, x_0, t, noise) - prior, VLB(None)(denoiser, x_0, t, noise) - prior, rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_times_are_rounded_up_to_a_step(steps):
    k = torch.arange(1, steps + 1, dtype=torch.float64)
    for t in (k / steps, (k - 0.5) / steps, (k - 0.999) / steps):
        s, node = losses.round_to_step(t, steps)
        assert torch.equal(node, k / steps) and torch.equal(s, (k - 1) / steps)
    assert losses.round_to_step(torch.tensor([1e-12]).double(), steps)[1].item() == 1 / steps


@pytest.mark.parametrize(("k", "steps"), [(7, 100), (14, 100), (55, 1000), (9, 10)])
def test_a_time_that_is_rounded_belongs_to_its_step(k, steps):
    """k / T times T may be more than k, as 0.07 times 100 is."""
    t = torch.tensor([k / steps, k / steps * (1 + 4e-16)], dtype=torch.float64)
    assert (t * steps)[1] > k
    assert losses.round_to_step(t, steps)[1].tolist() == [k / steps] * 2


@pytest.mark.parametrize("variance", [FixedSmallVariance(), FixedLargeVariance()])
def test_the_bound_as_a_loss_is_its_terms(variance, schedule, randn):
    x_0, noise = batch((3, 5), randn)
    denoiser, steps = Oracle(predictor, schedule, None, variance), 20
    s, t = losses.round_to_step(T, steps)
    x_t = schedule.add_noise(x_0, t, noise)
    term = vlb_term(denoiser, x_0, x_t, s, t, denoiser(x_t, t), None)
    expected = (steps * term + prior_kl(schedule, x_0)) / math.log(2)
    assert_close(VLB(steps)(denoiser, x_0, T, noise), expected, rtol=1e-12, atol=0)


# ---- what is refused ----


def denoiser_with(variance=None, schedule=None):
    return Denoiser(nn.Identity(), schedule or CosineSchedule(), V(), variance)


@pytest.mark.parametrize(
    ("loss", "denoiser", "fix"),
    [
        *[
            (
                make(weightings.simple_weighting),
                {"variance": variance()},
                r"use loss=hybrid, loss=vlb .*or variance=fixed_small",
            )
            for make in WEIGHTED.values()
            for variance in VARIANCES
        ],
        (VLB(None), {"variance": LearnedRangeVariance()}, "loss=vlb with loss.steps"),
        (Hybrid(weightings.simple_weighting), {}, "use variance=learned_range, or loss=mse"),
        (
            Hybrid(weightings.simple_weighting),
            {"variance": FixedLargeVariance()},
            "use variance=learned_range, or loss=mse",
        ),
        (
            MSE(weightings.simple_weighting),
            {"schedule": LearnedSchedule()},
            r"use loss=vlb loss.steps=null, or schedule=cosine",
        ),
        (VLB(10), {"schedule": LearnedSchedule()}, r"use loss=vlb loss.steps=null, or schedule=cosine"),
        (
            Hybrid(weightings.simple_weighting),
            {"schedule": LearnedSchedule(), "variance": LearnedVariance()},
            r"use loss=vlb loss.steps=null, or schedule=cosine",
        ),
    ],
)
def test_what_would_stay_untrained_is_refused(loss, denoiser, fix):
    with pytest.raises(ValueError, match=fix) as caught:
        loss.check(denoiser_with(**denoiser))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [*WEIGHTED.values(), Hybrid])
@pytest.mark.parametrize(
    ("weighting", "message"),
    [
        (partial(weightings.min_snr_weighting, gamma=-1.0), r"finite and >= 0, got \[-1.0, "),
        (lambda schedule, t: 1 / (t - 0.5).clamp(min=0), r"finite and >= 0, got \[inf, "),
        *((lambda schedule, t, at=at: (t - at).abs() - 0.1, "finite and >= 0, got") for at in (0.25, 0.5, 0.75)),
        (partial(weightings.edm_weighting, sigma_data=0), "weighting.sigma_data must be > 0, got 0"),
    ],
)
def test_a_weighting_that_is_none_is_refused(make, weighting, message):
    with pytest.raises(ValueError, match=message):
        make(weighting).check(denoiser_with(LearnedRangeVariance() if make is Hybrid else None))


def test_what_fits_is_not_refused():
    MSE(lambda schedule, t: (t > 0.6).double()).check(denoiser_with())  # some levels may be left out
    for loss in (*(make(weightings.simple_weighting) for make in WEIGHTED.values()), VLB(10), VLB(None)):
        loss.check(denoiser_with())
    for variance in VARIANCES:
        Hybrid(weightings.simple_weighting).check(denoiser_with(variance()))
        VLB(10).check(denoiser_with(variance()))
    VLB(None).check(denoiser_with(schedule=LearnedSchedule()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Huber(weightings.simple_weighting, 0.0), "loss.delta must be > 0, got 0.0"),
        (lambda: PseudoHuber(weightings.simple_weighting, -1.0), "loss.c must be > 0, got -1.0"),
        (lambda: BCE(weightings.simple_weighting, 0.5), "loss.margin must be in \(0, 0.5\), got 0.5"),
        (lambda: BCE(weightings.simple_weighting, 0.0), "loss.margin must be in \(0, 0.5\), got 0.0"),
        (lambda: VLB(0), "loss.steps must be >= 1, got 0"),
        (lambda: Hybrid(weightings.simple_weighting, 0), "loss.steps must be >= 1, got 0"),
    ],
)
def test_impossible_values(make, message):
    with pytest.raises(ValueError, match=message):
        make()
