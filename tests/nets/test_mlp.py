import pytest
import torch
from torch.testing import assert_close

from src.nets import MLP
from tests.nets.networks import randomize_zeros


@torch.no_grad()
@pytest.mark.parametrize("number", [1, 2])
def test_points(number, randn):
    """(B, C): a sample without extent."""
    net, c_noise = (
        randomize_zeros(MLP(2, (), width=16, depth=2, in_channels=2 * number, out_channels=4)).double(),
        torch.arange(5.0),
    )
    x = randn(5, 2 * number)
    result = net(x, c_noise)
    flat = randomize_zeros(MLP(4, (), width=16, depth=2)).double()
    assert result.shape == (5, 4) and result.std(0).min() > 1e-3
    if number == 2:
        state = net.state_dict()
        for name in ("weight", "bias"):
            state[f"heads.0.{name}"] = torch.cat([state[f"heads.0.{name}"], state.pop(f"heads.1.{name}")])
        flat.load_state_dict(state)
        assert_close(flat(x, c_noise), result, rtol=0, atol=1e-12)


@torch.no_grad()
def test_mlp_takes_any_number_of_axes(randn):
    net = randomize_zeros(MLP(2, (2, 3, 4), width=8, depth=1)).double()
    flat = randomize_zeros(MLP(1, (48,), width=8, depth=1)).double()
    flat.load_state_dict(net.state_dict())
    x, c_noise = randn(3, 2, 2, 3, 4), torch.tensor([1.0, 2.0, 3.0])
    assert_close(net(x, c_noise).flatten(), flat(x.view(3, 1, 48), c_noise).flatten())
