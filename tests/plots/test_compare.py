"""Plots of comparisons: fronts by brute force, axes that put numbers where they belong, and something to see."""

import numpy as np
import pytest
import torch

from src.plots.compare import (
    Point,
    pareto_front,
    quality_against_cost,
    side_by_side,
    training_curves,
)
from src.plots.parallel import parallel_coordinates, place


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
    assert place(texts).heights == pytest.approx(heights)


def colors_in(picture) -> set[tuple[int, ...]]:
    pixels = np.asarray(picture)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3
    values, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    return {tuple(v) for v, n in zip(values.tolist(), counts, strict=True) if n > 20}


BLUE, RED = (0, 114, 178), (213, 94, 0)


def test_every_series_is_drawn():
    points = [Point("ddim", "5", 5, 9.0, 8, 10), Point("ddim", "50", 50, 2.0), Point("heun", "9", 9, 3.0, 2, 4)]
    for joined in (False, True):
        picture = quality_against_cost(points, "evaluations", "distance", "lower", floor=0.5, joined=joined)
        assert colors_in(picture) >= {BLUE, RED}
    assert quality_against_cost([Point("a", "1", 1, -1.0)], "x", "y", "higher").size == picture.size


@pytest.mark.parametrize("values", [([3.0, 2.0], [2.5, 2.4]), ([-1.0, 0.0], [1.0, 2.0])], ids=str)
def test_curves_of_seeds_share_a_color(values):
    first, second = values
    x = [1.0, 2.0]
    seeds = training_curves({"a": [(x, first), (x, second)]}, "images", "loss")
    rows = training_curves({"a": [(x, first)], "b": [(x, second)]}, "images", "loss")
    assert BLUE in colors_in(seeds) and RED not in colors_in(seeds) and {BLUE, RED} <= colors_in(rows)
    many = training_curves({f"a long name {i}": [(x, first)] for i in range(30)}, "images", "loss")
    assert seeds.size == rows.size and many.width == rows.width and many.height > rows.height


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
