"""Samples with their conditions: what is drawn beside and behind them."""

import numpy as np
import pytest
import torch

from src.plots.conditions import MAX_TILES, beside_condition, conditioned_grid


def test_an_image_is_to_the_left_of_its_sample():
    small, x = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 4, 4)
    small[1] = 0.5
    tile = np.asarray(
        beside_condition(x, small.repeat_interleave(2, 2).repeat_interleave(2, 3), "images")[1].convert("L")
    )
    assert tile.shape == (6, 11)
    assert abs(tile[1:5, 1:5].mean() - 128) < 1 and (tile[1:5, 6:10] == 255).all()


@pytest.mark.parametrize("shape", [(1, 20), (2, 20), (1, 8, 8), (3, 8, 8)])
@pytest.mark.parametrize("image", [True, False])
def test_any_kind(shape, image):
    n = MAX_TILES[1 + len(shape)] + 3
    given = torch.rand(n, 1, *(s // 2 for s in shape[1:])) if image else None
    kind = "images" if len(shape) == 3 else "signals"
    picture = conditioned_grid(torch.rand(n, *shape)[:3], ["a bold slanted 7, far to the left"] * 3, given, kind)
    assert len(np.unique(np.asarray(picture))) > 2
