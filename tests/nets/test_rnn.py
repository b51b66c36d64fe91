import pytest
import torch

from src.nets import RNN
from tests.nets.networks import reach

pytestmark = pytest.mark.strength(1)


@pytest.mark.parametrize("cell", [torch.nn.GRU, torch.nn.LSTM, torch.nn.RNN])
@pytest.mark.parametrize("at", [0, 7, 15])
def test_an_rnn_reads_in_both_directions(cell, at):
    """In one layer already: the output anywhere depends on the input everywhere."""
    assert reach(RNN(1, (16,), width=8, depth=1, patch_size=2, cell=cell), (at,), (16,)).all()
