"""Optimizers as one do what they do alone, also after saving, loading and scheduling."""

import copy

import pytest
import torch
from torch import nn

from src.callbacks.checkpoint import BestLastCheckpoint
from src.diffusion.losses import MSE, Loss
from src.diffusion.weightings import v_weighting
from src.optim import Muon
from src.optim.combined import CombinedOptimizer
from tests.helpers.tiny import fit, make_module

pytestmark = pytest.mark.filterwarnings("ignore")


def make(combined):
    torch.manual_seed(0)
    nets = [nn.Linear(20, 20), nn.Linear(3, 3)]
    each = [Muon(nets[0].parameters(), lr=0.1), torch.optim.SGD(nets[1].parameters(), lr=0.5, momentum=0.9)]
    return nets, [CombinedOptimizer(each)] if combined else each


def steps(nets, optimizers, first, n):
    for i in range(first, first + n):
        for optimizer in optimizers:
            optimizer.zero_grad()
        g = torch.Generator().manual_seed(i)
        sum(net(torch.randn(4, net.in_features, generator=g)).square().sum() for net in nets).backward()
        for optimizer in optimizers:
            optimizer.step()


def weights(nets):
    return torch.cat([p.detach().flatten() for net in nets for p in net.parameters()])


def test_each_as_alone_and_again_from_what_was_saved():
    (alone, each), (together, combined) = make(False), make(True)
    for nets, optimizers in ((alone, each), (together, combined)):
        schedules = [torch.optim.lr_scheduler.StepLR(o, 1, 0.7) for o in optimizers]
        for i in range(4):
            steps(nets, optimizers, i, 1)
            for schedule in schedules:
                schedule.step()
    assert torch.equal(weights(alone), weights(together))
    again, fresh = make(True)
    for net, old in zip(again, together, strict=True):
        net.load_state_dict(old.state_dict())
    fresh[0].load_state_dict(copy.deepcopy(combined[0].state_dict()))
    steps(again, fresh, 4, 3)
    steps(together, combined, 4, 3)
    assert torch.equal(weights(again), weights(together))
    assert fresh[0].param_groups[-1]["lr"] == pytest.approx(0.5 * 0.7**4)


def test_parameters_that_are_added_go_to_the_first():
    _, (combined,) = make(True)
    more, sgd = nn.Linear(20, 20), combined.optimizers[1]
    combined.add_param_group({"params": list(more.parameters()), "matrices": False})
    assert [len(o.param_groups) for o in combined.optimizers] == [3, 1] and len(combined.param_groups) == 4
    assert combined.param_groups[3] is sgd.param_groups[0] and combined.param_groups[3]["momentum"] == 0.9
    before = weights([more])
    more.weight.grad, more.bias.grad = torch.ones(20, 20), torch.ones(20)
    combined.step()
    assert (weights([more]) < before).all()


class Critic(nn.Module, Loss):
    """A loss that learns with an optimizer of its own."""

    def __init__(self):
        super().__init__()
        self.squared, self.level = MSE(v_weighting), nn.Parameter(torch.zeros(()))

    def optimizer(self, parameters):
        return torch.optim.SGD(parameters, lr=0.25)

    def forward(self, denoiser, x_0, t, noise, cond=None):
        return self.squared(denoiser, x_0, t, noise, cond) + (self.level - 1) ** 2


def test_a_run_with_a_second_optimizer_is_trained_and_resumed_exactly(tmp_path):
    def module():
        made = make_module(lr=1e-2)
        made.loss = Critic()
        return made

    whole, *_ = fit(tmp_path / "a", module(), max_steps=6)
    assert whole.loss.level.item() == pytest.approx(1 - 0.5**6)  # SGD on a parabola halves the distance
    checkpoint = BestLastCheckpoint(str(tmp_path / "checkpoints"))
    fit(tmp_path / "b", module(), callbacks=[checkpoint], max_steps=3)
    resumed, *_ = fit(
        tmp_path / "c", module(), callbacks=[BestLastCheckpoint(str(tmp_path / "more"))], max_steps=6,
        ckpt_path=checkpoint.last_path,
    )  # fmt: skip
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_group_that_is_added_is_the_last_of_the_first_also_after_loading():
    a, b, c, other = (nn.Parameter(torch.ones(2)) for _ in range(4))
    first, second = torch.optim.SGD([{"params": [a]}, {"params": [b]}], lr=1.0), torch.optim.SGD([other], lr=2.0)
    combined = CombinedOptimizer([first, second])
    combined.add_param_group({"params": [c], "lr": 3.0})
    combined.load_state_dict(combined.state_dict())
    held = [[group["params"][0] for group in optimizer.param_groups] for optimizer in (combined, first, second)]
    for found, expected in zip(held, [[a, b, c, other], [a, b, c], [other]], strict=True):
        assert len(found) == len(expected) and all(x is y for x, y in zip(found, expected, strict=True))
