"""Fields and volumes become color images whose pixels can be read back."""

import pytest
import torch
from torch.testing import assert_close

from src.plots.fields import GRAY, as_images, as_tiles, color_limits, project, slices_of


@pytest.mark.parametrize(("shape", "kind"), [((4, 1, 8, 8), None), ((4, 3, 8, 8), "images"), ((4, 2, 9), None)])
def test_images_and_signals_pass(shape, kind):
    x = torch.rand(shape)
    assert as_images(x, kind) is x


@pytest.mark.parametrize(
    ("shape", "kind", "expected"),
    [
        ((4, 1, 8, 6), "fields", (4, 3, 8, 6)),
        ((4, 2, 8, 6), None, (4, 3, 8, 12)),
        ((4, 3, 8, 6), "fields", (4, 3, 8, 18)),
        ((4, 2, 5, 8, 6), "volumes", (4, 3, 8, 12)),
    ],
)
def test_channels_stand_side_by_side(shape, kind, expected):
    image = as_images(torch.randn(shape), kind)
    assert image.shape == expected and image.min() >= 0 and image.max() <= 1


def test_blue_is_below_zero_and_red_above():
    x = torch.zeros(1, 2, 4, 4)
    x[:, 0], x[:, 1] = -5, 5
    image = as_images(x, "fields")
    below, above = image[0, :, 0, 0], image[0, :, 0, 4]
    assert below[2] > below[0] and above[0] > above[2]


def test_the_middle_slice_of_a_volume():
    x = torch.randn(2, 1, 5, 4, 4)
    assert_close(as_images(x, "volumes"), as_images(x[:, :, 2], "fields", like=x))


def test_the_views_of_a_volume():
    """Slices across D (4), H (6) and W (9) side by side, projections below, channels below each other."""
    x = torch.randn(2, 2, 4, 6, 9)
    sheet = as_tiles(x, "volumes")
    assert sheet.shape == (2, 3, 4 * 6 + 3, 9 + 1 + 9 + 1 + 6)

    def field(values):
        return as_images(values[:, None], "fields", like=x)

    for c, top in ((0, 0), (1, 14)):
        assert_close(sheet[:, :, top : top + 6, :9], field(x[:, c, 2]))
        assert_close(sheet[:, :, top : top + 4, 10:19], field(x[:, c, :, 3]))
        assert_close(sheet[:, :, top : top + 4, 20:], field(x[:, c, :, :, 4]))
        assert_close(sheet[:, :, top + 7 : top + 11, 20:], field(project(x[:, c], 3, signed=True)))
    assert_close(sheet[:, :, 4:6, 10:], torch.full((2, 3, 2, 16), GRAY)), "where a view is lower than its row"


def test_projections():
    x = torch.tensor([[1.0, -3.0], [2.0, 0.5], [-4.0, 3.0]])
    assert project(x, 0, signed=False).tolist() == [2, 3] and project(x, 0, signed=True).tolist() == [-4, -3]


@pytest.mark.parametrize(("depth", "expected"), [(5, [0, 1, 2, 3, 4]), (130, [0, 2, 4]), (1, [0])])
def test_slices(depth, expected):
    x = torch.randn(2, 1, depth, 3, 4)
    found = slices_of(x)
    assert len(found) == min(depth, 64) and found[0].shape == (2, 3, 3, 4)
    for i, slice_ in zip(expected, found, strict=False):
        assert_close(slice_, as_images(x[:, :, i], "fields", like=x))


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (torch.tensor([-1.0, 0.5]).repeat(500), (-1, 1)),
        (torch.linspace(2, 4, 1001), (2.01, 3.99)),
        (torch.zeros(8), (-0.5, 0.5)),
        (torch.full((8,), torch.nan), (0, 1)),
        (torch.tensor([1.0, torch.inf, 3.0]).repeat(500), (1, 3)),
    ],
)
def test_limits(x, expected):
    assert color_limits(x) == pytest.approx(expected, abs=1e-6)
