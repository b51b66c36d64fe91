import torch
from torch.testing import assert_close

from src.nets import ConvAutoencoder
from tests.nets.networks import inputs


@torch.no_grad()
def test_tanh_output_ends_with_tanh(data, randn):
    (x, c_noise), weights = inputs(*data, randn), ConvAutoencoder(*data, width=8).state_dict()
    free, bounded = (ConvAutoencoder(*data, width=8, tanh_output=tanh).double() for tanh in (False, True))
    weights = {name: 3 * value if "stages" in name else torch.ones_like(value) for name, value in weights.items()}
    free.load_state_dict(weights)
    bounded.load_state_dict(weights)
    assert free(x, c_noise).abs().max() > 1 >= bounded(x, c_noise).abs().max()
    assert_close(bounded(x, c_noise), free(x, c_noise).tanh(), rtol=0, atol=1e-12)
