"""Sample i is a function of (seed, i), and what is counted and passed on is right."""

import pytest
import torch

from src.diffusion.beta_schedules import CosineSchedule
from src.diffusion.conditions import Clusters
from src.diffusion.denoiser import Denoiser
from src.diffusion.guidance import CFG, AutoGuidance, ClassifierGuidance, IntervalGuidance
from src.diffusion.parameterizations import V
from src.diffusion.variances import FixedSmallVariance, LearnedRangeVariance
from src.nets.mlp import MLP
from src.samplers.ancestral import DDIM, DDPM
from src.samplers.clipping import StaticClip
from src.samplers.multistep import DPMpp2M
from src.samplers.ode import Heun
from src.samplers.pipeline import Pipeline, SelfConditioned, guide_denoisers
from src.tasks.base import TaskInput
from src.tasks.denoise import Denoise
from src.utils.seeding import generator
from tests.diffusion.reference import Mixture, Oracle

pytestmark = pytest.mark.strength(1)


class Recorder(MLP):
    """Notes the labels and sizes of its calls, and what it is shown beside x_t."""

    def __init__(self, channels, *args, **kwargs):
        super().__init__(channels, *args, **kwargs)
        self.channels, self.calls, self.shown = channels, [], []

    def forward(self, x, c_noise, cond=None):
        self.calls.append((len(x), None if cond is None else cond.tolist(), self.training))
        self.shown.append(x[:, self.channels :])
        return super().forward(x, c_noise, cond)


def make_denoiser(size=(3, 4), channels=2, num_classes=0, dropout=0.0, share=0.0, variance=None, seed=0) -> Denoiser:
    torch.manual_seed(seed)
    net = Recorder(
        channels, size, width=8, depth=1, dropout=dropout, num_classes=num_classes,
        in_channels=(2 if share else 1) * channels,
        out_channels=(variance.outputs if variance else 1) * channels,
    )  # fmt: skip
    for p in net.parameters():  # a fresh network says 0 whatever it is asked
        torch.nn.init.normal_(p, std=0.3)
    return Denoiser(net, CosineSchedule(), V(), variance, share)


def nfe_of(pipeline: Pipeline, n: int) -> float:
    """Network evaluations per sample."""
    with pipeline.count_nfe() as cost:
        pipeline.sample(n)
    assert cost.seconds > 0
    return cost.evaluations / n


SAMPLERS = {
    "ddim": lambda s: DDIM(s, 5),
    "ddpm": lambda s: DDPM(s, 5),
    "eta": lambda s: DDIM(s, 5, eta=0.5, clip=StaticClip(1.0)),
    "dpmpp_2m": lambda s: DPMpp2M(s, 5),
    "heun": lambda s: Heun(s, 5, s_churn=1.0),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("size", [(3, 4), (6,), ()])
@pytest.mark.parametrize("share", [0.0, 0.5], ids=["", "self-conditioning"])
def test_a_sample_depends_on_seed_and_index_alone(sampler, size, share):
    denoiser = make_denoiser(size, share=share)
    sampler = SAMPLERS[sampler](denoiser.schedule)
    reference = Pipeline(denoiser, sampler, (2, *size), seed=3).sample(7)
    assert reference.shape == (7, 2, *size) and reference.std() > 0.1
    for n, batch_size in [(7, 7), (7, 3), (7, 1), (3, 256), (1, 1), (5, 2)]:
        torch.manual_seed(n)  # the state of torch's own generator is of no account
        x = Pipeline(denoiser, sampler, (2, *size), seed=3, batch_size=batch_size).sample(n)
        torch.testing.assert_close(x, reference[:n], atol=1e-5, rtol=1e-5)
    again = Pipeline(denoiser, sampler, (2, *size), seed=3).sample(7)
    assert torch.equal(again, reference)


def test_other_seeds_and_indices_give_other_samples():
    denoiser = make_denoiser()
    a, b = (Pipeline(denoiser, DDIM(denoiser.schedule, 3), (2, 3, 4), seed=seed).sample(4) for seed in (0, 1))
    everything = torch.cat([a, b]).flatten(1)
    assert torch.pdist(everything).min() > 0.1
    # Not (0, 11) and (01, 1), or any other two whose digits run together.
    many = Pipeline(denoiser, DDIM(denoiser.schedule, 1), (2, 3, 4), seed=1).sample(120)
    few = Pipeline(denoiser, DDIM(denoiser.schedule, 1), (2, 3, 4), seed=11).sample(20)
    assert torch.cdist(many.flatten(1), few.flatten(1)).min() > 0.01


def test_the_callers_random_numbers_are_left_alone():
    denoiser = make_denoiser(dropout=0.5)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    Pipeline(denoiser, DDPM(denoiser.schedule, 3), (2, 3, 4)).sample(4)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("n", "batch_size"), [(4, 256), (5, 2)])
