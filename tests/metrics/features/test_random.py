"""Features of a network with random weights."""

from functools import partial

import pytest
import torch

from src.metrics.features.random import RandomNetwork
from src.nets.random_features import RandomFeatures


@pytest.mark.parametrize("white", [True, False])
def test_they_are_the_principal_components(context, rand, white):
    make = partial(RandomNetwork, net=partial(RandomFeatures, width=4, depth=2), width=6, white=white)
    features = context(rand(9, 1, 8, 8), rand(40, 1, 8, 8), rand(30, 1, 8, 8), features=make).features
    assert features.train.shape == (40, 6) and features.test.shape == (30, 6)
    torch.testing.assert_close(
        torch.cov(features.train.T), torch.cov(features.train.T).diag().diag(), atol=0.02, rtol=0
    )
    assert features.train.var(0).sum().item() == pytest.approx(100, rel=1e-2)
