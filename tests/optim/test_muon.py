import copy

import pytest
import torch
from torch import nn
from torch.distributed.tensor import Shard, distribute_tensor
from torch.testing import assert_close

from src.optim.muon import Muon, newton_schulz, redistribute


@pytest.mark.parametrize("shape", [(16, 16), (32, 200), (200, 32)])
def test_singular_values_come_near_one_and_singular_vectors_stay(shape):
    g = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    u, s, vt = torch.linalg.svd(g, full_matrices=False)
    (found,) = newton_schulz([g])
    inside = u.T @ found @ vt.T
    large = s > 0.1 * s[0]  # the iteration brings small ones up more slowly
    assert ((inside.diagonal()[large] > 0.6) & (inside.diagonal() < 1.3)[large]).all()
    assert (inside - inside.diagonal().diag()).abs().max() < 1e-3


def test_matrices_do_not_depend_on_those_beside_them():
    some = [torch.randn(*shape) for shape in ((20, 30), (30, 20), (20, 90), (40, 40))]
    for g, together in zip(some, newton_schulz(some), strict=True):
        assert_close(newton_schulz([g])[0], together, rtol=0, atol=1e-4)


def test_a_step_on_a_matrix_is_the_formula():
    weight = nn.Parameter(torch.randn(24, 40))
    before = weight.detach().clone()
    optimizer = Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.5)
    moment = torch.zeros(24, 40)
    for _ in range(3):
        weight.grad = torch.randn(24, 40)
        moment = 0.9 * moment + weight.grad
        optimizer.step()
        before = (1 - 0.1 * 0.5) * before - 0.2 * 0.1 * 40**0.5 * newton_schulz([weight.grad + 0.9 * moment])[0]
    assert_close(weight.detach(), before)


@pytest.mark.parametrize("shape", [(7,), (3, 50), (50, 3, 3, 1)])
def test_what_is_no_wide_matrix_is_left_to_adamw(shape):
    ours, theirs = nn.Parameter(torch.randn(shape)), None
    theirs = nn.Parameter(ours.detach().clone())
    a = Muon([ours], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    b = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    for _ in range(5):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        a.step()
        b.step()
    assert_close(ours, theirs)


def test_a_convolution_is_a_matrix_of_its_outputs():
    conv = nn.Conv2d(20, 32, 3)
    matrix = nn.Parameter(conv.weight.detach().flatten(1).clone())
    conv.weight.grad = torch.randn_like(conv.weight)
    matrix.grad = conv.weight.grad.flatten(1).clone()
    Muon([conv.weight]).step()
    Muon([matrix]).step()
    assert torch.equal(conv.weight.flatten(1), matrix)


def test_it_goes_on_from_its_state_to_the_same_bits():
    net = nn.Sequential(nn.Linear(20, 30), nn.SiLU(), nn.Linear(30, 20))
    grads = [[torch.randn_like(p) for p in net.parameters()] for _ in range(6)]

    def walk(net, optimizer, some):
        for each in some:
            for p, g in zip(net.parameters(), each, strict=True):
                p.grad = g.clone()
            optimizer.step()

    whole, parts = copy.deepcopy(net), copy.deepcopy(net)
    walk(whole, Muon(whole.parameters()), grads)
    first = Muon(parts.parameters())
    walk(parts, first, grads[:3])
    again = Muon(parts.parameters())
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    walk(parts, again, grads[3:])
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


@pytest.mark.parametrize(
    "wrong", [{"lr": 0}, {"lr": -0.1}, {"momentum": 1.0}, {"momentum": -0.1}, {"min_matrix_size": 0}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="lr must be > 0"):
        Muon([nn.Parameter(torch.zeros(3))], **wrong)


def test_the_least_settings_are_taken():
    weight = nn.Parameter(torch.ones(1, 3))
    muon = Muon([weight], lr=1e-3, momentum=0.0, min_matrix_size=1)
    assert [group["matrices"] for group in muon.param_groups if group["params"]] == [True]


@pytest.mark.copied
def test_what_is_replicated_is_split_as_the_weight(tmp_path):
    """By one process, which holds all of it."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    p, x = distribute_tensor(torch.zeros(4, 3), mesh, [Shard(0)]), torch.randn(4, 3)
    split = redistribute(p, x)
    assert split.placements == p.placements and torch.equal(split.full_tensor(), x)
    assert redistribute(torch.zeros(4, 3), x) is x