@pytest.mark.parametrize("steps", [1, 6])
def test_evaluations_are_counted(n, batch_size, steps):
    denoiser = make_denoiser(num_classes=3)
    sampler, label = DDIM(denoiser.schedule, steps), torch.arange(n) % 3

    def nfe(**settings) -> float:
        return nfe_of(Pipeline(denoiser, sampler, (2, 3, 4), batch_size=batch_size, **settings), n)

    assert nfe() == steps
    assert nfe(cond=label) == steps
    assert nfe(cond=label, guidance=CFG(2.0)) == 2 * steps
    assert nfe(cond=label, guidance=CFG(1.0)) == steps
    assert nfe(guidance=CFG(2.0)) == steps


def test_each_sample_is_given_its_label():
    denoiser = make_denoiser(num_classes=3)
    label = torch.tensor([2, 0, 1, -1, 2])
    Pipeline(denoiser, DDIM(denoiser.schedule, 2), (2, 3, 4), cond=label, batch_size=2).sample(5)
    assert [cond for _, cond, _ in denoiser.net.calls] == [[2, 0]] * 2 + [[1, -1]] * 2 + [[2]] * 2
    denoiser.net.calls.clear()
    Pipeline(denoiser, DDIM(denoiser.schedule, 1), (2, 3, 4), cond=label[:2], guidance=CFG(3.0)).sample(2)
    assert [cond for _, cond, _ in denoiser.net.calls] == [[2, 0, -1, -1]]
    denoiser.net.calls.clear()
    Pipeline(denoiser, DDIM(denoiser.schedule, 1), (2, 3, 4)).sample(2)
    assert [cond for _, cond, _ in denoiser.net.calls] == [None]


def test_labels_and_guidance_change_samples():
    denoiser = make_denoiser(num_classes=3)
    sampler = DDIM(denoiser.schedule, 4)

    def x(label, scale=1.0):
        label = None if label is None else torch.full((2,), label)
        return Pipeline(denoiser, sampler, (2, 3, 4), cond=label, guidance=CFG(scale)).sample(2)

    assert (x(0) - x(1)).abs().max() > 1e-3
    assert (x(0) - x(0, 3.0)).abs().max() > 1e-3
    torch.testing.assert_close(x(None), x(-1))
    torch.testing.assert_close(x(0, 0.0), x(-1))


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_trajectory_begins_with_noise_and_ends_with_the_sample(keep):
    denoiser = make_denoiser()
    sampler = DDIM(denoiser.schedule, 4)
    x, trajectory = Pipeline(denoiser, sampler, (2, 3, 4), batch_size=3).sample_with_trajectory(5, keep)
    assert trajectory.shape == (5, keep, 2, 3, 4)  # of both batches
    assert torch.equal(trajectory[-1], x[:keep])
    assert torch.equal(x, Pipeline(denoiser, sampler, (2, 3, 4), batch_size=3).sample(5))
    longer = Pipeline(denoiser, DDIM(denoiser.schedule, 9), (2, 3, 4), batch_size=3).sample_with_trajectory(5, keep)[1]
    assert torch.equal(trajectory[0], longer[0]), "the same noise, however many steps follow"
    assert len({tuple(frame.flatten().tolist()) for frame in trajectory}) == 5
    assert Pipeline(denoiser, sampler, (2, 3, 4)).sample_with_trajectory(5, 0)[1] is None


@pytest.mark.parametrize("training", [True, False])
def test_it_samples_in_evaluation_mode_and_restores_what_was(training):
    denoiser = make_denoiser(dropout=0.9).train(training)
    x = Pipeline(denoiser, DDIM(denoiser.schedule, 2), (2, 3, 4)).sample(3)
    assert not any(was_training for *_, was_training in denoiser.net.calls)
    assert denoiser.training is training and denoiser.net.training is training
    assert not x.requires_grad and all(p.grad is None for p in denoiser.parameters())
    assert torch.equal(x, Pipeline(denoiser, DDIM(denoiser.schedule, 2), (2, 3, 4)).sample(3))


def test_progress_is_reported():
    denoiser, steps = make_denoiser(), []
    Pipeline(denoiser, DDIM(denoiser.schedule, 3), (2, 3, 4), batch_size=2, on_step=steps.append).sample(5)
    assert steps == [2, 2, 2, 2, 2, 2, 1, 1, 1]


