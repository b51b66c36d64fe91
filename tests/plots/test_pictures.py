"""Pictures show what they are given: sizes and pixels."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from src.plots.denoising_strip import denoising_strip
from src.plots.fields import as_tiles
from src.plots.loss_curves import loss_curves
from src.plots.pictures import (
    frame_of,
    image_grid,
    limit_of,
    point_cloud,
    sample_grid,
    signal_grid,
    to_pixels,
    trajectory_frames,
)
from src.plots.schedule import schedule_picture
from tests.fixtures import SCHEDULES

COLORS = {"blue": (43, 108, 176), "orange": (221, 107, 32), "gray": (160, 174, 192)}


def array(picture) -> np.ndarray:
    assert picture.mode == "RGB"
    return np.asarray(picture)


def share(picture, color: str) -> float:
    """Share of the pixels that have just this color."""
    return (array(picture) == COLORS[color]).all(-1).mean()


# ---- images ----


def test_pixels_are_rounded_and_clamped():
    x = torch.tensor([0.0, 0.5, 1.0, -3.0, 7.0, 0.2501]).view(1, 1, 2, 3)
    assert to_pixels(x)[0, ..., 0].tolist() == [[0, 128, 255], [0, 255, 64]]


def test_gray_becomes_rgb_and_colors_stay():
    gray = to_pixels(torch.rand(2, 1, 3, 4))
    assert gray.shape == (2, 3, 4, 3) and (gray == gray[..., :1]).all()
    color = to_pixels(torch.tensor([1.0, 0.0, 0.5]).view(1, 3, 1, 1))
    assert color.tolist() == [[[[255, 0, 128]]]]
    assert to_pixels(torch.full((1, 1, 1, 1), 0.5, dtype=torch.bfloat16)).dtype == np.uint8


def test_every_pixel_of_a_grid():
    """Three images of 1×2 in two columns, with a border of 1."""
    x = torch.tensor([[[[0, 51]]], [[[102, 153]]], [[[204, 255]]]]) / 255
    g = 96  # the background
    expected = [
        [g, g, g, g, g, g, g],
        [g, 0, 51, g, 102, 153, g],
        [g, g, g, g, g, g, g],
        [g, 204, 255, g, g, g, g],
        [g, g, g, g, g, g, g],
    ]
    pixels = array(image_grid(x, columns=2, gap=1, least=0))
    assert pixels[..., 0].tolist() == expected
    assert (pixels == pixels[..., :1]).all()


def test_grids_are_enlarged_by_whole_factors():
    x = torch.rand(3, 3, 5, 4)
    small = array(image_grid(x, columns=2, gap=1, least=0))
    large = array(image_grid(x, columns=2, gap=1, least=45))  # 11 wide: four times comes closest
    assert small.shape == (13, 11, 3)
    assert (large == small.repeat(4, 0).repeat(4, 1)).all()


def test_names_stand_beside_their_rows_and_leave_the_images_crisp():
    x = torch.rand(6, 3, 5, 4)
    plain, named = array(image_grid(x, columns=2)), array(sample_grid(x, 2, names=["a", "bb", ""]))
    margin = named.shape[1] - plain.shape[1]
    assert margin > 16 and (named[:, margin:] == plain).all()
    written = [(band < 128).any(-1) for band in np.array_split(named[:, :margin], 3)]
    assert written[0].sum() > 0 and written[1].sum() > 1.5 * written[0].sum() and written[2].sum() == 0
    assert all(abs(np.argwhere(band)[:, 0].mean() - len(band) / 2) < 10 for band in written[:2]), "in the middle"


@pytest.mark.parametrize(
    ("n", "columns", "shape"), [(1, None, (1, 1)), (5, None, (2, 3)), (9, None, (3, 3)), (5, 5, (1, 5)), (5, 2, (3, 2))]
)
def test_the_grid_is_about_square_unless_told(n, columns, shape):
    picture = image_grid(torch.zeros(n, 1, 6, 4), columns, gap=2, least=0)
    assert picture.size == (shape[1] * 6 + 2, shape[0] * 8 + 2)


def test_images_are_not_swapped():
    x = torch.arange(6).view(6, 1, 1, 1).expand(6, 1, 2, 3) / 10
    pixels = array(image_grid(x, columns=3, gap=0, least=0))[..., 0]
    assert pixels[::2, ::3].tolist() == [[0, 26, 51], [76, 102, 128]]


# ---- signals ----


def test_signals_are_drawn_to_scale():
    """A step from -1 to 1 is a line that runs left below and right above."""
    x = torch.cat([-torch.ones(50), torch.ones(50)]).view(1, 1, 100)
    blue = array(signal_grid(x)).astype(int)
    marks = np.argwhere((blue[..., 2] > 150) & (blue[..., 0] < 80))  # matplotlib's first color
    height, width = blue.shape[:2]
    left, right = marks[marks[:, 1] < 0.4 * width, 0], marks[marks[:, 1] > 0.7 * width, 0]
    assert len(left) and len(right)
    assert left.min() > 0.5 * height > right.max()


@pytest.mark.parametrize(("n", "columns", "shape"), [(1, None, (1, 1)), (3, None, (2, 2)), (4, 4, (1, 4))])
def test_sizes_of_signal_grids(n, columns, shape):
    picture = signal_grid(torch.randn(n, 2, 30), columns)
    assert picture.size == (round(190 * shape[1]), round(130 * shape[0]))


def test_no_axes_are_drawn_where_there_is_no_signal():
    picture = array(signal_grid(torch.randn(3, 1, 30)))
    last = picture[picture.shape[0] // 2 + 20 :, picture.shape[1] // 2 + 30 :]
    assert (last == 255).all()


def test_samples_are_drawn_as_what_they_are():
    images, signals, points = torch.rand(4, 1, 5, 5), torch.randn(4, 1, 20), torch.randn(4, 2)
    assert (array(sample_grid(images)) == array(image_grid(images))).all()
    assert (array(sample_grid(signals, 2)) == array(signal_grid(signals, 2))).all()
    assert (array(sample_grid(points)) == array(point_cloud(points))).all()


# ---- points ----


def marks(picture) -> np.ndarray:
    """Rows and columns of the pixels that have any color."""
    pixels = array(picture).astype(int)
    return np.argwhere(pixels.max(-1) - pixels.min(-1) > 40)


def center(*point: float) -> np.ndarray:
    """Where a single point is drawn."""
    return marks(point_cloud(torch.tensor([point]))).mean(0)


def test_points_are_drawn_to_scale_on_equal_axes():
    unit = center(1, 0)[1] - center(0, 0)[1]
    assert 100 < unit < 600 / 5
    for u, v in [(0, 0), (-2, 0), (0, 2), (1.5, -0.5)]:
        assert center(u, v) - center(0, 0) == pytest.approx([-v * unit, u * unit], abs=1)
    assert center(1) == pytest.approx(center(1, 0)), "a single coordinate lies on the axis"
    assert center(1, 0.5, 7) == pytest.approx(center(1, 0.5)), "of several, the first two are drawn"


@pytest.mark.parametrize("n", [1, 100, 20000])
def test_many_points_leave_the_picture_readable(n):
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
    shown = len(marks(point_cloud(x))) / 600**2
    assert 2e-5 < shown < 0.6


def test_the_limit_is_the_same_for_like_points():
    x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    assert [limit_of(v) for v in (x, 0.1 * x, 0 * x, x[:0], x / 0)] == [2.5] * 5
    assert limit_of(2 * x) == 5 and limit_of(80 * x) == 320
    some = torch.where(torch.arange(4000)[:, None] < 40, 1e6, x)
    assert limit_of(some) == 2.5, "a few that stray do not move the rest"
    assert limit_of(torch.where(torch.arange(4000)[:, None] < 400, torch.nan, x)) == 2.5


def test_points_outside_are_counted():
    x = torch.zeros(100, 2)
    inside, outside = point_cloud(x), point_cloud(torch.where(torch.arange(100)[:, None] == 0, 9.0, x))
    changed = np.argwhere((array(inside) != array(outside)).any(-1))
    assert len(changed) and (changed[:, 0] < 50).any() and (changed[:, 1] > 400).any(), "the note in the corner"


def test_labels_color_points():
    x, label = torch.tensor([[-1.0, 0], [1, 0]]), torch.tensor([0, 3])
    pixels = array(point_cloud(x, label)).astype(int)
    left, right = (pixels[row, column] for row, column in (center(-1, 0).astype(int), center(1, 0).astype(int)))
    assert left[2] > left[0] + 50 and right[0] > right[2] + 50, "blue and red"
    assert (array(sample_grid(x, label=label)) == pixels).all()


def test_a_strip_of_points_shows_each_panel():
    """Original on the left, over it to the right the noisy points, below them the denoised."""

    def at(u, v):
        return torch.tensor([u, v]) + 0.05 * torch.randn(50, 2, generator=torch.Generator().manual_seed(0))

    picture = denoising_strip(at(0, 0), [at(-2, -2), at(-2, 2)], [at(2, 2), at(2, -2)], ["t = 0.2", "t = 0.9"])
    assert picture.size == (820, 420)
    rows, columns = marks(picture).T
    assert columns.min() == pytest.approx(210, abs=40) and 180 < rows[columns < 300].mean() < 240
    for low, high, noisy, denoised in [(420, 620, "low left", "top right"), (620, 820, "top left", "low right")]:
        for name, part in ((noisy, rows < 210), (denoised, rows >= 210)):
            part = part & (columns > low) & (columns < high)
            row, column = rows[part].mean() - 210 * ("right" in name), columns[part].mean() - low
            assert (row < 100) == ("top" in name) and (column < 100) == ("left" in name), name


def test_the_hues_of_a_strip_follow_the_points():
    x = torch.tensor([[1.0, 0], [-1, 0]]).repeat(50, 1)
    straight = array(denoising_strip(x, [x], [x], ["t"]))
    swapped = array(denoising_strip(x, [-x], [x], ["t"]))
    assert (straight[:200, 420:] != swapped[:200, 420:]).any()
    assert (straight[220:, 420:] == swapped[220:, 420:]).all() and (straight[:, :400] == swapped[:, :400]).all()


# ---- trajectories ----


def test_frames_of_a_trajectory_have_common_axes():
    """The axes of the last frame, even where the first is a thousand times as wide."""
    end = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    frames = trajectory_frames(torch.stack([1000 * end, 0 * end, end]))
    assert len({frame.size for frame in frames}) == 1 and frames[0].size == (480, 480)
    edges = [array(frame)[:, :30] for frame in frames]  # where the ticks are labeled
    assert all((edge == edges[0]).all() for edge in edges)
    assert (array(frames[-1]) == array(point_cloud(end, limit=2.5, side=4.8))).all()


def test_frames_are_spread_over_a_trajectory():
    path = (torch.arange(9) / 8).view(9, 1, 1, 1, 1).expand(9, 2, 1, 4, 4)
    frames = trajectory_frames(path, frames=5)
    assert [array(frame)[100, 100, 0] for frame in frames] == [0, 64, 128, 191, 255]
    assert len(trajectory_frames(path)) == 9 and (array(frames[-1]) == array(image_grid(path[-1], least=420))).all()


@pytest.mark.most(1)
@pytest.mark.parametrize(("shape", "most"), [((1, 20), 16), ((1, 4, 4), 64), ((2,), 5000)])
def test_frames_show_no_more_than_reads_well(shape, most):
    x = torch.rand(1, most + 30, *shape, generator=torch.Generator().manual_seed(0))
    label = torch.arange(most + 30)
    (shown,), (expected,) = trajectory_frames(x, label), trajectory_frames(x[:, :most], label[:most])
    assert (array(shown) == array(expected)).all()


# ---- denoising ----


@pytest.mark.parametrize("n", [1, 6])
def test_a_strip_of_signals(n):
    x_0 = torch.sin(torch.linspace(0, 6, 40)).expand(n, 1, 40)
    parts = (x_0, [x_0 + 0.5, x_0 + 1], [x_0 - 0.5, x_0 - 1], ["t = 0.2", "t = 0.9"])
    picture = denoising_strip(*parts)
    assert picture.size == (440, 160 * min(n, 4) + 40)
    assert all(share(picture, color) > 1e-4 for color in COLORS)
    assert (array(denoising_strip(*parts)) == array(picture)).all()


def test_a_strip_of_images_shows_each_row():
    def plain(value, n=3):
        return torch.full((n, 1, 8, 8), value)

    picture = denoising_strip(plain(0.1), [plain(0.3), plain(0.5)], [plain(0.7), plain(0.9)], ["a", "b"])
    shown = array(picture)[..., 0]
    middles = [np.argwhere(shown == value)[:, 0].mean() for value in (26, 76, 178, 128, 230)]
    assert middles == sorted(middles) and np.diff(middles) == pytest.approx(picture.height / 5, abs=2)


@pytest.mark.parametrize("size", [(8, 8), (8, 16), (12, 4)])
def test_strips_of_images_that_are_not_square(size):
    x = torch.rand(2, 3, *size)
    picture = denoising_strip(x, [x], [x], ["t = 0.5"])
    assert picture.width == 330 and picture.height == int(240 * size[0] / size[1])


# ---- curves and schedules ----


def rows(*series: tuple[str, list[float]]) -> list[dict[str, float]]:
    return [{"step": 10 * i, **{key: values[i] for key, values in series}} for i in range(len(series[0][1]))]


def test_curves_that_are_there_are_drawn():
    train = ("train/loss", [3.0, 2.0, 1.0])
    raw, ema = ("val/loss_raw", [3.0, 2.5, 2.0]), ("val/loss_ema", [2.0, 1.5, 1.2])
    both = ("train/loss_ema", [2.0, 1.4, 1.0])
    picture = loss_curves(rows(train, raw, ema, both))
    assert picture.size == (900, 500)
    assert all(share(picture, color) > 1e-4 for color in COLORS)
    picture = loss_curves(rows(train, ema))
    assert share(picture, "orange") == 0 and share(picture, "blue") > 1e-4
    picture = loss_curves(rows(("other", [1.0, 2.0])))
    assert not any(share(picture, color) for color in COLORS)


@pytest.mark.parametrize("values", [[1.0], [0.0, 1.0], [-1.0, -2.0], [float("nan"), 1.0], [float("nan")]])
def test_curves_of_odd_values(values):
    assert loss_curves(rows(("train/loss", values))).size == (900, 500)


def test_curves_of_an_empty_file(tmp_path):
    assert loss_curves([]).size == (900, 500)


@pytest.mark.strength(1)
@pytest.mark.parametrize("name", ["linear", "flow", "laplace", "ve_sde", "edm"])
@pytest.mark.parametrize("shape", [(1, 2, 20), (1, 1, 8, 8), (1, 3, 6, 8), (50, 2)])
def test_schedule_picture(name, shape):
    schedule = SCHEDULES[name]()
    x_0 = torch.linspace(-1, 1, 20).expand(1, 1, 20).repeat(1, shape[1], 1) if len(shape) == 3 else torch.zeros(shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    picture = schedule_picture(schedule, x_0, noise)
    assert picture.size == (1000, 520)
    assert share(picture, "blue") > 1e-3 and share(picture, "orange") > 1e-3
    other = schedule_picture(schedule, x_0, -noise)
    assert (array(other) != array(picture)).any()
    if len(shape) == 4:  # signals bring an axis along, whose width moves everything
        assert (array(other)[:300] == array(picture)[:300]).all()


def test_pictures_do_without_pyplot():
    """Its figures would live on in global state, and without a screen some of its backends fail."""
    for path in (Path(__file__).parents[2] / "src").rglob("*.py"):
        assert not re.search(r"import .*pyplot|pyplot import|plt\.", path.read_text()), path


def test_curves_leave_no_figure_with_pyplot(tmp_path):
    """Lightning imports torchmetrics, and that pyplot; the curves must not use it."""
    from matplotlib import pyplot

    loss_curves(rows(("train/loss", [1.0, 2.0])))
    assert pyplot.get_fignums() == []


def test_points_in_any_unit_fill_their_axes():
    """Those about zero are on symmetric axes, for comparison; others in a box of their own."""
    x = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    assert frame_of(x) == ((-2.5, 2.5), (-2.5, 2.5))
    (a, b), (c, d) = frame_of(torch.tensor([1e-3, 100.0]) * x + torch.tensor([5.0, -1e6]))
    assert a == pytest.approx(5 - 3.14e-3, abs=3e-4) and b == pytest.approx(5 + 3.14e-3, abs=3e-4)
    assert c == pytest.approx(-1e6 - 314, abs=20) and d == pytest.approx(-1e6 + 314, abs=20)
    seen = marks(point_cloud(torch.tensor([1e-3, 100.0]) * x + torch.tensor([5.0, -1e6])))
    assert np.ptp(seen, 0).min() > 300


def test_a_color_bar_shows_the_units_of_fields():
    x = torch.linspace(20, 40, 64).view(1, 1, 8, 8)
    picture, bare = sample_grid(x, kind="fields"), image_grid(as_tiles(x, "fields"))
    assert picture.height == bare.height and picture.width > bare.width + 40
    bar = array(picture)[:, bare.width + 12]
    zoom = bare.width // 12
    assert np.abs(bar[0] - array(bare).astype(int)[-3 * zoom, -3 * zoom]).max() <= 6, "the last pixel is the highest"
    assert sample_grid(x / 40, kind="images").size == image_grid(x / 40).size
