"""Plots of comparisons: fronts by brute force, axes that put numbers where they belong, and something to see."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from src.plots.axes import SIZE, log_scale, shorten
from src.plots.parallel import apart, make_ruler, parallel_coordinates
from src.plots.pictures import new_figure
from src.plots.quality_against_cost import Point, pareto_front, quality_against_cost
from src.plots.side_by_side import how_many, side_by_side
from src.plots.training_curves import training_curves

pytestmark = pytest.mark.strength(1)


def beaten(p, q, sign) -> bool:
    """Whether q is at least as good as p in both, and better in one."""
    (cost, value), (other_cost, other) = p, q
    return other_cost <= cost and sign * other <= sign * value and (other_cost, other) != (cost, value)


@pytest.mark.parametrize("better", ["lower", "higher"])
@pytest.mark.parametrize("seed", range(20))
def test_pareto_front_by_brute_force(better, seed):
    """Of points with many ties, and with points that are there twice."""
    rng = np.random.default_rng(seed)
    points = [tuple(p) for p in rng.integers(0, 6, (rng.integers(1, 25), 2)).tolist()]
    sign = 1 if better == "lower" else -1
    expected = {i for i, p in enumerate(points) if not any(beaten(p, q, sign) for q in points)}
    front = pareto_front(points, better)
    assert set(front) == expected and len(front) == len(expected)
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)


@pytest.mark.parametrize(
    ("texts", "heights"),
    [
        (["1", "2", "3"], [0, 0.5, 1]),
        (["1e-4", "1e-3", "1e-2"], [0, 0.5, 1]),
        (["10", "9"], [1, 0]),
        (["linear", "cosine", "linear", "edm"], [1, 0, 1, 0.5]),
        (["-1", "1", "0"], [0, 1, 0.5]),
        (["x", "x"], [0.5, 0.5]),
    ],
    ids=str,
)
def test_where_values_stand_on_an_axis(texts, heights):
    """Numbers by their value, over a wide range by their logarithm; words in the order of the alphabet."""
    assert make_ruler(texts).heights == pytest.approx(heights)


def colors_in(picture) -> set[tuple[int, ...]]:
    pixels = np.asarray(picture)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3
    values, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    return {tuple(v) for v, n in zip(values.tolist(), counts, strict=True) if n > 20}


BLUE, RED = (0, 114, 178), (213, 94, 0)


def test_every_series_is_drawn():
    points = [Point("ddim", "5", 5, 9.0, 8, 10), Point("ddim", "50", 50, 2.0), Point("heun", "9", 9, 3.0, 2, 4)]
    for joined in (False, True):
        picture = quality_against_cost(points, "evaluations", "distance", "lower", real_baseline=0.5, joined=joined)
        assert colors_in(picture) >= {BLUE, RED}
    assert quality_against_cost([Point("a", "1", 1, -1.0)], "x", "y", "higher").size == picture.size


@pytest.mark.most(1)
@pytest.mark.parametrize("values", [([3.0, 2.0], [2.5, 2.4]), ([-1.0, 0.0], [1.0, 2.0])], ids=str)
def test_curves_of_seeds_share_a_color(values):
    first, second = values
    x = [1.0, 2.0]
    seeds = training_curves({"a": [(x, first), (x, second)]}, "images", "loss")
    rows = training_curves({"a": [(x, first)], "b": [(x, second)]}, "images", "loss")
    assert BLUE in colors_in(seeds) and RED not in colors_in(seeds) and {BLUE, RED} <= colors_in(rows)
    assert seeds.size == rows.size


def test_many_curves_are_named_below_each_other():
    few, many = (
        training_curves({f"a long name {i}": [([1.0, 2.0], [3.0, 2.0])] for i in range(n)}, "images", "loss")
        for n in (2, 14)
    )
    assert many.width == few.width and many.height > few.height


def test_parallel_coordinates_grow_with_the_settings():
    settings = {"schedule": ["linear", "cosine", "cosine"], "optimizer.lr": ["1e-4", "1e-4", "3e-4"]}
    small = parallel_coordinates(settings, "val loss", [0.3, 0.2, 0.1])
    large = parallel_coordinates(settings | {f"k{i}": ["1", "2", "3"] for i in range(4)}, "x", [1.0, 1.0, 1.0])
    assert large.width > small.width and len(colors_in(small)) > 3


@pytest.mark.parametrize("shape", [(2,), (1, 30), (2, 30), (1, 8, 8), (3, 8, 12)], ids=str)
@pytest.mark.parametrize("runs", [1, 2, 9])
def test_samples_side_by_side(shape, runs):
    samples = {f"run {i}": torch.rand(20, *shape, generator=torch.Generator().manual_seed(i)) for i in range(runs)}
    picture = side_by_side(samples)
    assert 200 < picture.width < 2000 and np.asarray(picture).std() > 0


def test_images_stand_in_the_row_of_their_run():
    """Rows in the order of the runs, columns in that of the noise."""
    x = torch.linspace(0, 1, 8).view(2, 4, 1, 1, 1).expand(2, 4, 1, 5, 5)
    picture = np.asarray(side_by_side({"a": x[0], "b": x[1]}))
    height, margin = picture.shape[0] // 2, picture.shape[1] - 4 * (picture.shape[0] // 2)
    for row in range(2):
        for i in range(4):
            pixel = picture[row * height + height // 2, margin + i * height + height // 2, 0]
            assert abs(pixel / 255 - float(x[row, i, 0, 0, 0])) < 0.01


def test_names_on_an_axis_do_not_overlap():
    """All of a few; of many those that have room, the ends among them."""
    few = {"a": 0.0, "b": 0.5, "c": 1.0}
    assert apart(few) == list(few)
    many = {str(i): i / 99 for i in range(100)}
    heights = [many[name] for name in apart(many)]
    assert heights[0] == 0 and heights[-1] == 1 and len(heights) > 10
    assert min(b - a for a, b in pairwise(heights)) >= 0.06
    assert apart({"one": 0.5}) == ["one"]


def test_the_other_runs_are_gray():
    curve = [([1.0, 2.0], [3.0, 2.0])]
    alone = training_curves({"a": curve}, "x", "y")
    beside = training_curves({"a": curve}, "x", "y", others=[([1.0, 2.0], [5.0, math.nan])] * 3)
    assert alone.size[0] == beside.size[0] and (np.asarray(alone) != np.asarray(beside)).any()


@pytest.mark.parametrize(
    ("shape", "n", "said"),
    [((16, 1, 50), None, ", 4 of 16 shown"), ((3, 1, 50), None, ""), ((20, 1, 8, 8), 1000, ", 16 of 1,000 shown"),
     ((1000, 2), None, ""), ((5, 1, 8, 8), None, "")],
)  # fmt: skip
def test_what_a_picture_leaves_out_is_said(shape, n, said):
    assert how_many(torch.zeros(shape), n) == said


def test_long_names_lose_their_middle():
    assert shorten("short") == "short"
    name = shorten("a" * 50 + "b" * 50, 21)
    assert name == "a" * 10 + "…" + "b" * 10


@pytest.mark.parametrize(("low", "high"), [(0.14, 0.35), (0.1, 0.11), (0.9, 1.2), (3.0, 11.0), (0.01, 90), (1e-5, 1e4)])
def test_numbers_on_a_logarithmic_axis_do_not_overlap(low, high):
    """At least two of them, and none nearer to the next than it is high."""
    figure, axes = new_figure(*SIZE)
    axis = axes[0, 0]
    axis.plot([0, 1], [low, high])
    log_scale(axis, "y", [low, high])
    figure.canvas.draw()
    boxes = [t.get_window_extent() for t in axis.get_yticklabels(which="both") if t.get_text() and t.get_visible()]
    shown = sorted((b for b in boxes if axis.bbox.y0 - 1 <= (b.y0 + b.y1) / 2 <= axis.bbox.y1 + 1), key=lambda b: b.y0)
    assert len(shown) >= 2 and all(a.y1 <= b.y0 for a, b in pairwise(shown))
