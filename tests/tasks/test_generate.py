"""Sample i is a function of (seed, i), and what is counted and passed on is right."""

import pytest
import torch

from src.diffusion.denoiser import Denoiser
from src.diffusion.guidance import ClassifierFree
from src.diffusion.parameterizations import Velocity
from src.diffusion.schedules import cosine
from src.nets.mlp import MLP
from src.samplers.ancestral import DDIM, DDPM
from src.tasks.generate import generate


class Recorder(MLP):
    """Notes the labels and sizes of its calls."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.calls = []

    def forward(self, x, c_noise, cond=None):
        self.calls.append((len(x), None if cond is None else cond.tolist(), self.training))
        return super().forward(x, c_noise, cond)


def make_denoiser(size=(3, 4), channels=2, num_classes=0, dropout=0.0) -> Denoiser:
    torch.manual_seed(0)
    net = Recorder(channels, size, hidden=8, layers=1, dropout=dropout, num_classes=num_classes)
    for p in net.parameters():  # a fresh network says 0 whatever it is asked
        torch.nn.init.normal_(p, std=0.3)
    return Denoiser(net, cosine(), Velocity())


SAMPLERS = {"ddim": lambda s: DDIM(s, 5), "ddpm": lambda s: DDPM(s, 5), "eta": lambda s: DDIM(s, 5, eta=0.5, clip=1.0)}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("size", [(3, 4), (6,)])
def test_a_sample_depends_on_seed_and_index_alone(sampler, size):
    denoiser = make_denoiser(size)
    sampler = SAMPLERS[sampler](denoiser.schedule)
    reference = generate(denoiser, sampler, 7, (2, *size), seed=3).x
    assert reference.shape == (7, 2, *size) and reference.std() > 0.1
    for n, batch_size in [(7, 7), (7, 3), (7, 1), (3, 256), (1, 1), (5, 2)]:
        torch.manual_seed(n)  # the state of torch's own generator is of no account
        x = generate(denoiser, sampler, n, (2, *size), seed=3, batch_size=batch_size).x
        torch.testing.assert_close(x, reference[:n], atol=1e-5, rtol=1e-5)
    again = generate(denoiser, sampler, 7, (2, *size), seed=3).x
    assert torch.equal(again, reference)


def test_other_seeds_and_indices_give_other_samples():
    denoiser = make_denoiser()
    a, b = (generate(denoiser, DDIM(denoiser.schedule, 3), 4, (2, 3, 4), seed=seed).x for seed in (0, 1))
    everything = torch.cat([a, b]).flatten(1)
    assert torch.pdist(everything).min() > 0.1
    # Not (0, 11) and (01, 1), or any other two whose digits run together.
    many = generate(denoiser, DDIM(denoiser.schedule, 1), 120, (2, 3, 4), seed=1).x
    few = generate(denoiser, DDIM(denoiser.schedule, 1), 20, (2, 3, 4), seed=11).x
    assert torch.cdist(many.flatten(1), few.flatten(1)).min() > 0.01


def test_the_callers_random_numbers_are_left_alone():
    denoiser = make_denoiser(dropout=0.5)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    generate(denoiser, DDPM(denoiser.schedule, 3), 4, (2, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("n", "batch_size"), [(4, 256), (5, 2)])
@pytest.mark.parametrize("steps", [1, 6])
def test_evaluations_are_counted(n, batch_size, steps):
    denoiser = make_denoiser(num_classes=3)
    sampler, label = DDIM(denoiser.schedule, steps), torch.arange(n) % 3

    def nfe(**arguments) -> float:
        return generate(denoiser, sampler, n, (2, 3, 4), batch_size=batch_size, **arguments).nfe

    assert nfe() == steps
    assert nfe(label=label) == steps
    assert nfe(label=label, guidance=ClassifierFree(2.0)) == 2 * steps
    assert nfe(label=label, guidance=ClassifierFree(1.0)) == steps
    assert nfe(guidance=ClassifierFree(2.0)) == steps


def test_each_sample_is_given_its_label():
    denoiser = make_denoiser(num_classes=3)
    label = torch.tensor([2, 0, 1, -1, 2])
    generate(denoiser, DDIM(denoiser.schedule, 2), 5, (2, 3, 4), label=label, batch_size=2)
    assert [cond for _, cond, _ in denoiser.net.calls] == [[2, 0]] * 2 + [[1, -1]] * 2 + [[2]] * 2
    denoiser.net.calls.clear()
    generate(denoiser, DDIM(denoiser.schedule, 1), 2, (2, 3, 4), label=label[:2], guidance=ClassifierFree(3.0))
    assert [cond for _, cond, _ in denoiser.net.calls] == [[2, 0, -1, -1]]
    denoiser.net.calls.clear()
    generate(denoiser, DDIM(denoiser.schedule, 1), 2, (2, 3, 4))
    assert [cond for _, cond, _ in denoiser.net.calls] == [None]


def test_labels_and_guidance_change_samples():
    denoiser = make_denoiser(num_classes=3)
    sampler = DDIM(denoiser.schedule, 4)

    def x(label, scale=1.0):
        label = None if label is None else torch.full((2,), label)
        return generate(denoiser, sampler, 2, (2, 3, 4), label=label, guidance=ClassifierFree(scale)).x

    assert (x(0) - x(1)).abs().max() > 1e-3
    assert (x(0) - x(0, 3.0)).abs().max() > 1e-3
    torch.testing.assert_close(x(None), x(-1))
    torch.testing.assert_close(x(0, 0.0), x(-1))


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_trajectory_begins_with_noise_and_ends_with_the_sample(keep):
    denoiser = make_denoiser()
    sampler = DDIM(denoiser.schedule, 4)
    samples = generate(denoiser, sampler, 5, (2, 3, 4), keep=keep, batch_size=3)
    assert samples.trajectory.shape == (5, min(keep, 3), 2, 3, 4)
    assert torch.equal(samples.trajectory[-1], samples.x[: min(keep, 3)])
    assert torch.equal(samples.x, generate(denoiser, sampler, 5, (2, 3, 4), batch_size=3).x)
    longer = generate(denoiser, DDIM(denoiser.schedule, 9), 5, (2, 3, 4), keep=keep, batch_size=3)
    assert torch.equal(samples.trajectory[0], longer.trajectory[0]), "the same noise, however many steps follow"
    assert len({tuple(frame.flatten().tolist()) for frame in samples.trajectory}) == 5
    assert generate(denoiser, sampler, 5, (2, 3, 4)).trajectory is None


@pytest.mark.parametrize("training", [True, False])
def test_it_samples_in_evaluation_mode_and_restores_what_was(training):
    denoiser = make_denoiser(dropout=0.9).train(training)
    x = generate(denoiser, DDIM(denoiser.schedule, 2), 3, (2, 3, 4)).x
    assert not any(was_training for *_, was_training in denoiser.net.calls)
    assert denoiser.training is training and denoiser.net.training is training
    assert not x.requires_grad and all(p.grad is None for p in denoiser.parameters())
    assert torch.equal(x, generate(denoiser, DDIM(denoiser.schedule, 2), 3, (2, 3, 4)).x)


def test_progress_is_told():
    denoiser = make_denoiser()
    told = []
    samples = generate(denoiser, DDIM(denoiser.schedule, 3), 5, (2, 3, 4), batch_size=2, on_step=told.append)
    assert told == [2, 2, 2, 2, 2, 2, 1, 1, 1]
    assert samples.seconds > 0


@pytest.mark.parametrize(("n", "batch_size"), [(0, 1), (-1, 1), (2, 0), (2, -1)])
def test_impossible_numbers_are_refused(n, batch_size):
    denoiser = make_denoiser()
    with pytest.raises(ValueError, match="at least 1"):
        generate(denoiser, DDIM(denoiser.schedule, 1), n, (2, 3, 4), batch_size=batch_size)


@pytest.mark.parametrize("count", [1, 3])
def test_as_many_labels_as_samples(count):
    denoiser = make_denoiser(num_classes=3)
    with pytest.raises(ValueError, match=f"{count} label"):
        generate(denoiser, DDIM(denoiser.schedule, 1), 2, (2, 3, 4), label=torch.zeros(count, dtype=torch.int64))
