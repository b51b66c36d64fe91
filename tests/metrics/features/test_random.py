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


@pytest.mark.parametrize("size", [(4, 5), (12, 30)])
def test_features_of_some_training_data_are_those_of_all(context, rand, size):
    """Also of images that are smaller than the network takes, which are enlarged."""
    make = partial(RandomNetwork, net=partial(RandomFeatures, width=4, depth=3), width=6)
    features = context(rand(9, 3, *size), rand(40, 3, *size), rand(30, 3, *size), features=make).features
    rows = torch.tensor([3, 17, 5])
    some = features.train_rows(rows)
    torch.testing.assert_close(some, features.train[rows], atol=1e-4, rtol=1e-4)
    assert some.std() > 0.1


def test_images_that_are_all_alike_have_features(context, rand):
    x = torch.ones(20, 1, 8, 8)
    make = partial(RandomNetwork, net=partial(RandomFeatures, width=4, depth=2), width=6)
    assert context(rand(9, 1, 8, 8), x, x, features=make).features.test.isfinite().all()
