import math

import pytest
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch.nn import functional as F
from torch.testing import assert_close

from src.statistics.handwriting import slant, stroke_width

pytestmark = pytest.mark.strength(1)
FINE = 8  # samples of a pixel along each axis


def bar(width, length, angle, side=64):
    """An antialiased bar, turned clockwise from the vertical, in the middle of a picture (1, 1, side, side)."""
    at = (torch.arange(side * FINE, dtype=torch.float64) + 0.5) / FINE - side / 2
    u, v = torch.meshgrid(at, -at, indexing="xy")
    a = math.radians(angle)
    across, along = u * math.cos(a) - v * math.sin(a), u * math.sin(a) + v * math.cos(a)
    inside = (across.abs() < width / 2) & (along.abs() < length / 2)
    return F.avg_pool2d(inside.double()[None, None], FINE)


class TestStrokeWidth:
    @pytest.mark.parametrize("width", [2.5, 4, 7.5])
    @pytest.mark.parametrize("angle", [0, 17, 45, 90])
    def test_of_a_bar(self, width, angle):
        length = 40
        found = stroke_width(bar(width, length, angle)).item()
        assert found == pytest.approx(width * length / (width + length), rel=0.06)

    def test_needs_neither_sharp_edges_nor_full_contrast(self):
        sharp = bar(6, 40, 30)
        blurred = torch.from_numpy(gaussian_filter(sharp.numpy(), (0, 0, 1, 1)))
        assert_close(stroke_width(blurred), stroke_width(sharp), rtol=0.06, atol=0)
        assert_close(stroke_width(0.3 * sharp), stroke_width(sharp))

    def test_agrees_with_the_distance_to_the_background(self):
        """The mean distance of a point of a stroke from its sides is a quarter of its width."""
        for width in (4, 6, 8):
            picture = bar(width, 50, 0)
            distance = distance_transform_edt(picture[0, 0].numpy() > 0.5)
            by_distance = 4 * (distance[distance > 0].mean() - 0.5)
            assert stroke_width(picture).item() == pytest.approx(by_distance, rel=0.15)

    def test_of_nothing_is_zero(self):
        assert stroke_width(torch.zeros(2, 1, 5, 7)).tolist() == [0, 0]


class TestSlant:
    @pytest.mark.parametrize("angle", [-40, -10, 0, 25])
    def test_of_a_bar_is_its_angle(self, angle):
        assert slant(bar(1, 50, angle)).item() == pytest.approx(angle, abs=0.3)

    @pytest.mark.parametrize("shear", [-0.4, 0.2])
    def test_a_shear_adds_its_tangent(self, shear):
        """Each row of any picture moves by the shear times its height."""
        rows = torch.zeros(1, 1, 21, 61, dtype=torch.float64)
        rows[..., 22:38] = torch.rand(1, 1, 21, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        sheared = torch.zeros_like(rows)
        for i in range(21):
            by = shear * (10 - i) * 5  # whole pixels of a picture that is five times as wide
            sheared[0, 0, i] = torch.roll(rows[0, 0, i], round(by))
        before, after = (torch.tan(slant(x).double() * math.pi / 180) for x in (rows, sheared))
        assert_close(after - before, torch.tensor([5 * shear], dtype=torch.float64), rtol=0, atol=1e-5)

    def test_of_nothing_is_zero(self):
        assert slant(torch.zeros(2, 1, 5, 7)).tolist() == [0, 0]
