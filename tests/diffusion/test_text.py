"""Texts as tensors, and the condition that they are."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.diffusion.beta_schedules import CosineSchedule
from src.diffusion.conditions import Text
from src.diffusion.conditions.text import decode_text, encode_text
from src.diffusion.denoiser import Denoiser
from src.diffusion.losses import MSE
from src.diffusion.parameterizations import V
from src.diffusion.weightings import v_weighting
from src.nets import MLP
from src.nets.text_encoders import ByteEncoder
from src.samplers.ode import Heun
from src.samplers.pipeline import Pipeline


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=10), min_size=1, max_size=3))
def test_texts_come_back(texts):
    assert decode_text(encode_text(texts, 40)) == texts


def test_bytes_are_padded():
    assert encode_text(["é7", ""], 4).tolist() == [[0xC3, 0xA9, 0x37, -1], [-1] * 4]
    assert encode_text(["a"], 1).dtype == torch.int64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a bold 7", r"at most 5 bytes, got 8: 'a bold 7'"),
        ("ééé", r"at most 5 bytes, got 6"),
        ("x" * 100, r"got 100: 'x{57}\.\.\.'$"),
        ("\udcff", r"must be UTF-8, got '\\udcff'"),
    ],
)
def test_what_does_not_fit_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        encode_text([text], 5)


LENGTH = 12


def text(dropout=0.1):
    return Text(LENGTH, partial(ByteEncoder, width=16, depth=1, num_heads=2), dropout)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_empty_text_is_the_null_value():
    condition, given = text(), encode_text(["a bold 7", "three"], LENGTH)
    assert torch.equal(condition.null(2), encode_text(["", ""], LENGTH))
    dropped = condition.drop(given, torch.tensor([True, False]))
    assert decode_text(dropped) == ["", "three"] and condition.num_classes == 0


def test_new_samples_get_texts_of_the_data():
    condition = text()
    assert not condition.is_fitted
    condition.fit([{"text": encode_text(["a", "b"], LENGTH)}, {"text": encode_text(["c"], LENGTH)}], seeded())
    assert condition.is_fitted and {*decode_text(condition.sample(50, seeded()))} == {"a", "b", "c"}
    assert torch.equal(condition.sample(50, seeded())[:9], condition.sample(9, seeded()))


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("a bold 7", ["a bold 7"]),
        (7, ["7"]),
        (["one", 2], ["one", "2"]),
        (None, [""]),
        (encode_text(["x"], LENGTH), ["x"]),
    ],
)
def test_what_a_user_gives(value, texts):
    assert text().captions(text().read(value)) == texts


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a bold slanted 7", "at most 12 bytes, got 16: 'a bold slanted 7'"),
        ([["a"]], "must be a text, or a list of them"),
        ([], "must be a text, or a list of them"),
        (torch.zeros(2, 3), r"must be int64 \(m, 12\), bytes padded with -1, got torch.float32 \(2, 3\)"),
    ],
)
def test_what_is_no_text(value, message):
    with pytest.raises(ValueError, match=message):
        text().read(value)


def test_data_must_give_texts_of_the_length():
    with pytest.raises(ValueError, match="the data must give a `text` for each sample, but they give none"):
        Text(0, ByteEncoder)
    with pytest.raises(ValueError, match="must give `text` for each sample, but their batches have x only"):
        text().check_data({"x": torch.zeros(1, 2)}, 1)
    with pytest.raises(ValueError, match=r"`text` of the data must have the shape \(12,\), got \(5,\)"):
        text().check_data({"x": torch.zeros(1, 2), "text": torch.zeros(1, 5, dtype=torch.int64)}, 1)


def test_a_text_says_which_of_two_modes():
    """Points near -1 and 1, and a text that names the side in one of several ways: samples go where it says."""
    torch.manual_seed(0)
    condition = text(dropout=0.2)
    net = MLP(1, (), width=64, depth=2, encoders=condition.encoders)
    denoiser = Denoiser(net, CosineSchedule(), V(), condition=condition)
    words = (("left", "go left"), ("right", "go right"))
    texts = encode_text([word for side in words for word in side], LENGTH)
    optimizer = torch.optim.Adam(denoiser.parameters(), 5e-3)
    condition.fit([{"text": texts}], seeded())
    draws, loss = seeded(1), MSE(v_weighting)
    for _ in range(150):
        which = torch.randint(4, (64,), generator=draws)
        x = torch.where(which < 2, -1.0, 1.0)[:, None] + 0.1 * torch.randn(64, 1, generator=draws)
        cond = condition.withhold(texts[which], lambda: torch.rand(64, generator=draws))
        t = torch.rand(64, generator=draws, dtype=torch.float64).clamp(1e-3)
        optimizer.zero_grad()
        loss(denoiser, x, t, torch.randn(64, 1, generator=draws), cond).mean().backward()
        optimizer.step()
    pipeline = Pipeline(denoiser, Heun(CosineSchedule(), steps=8), (1,))
    left, right = (pipeline.sample(60, cond=texts[[i]].expand(60, -1)) for i in (1, 3))
    assert (left < -0.5).float().mean() > 0.95 and (right > 0.5).float().mean() > 0.95
    either = pipeline.sample(200, cond=condition.null(200))
    assert 0.25 < (either > 0).float().mean() < 0.75