def test_some_indices_alone_give_the_same_samples():
    """As processes share them out: each has every second one, with the conditions of all."""
    denoiser, cond = make_denoiser(num_classes=3), torch.arange(9) % 3
    pipeline = Pipeline(denoiser, DDPM(denoiser.schedule, 3), (2, 3, 4), seed=2, batch_size=4)
    whole = pipeline.sample(9, cond)
    for first in (0, 1):
        torch.testing.assert_close(pipeline.sample(range(first, 9, 2), cond), whole[first::2], atol=1e-5, rtol=1e-5)


def test_conditions_of_the_call_replace_those_of_the_pipeline():
    denoiser = make_denoiser(num_classes=3)
    zeros, ones = (torch.full((2,), value) for value in (0, 1))
    pipeline = Pipeline(denoiser, DDIM(denoiser.schedule, 2), (2, 3, 4), cond=zeros)
    assert torch.equal(pipeline.sample(2, ones), Pipeline(denoiser, pipeline.sampler, (2, 3, 4), cond=ones).sample(2))
    assert pipeline.cond is zeros


def test_new_samples_draw_their_clusters_and_given_ones_have_none():
    """In proportion to the size of the clusters, by the seed; a trajectory of given data is unconditional."""
    denoiser = make_denoiser(num_classes=2)
    denoiser.condition = Clusters(2, 2, (3, 4))
    denoiser.condition.weights.copy_(torch.tensor([0.25, 0.75]))
    pipeline = Pipeline(denoiser, DDIM(denoiser.schedule, 1), (2, 3, 4), seed=3)
    pipeline.sample(64)
    drawn = denoiser.condition.sample(64, generator("cluster of each sample", 3))
    assert denoiser.net.calls[-1][1] == drawn.tolist() and 0.5 < drawn.float().mean() < 0.9
    pipeline.sample_batch(range(2), torch.zeros(2, 2, 3, 4))
    assert denoiser.net.calls[-1][1] == [-1, -1]


@pytest.mark.parametrize(("n", "batch_size"), [(0, 1), (-1, 1), (2, 0), (2, -1)])
def test_impossible_numbers_are_refused(n, batch_size):
    denoiser = make_denoiser()
    with pytest.raises(ValueError, match=">= 1"):
        Pipeline(denoiser, DDIM(denoiser.schedule, 1), (2, 3, 4), batch_size=batch_size).sample(n)


@pytest.mark.parametrize(("shape", "data_scale", "shown"), [((1, 2, 2), 2.0, 1.0), ((1, 2), 1.0, 3.0)])
def test_units_are_those_of_the_kind_of_data(shape, data_scale, shown):
    """Images are [0, 1] outside and [-1, 1] inside; signals are as they are."""
    denoiser = make_denoiser(shape[1:], 1)
    pipeline = Pipeline(denoiser, DDIM(denoiser.schedule, 1), shape)
    assert pipeline.std_to_model(1.0) == data_scale and pipeline.to_units(torch.tensor(3.0)) == shown


@pytest.mark.parametrize(
    ("shape", "kind"), [((2,), "points"), ((1, 6), "signals"), ((1, 4, 4), "images"), ((1, 2, 3, 4), "volumes")]
)
def test_the_kind_of_data_is_taken_from_the_shape(shape, kind):
    denoiser = make_denoiser(shape[1:], 1)
    assert Pipeline(denoiser, DDIM(denoiser.schedule, 1), shape).kind == kind


@pytest.mark.parametrize("count", [1, 3])
def test_as_many_conditions_as_samples(count):
    denoiser = make_denoiser(num_classes=3)
    with pytest.raises(ValueError, match=f"2, got {count}"):
        Pipeline(denoiser, DDIM(denoiser.schedule, 1), (2, 3, 4), cond=torch.zeros(count, dtype=torch.int64)).sample(2)


# ---- self-conditioning ----


