"""The comparison of two runs finds any bit that differs, and no difference where tensors only have other names."""

import pytest
import torch

from tests.benchmarks.same_bits import compare

RUN = {
    "denoiser.net.weight": torch.tensor([[1.0, 2.0]]),
    "denoiser.net.bias": torch.tensor([0.5]),
    "ema.model.net.weight": torch.tensor([[1.0, 3.0]]),
    "samples.x": torch.tensor([float("nan"), -1.0]),
}


def renamed(old: str, new: str) -> dict[str, torch.Tensor]:
    return {name.replace(old, new): x for name, x in RUN.items()}


@pytest.mark.parametrize(
    ("new", "n_renamed"),
    [(RUN, 0), (renamed("net", "backbone"), 3), (dict(reversed(renamed("denoiser", "model").items())), 2)],
    ids=["same", "renamed", "other_order"],
)
def test_same_values_are_identical_whatever_their_names(new, n_renamed):
    found = compare(RUN, new)
    assert found.identical and found.renamed == n_renamed and found.n_bytes == 28
    assert found.pairs == {"weights": 2, "averages": 1, "samples": 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"denoiser.net.weight": torch.tensor([[1.0, 2.25]])}, "1 differ: denoiser.net.weight (1 values, up to 0.25)"),
        ({"denoiser.net.bias": torch.tensor([0.5]).double()}, "float32 [1] -> torch.float64 [1]"),
        ({"samples.x": torch.tensor([0.0, -1.0])}, "1 differ: samples.x"),
        ({"ema.model.net.new": torch.zeros(3)}, "only in the new: ema.model.net.new"),
        ({"ema.model.net.weight": None}, "only in the old: ema.model.net.weight"),
    ],
    ids=["value", "dtype", "nan", "added", "missing"],
)
def test_any_difference_is_said(change, said):
    found = compare(RUN, {name: x for name, x in (RUN | change).items() if x is not None})
    assert not found.identical and said in str(found)


def test_without_samples_nothing_is_proven():
    weights = {name: x for name, x in RUN.items() if name != "samples.x"}
    assert not compare(weights, weights).identical


def test_zero_and_minus_zero_differ():
    old, new = RUN | {"denoiser.net.bias": torch.tensor([0.0])}, RUN | {"denoiser.net.bias": torch.tensor([-0.0])}
    assert not compare(old, new).identical
