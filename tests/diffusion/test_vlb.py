"""The variational bound against torch's distributions, published formulas, and Gaussian data in closed form."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from src.diffusion import variances, weightings
from src.diffusion.losses import MSE, VLB
from src.diffusion.schedules import expand_like
from src.diffusion.variances import FixedLargeVariance, FixedSmallVariance, LearnedRangeVariance, LearnedVariance
from src.diffusion.vlb import decoder_nll, normal_kl, prior_kl, vlb_term, vlb_terms
from tests.diffusion.expected import TRUTHS
from tests.diffusion.reference import SHAPES, Oracle, posterior

pytestmark = pytest.mark.strength(1)

ONE = torch.tensor(1.0, dtype=torch.float64)


# ---- the divergences ----


def test_normal_kl_equals_torch(randn):
    m_1, v_1, m_2, v_2 = (3 * randn(1000) for _ in range(4))
    theirs = kl_divergence(Normal(m_1, (v_1 / 2).exp()), Normal(m_2, (v_2 / 2).exp()))
    assert_close(normal_kl(m_1, v_1, m_2, v_2), theirs, rtol=1e-9, atol=1e-9)
    assert_close(normal_kl(m_1, v_1, m_1, v_1), torch.zeros(1000).double(), rtol=0, atol=0)


def test_prior_kl_equals_torch(schedule, randn):
    for shape in SHAPES:
        x_0 = randn(4, *shape)
        alpha, sigma = schedule.alpha_sigma(ONE)
        theirs = kl_divergence(Normal(alpha * x_0, sigma), Normal(torch.zeros_like(x_0), sigma))
        assert_close(prior_kl(schedule, x_0), theirs.flatten(1).mean(1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("variance", [FixedSmallVariance, FixedLargeVariance, LearnedRangeVariance, LearnedVariance])
@pytest.mark.parametrize("shape", [(2,), (3, 4, 6)])
def test_every_term_equals_torch(variance, shape, schedule, randn):
    """Any prediction of mean and variance; the true step back from Bayes' rule."""
    k = torch.tensor([2, 3, 9, 17, 20], dtype=torch.float64)
    s, t = (k - 1) / 20, k / 20
    x_0, x_t, guess, output = (randn(5, *shape) for _ in range(4))
    outputs = (guess, output) if variance.outputs == 2 else guess
    denoiser = Oracle(lambda *_: outputs, schedule, None, variance())
    a, b, v = posterior(schedule, s, t, x_0)
    large = torch.stack([step_forward(schedule, *pair) for pair in zip(s, t, strict=True)]).view_as(v)
    chosen = {
        FixedSmallVariance: v,
        FixedLargeVariance: large,
        LearnedRangeVariance: v ** ((1 - output) / 2) * large ** ((1 + output) / 2),
        LearnedVariance: large * output.exp(),
    }[variance]
    true, model = Normal(a * x_t + b * x_0, v.sqrt()), Normal(a * x_t + b * guess, chosen.sqrt().expand_as(x_0))
    found = vlb_term(denoiser, x_0, x_t, s, t, denoiser(x_t, t), None)
    assert_close(found, kl_divergence(true, model).flatten(1).mean(1), rtol=1e-6, atol=1e-9)


