"""The map between the units of the data and those of the model."""

import math

import pytest
import torch
from torch.testing import assert_close

from src.utils.units import IMAGES, Units, units_of

CHANNELS = Units((2.0, 0.5), (10.0, -1.0), 1, (0.0, -2.0), (20.0, 0.0))


def test_images_are_in_the_range_0_to_1_to_the_bit():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(IMAGES.to_units(x), ((x + 1) / 2).clamp(0, 1))
    assert torch.equal(IMAGES.to_units(x, clip=False), (x + 1) / 2)
    assert torch.equal(IMAGES.to_model(x), 2 * x - 1)
    assert IMAGES.std_to_model(0.3) == 0.6 and IMAGES.std_to_units(0.6) == 0.3 and IMAGES.clip_bound == [[-1], [1]]


@pytest.mark.parametrize("kind", ["points", "signals", "fields", "volumes"])
def test_other_data_are_as_in_the_model_unless_said(kind):
    x = torch.randn(3)
    assert units_of(kind).to_units(x) is x and units_of(kind).to_model(x) is x
    assert units_of(kind).clip_bound is None and units_of(kind).log_volume((3,)) == 0


def test_channels_have_units_of_their_own():
    x = torch.ones(4, 3, 2, 5)  # as of a trajectory
    there = CHANNELS.to_units(x)
    assert (there[:, :, 0] == 12).all() and (there[:, :, 1] == -0.5).all()
    assert_close(CHANNELS.to_model(there), x)
    assert CHANNELS.clip_bound == [[-5, -2], [5, 2]]
    assert CHANNELS.log_volume((2, 5)) == pytest.approx(5 * (math.log(2) + math.log(0.5)))
    assert CHANNELS.std_to_units(1) == pytest.approx(math.sqrt((4 + 0.25) / 2))
    assert CHANNELS.std_to_model(CHANNELS.std_to_units(0.3)) == pytest.approx(0.3)


@pytest.mark.parametrize("units", [IMAGES, CHANNELS, Units()])
def test_units_are_saved_as_plain_containers(units):
    saved = units.as_dict()
    assert Units.read(saved) == units and all(isinstance(v, list | int | None) for v in saved.values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": math.nan},
        {"shift": [math.nan]},
        {"scale": ["abc"]},
        {"shift": ["abc"]},
        {"shift": [-math.inf]},
        {"a": 1},
    ],
)
def test_only_numbers_are_units(wrong):
    with pytest.raises(ValueError, match="units must have"):
        Units.read({"scale": [1], "shift": [0]} | wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": (0.0,)}, {"scale": (math.inf,)}, {"scale": (1.0, 1.0)},
        {"low": (0.0, 0.0), "high": (1.0, 1.0)}, {"low": (1.0,), "high": (1.0,)},
    ],
)  # fmt: skip
def test_impossible_units_are_refused(wrong):
    with pytest.raises(ValueError, match="units must have"):
        Units(**wrong)
