"""Every guidance against the density that it should sample from, known in closed form at each noise level."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from src.diffusion.beta_schedules import CosineSchedule
from src.diffusion.denoiser import Denoiser, Prediction
from src.diffusion.guidance import CFG, AutoGuidance, ClassifierGuidance, IntervalGuidance, NoGuidance, to_schedule
from src.diffusion.parameterizations import V
from src.diffusion.schedules import VPSDE, SubVPSDE, expand_like
from src.diffusion.variances import LearnedRangeVariance
from src.samplers.ancestral import DDIM
from tests.diffusion.reference import SHAPES, Mixture, Oracle

pytestmark = pytest.mark.strength(1)

MEANS = torch.tensor([0.1, -0.5, 0.3, 0.9], dtype=torch.float64)  # the first is that without a label
STDS = torch.tensor([0.7, 0.5, 0.6, 0.4], dtype=torch.float64)
LABEL = torch.tensor([0, 2, -1, 1, 0])
TIMES = [torch.tensor(0.4).double(), torch.tensor([0.01, 0.2, 0.4, 0.7, 0.99]).double()]


def moments(label, schedule, t, x_t):
    """The mean and variance of x_t under a label, and without one for -1."""
    alpha, sigma = (expand_like(v, x_t) for v in schedule.alpha_sigma(t))
    return alpha * expand_like(MEANS[label + 1], x_t), alpha**2 * expand_like(STDS[label + 1], x_t) ** 2 + sigma**2


class Conditional:
    """The exact denoiser of Gaussians, one for each label and one without; says of its variance what its label is."""

    def __init__(self, schedule):
        self.schedule, self.sizes = schedule, []

    def __call__(self, x_t, t, cond=None):
        self.sizes.append(len(x_t))
        label = torch.full((len(x_t),), -1) if cond is None else cond
        alpha, sigma = (expand_like(v, x_t) for v in self.schedule.alpha_sigma(t))
        mean, variance = moments(label, self.schedule, t, x_t)
        x_0 = (x_t - sigma**2 * (x_t - mean) / variance) / alpha  # Tweedie's formula
        return Prediction(x_0, expand_like(label.double(), x_t).expand_as(x_t))


def tilted(schedule, x_t, t, label, scale, base=-1):
    """E[x_0 | x_t] that belongs to the score of p_t(x | label)^w p_t(x | base)^(1 - w), another Gaussian's."""
    alpha, sigma = (expand_like(v, x_t) for v in schedule.alpha_sigma(t))
    (m_c, v_c), (m_u, v_u) = moments(label, schedule, t, x_t), moments(torch.full_like(label, base), schedule, t, x_t)
    precision = scale / v_c + (1 - scale) / v_u
    mean = (scale * m_c / v_c + (1 - scale) * m_u / v_u) / precision
    return (x_t - sigma**2 * precision * (x_t - mean)) / alpha


# ---- classifier-free ----


