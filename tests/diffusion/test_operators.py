"""Every linear measurement against the matrix that it is, written out."""

import math

import pytest
import torch
from torch.testing import assert_close

from src.diffusion.operators import FAINTEST, Blur, Downsample, Grayscale, Mask

KNOWN = {
    "one for all": lambda b, c, size: torch.arange(size.numel()).view(1, 1, *size) % 3 > 0,
    "each channel": lambda b, c, size: torch.arange(c * size.numel()).view(1, c, *size) % 4 > 1,
    "each sample": lambda b, c, size: torch.arange(b * size.numel()).view(b, 1, *size) % 5 > 0,
    "nothing": lambda b, c, size: torch.zeros(1, 1, *size),
}
# name: (measurement of (B, C, size), shapes (C, *S) that it takes)
ALL = {
    **{f"mask, {name}": (lambda b, c, size, make=make: Mask(make(b, c, size)),
                       [(1, 8), (3, 5), (1, 4, 6), (3, 4, 6), (2, 3, 2, 4)])
       for name, make in KNOWN.items()},
    "average 1": (lambda *_: Downsample(1), [(1, 8), (2, 3, 5)]),
    "average 2": (lambda *_: Downsample(2), [(1, 8), (3, 6), (1, 4, 6), (3, 4, 6), (2, 4, 2, 6)]),
    "average 3": (lambda *_: Downsample(3), [(2, 9), (2, 3, 6)]),
    "gray": (lambda *_: Grayscale(), [(3, 7), (3, 4, 6)]),
    "gray of two": (lambda *_: Grayscale([0.8, -0.3]), [(2, 7), (2, 4, 6)]),
    "blur 0.5": (lambda *_: Blur(0.5), [(1, 8), (3, 7), (1, 4, 6), (3, 5, 6)]),
    "blur 0.6": (lambda *_: Blur(0.6), [(1, 8), (2, 4, 6), (1, 4, 3, 5)]),
}  # fmt: skip
CASES = [(name, shape) for name, (_, shapes) in ALL.items() for shape in shapes]
BATCH = 2


@pytest.fixture(params=CASES, ids=str)
def case(request, randn):
    """A measurement, x, and y in its range."""
    name, shape = request.param
    measurement = ALL[name][0](BATCH, shape[0], torch.Size(shape[1:]))
    return measurement, randn(BATCH, *shape), measurement(randn(BATCH, *shape))


def matrices(measurement, x) -> torch.Tensor:
    """A of each sample, (B, M, N)."""
    n = x[0].numel()
    columns = [measurement(e.view(1, *x.shape[1:]).expand_as(x)).flatten(1) for e in torch.eye(n, dtype=x.dtype)]
    return torch.stack(columns, 2)


def test_transpose_is_the_adjoint(case):
    measurement, x, y = case
    assert measurement.transpose(y).shape == x.shape
    assert_close((measurement(x) * y).flatten(1).sum(1), (x * measurement.transpose(y)).flatten(1).sum(1))


def test_transpose_and_solve_are_those_of_the_matrix(case):
    measurement, x, y = case
    a = matrices(measurement, x)
    assert_close(measurement(x).flatten(1), torch.einsum("bmn,bn->bm", a, x.flatten(1)))
    assert_close(measurement.transpose(y).flatten(1), torch.einsum("bmn,bm->bn", a, y.flatten(1)))
    for ridge in (1e-3, 0.7):
        inverse = torch.linalg.inv(a @ a.mT + ridge * torch.eye(a.shape[1]).double())
        assert_close(measurement.solve(y, ridge).flatten(1), torch.einsum("bij,bj->bi", inverse, y.flatten(1)))


def test_pinv_is_that_of_the_matrix(case):
    measurement, x, y = case
    pinv = torch.linalg.pinv(matrices(measurement, x))
    assert_close(measurement.pinv(y).flatten(1), torch.einsum("bnm,bm->bn", pinv, y.flatten(1)))
    assert_close(measurement(measurement.pinv(y)), y)


def test_a_ridge_for_each_sample(case):
    measurement, x, y = case
    ridge = torch.tensor([0.2, 3.0]).double().view(2, *[1] * (x.ndim - 1))
    each = [measurement.solve(y, float(r))[i] for i, r in enumerate(ridge)]
    assert_close(measurement.solve(y, ridge), torch.stack(each))


def test_average_is_the_mean_of_blocks(randn):
    x = randn(2, 3, 4, 6)
    assert_close(Downsample(2)(x), torch.nn.functional.avg_pool2d(x, 2))
    assert_close(Downsample(3)(x[:, :, 0]), torch.nn.functional.avg_pool1d(x[:, :, 0], 3))
    small = randn(2, 3, 4, 6)  # the smallest picture of that mean has blocks of one value
    assert_close(Downsample(2).pinv(small), small.repeat_interleave(2, 2).repeat_interleave(2, 3))
    with pytest.raises(RuntimeError, match=r"unflatten|divide"):
        Downsample(4)(x)


def test_gray_is_luma():
    red_green_blue_white = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])[..., None, None]
    assert_close(Grayscale()(red_green_blue_white).flatten(), torch.tensor([0.299, 0.587, 0.114, 1.0]))


@pytest.mark.parametrize("width", [1.0, 2.5])
def test_blur_is_a_gaussian(width):
    """A blurred point has the given variance far from the edges, and wraps around at them."""
    x = torch.zeros(1, 1, 32, 40, dtype=torch.float64)
    x[0, 0, 3, 20] = 1
    spot = Blur(width)(x)[0, 0]
    rows, columns = torch.arange(32.0), torch.arange(40.0)
    rows = torch.where(rows > 19, rows - 32, rows) - 3
    expected = torch.exp(-(rows[:, None] ** 2 + (columns - 20) ** 2) / (2 * width**2)) / (2 * torch.pi * width**2)
    assert_close(spot, expected.double(), rtol=0, atol=3e-3 if width == 1 else 1e-6)
    assert_close(spot.sum(), torch.tensor(1.0).double())


def test_what_a_strong_blur_hides_is_not_enlarged():
    """Rounding of float32 is a thousand times what the faintest frequencies hold."""
    x = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    blur = Blur(2.0)
    found = blur.pinv(blur(x))
    assert found.abs().max() < 10 * x.abs().max()
    kept = blur.gain(x) ** 2 > 2 * FAINTEST
    assert_close(torch.fft.fft2(found)[..., kept], torch.fft.fft2(x)[..., kept], rtol=0, atol=1e-2)


@pytest.mark.parametrize("make", [lambda: Downsample(0), lambda: Blur(0.0), lambda: Blur(-1.0)])
def test_impossible_values(make):
    with pytest.raises(ValueError, match="must be"):
        make()


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_blur_of_a_wave_is_the_wave_times_its_gain(dtype, digits):
    """In the precision of the data."""
    n, cycles, width = 20, torch.tensor([0.0, 1.0, 3.0, 7.0], dtype=torch.float64), 0.8
    waves = torch.cos(2 * math.pi * cycles[:, None, None] * torch.arange(n, dtype=torch.float64) / n + 0.3)
    gain = torch.exp(-((2 * math.pi * width * cycles / n) ** 2) / 2)[:, None, None]
    assert_close(Blur(width)(waves.to(dtype)), (gain * waves).to(dtype), rtol=0, atol=digits)