def step_forward(schedule, s, t):
    """The variance of q(x_t | x_s)."""
    (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule.alpha_sigma(s), schedule.alpha_sigma(t)
    return sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2


@pytest.mark.parametrize("num_levels", [None, 256])
def test_the_first_step_is_the_decoder(num_levels, schedule, randn):
    """Its mean is the prediction of the data, its small variance that of the step after."""
    x_0, x_t, guess = torch.tanh(randn(3, 1, 4)), randn(3, 1, 4), randn(3, 1, 4)
    s, t = torch.zeros(3).double(), torch.full((3,), 0.05).double()
    denoiser = Oracle(lambda *_: guess, schedule)
    _, _, v = posterior(schedule, t, 2 * t, x_0)
    found = vlb_term(denoiser, x_0, x_t, s, t, denoiser(x_t, t), num_levels)
    expected = decoder_nll(x_0, guess, v.log().expand_as(x_0), num_levels)
    assert_close(found, expected.flatten(1).mean(1), rtol=1e-9, atol=1e-9)


# ---- the decoder ----

SCALES = [1e-3, 4e-3, 0.03, 0.5, 10.0]
MEANS = [-1.3, -1.0, -0.4321, 0.0, 0.7, 1.0, 2.0]
LEVELS = torch.linspace(-1, 1, 256, dtype=torch.float64)


def test_decoder_of_continuous_data_is_a_density(randn):
    x, mean, log_var = randn(100), randn(100), randn(100)
    theirs = -Normal(mean, (log_var / 2).exp()).log_prob(x)
    assert_close(decoder_nll(x, mean, log_var, None), theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("std", SCALES)
@pytest.mark.parametrize("num_levels", [2, 5, 256])
def test_probabilities_of_all_levels_sum_to_one(num_levels, std, mean):
    levels = torch.linspace(-1, 1, num_levels, dtype=torch.float64)
    log_var = torch.full_like(levels, 2 * math.log(std))
    nll = decoder_nll(levels, torch.full_like(levels, mean), log_var, num_levels)
    assert (-nll).exp().sum().item() == pytest.approx(1, abs=1e-9)
    single = decoder_nll(levels.float(), torch.full_like(levels, mean).float(), log_var.float(), num_levels)
    assert (-single).exp().sum().item() == pytest.approx(1, abs=5e-4)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("std", [4e-3, 0.03, 0.5])
def test_probability_of_a_level_is_the_integral_over_it(std, mean):
    """Quadrature of the density, without a cumulative distribution; the outermost intervals are infinite."""
    half, density = 1 / 255, stats.norm(mean, std).pdf
    for i in (0, 1, 77, 128, 254, 255):
        low = -1 - 40 * std - 5 if i == 0 else float(LEVELS[i]) - half
        high = 1 + 40 * std + 5 if i == 255 else float(LEVELS[i]) + half
        places = [p for p in (mean - 3 * std, mean, mean + 3 * std) if low < p < high]
        expected, _ = integrate.quad(density, low, high, points=places or None, epsabs=1e-14, limit=200)
        nll = decoder_nll(LEVELS[i], ONE * mean, ONE * 2 * math.log(std), 256)
        assert math.exp(-nll) == pytest.approx(expected, rel=1e-7, abs=1e-12)


def test_far_tails_keep_their_precision():
    """Where the difference of two cumulative distributions would be 0, and its logarithm infinite."""
    x, mean = torch.tensor([-0.5, 0.0, 0.5]).double().repeat_interleave(2), torch.tensor([-1, 1]).double().repeat(3)
    x = LEVELS[(x[:, None] - LEVELS).abs().argmin(1)]
    std, half = 0.01, 1 / 255
    nll = decoder_nll(x, mean, torch.full_like(x, 2 * math.log(std)), 256)
    near = (x - mean).abs() - half  # the nearer edge has almost all of the mass
    expected = -torch.tensor(stats.norm.logsf((near / std).numpy()))
    assert_close(nll, expected, rtol=1e-6, atol=0)
    assert nll.min() > 1000
    single = decoder_nll(x.float(), mean.float(), torch.full_like(x, 2 * math.log(std)).float(), 256)
    assert_close(single.double(), nll, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_everywhere(dtype):
    x, mean, log_var = torch.meshgrid(
        LEVELS[::51].to(dtype),
        torch.tensor([-30, -1, 0, 0.5, 1, 30], dtype=dtype),
        torch.tensor([-20, -10, -4, 0, 5, 40], dtype=dtype),  # the last one as wide as all levels are alike
        indexing="ij",
    )
    mean, log_var = mean.clone().requires_grad_(), log_var.clone().requires_grad_()
    nll = decoder_nll(x, mean, log_var, 256)
    gradients = torch.autograd.grad(nll.sum(), [mean, log_var])
    assert nll.isfinite().all() and all(g.isfinite().all() for g in gradients)
    assert (nll >= 0).all()


def published_log_likelihood(x, means, log_scales):
    """`discretized_gaussian_log_likelihood` of guided-diffusion, written again from its formulas."""

    def cdf(v):
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))

    centered, inverse = x - means, torch.exp(-log_scales)
    plus, minus = cdf(inverse * (centered + 1 / 255)), cdf(inverse * (centered - 1 / 255))
    log_plus, log_rest = plus.clamp(min=1e-12).log(), (1 - minus).clamp(min=1e-12).log()
    middle = (plus - minus).clamp(min=1e-12).log()
    return torch.where(x < -0.999, log_plus, torch.where(x > 0.999, log_rest, middle))


def test_equals_the_published_code_to_the_accuracy_of_its_tanh(randn):
    """Whose cumulative distribution is off by up to 3e-4, and its derivative by 1 %."""
    mean, log_scale = torch.tanh(randn(3000)), -4 + randn(3000)
    x = LEVELS[((mean + log_scale.exp() * randn(3000)).clamp(-1, 1)[:, None] - LEVELS).abs().argmin(1)]
    ours, theirs = -decoder_nll(x, mean, 2 * log_scale, 256), published_log_likelihood(x, mean, log_scale)
    assert (ours.exp() - theirs.exp()).abs().max() < 6e-4
    likely = ours > -8
    assert likely.float().mean() > 0.95
    assert (ours - theirs)[likely].mean().abs() < 0.003


def published_kl(mean1, logvar1, mean2, logvar2):
    """`normal_kl` of guided-diffusion, written again."""
    return 0.5 * (-1.0 + logvar2 - logvar1 + torch.exp(logvar1 - logvar2) + ((mean1 - mean2) ** 2) / logvar2.exp())


def test_terms_equal_the_published_code(make_schedule, randn):
    """`_vb_terms_bpd` with its tables, for the learned range: coefficients, clipped variance and all."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alphas = (1 - betas).cumprod(0)
    before = torch.cat([ONE[None], alphas[:-1]])
    v = betas * (1 - before) / (1 - alphas)
    log_v = torch.cat([v[1:2], v[1:]]).log()
    coef_0, coef_t = betas * before.sqrt() / (1 - alphas), (1 - before) * (1 - betas).sqrt() / (1 - alphas)
    k = torch.tensor([0, 1, 2, 100, 500, 999])
    x_0 = LEVELS[(torch.tanh(randn(6, 1, 3, 4))[..., None] - LEVELS).abs().argmin(-1)]
    x_t, guess, output = randn(6, 1, 3, 4), torch.tanh(randn(6, 1, 3, 4)), torch.tanh(randn(6, 1, 3, 4))
    at = {name: expand_like(table[k], x_0) for name, table in
          {"c0": coef_0, "ct": coef_t, "small": log_v, "large": betas.log()}.items()}  # fmt: skip
    share = (output + 1) / 2
    log_var = share * at["large"] + (1 - share) * at["small"]
    mean = at["c0"] * guess + at["ct"] * x_t
    kl = published_kl(at["c0"] * x_0 + at["ct"] * x_t, at["small"], mean, log_var)
    decoder = -published_log_likelihood(x_0, mean, 0.5 * log_var)
    terms = torch.where(expand_like(k == 0, kl).bool(), decoder, kl).flatten(1).mean(1) / math.log(2)
    denoiser = Oracle(lambda *_: (guess, output), make_schedule("linear"), None, LearnedRangeVariance())
    s, t = k.double() / 1000, (k + 1).double() / 1000
    found = vlb_term(denoiser, x_0, x_t, s, t, denoiser(x_t, t), 256) / math.log(2)
    assert_close(found[1:], terms[1:], rtol=1e-7, atol=1e-9)
    z = (x_0[0] - mean[0]) * (-0.5 * log_var[0]).exp()
    assert (z.abs() > 5).any(), "the decoder's far tails, where the published code ends at log 1e-12"
    assert found[0] > terms[0]


# ---- Gaussian data ----

ENDS_AS_NOISE = ["cosine", "flow", "laplace", "zero_snr", "trigonometric"]


class Optimal:
    """The exact denoiser of Gaussian data, and of the steps back the exact variance v + b^2 Var(x_0 | x_t)."""

    def __init__(self, truth, schedule, steps):
        self.truth, self.schedule, self.steps = truth, schedule, steps
        self.denoise = truth.denoiser(schedule)

    def spread(self, t, like):
        """Var(x_0 | x_t) of each element."""
        alpha, sigma = (expand_like(v, like) for v in self.schedule.alpha_sigma(t))
        return self.truth.std**2 * sigma**2 / (alpha**2 * self.truth.std**2 + sigma**2)

    def __call__(self, x_t, t, cond=None):
        s = ((t * self.steps).round() - 1) / self.steps
        _, b, v = posterior(self.schedule, s, t, x_t)
        _, large = variances.log_variance_bounds(self.schedule, s, t)
        return self.denoise(x_t, t), (v + b**2 * self.spread(t, x_t)).log() - expand_like(large, x_t)


def expected_terms(denoiser, truth, schedule, grid):
    """E over data and noise of the prior's term and of each step's of a rising grid, exactly.

    Every term is quadratic in each element of either, so that plus and minus one standard deviation of both, in all
    four pairs, have its expectation.
    """
    s, t = grid[:-1], grid[1:]
    total, prior = torch.zeros_like(t), torch.zeros(()).double()
    for a in (1, -1):
        for b in (1, -1):
            x_0 = (truth.mean + a * truth.std).expand(len(t), *truth.mean.shape)
            x_t = schedule.add_noise(x_0, t, b * torch.ones_like(x_0))
            total += vlb_term(denoiser, x_0, x_t, s, t, denoiser(x_t, t), None) / 4
            prior += prior_kl(schedule, x_0[:1])[0] / 4
    return prior, total


def equal(steps):
    return torch.arange(steps + 1, dtype=torch.float64) / steps


def entropy(truth):
    """The entropy of an element, in nats."""
    return Normal(truth.mean, truth.std).entropy().mean()


def mismatch(truth, schedule):
    """KL of x_1 from the prior that the bound takes for it."""
    alpha, sigma = schedule.alpha_sigma(ONE)
    marginal = Normal(alpha * truth.mean, (alpha**2 * truth.std**2 + sigma**2).sqrt())
    return kl_divergence(marginal, Normal(torch.zeros_like(truth.mean), sigma)).mean()


@pytest.mark.most(3)
@pytest.mark.parametrize("steps", [1, 2, 13])
def test_with_the_best_denoiser_the_bound_is_the_entropy(steps, schedule, gaussian):
    """Whatever the number of steps: steps back from Gaussian data are Gaussian, so nothing is lost but at the prior."""
    truth = gaussian(SHAPES[steps % len(SHAPES)])
    denoiser = Oracle(Optimal(truth, schedule, steps), schedule, None, LearnedVariance())
    prior, terms = expected_terms(denoiser, truth, schedule, equal(steps))
    assert_close(prior + terms.sum(), entropy(truth) + mismatch(truth, schedule), rtol=1e-7, atol=1e-7)


@pytest.mark.most(3)
@pytest.mark.parametrize("kind", ["optimal", "small", "large"])
@pytest.mark.parametrize("part", ["x0", "v"])
def test_each_term_in_closed_form(kind, part, schedule, gaussian):
    r"""E KL = 1/2 (log u / v - 1 + (v + b^2 Var) / u) for the model's variance u, and the decoder's."""
    truth, steps = gaussian((1, 2, 3)), 12
    optimal = Optimal(truth, schedule, steps)
    k = torch.arange(1, steps + 1, dtype=torch.float64)
    s, t = (k - 1) / steps, k / steps
    like = torch.zeros(steps, 1, 2, 3, dtype=torch.float64)
    _, b, v = posterior(schedule, s, t, like)
    spread = optimal.spread(t, like)
    forward = torch.stack([step_forward(schedule, *pair) for pair in zip(s, t, strict=True)]).view_as(v)
    small = torch.cat([v[1:2] if steps > 1 else forward[:1], v[1:]])
    small[0] = posterior(schedule, t[:1], 2 * t[:1], like)[2]
    u = {"optimal": v + b**2 * spread, "small": small, "large": forward}[kind].expand_as(like)
    kl = 0.5 * (u.log() - v.log() - 1 + (v + b**2 * spread) / u)
    kl[0] = 0.5 * ((2 * math.pi * u[0]).log() + spread[0] / u[0])
    predict, variance = {
        "optimal": (optimal, LearnedVariance()),
        "small": (truth.denoiser(schedule), FixedSmallVariance()),
        "large": (truth.denoiser(schedule), FixedLargeVariance()),
    }[kind]
    denoiser = Oracle(predict, schedule, TRUTHS[part][0], variance)
    _, found = expected_terms(denoiser, truth, schedule, equal(steps))
    assert_close(found, kl.flatten(1).mean(1), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("process", ENDS_AS_NOISE)
def test_of_every_sample_it_is_the_log_density(process, make_schedule, gaussian):
    """Not only in the mean: where the last level holds no data the bound of each x_0 is -log p(x_0)."""
    schedule, truth, steps = make_schedule(process), gaussian((3, 5)), 9
    denoiser = Oracle(Optimal(truth, schedule, steps), schedule, None, LearnedVariance())
    k = torch.arange(1, steps + 1, dtype=torch.float64)
    for far in (-2.5, 0.0, 1.0):
        x_0 = (truth.mean + far * truth.std).expand(steps, 3, 5)
        total = prior_kl(schedule, x_0[:1])
        for sign in (1, -1):  # which together have the expectation over the noise
            x_t = schedule.add_noise(x_0, k / steps, sign * torch.ones_like(x_0))
            said = denoiser(x_t, k / steps)
            total = total + vlb_term(denoiser, x_0, x_t, (k - 1) / steps, k / steps, said, None).sum() / 2
        expected = -Normal(truth.mean, truth.std).log_prob(x_0[0]).mean()
        assert_close(total[0], expected, rtol=0, atol=1e-4)


@pytest.mark.most(3)
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("process", ["linear", "cosine", "vp_sde", "flow", "sub_vp_sde", "edm"])
def test_with_a_fixed_variance_it_tends_to_the_best_as_steps_grow(process, make_schedule, gaussian):
    r"""From above, with a gap that halves with each doubling; the best is
    :math:`\tfrac12 \log (1 + s_0^2 \text{SNR}(t_0)) - \tfrac12 \log (1 + s_0^2 \text{SNR}(1))` for any number of steps.

    From some t_0 on: towards t = 0 the noise of the steps keeps falling by the same factors however many they are.
    """
    schedule, truth = make_schedule(process), gaussian((1, 2, 3))
    snr = [schedule.log_snr(torch.tensor(v).double()).exp() for v in (0.04, 1.0)]
    best = sum(sign * torch.log1p(truth.std**2 * v).mean() / 2 for sign, v in zip((1, -1), snr, strict=True))
    gaps = {FixedSmallVariance: [], FixedLargeVariance: []}
    for steps in (240, 480, 960):
        grid = torch.linspace(0.04, 1, steps + 1, dtype=torch.float64)
        for variance, found in gaps.items():
            denoiser = Oracle(truth.denoiser(schedule), schedule, None, variance())
            found.append((expected_terms(denoiser, truth, schedule, grid)[1].sum() - best).item())
    for first, second, third in gaps.values():
        assert 0 < third < 0.55 * second < 0.35 * first, gaps
        assert third < 0.03 * best


# ---- the whole ----


@pytest.mark.parametrize("num_levels", [None, 256])
@pytest.mark.parametrize("shape", SHAPES)
def test_all_terms_of_some_data(shape, num_levels, make_schedule, randn):
    """Prior, a column for each step, and their sum, in bits; noise from the generator; the label goes to the net."""
    schedule, steps, seen = make_schedule("cosine"), 6, []

    def predict(x_t, t, cond):
        seen.append((float(t[0]), cond.tolist(), torch.is_grad_enabled()))
        return torch.tanh(x_t), torch.sin(x_t)

    x_0, label = torch.tanh(randn(3, *shape)), torch.tensor([2, -1, 0])
    denoiser = Oracle(predict, schedule, None, LearnedRangeVariance()).eval()
    found = vlb_terms(denoiser, x_0, steps, torch.Generator().manual_seed(5), label, num_levels)
    g = torch.Generator().manual_seed(5)
    for k in range(1, steps + 1):
        s, t = (torch.full((3,), v / steps, dtype=torch.float64) for v in (k - 1, k))
        x_t = schedule.add_noise(x_0, t, torch.randn(x_0.shape, generator=g, dtype=torch.float64))
        term = vlb_term(denoiser, x_0, x_t, s, t, denoiser(x_t, t, label), num_levels)
        assert_close(found["kl"][:, k - 1], term / math.log(2), rtol=1e-9, atol=1e-9)
    assert_close(found["prior"], prior_kl(schedule, x_0) / math.log(2))
    assert_close(found["total"], found["prior"] + found["kl"].sum(1))
    assert [entry[0] for entry in seen[:steps]] == pytest.approx([k / steps for k in range(1, steps + 1)])
    assert all(cond == [2, -1, 0] for _, cond, _ in seen) and not any(grad for *_, grad in seen[:steps])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("num_levels", [None, 256])
@pytest.mark.parametrize("process", ["linear", "edm", "flow"])
def test_the_loss_over_all_times_is_the_bound(process, num_levels, make_schedule, randn):
    """Each step's loss with the noise that the bound drew for it, whatever the time within the step."""
    schedule, steps = make_schedule(process), 25
    x_0, denoiser = torch.tanh(randn(2, 1, 4)), Oracle(lambda x_t, *_: torch.tanh(x_t), schedule).eval()
    whole = vlb_terms(denoiser, x_0, steps, torch.Generator().manual_seed(1), num_levels=num_levels)["total"]
    g, parts = torch.Generator().manual_seed(1), []
    for k in range(1, steps + 1):
        t = torch.tensor([k - 0.3, k - 0.9], dtype=torch.float64) / steps
        noise = torch.randn(x_0.shape, generator=g, dtype=torch.float64)
        parts.append(VLB(steps, num_levels)(denoiser, x_0, t, noise))
    assert_close(torch.stack(parts).mean(0), whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("process", ["vp_sde", "flow", "cosine", "laplace", "edm", "sub_vp_sde"])
def test_the_limit_of_infinitely_many_steps_in_closed_form(process, make_schedule, gaussian):
    r"""For Gaussian data :math:`\int_{t_0}^{t_1} -\tfrac12 \text{SNR}' \text{Var}(x_0 | x_t)\, dt =
    \tfrac12 \log (1 + s_0^2 \text{SNR}(t_0)) - \tfrac12 \log (1 + s_0^2 \text{SNR}(t_1))`.

    Integrated in 50 pieces by 20-point Gauss-Legendre quadrature, up to an end before the signal's.
    """
    schedule, truth, ends = make_schedule(process), gaussian((1, 2, 3)), (0.02, 0.96)
    nodes, weights = (torch.tensor(v, dtype=torch.float64) for v in np.polynomial.legendre.leggauss(20))
    edges = torch.linspace(*ends, 51, dtype=torch.float64)
    width = (edges[1] - edges[0]) / 2
    t = (edges[:-1, None] + width * (1 + nodes)).flatten()
    w = (width * weights).repeat(50)
    denoiser = Oracle(truth.denoiser(schedule), schedule)
    found = torch.zeros(()).double()
    for a in (1, -1):
        for b in (1, -1):
            x_0 = (truth.mean + a * truth.std).expand(len(t), 1, 2, 3)
            found += (w * VLB(None)(denoiser, x_0, t, b * torch.ones_like(x_0))).sum() * math.log(2) / 4
            found -= (w * prior_kl(schedule, x_0)).sum() / 4
            diffusion = MSE(weightings.likelihood_weighting)(denoiser, x_0, t, b * torch.ones_like(x_0))
            whole = VLB(None)(denoiser, x_0, t, b * torch.ones_like(x_0)) * math.log(2) - prior_kl(schedule, x_0)
            assert_close(whole, diffusion, rtol=1e-6, atol=1e-9)
    snr = [schedule.log_snr(torch.tensor(v).double()).exp() for v in ends]
    expected = sum(sign * torch.log1p(truth.std**2 * v).mean() / 2 for sign, v in zip((1, -1), snr, strict=True))
    assert_close(found, expected, rtol=2e-4, atol=0)


@pytest.mark.parametrize(("distance", "log_var"), [(0.0, 80.0), (10.0, 40.0), (1e4, 40.0), (10.0, -20.0)])
def test_the_probability_of_a_level_is_never_none(distance, log_var):
    """Of a level in the midst, of which both edges are as likely in float64."""
    x_0, mean = torch.zeros(1).double(), torch.full((1,), distance).double().requires_grad_()
    nll = decoder_nll(x_0, mean, torch.full((1,), log_var).double(), 255)
    nll.sum().backward()
    assert nll.isfinite().all() and mean.grad.isfinite().all()