def test_the_network_is_shown_the_estimate_of_the_step_before():
    """Nothing at first; and each batch begins anew."""
    denoiser, sampler = make_denoiser(share=0.5), DDIM(CosineSchedule(), 4)
    assert nfe_of(Pipeline(denoiser, sampler, (2, 3, 4), batch_size=3, seed=2), 5) == 4
    shown = denoiser.net.shown
    assert [len(x) for x in shown] == [3] * 4 + [2] * 4
    assert not shown[0].any() and not shown[4].any() and all(x.any() for x in shown[1:4])
    whole = Pipeline(denoiser, sampler, (2, 3, 4), seed=2).sample_with_trajectory(5, 5)[1]
    estimate = torch.zeros(5, 2, 3, 4)
    times = sampler.times()
    for i, t in enumerate(times[:-1]):  # the same walk by hand
        torch.testing.assert_close(torch.cat([shown[i], shown[4 + i]]), estimate, atol=1e-5, rtol=1e-5)
        with torch.no_grad():
            estimate = denoiser(whole[i], t, None, estimate).x_0
    torch.testing.assert_close(whole[-1], estimate, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1e9), (0.5, 3.0)], ids=["always", "in an interval"])
def test_with_guidance_each_half_is_shown_its_own(low, high):
    """Where guidance begins both halves are shown the one estimate, where it ends that with the label goes on."""
    denoiser = make_denoiser(share=0.5, num_classes=3)
    guidance, label = IntervalGuidance(CFG(3.0), low, high), torch.tensor([0, 2])
    said = []
    forward = denoiser.forward
    denoiser.forward = lambda *args: said.append(forward(*args)) or said[-1]
    nfe = nfe_of(Pipeline(denoiser, DDIM(denoiser.schedule, 6), (2, 3, 4), cond=label, guidance=guidance), 2)
    shown = denoiser.net.shown
    assert len(shown) == 6 and not shown[0].any()
    sizes = [len(x) for x in shown]
    assert sizes == ([4] * 6 if low == 0 else [2, 2, 4, 4, 4, 2])
    for before, x in zip(said, shown[1:], strict=False):
        expected = torch.cat([before.x_0, before.x_0])[: len(x)]
        assert torch.equal(x, expected)
    assert nfe == sum(sizes) / 2


# ---- what guidance costs, and reaches ----


@pytest.mark.most(1)
@pytest.mark.parametrize("batch_size", [256, 2])
def test_the_evaluations_of_a_guide_are_counted(batch_size):
    """Also inside an interval, and once only where the guide is the denoiser itself."""
    denoiser, guide, other = make_denoiser(), make_denoiser(seed=1), make_denoiser(share=0.5, seed=2)
    sampler = DDIM(denoiser.schedule, 6)

    def nfe(guidance) -> float:
        return nfe_of(Pipeline(denoiser, sampler, (2, 3, 4), guidance=guidance, batch_size=batch_size), 5)

    assert nfe(AutoGuidance(guide, 2.0)) == 12
    assert nfe(AutoGuidance(guide, 1.0)) == 6
    assert nfe(AutoGuidance(denoiser, 2.0)) == 12
    assert nfe(AutoGuidance(other, 2.0)) == 18, "one with self-conditioning makes a first estimate"
    inside = IntervalGuidance(AutoGuidance(guide, 2.0), 0.5, 3.0)
    ratios = torch.exp(-denoiser.schedule.log_snr(sampler.times()[:-1]) / 2)
    assert nfe(inside) == 6 + ((ratios >= 0.5) & (ratios <= 3.0)).sum()


def test_guides_are_found_wherever_they_are():
    """Each once, in what holds itself too, and none in a network of the user's."""
    guide, other = make_denoiser(), make_denoiser(seed=1)
    both = ClassifierGuidance(lambda x_t, t, label: x_t.flatten(1).sum(1))
    both.more = IntervalGuidance(IntervalGuidance(AutoGuidance(guide), 0, 1), 0, 2)
    both.itself, both.again, both.net = both, AutoGuidance(guide), torch.nn.Sequential(other)
    assert guide_denoisers(both) == [guide] and guide_denoisers(CFG()) == guide_denoisers(None) == []
    assert guide_denoisers(AutoGuidance(other)) == [other]


def test_autoguidance_is_the_formula_along_the_way():
    denoiser, guide = make_denoiser(), make_denoiser(seed=1, dropout=0.5).train()
    sampler = DDIM(denoiser.schedule, 3)
    found = Pipeline(denoiser, sampler, (2, 3, 4), guidance=AutoGuidance(guide, 2.5)).sample_with_trajectory(4, 4)[1]
    for i, (t, s) in enumerate(zip(sampler.times()[:-1], sampler.times()[1:], strict=True)):
        with torch.no_grad():
            strong, weak = (d.eval()(found[i], t).x_0 for d in (denoiser, guide))
        x_0 = weak + 2.5 * (strong - weak)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (denoiser.schedule.alpha_sigma(v) for v in (t, s))
        expected = alpha_s * x_0 + sigma_s * (found[i] - alpha_t * x_0) / sigma_t
        torch.testing.assert_close(found[i + 1], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(2,), (1, 3), (3, 2, 2)])
