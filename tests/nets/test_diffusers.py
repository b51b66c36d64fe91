"""Models of diffusers with every condition: what it says reaches the model, and what is withheld does not."""

from functools import partial

import pytest
import torch

from src.diffusion.conditions import Combined, Image, Labels, Text, Vector, null_like
from src.nets.diffusers import DiffusersNet
from src.nets.text_encoders import ByteEncoder

pytest.importorskip("diffusers")

PLAIN = {"block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4}
MODELS = {
    "UNet2DModel": PLAIN | {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2},
    "UNet2DConditionModel": PLAIN
    | {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "attention_head_dim": 4}
    | {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]},
}


def text():
    return Text(12, partial(ByteEncoder, width=16, depth=1, num_heads=2))


CONDITIONS = {
    "vector": lambda: Vector(2), "image": lambda: Image((1, 4, 4)), "text": text,
    "several": lambda: Combined({"a": Labels(3), "b": Vector(2), "c": Image((1, 4, 4)), "d": text()}),
}  # fmt: skip
VALUES = {"label": [2], "vector": [0.5, -1.0], "image": torch.ones(1, 1, 4, 4), "text": "a 7"}


@pytest.mark.parametrize("name", CONDITIONS)
@pytest.mark.parametrize("model", MODELS)
def test_each_condition_reaches_the_model(model, name):
    torch.manual_seed(0)
    condition = CONDITIONS[name]()
    net = DiffusersNet(1, (8, 8), model, MODELS[model], encoders=condition.encoders).eval()
    given = {key: value for key, value in VALUES.items() if key in condition.members}
    x, c_noise = torch.randn(2, 1, 8, 8), torch.tensor([100.0, 900.0])
    cond = condition.prepare(condition.request(given, 2))
    out = net(x, c_noise, cond)
    assert out.shape == x.shape
    nothing = condition.prepare(null_like(cond))
    assert (net(x, c_noise, nothing) - out).abs().amax((1, 2, 3)).min() > 1e-4
    for key in given if isinstance(cond, dict) else ():
        one = cond | {key: nothing[key]}
        assert (net(x, c_noise, one) - out).abs().amax((1, 2, 3)).min() > 1e-5, key


@pytest.mark.parametrize("model", MODELS)
def test_classes_alone_and_nothing(model):
    x, c_noise = torch.randn(2, 1, 8, 8), torch.tensor([100.0, 900.0])
    assert DiffusersNet(1, (8, 8), model, MODELS[model])(x, c_noise).shape == x.shape
    net = DiffusersNet(1, (8, 8), model, MODELS[model], num_classes=3).eval()
    first, second = (net(x, c_noise, torch.tensor(label)) for label in ([0, -1], [1, -1]))
    assert not torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_a_model_without_a_place_for_a_vector():
    with pytest.raises(ValueError, match=r"UNet1DModel takes classes and images only; use net.model=UNet2DModel"):
        DiffusersNet(1, (8,), "UNet1DModel", encoders=Vector(2).encoders)