@pytest.mark.parametrize("t", TIMES, ids=["one time", "a time each"])
class TestCFG:
    @pytest.mark.most(3)
    def test_scale_tilts(self, t, schedule, randn):
        for shape, scale in zip(SHAPES, (-1.0, 0.5, 2.0, 3.0, 7.5), strict=True):
            x_t = randn(5, *shape)
            guided = CFG(scale)(Conditional(schedule), schedule)(x_t, t, LABEL)
            expected = tilted(schedule, x_t, t, LABEL, scale)
            assert_close(guided.x_0, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))

    @pytest.mark.most(3)
    def test_one_changes_nothing_and_zero_takes_the_label_away(self, t, schedule, randn):
        denoise, x_t = Conditional(schedule), randn(5, 3, 5)
        for guidance in (CFG(1), CFG(1, rescale=0.7), NoGuidance(), IntervalGuidance(NoGuidance(), 0)):
            if t.ndim == 0 or not isinstance(guidance, IntervalGuidance):
                guided = guidance(denoise, schedule)(x_t, t, LABEL)
                assert all(map(torch.equal, guided, denoise(x_t, t, LABEL)))
        guided = CFG(0)(denoise, schedule)(x_t, t, LABEL)
        assert_close(guided.x_0, denoise(x_t, t, None).x_0, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("rescale", [0.0, 0.7])
    def test_samples_without_a_label_are_left_alone(self, rescale, t, schedule, randn):
        denoise, x_t = Conditional(schedule), randn(5, 3, 5)
        guided = CFG(4.0, rescale)(denoise, schedule)(x_t, t, LABEL).x_0
        plain = denoise(x_t, t, LABEL).x_0
        assert_close(guided[2], plain[2], rtol=1e-12, atol=1e-12)
        assert (guided != plain).flatten(1).any(1)[[0, 1, 3, 4]].all()
        without = CFG(4.0, rescale)(denoise, schedule)(x_t, t, None)
        assert torch.equal(without.x_0, denoise(x_t, t, None).x_0)

    @pytest.mark.most(3)
    def test_one_call_of_twice_the_batch_equals_two(self, t, schedule, randn):
        denoise, x_t = Conditional(schedule), randn(5, 1, 4)
        guided = CFG(3.0)(denoise, schedule)(x_t, t, LABEL)
        assert denoise.sizes == [10]
        without, with_label = denoise(x_t, t, None).x_0, denoise(x_t, t, LABEL).x_0
        assert_close(guided.x_0, without + 3 * (with_label - without), rtol=1e-12, atol=1e-12)
        denoise.sizes.clear()
        CFG(1.0)(denoise, schedule)(x_t, t, LABEL)
        assert denoise.sizes == [5]

    @pytest.mark.parametrize("rescale", [0.3, 1.0])
    @pytest.mark.parametrize("process", ["cosine", "ve_sde", "flow"])
    def test_rescale_restores_the_standard_deviation(self, process, rescale, t, make_schedule, randn):
        """The standard deviation of each sample is rescaled, by the given fraction (eq. 16)."""
        schedule = make_schedule(process)
        for shape in SHAPES:
            x_t = 2 * randn(5, *shape)
            denoise = Conditional(schedule)
            guided = CFG(5.0)(denoise, schedule)(x_t, t, LABEL).x_0.flatten(1)
            found = CFG(5.0, rescale)(denoise, schedule)(x_t, t, LABEL).x_0.flatten(1)
            with_label = denoise(x_t, t, LABEL).x_0.flatten(1)
            if rescale == 1.0:
                assert_close(found.std(1), with_label.std(1), rtol=1e-9, atol=1e-12)
            scaled = guided * (with_label.std(1) / guided.std(1))[:, None]
            assert_close(found, rescale * scaled + (1 - rescale) * guided, rtol=1e-9, atol=1e-9)


@pytest.mark.most(1)
@pytest.mark.parametrize("process", ["trigonometric", "flow", "cosine"])
def test_samples_of_the_tilted_gaussian(process, make_schedule, randn, monkeypatch):
    """Among Gaussians of one variance the tilted one has the mean m_u + w (m_c - m_u), and the same variance."""
    monkeypatch.setattr(f"{__name__}.STDS", torch.full((4,), 0.6, dtype=torch.float64))
    schedule, label = make_schedule(process), torch.tensor([0, 1, 2, -1])
    guided = CFG(3.0)(Conditional(schedule), schedule)
    x_1 = randn(4, 1, 500)
    # From where there is a signal on, which Tweedie's formula divides by.
    *_, end = DDIM(schedule, 400).trajectory(lambda x_t, t: guided(x_t, t, label), x_1, torch.randn_like, 0.999)
    mean = MEANS[0] + 3 * (MEANS[label + 1] - MEANS[0])
    assert_close(end.x_t, mean.view(4, 1, 1) + 0.6 * x_1, rtol=0, atol=0.01)


# ---- an interval ----


@pytest.mark.most(3)
def test_interval_guides_only_inside(schedule, randn):
    """Its ends included; elsewhere it costs no more than the denoiser."""
    denoise, x_t = Conditional(schedule), randn(5, 1, 4)
    inside = CFG(3.0)(denoise, schedule)
    times = [(0.05, False), (0.29, False), (0.3, True), (0.45, True), (0.6, True), (0.61, False), (0.9, False)]
    ends = torch.exp(-schedule.log_snr(torch.tensor([0.3, 0.6]).double()) / 2).tolist()
    for t, within in times:
        t = torch.tensor(t).double()
        low, high = ends[0] * (1 - 1e-9), ends[1] * (1 + 1e-9)
        denoise.sizes.clear()
        guided = IntervalGuidance(CFG(3.0), low, high)(denoise, schedule)(x_t, t, LABEL)
        assert denoise.sizes == [10 if within else 5]
        expected = inside(x_t, t, LABEL) if within else denoise(x_t, t, LABEL)
        assert all(map(torch.equal, guided, expected))
        same_for_all = IntervalGuidance(CFG(3.0), low, high)(denoise, schedule)(x_t, t.expand(5), LABEL)
        assert_close(same_for_all.x_0, expected.x_0, rtol=1e-12, atol=1e-12)


def test_the_ends_of_the_interval_are_within(make_schedule, randn):
    schedule, x_t, t = make_schedule("cosine"), randn(5, 1, 4), torch.tensor(0.3).double()
    ratio, denoise = torch.exp(-schedule.log_snr(t) / 2).item(), Conditional(schedule)
    for low, high in ((ratio, 100.0), (0.0, ratio)):
        IntervalGuidance(CFG(3.0), low, high)(denoise, schedule)(x_t, t, LABEL)
    assert denoise.sizes == [10, 10]


def test_each_sample_of_several_times_gets_its_own(make_schedule, randn):
    schedule, x_t, t = make_schedule("cosine"), randn(5, 1, 4), torch.tensor([0.05, 0.4, 0.5, 0.6, 0.99]).double()
    guided = IntervalGuidance(CFG(3.0), 0.2, 5.0)(Conditional(schedule), schedule)
    together = guided(x_t, t, LABEL)
    for i in range(5):
        alone = guided(x_t[i : i + 1], t[i], LABEL[i : i + 1])
        assert_close(together.x_0[i], alone.x_0[0], rtol=1e-12, atol=1e-12)


def test_interval_reaches_both_ends(make_schedule, randn):
    """No noise at all is outside any interval but one from 0; noise alone is outside all."""
    schedule = make_schedule("flow")
    for t, low, within in ((1.0, 0.0, False), (1e-9, 0.2, False), (1e-9, 0.0, True)):
        calls = []

        def denoise(x_t, t, cond=None, calls=calls):
            calls.append(len(x_t))
            return Prediction(x_t)

        IntervalGuidance(CFG(3.0), low, 5.0)(denoise, schedule)(randn(2, 1, 4), torch.tensor(t).double(), LABEL[:2])
        assert calls == [4 if within else 2]


# ---- a weaker model ----


def guide_of(schedule, label):
    """A denoiser that takes every sample for one of a label."""
    exact = Conditional(schedule)
    return Oracle(lambda x_t, t, cond: exact(x_t, t, torch.full((len(x_t),), label)).x_0, schedule)


@pytest.mark.most(3)
@pytest.mark.parametrize("t", TIMES, ids=["one time", "a time each"])
def test_autoguidance_tilts_away_from_the_guide(t, schedule, randn):
    for shape, scale in zip(SHAPES, (0.0, 0.5, 1.0, 2.5, 6.0), strict=True):
        x_t = randn(5, *shape)
        guided = AutoGuidance(guide_of(schedule, 1), scale)(Conditional(schedule), schedule)(x_t, t, LABEL)
        expected = tilted(schedule, x_t, t, LABEL, scale, base=1)
        assert_close(guided.x_0, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.most(3)
@pytest.mark.parametrize("t", TIMES, ids=["one time", "a time each"])
def test_a_guide_may_have_another_schedule(t, schedule, make_schedule, randn):
    """It is asked where its noise is that of x_t, so that its answer is that of a guide of the same schedule."""
    x_t = randn(5, 3, 5)
    expected = AutoGuidance(guide_of(schedule, 1), 2.5)(Conditional(schedule), schedule)(x_t, t, LABEL).x_0
    for name in ("vp_sde", "ve_sde", "flow"):
        other = make_schedule(name)
        if (schedule.log_snr(t) > other.log_snr(torch.tensor(1.0).double())).all():  # it gets there
            found = AutoGuidance(guide_of(other, 1), 2.5)(Conditional(schedule), schedule)(x_t, t, LABEL).x_0
            assert_close(found, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def test_data_of_another_schedule_with_the_same_signal(randn):
    """The two differ in their noise alone."""
    x_t, t = randn(2, 1, 4), torch.tensor([0.3, 0.6]).double()
    assert to_schedule(x_t, t, VPSDE(), VPSDE()) == (x_t, t)
    x_u, u = to_schedule(x_t, t, VPSDE(), SubVPSDE())
    assert_close(SubVPSDE().log_snr(u), VPSDE().log_snr(t)) and (u > t).all()
    ratio = SubVPSDE().alpha_sigma(u)[0] / VPSDE().alpha_sigma(t)[0]
    assert_close(x_u, ratio[:, None, None] * x_t)


def test_autoguidance_of_scale_one_costs_nothing(make_schedule, randn):
    schedule = make_schedule("cosine")

    def refuse(*_):
        raise AssertionError("evaluated")

    denoise, x_t = Conditional(schedule), randn(5, 1, 4)
    guided = AutoGuidance(Oracle(refuse, schedule), 1.0)(denoise, schedule)(x_t, TIMES[0], LABEL)
    assert all(map(torch.equal, guided, denoise(x_t, TIMES[0], LABEL)))


def test_the_guide_goes_to_the_samples_and_is_in_evaluation_mode():
    """`meta` stands in for an accelerator."""

    class Net(nn.Sequential):
        def forward(self, x, c_noise, cond=None):
            return super().forward(x)

    guide = Denoiser(Net(nn.Linear(4, 4), nn.Dropout(0.5)), CosineSchedule(), V()).train()
    seen = []
    guide.net.register_forward_pre_hook(lambda net, args: seen.append((args[0].device.type, net.training)))
    x_t = torch.empty(2, 1, 4, device="meta")
    guided = AutoGuidance(guide)(lambda x_t, t, cond: Prediction(x_t), CosineSchedule())(x_t, TIMES[0], None)
    assert guided.x_0.device.type == "meta" and seen == [("meta", False)]
    assert {p.device.type for p in guide.parameters()} == {"meta"}


# ---- a classifier ----


class TestClassifier:
    """With the exact p(y | x_t) of a mixture the unconditional denoiser becomes the exact conditional one."""

    label = torch.tensor([0, 2, 1, 1, 0])

    @pytest.mark.most(3)
    @pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
    def test_turns_unconditional_into_conditional(self, mode, schedule, randn):
        for shape in ((2,), (1, 3), (3, 2, 2)):
            truth = Mixture(shape)
            denoise, log_prob = truth.denoiser(schedule), truth.log_prob(schedule)
            for t in (torch.tensor(0.02), torch.tensor(0.5), torch.tensor([0.1, 0.3, 0.5, 0.8, 0.99])):
                with mode():
                    t, label = t.double(), self.label + 0
                    alpha, sigma = (expand_like(v, self.label[:, None].double()) for v in schedule.alpha_sigma(t))
                    scale = (alpha**2 + sigma**2).sqrt().view(-1, *[1] * len(shape))
                    x_t = scale * randn(5, *shape)
                    plain = Oracle(denoise, schedule)
                    guided = ClassifierGuidance(log_prob)(plain, schedule)(x_t, t, label)
                    expected = denoise(x_t, t, label)
                assert_close(guided.x_0 + 0, expected + 0, rtol=1e-6, atol=1e-6)
                assert not guided.x_0.requires_grad

    def test_where_there_is_no_signal_nothing_is_added(self, randn, make_schedule):
        truth, x_t = Mixture((1, 3)), randn(5, 1, 3)
        for name in ("flow", "laplace", "zero_snr", "trigonometric"):
            schedule = make_schedule(name)
            denoise = Oracle(truth.denoiser(schedule), schedule)
            guided = ClassifierGuidance(truth.log_prob(schedule))(denoise, schedule)
            end = torch.tensor(1.0).double()
            assert torch.equal(guided(x_t, end, self.label).x_0, denoise(x_t, end, None).x_0)
            mixed = torch.tensor([1.0, 0.5, 1.0, 0.2, 0.9]).double()
            found = guided(x_t, mixed, self.label).x_0
            assert torch.equal(found[[0, 2]], denoise(x_t, mixed, None).x_0[[0, 2]])
            rest = [1, 3, 4]
            expected = truth.denoiser(schedule)(x_t, mixed, self.label)[rest]
            assert_close(found[rest], expected, rtol=1e-6, atol=1e-6)

    def test_near_no_signal_single_precision_suffices(self, make_schedule, randn):
        """At t = 1 cosine has alpha = 5e-5, and the gradient is divided by it."""
        schedule, truth = make_schedule("cosine"), Mixture((1, 3))
        x_t, end = randn(5, 1, 3).float(), torch.tensor(1.0).double()
        denoise = truth.denoiser(schedule)

        def log_prob(x, t, label):
            return truth.log_prob(schedule)(x.double(), t, label).float()

        guided = ClassifierGuidance(log_prob)(lambda x, t, cond: Prediction(denoise(x, t, cond)), schedule)
        expected = denoise(x_t.double(), end, self.label)
        found = guided(x_t, end, self.label).x_0
        assert found.dtype == torch.float32
        assert_close(found.double(), expected, rtol=0, atol=0.01)

    def test_a_classifier_may_use_the_time_in_inference_mode(self, make_schedule):
        """Whose gradient remembers it: that of t x is t."""
        schedule = make_schedule("flow")
        with torch.inference_mode():
            x_t, t, label = torch.ones(2, 1, 3).double(), torch.tensor(0.5).double(), torch.tensor([0, 1])
            guidance = ClassifierGuidance(lambda x, t, y: (x * t).sum((1, 2)) * y)
            found = guidance(lambda x, t, cond: Prediction(0 * x), schedule)(x_t, t, label).x_0
        gain = 0.5**2 / 0.5
        assert_close(found + 0, (gain * 0.5 * label.double()[:, None, None]).expand(2, 1, 3))

    @pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
    def test_scale(self, scale, schedule, randn):
        """The score moves by w times the classifier's, so x_0 by w times the whole difference."""
        truth, x_t, t = Mixture((1, 3)), randn(5, 1, 3), torch.tensor(0.5).double()
        denoise = truth.denoiser(schedule)
        guided = ClassifierGuidance(truth.log_prob(schedule), scale)(Oracle(denoise, schedule), schedule)
        plain, whole = denoise(x_t, t, None), denoise(x_t, t, self.label)
        assert_close(guided(x_t, t, self.label).x_0, plain + scale * (whole - plain), rtol=1e-6, atol=1e-6)
        assert torch.equal(guided(x_t, t, None).x_0, Oracle(denoise, schedule)(x_t, t, None).x_0)

    @pytest.mark.parametrize("conditional", [False, True])
    def test_who_is_given_the_label(self, conditional, make_schedule, randn):
        schedule, truth, seen = make_schedule("cosine"), Mixture((1, 3)), []

        def denoise(x_t, t, cond):
            seen.append(cond)
            return Prediction(x_t)

        guidance = ClassifierGuidance(truth.log_prob(schedule), conditional=conditional)
        times = torch.tensor([0.1, 0.5, 0.999]).double()
        for guided in (guidance(denoise, schedule), IntervalGuidance(guidance, 0.2, 5.0)(denoise, schedule)):
            seen.clear()
            for t in times:
                guided(randn(5, 1, 3), t, self.label)
            assert all(cond is (self.label if conditional else None) for cond in seen) and len(seen) == 3

    def test_a_network_as_classifier(self, make_schedule, randn):
        """Under no_grad, and without a trace in its gradients or in those of the samples."""
        schedule = make_schedule("linear")
        net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.LogSoftmax(1)).double()

        def log_prob(x_t, t, label):
            return net(x_t)[torch.arange(len(x_t)), label]

        x_t, t = randn(5, 1, 4), torch.tensor(0.5).double()
        with torch.no_grad():
            guided = ClassifierGuidance(log_prob)(lambda x, t, cond: Prediction(0 * x), schedule)(x_t, t, self.label)
            weight, p = net[1].weight, net(x_t).exp()
        alpha, sigma = schedule.alpha_sigma(t)
        expected = sigma**2 / alpha * (weight[self.label] - p @ weight).view_as(x_t)
        assert_close(guided.x_0, expected.detach(), rtol=1e-9, atol=1e-12)
        assert all(p.grad is None for p in net.parameters()) and x_t.grad is None and not x_t.requires_grad


# ---- all of them ----


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["none", "cfg", "rescale", "interval", "autoguidance", "classifier"])
def test_a_learned_variance_passes_through(name, shape, make_schedule, randn):
    """It is that with the label."""
    schedule, truth = make_schedule("cosine"), Mixture(shape)

    def predict(x_t, t, cond):
        return torch.tanh(x_t), x_t + (0 if cond is None else expand_like((cond + 1).double(), x_t))

    denoise, label = Oracle(predict, schedule, None, LearnedRangeVariance()), torch.tensor([0, 2, 1, 1, 0])
    guidance = {
        "none": NoGuidance(),
        "cfg": CFG(3.0),
        "rescale": CFG(3.0, 0.7),
        "interval": IntervalGuidance(CFG(3.0), 0, 100),
        "autoguidance": AutoGuidance(Oracle(predict, schedule, None, LearnedRangeVariance()), 3.0),
        "classifier": ClassifierGuidance(truth.log_prob(schedule), conditional=True),
    }[name]
    x_t, t = randn(5, *shape), torch.tensor(0.5).double()
    found = guidance(denoise, schedule)(x_t, t, label)
    assert_close(found.variance, predict(x_t, t, label)[1], rtol=1e-12, atol=1e-12)
    fixed = guidance(Oracle(lambda *a: predict(*a)[0], schedule), schedule)(x_t, t, label)
    assert fixed.variance is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CFG(2.0, rescale=1.5), r"guidance.rescale must be in \[0, 1\], got 1.5"),
        (lambda: CFG(2.0, rescale=-0.1), r"guidance.rescale must be in \[0, 1\], got -0.1"),
        (
            lambda: IntervalGuidance(NoGuidance(), 2.0, 1.0),
            "guidance must have 0 <= sigma_min < sigma_max, got 2.0 and 1.0",
        ),
        (
            lambda: IntervalGuidance(NoGuidance(), -1.0, 1.0),
            "guidance must have 0 <= sigma_min < sigma_max, got -1.0 and 1.0",
        ),
    ],
)
def test_impossible_values(make, message):
    with pytest.raises(ValueError, match=message):
        make()