@pytest.mark.parametrize("process", ["cosine", "vp_sde", "ve_sde", "flow", "trigonometric"])
def test_classifier_guidance_samples_as_the_conditional_denoiser_does(process, shape, make_schedule):
    """From the unconditional one and the exact p(y | x_t) of a mixture, though sample() turns gradients off.

    Where the first step starts from pure noise, which says nothing of y, its x_0 is the unconditional one; the error
    that this leaves falls with that step.
    """
    schedule, truth = make_schedule(process), Mixture(shape)
    label = torch.arange(60) % 3
    denoise = truth.denoiser(schedule)
    denoiser = Oracle(denoise, schedule)

    def log_prob(x_t, t, y):
        return truth.log_prob(schedule)(x_t.double(), t, y)

    def difference(steps):
        sampler = DDIM(schedule, steps)
        guided = Pipeline(denoiser, sampler, shape, cond=label, guidance=ClassifierGuidance(log_prob)).sample(60)
        exact = Pipeline(denoiser, sampler, shape, cond=label).sample(60)
        distance = (exact[:, None] - truth.means.float()).flatten(2).square().mean(2) / truth.stds.float() ** 2
        assert (distance.gather(1, label[:, None]) < 8).all(), "the samples are of their label"
        return (guided - exact).abs().max().item()

    if process in ("flow", "trigonometric"):
        coarse, fine = difference(20), difference(80)
        assert fine < 0.04 and fine < 0.4 * coarse
    else:
        assert difference(20) < 2e-3


@pytest.mark.parametrize("size", [(), (6,), (3, 4)])
def test_a_learned_variance_is_sampled_with(size):
    """The estimate is that with the label, also under guidance; and it makes a difference."""
    denoiser = make_denoiser(size, num_classes=3, variance=LearnedRangeVariance())
    label = torch.tensor([0, 1, 2])

    def x(variance, scale=1.0):
        sampler = DDPM(denoiser.schedule, 6, variance=variance)
        return Pipeline(denoiser, sampler, (2, *size), cond=label, guidance=CFG(scale)).sample(3)

    learned = x(LearnedRangeVariance())
    assert learned.isfinite().all() and (learned - x(FixedSmallVariance())).abs().max() > 1e-3
    assert (x(LearnedRangeVariance(), 3.0) - learned).abs().max() > 1e-3


def test_evaluations_are_counted_no_longer_than_asked_for():
    denoiser = make_denoiser()
    pipeline = Pipeline(denoiser, DDIM(denoiser.schedule, 3), (2, 3, 4))
    with pipeline.count_nfe() as cost:
        pipeline.sample(2)
    counted = cost.evaluations
    pipeline.sample(2)
    assert cost.evaluations == counted == 6 and not denoiser.net._forward_hooks


def test_warming_up_evaluates_each_size_of_batch_as_often_as_it_is_captured():
    denoiser = make_denoiser()
    pipeline = Pipeline(denoiser, DDIM(denoiser.schedule, steps=2), (2, 3, 4), batch_size=4)
    pipeline.warm_up(10)
    assert [size for size, *_ in denoiser.net.calls] == [4] * 4 + [2] * 4
    assert not any(training for *_, training in denoiser.net.calls)


def test_the_estimate_of_the_step_before_has_no_graph():
    """Guidance that differentiates would go through all steps so far."""
    denoiser = make_denoiser(share=0.5)
    remembering = SelfConditioned(denoiser)
    remembering(torch.randn(3, 2, 3, 4, requires_grad=True), torch.tensor(0.5))
    assert remembering.estimate is not None and not remembering.estimate.requires_grad


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_whatever_evaluates_the_network_does_so_in_the_precision_of_the_pipeline(dtype):
    """Samples, a task and a walk step by step: the sampler and what is around it stay in full precision."""
    denoiser, seen = make_denoiser(), set()
    denoiser.net.register_forward_pre_hook(lambda *_: seen.add(torch.is_autocast_enabled("cpu")))
    pipeline = Pipeline(denoiser, DDIM(CosineSchedule(), 2), (2, 3, 4), dtype=dtype)
    with pipeline.inference():
        x = pipeline.sample(2)
        Denoise()(pipeline, TaskInput(x))
        assert not any(torch.is_autocast_enabled("cpu") for _ in pipeline.trajectory(range(2)))
    assert seen == {dtype is not None}
