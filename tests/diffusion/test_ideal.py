"""The ideal denoiser against brute force, Bayes, and its promise that nothing does better."""

import math

import pytest
import torch
from torch.testing import assert_close

from src.diffusion.ideal import ideal_denoiser

pytestmark = pytest.mark.strength(1)


def brute_force(x_t, alpha, sigma, x):
    """In float64, with all distances at once."""
    x_t, x, alpha, sigma = (v.double() for v in (x_t, x, alpha, sigma))
    far = (x_t[:, None] - alpha.view(-1, 1, *[1] * (x.ndim - 1)) * x).flatten(2).square().sum(2)
    return torch.einsum("bm,m...->b...", (-far / (2 * sigma[:, None] ** 2)).softmax(1), x)


def noisy(x, randn, levels=(1e-3, 0.05, 0.5, 1.0, 10.0)):
    """Some x at all noise levels: (x_t, alpha, sigma)."""
    alpha = torch.tensor([1 / math.sqrt(1 + s**2) for s in levels]).double().repeat_interleave(len(x))
    sigma = torch.tensor(levels).double().repeat_interleave(len(x)) * alpha
    many = x.repeat(len(levels), *[1] * (x.ndim - 1)).double()
    shape = (-1, *[1] * (x.ndim - 1))
    return alpha.view(shape) * many + sigma.view(shape) * randn(*many.shape), alpha, sigma


@pytest.mark.parametrize("shape", [(2,), (1, 7), (3, 4, 5)])
@pytest.mark.parametrize("size", [1, 7, 40, 100])
def test_brute_force(shape, size, randn):
    x = randn(40, *shape)
    x_t, alpha, sigma = noisy(randn(3, *shape), randn)
    found = ideal_denoiser(x_t, alpha, sigma, [(part, None) for part in x.split(size)])
    assert_close(found, brute_force(x_t, alpha, sigma, x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_float32_keeps_its_precision(offset, randn):
    """Also far from the origin, where squares are large and their differences small."""
    x = (0.3 * randn(200, 1, 28, 28) + offset).float()
    x_t, alpha, sigma = noisy(x[:8].double() + 0.05 * randn(8, 1, 28, 28), randn)
    found = ideal_denoiser(x_t.float(), alpha, sigma, [(part, None) for part in x.split(64)])
    assert_close(found.double(), brute_force(x_t.float(), alpha, sigma, x), rtol=0, atol=2e-5 * max(1, offset))


def test_labels_choose_the_data(randn):
    x, label = randn(30, 1, 6), torch.arange(30) % 3
    x_t, alpha, sigma = noisy(x[:4], randn)
    asked = torch.tensor([0, 1, 2, -1]).repeat(len(x_t) // 4)
    # In order of their label, so that whole parts hold none of the one asked for.
    order = label.argsort()
    data = list(zip(x[order].split(5), label[order].split(5), strict=True))
    found = ideal_denoiser(x_t, alpha, sigma, data, asked)
    for k in (-1, 0, 1, 2):
        rows, own = asked == k, x if k < 0 else x[label == k]
        assert_close(found[rows], brute_force(x_t[rows], alpha[rows], sigma[rows], own), rtol=0, atol=1e-10)


def test_the_ends(randn):
    """The mean of the data where nothing but noise is left, and the nearest of them where there is hardly any."""
    x = randn(20, 5)
    x_t, one = x[:6] + 1e-3 * randn(6, 5), torch.ones(6, dtype=torch.float64)
    assert_close(ideal_denoiser(x_t, 0 * one, one, [(x, None)]), x.mean(0).expand(6, 5))
    assert_close(ideal_denoiser(x_t, one, 1e-3 * one, [(x, None)]), x[:6], rtol=0, atol=1e-9)


def test_nothing_does_better_on_the_data_themselves(randn):
    """Not even the best denoiser of the law that they are drawn from, which does better on new data."""
    law, n, sigma = 1.0, 30, 0.7
    x, new = randn(n, 2), randn(4000, 2)
    errors = {}
    for name, clean in (("own", x.repeat(200, 1)), ("new", new)):
        one = torch.ones(len(clean), dtype=torch.float64)
        x_t = clean + sigma * randn(*clean.shape)
        ideal, wiener = ideal_denoiser(x_t, one, sigma * one, [(x, None)]), law / (law + sigma**2) * x_t
        errors[name] = [(said - clean).square().mean().item() for said in (ideal, wiener)]
    assert errors["own"][0] < 0.95 * errors["own"][1] and errors["new"][0] > 1.05 * errors["new"][1]


def test_no_data():
    with pytest.raises(ValueError, match="needs at least one batch of data"):
        ideal_denoiser(torch.zeros(1, 2), torch.ones(1), torch.ones(1), [])
