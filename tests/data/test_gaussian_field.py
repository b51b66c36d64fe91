"""The random fields against their distribution."""

import numpy as np
import pytest
import torch
from scipy import stats

from src.data.gaussian_field import GaussianField
from src.utils.errors import UserError

SMALL = {"n": 4000, "n_test": 10, "size": [4, 3, 5], "length": [2.0, 1.0, 0.5], "noise": 0.05}


def load(**settings) -> GaussianField:
    data = GaussianField(**settings)
    data.setup()
    return data


def covariance(data: GaussianField) -> np.ndarray:
    """Of all elements, (N, N): that of two elements is the transform of P at their offset."""
    correlation = torch.fft.ifftn(data.power).real.numpy()
    places = np.stack(np.unravel_index(np.arange(data.power.numel()), data.size), 1)
    offsets = (places[:, None] - places[None]) % np.array(data.size)
    return correlation[tuple(offsets.transpose(2, 0, 1))]


def test_sizes_types_and_source():
    data = load(n=50, n_test=20, channels=2)
    assert (len(data.train_set), len(data.val_set), len(data.test_set), data.kind) == (45, 5, 20, "volumes")
    assert data.shape == (2, 16, 16, 16) and data.train_set.x.dtype == torch.float32
    assert data.source == "45 train / 5 validation Gaussian random volumes of 16 x 16 x 16, drawn"
    assert torch.cdist(data.test_set.x.flatten(1), data.train_set.x.flatten(1)).min() > 10, "drawn anew"


def test_covariance_is_that_of_the_spectrum():
    """Within five standard errors of each entry; white in the channels, of variance 1."""
    data = load(channels=2, **SMALL)
    x = torch.cat([data.train_set.x, data.val_set.x]).flatten(2).double().numpy()
    expected = covariance(data)
    assert np.diag(expected) == pytest.approx(1)
    for first, second, target in ((0, 0, expected), (1, 1, expected), (0, 1, 0 * expected)):
        found = x[:, first].T @ x[:, second] / len(x)
        assert (abs(found - target) < 5 * ((1 + target**2) / len(x)) ** 0.5).all()


def test_density_is_that_of_scipy():
    data, x = GaussianField(**SMALL), torch.randn(6, 1, 4, 3, 5)
    expected = stats.multivariate_normal(cov=covariance(data)).logpdf(x.flatten(1).double().numpy())
    np.testing.assert_allclose(data.log_density(x).numpy(), expected, rtol=1e-9)
    two = GaussianField(channels=2, **SMALL)
    both = data.log_density(x[:3]) + data.log_density(x[3:])
    torch.testing.assert_close(two.log_density(torch.cat([x[:3], x[3:]], 1)), both)


@pytest.mark.parametrize("smoothness", [0.5, 1.5])
def test_correlation_is_that_of_matern(smoothness):
    """On a grid fine and large enough: (1 + r / l) exp(-r / l) for smoothness 3/2, exp(-r / l) for 1/2."""
    data = GaussianField(n=2, size=[512], length=[12.0], smoothness=smoothness, noise=0.0)
    found = torch.fft.ifft(data.power).real[:60]
    r = torch.arange(60, dtype=torch.float64) / 12
    expected = torch.exp(-r) * (1 + r if smoothness == 1.5 else 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.04 if smoothness == 0.5 else 1e-3)


def test_seed():
    first, again, other = (load(n=4, size=[4, 4], length=[1.0, 1.0], seed=seed).train_set.x for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"length": [1.0]},
            r"data\.length must be a number > 0 for each axis of data\.size=\[16, 16, 16\], got \[1\.0\]",
        ),
        ({"length": [1.0, 0.0, 1.0]}, r"data\.length must be a number > 0"),
        ({"noise": 1.0}, r"data\.noise must be in \[0, 1\)"),
        ({"num_classes": 3}, r"data\.num_classes must be 0"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(UserError, match=message) as refusal:
        GaussianField(**settings)
    assert "\n" not in str(refusal.value)
