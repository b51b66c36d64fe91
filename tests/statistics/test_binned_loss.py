"""Means over all and by noise level, against numpy."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from src.statistics.binned_loss import BinnedLoss

pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
EDGES = (-8, -6, -4, -2, 0, 2, 4, 6, 8)


def expected_means(losses: np.ndarray, log_snr: np.ndarray) -> dict[str, float]:
    borders = [-np.inf, *EDGES, np.inf]
    means = {"loss": losses.mean()}
    for i, (low, high) in enumerate(pairwise(borders)):
        inside = (log_snr > low) & (log_snr <= high)
        name = f"log_snr/{'abcdefghij'[i]}_{low:g}..{high:g}"
        if inside.any():
            means[name] = losses[inside].mean()
    return means


def draws(n: int, spread: float = 6.0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(n)
    return torch.rand(n, generator=g), spread * torch.randn(n, generator=g, dtype=torch.float64)


@pytest.mark.parametrize(("n", "spread"), [(1, 6.0), (3, 0.1), (500, 6.0)])
def test_means_are_those_of_numpy(n, spread):
    losses, log_snr = draws(n, spread)
    meter = BinnedLoss()
    for part in torch.arange(n).split(7):
        meter.update(losses[part], log_snr[part])
    found, expected = meter.compute(), expected_means(losses.double().numpy(), log_snr.numpy())
    assert found == pytest.approx(expected, rel=1e-5)
    assert list(found) == list(expected)
    assert all(type(value) is float for value in found.values())


def test_every_bin_is_named():
    meter = BinnedLoss()
    meter.update(torch.arange(10.0), torch.arange(-9.0, 11.0, 2.0, dtype=torch.float64))
    means = meter.compute()
    assert means.pop("loss") == 4.5
    assert list(means) == sorted(means), "TensorBoard sorts by name"
    assert next(iter(means)) == "log_snr/a_-inf..-8" and list(means)[-1] == "log_snr/j_8..inf"
    assert list(means.values()) == list(range(10))


def test_infinite_noise_and_none():
    meter = BinnedLoss()
    meter.update(torch.tensor([1.0, 2.0]), torch.tensor([-torch.inf, torch.inf], dtype=torch.float64))
    assert meter.compute() == {"loss": 1.5, "log_snr/a_-inf..-8": 1.0, "log_snr/j_8..inf": 2.0}


def test_other_edges():
    meter = BinnedLoss(edges=(0,))
    meter.update(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([-1.0, 1.0, 2.0], dtype=torch.float64))
    assert meter.compute() == pytest.approx({"loss": 7 / 3, "log_snr/a_-inf..0": 1.0, "log_snr/b_0..inf": 3.0})


def test_nothing_seen_gives_nothing():
    assert BinnedLoss().compute() == {}


def test_reset_forgets():
    meter = BinnedLoss()
    meter.update(*draws(20))
    meter.reset()
    assert meter.compute() == {}
    meter.update(torch.tensor([3.0]), torch.tensor([0.5], dtype=torch.float64))
    assert meter.compute() == {"loss": 3.0, "log_snr/f_0..2": 3.0}


def test_computing_does_not_disturb():
    losses, log_snr = draws(40)
    meter, undisturbed = BinnedLoss(), BinnedLoss()
    for part in torch.arange(40).split(10):
        meter.update(losses[part], log_snr[part])
        meter.compute()
        undisturbed.update(losses[part], log_snr[part])
    assert meter.compute() == undisturbed.compute()


def test_the_state_can_be_taken_over():
    losses, log_snr = draws(40)
    whole, first, second = BinnedLoss(), BinnedLoss(), BinnedLoss()
    whole.update(losses[:20], log_snr[:20])
    whole.update(losses[20:], log_snr[20:])
    first.update(losses[:20], log_snr[:20])
    second.sums_and_counts = first.sums_and_counts
    second.update(losses[20:], log_snr[20:])
    assert second.compute() == whole.compute()
    assert torch.equal(second.sums_and_counts, whole.sums_and_counts)
    assert first.compute()["loss"] == pytest.approx(losses[:20].mean().item()), "a copy, not the same tensor"


def test_the_losses_keep_no_graph_and_may_be_bf16():
    meter = BinnedLoss()
    losses = torch.tensor([1.0, 2.0], requires_grad=True)
    meter.update(losses.bfloat16(), torch.zeros(2, dtype=torch.float64))
    assert not meter.sums.requires_grad and meter.sums.dtype == torch.float32
    assert meter.compute()["loss"] == 1.5


def test_nan_is_not_hidden():
    meter = BinnedLoss()
    meter.update(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 3.0], dtype=torch.float64))
    means = meter.compute()
    assert np.isnan(means["loss"]) and means["log_snr/f_0..2"] == 1.0 and np.isnan(means["log_snr/g_2..4"])


def test_it_is_not_saved_with_the_weights():
    assert BinnedLoss().state_dict() == {}


def test_processes_are_added_up():
    meter, losses = BinnedLoss(), torch.tensor([1.0, 3.0, 5.0])
    meter.update(losses, torch.tensor([0.5, 0.5, 5.0]).double())
    other = BinnedLoss()
    other.update(10 * losses[:1], torch.tensor([0.5]).double())
    theirs = iter([other.sums, other.counts])
    meter.sync(dist_sync_fn=lambda x, group: [x, next(theirs)], distributed_available=lambda: True)
    assert meter.sums.tolist() == [0, 0, 0, 0, 0, 14, 0, 5, 0, 0] and meter.counts.tolist() == [
        0,
        0,
        0,
        0,
        0,
        3,
        0,
        1,
        0,
        0,
    ]
