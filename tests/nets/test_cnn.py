import pytest
import torch

from src.nets import CNN
from tests.nets.networks import reach


def test_dilated_convolutions_reach_what_they_say(monkeypatch):
    """2 * (sum of dilations) positions to each side, and one each for the first and the last layer."""
    monkeypatch.setattr(torch.nn.GroupNorm, "forward", lambda self, x: x)  # which sees everything
    seen = reach(CNN(1, (64,), width=8, depth=3, dilations=(1, 4)), (32,), (64,))
    assert seen.nonzero().flatten().tolist() == list(range(32 - 14, 32 + 15))
    seen = reach(CNN(1, (32, 32), width=8, depth=1, dilations=(2,), patch_size=2), (16, 16), (32, 32))
    rows = seen.any(1).nonzero().flatten()
    assert (rows.min(), rows.max()) == (16 - 2 * 6, 17 + 2 * 6)


@pytest.mark.parametrize("at", [0, 50, 99])
def test_a_cnn_sees_all_of_a_signal_of_100(at, monkeypatch):
    monkeypatch.setattr(torch.nn.GroupNorm, "forward", lambda self, x: x)
    assert reach(CNN(1, (100,), width=8, patch_size=2), (at,), (100,)).all()
