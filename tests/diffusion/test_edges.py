"""Edge maps against the derivatives of what they are computed from."""

import pytest
import torch

from src.diffusion.conditions.edges import Edges

SHAPES = [(9,), (7, 8), (6, 5, 4)]


@pytest.mark.parametrize("size", SHAPES, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_edges_of_a_slope_are_its_length(size, channels):
    """x_c = a_c . r: the root of the mean over channels of |a_c|²."""
    generator = torch.Generator().manual_seed(0)
    slopes = torch.randn(channels, len(size), generator=generator, dtype=torch.float64)
    places = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in size), indexing="ij"))
    x = torch.einsum("ca,a...->c...", slopes, places)[None]
    inner = (0, 0, *(slice(1, -1) for _ in size))
    e = Edges((channels, *size))(x)
    assert e.shape == (1, 1, *size)
    torch.testing.assert_close(e[inner], torch.full_like(e[inner], slopes.square().sum(1).mean().sqrt().item()))
    assert not Edges((channels, *size))(torch.ones_like(x)).any()


def test_edges_of_an_image_are_those_of_scipy():
    from scipy.ndimage import sobel

    x = torch.rand(2, 1, 9, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = [sum(sobel(image[0].numpy(), axis, mode="nearest") ** 2 for axis in (0, 1)) ** 0.5 / 8 for image in x]
    torch.testing.assert_close(Edges((1, 9, 11))(x)[:, 0], torch.stack([torch.from_numpy(e) for e in expected]))


def test_points_have_no_edges():
    with pytest.raises(ValueError, match=r"got samples of shape \(3,\)"):
        Edges((3,))
