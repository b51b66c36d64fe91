"""Vectors, images and combinations: what a network is told of them, withheld and guided, and drawn for new samples."""

import pytest
import torch
from torch import nn

from src.diffusion.beta_schedules import CosineSchedule
from src.diffusion.conditions import (
    ClassEncoder,
    Combined,
    Condition,
    Image,
    ImageEncoder,
    Labels,
    Measured,
    NoCondition,
    Vector,
    VectorEncoder,
    cat_cond,
    class_of,
    count_cond,
    is_null,
    null_like,
    rows_of,
)
from src.diffusion.conditions.base import Examples
from src.diffusion.conditions.vector import restored
from src.diffusion.denoiser import Denoiser, Prediction
from src.diffusion.guidance import CFG, IntervalGuidance, scale_chain
from src.diffusion.operators import Blur, Downsample, Mask
from src.diffusion.parameterizations import V
from src.nets.base import Net
from src.nets.mlp import MLP
from src.nets.unet import UNet

N = 40


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def data(n=N):
    g = seeded(1)
    image = torch.randn(n, 2, 4, 4, generator=g) * torch.tensor([3.0, 0.1]).view(1, 2, 1, 1) + 5
    vector = torch.randn(n, 2, generator=g) * torch.tensor([100.0, 0.01]) + torch.tensor([7.0, -2.0])
    return {"x": torch.randn(n, 1, 8, 8, generator=g), "label": torch.arange(n) % 5, "vector": vector, "image": image}


def fitted(condition, batch=None):
    batch = data() if batch is None else batch
    parts = [{name: value[i : i + 7] for name, value in batch.items()} for i in range(0, len(batch["x"]), 7)]
    condition.fit(parts, seeded())
    return condition


def combined(dropout=0.05, each=0.1):
    parts = {"b": Vector(2, dropout=each), "a": Labels(5, dropout=each), "c": Image((2, 4, 4), dropout=each)}
    return fitted(Combined(parts, dropout))


def low_resolution(dropout=0.1):
    return Measured(lambda shape: Downsample(2), 1, (8, 8), dropout)


def test_vectors_are_told_standardized_and_kept_in_their_units():
    condition, batch = fitted(Vector(2)), data()
    assert not Vector(2).is_fitted and condition.is_fitted
    cond = condition(batch)
    assert torch.equal(cond, batch["vector"])
    told = condition.prepare(cond)
    torch.testing.assert_close(told.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(told.std(0, correction=0), torch.ones(2), atol=1e-3, rtol=0)
    drawn = condition.sample(50, seeded())
    assert torch.equal(condition.sample(7, seeded()), drawn[:7]) and len(drawn.unique(dim=0)) > 10
    assert all(any(torch.equal(row, one) for one in batch["vector"]) for row in drawn), "they are some of the data"
    again = Vector(2)
    again.load_state_dict(condition.state_dict())
    assert (
        again.is_fitted and torch.equal(again.prepare(cond), told) and torch.equal(again.sample(9, seeded()), drawn[:9])
    )


def test_a_number_that_is_constant_divides_nothing_by_zero():
    batch = data() | {"vector": torch.full((N, 1), 3.0)}
    condition = fitted(Vector(1), batch)
    assert condition.prepare(batch["vector"]).eq(0).all()


def test_images_are_told_standardized_by_channel_without_what_is_missing():
    batch = data()
    batch["image"][:, :, :, 2:] = torch.nan
    condition = fitted(Image((2, 4, 4)), batch)
    known = condition.prepare(batch["image"])[..., :2]
    torch.testing.assert_close(known.mean((0, 2, 3)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(known.std((0, 2, 3), correction=0), torch.ones(2), atol=1e-3, rtol=0)
    assert condition.sample(3, seeded()).shape == (3, 2, 4, 4)


@pytest.mark.parametrize(
    ("operator", "shape"), [(Downsample(2), (1, 4, 4)), (Blur(1.0), (1, 8, 8)), (lambda x: x[:, :, 2:5], (1, 3, 8))]
)
def test_measured_images(operator, shape):
    batch, condition = data(), Measured(lambda shape: operator, 1, (8, 8))
    assert torch.equal(condition(batch), operator(batch["x"])) and condition(batch).shape[1:] == shape
    assert not any("operator" in key for key in condition.state_dict())


def test_what_a_mask_hides_is_missing():
    known = torch.ones(1, 1, 8, 8)
    known[..., 3:] = 0
    cond = Measured(lambda shape: Mask(known), 1, (8, 8))(data())
    assert torch.equal(cond[..., :3], data()["x"][..., :3]) and cond[..., 3:].isnan().all()
    assert not is_null(cond).any() and is_null(null_like(cond)).all()


def test_features_of_vectors_tell_close_numbers_apart_and_those_that_are_missing():
    torch.manual_seed(0)
    encoder, x = VectorEncoder(2, 16), torch.zeros(4, 1, 8, 8)
    features = []
    encoder.layers[0].register_forward_pre_hook(lambda layer, args: features.append(args[0]))
    encoder(torch.tensor([[0.3, -1.0], [0.31, -1.0], [torch.nan, -1.0], [torch.nan, torch.nan]]), x)
    (f,) = features
    first, second = f.unflatten(1, (2, -1)).unbind(1)
    assert first[0, 0] == 1 and first[2].eq(0).all() and f[3].eq(0).all() and second[:3].unique(dim=0).shape[0] == 1
    omega = encoder.frequencies
    assert omega[0] == 0.5 and omega[-1].item() == pytest.approx(16) and omega.diff().gt(0).all()
    expected = torch.cat([torch.tensor([1, 0.3]), (0.3 * omega).cos(), (0.3 * omega).sin()])
    torch.testing.assert_close(first[0], expected)
    assert (first[0] - first[1]).abs().max() > 0.1, "a hundredth of a standard deviation shows"


def test_images_become_channels():
    image = torch.arange(8.0).view(2, 1, 2, 2)
    image[1, 0, 0, 0] = torch.nan
    encoded = ImageEncoder(1)(image, torch.zeros(2, 1, 4, 4)).channels
    assert encoded.shape == (2, 2, 4, 4) and ImageEncoder(1).channels == 2
    assert torch.equal(encoded[0, 0], image[0, 0].repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert encoded[0, 1].eq(1).all() and encoded[1, :, :2, :2].eq(0).all() and encoded[1, 1].sum() == 12


# ---- several ----


def test_several_are_a_dict_in_their_order():
    condition, batch = combined(), data()
    cond = condition(batch)
    assert list(cond) == ["vector", "label", "image"] and all(torch.equal(cond[name], batch[name]) for name in cond)
    null = condition.null(3)
    assert list(null) == list(cond) and all(is_null(value).all() for value in null.values())
    some = condition.complete({"label": torch.tensor([3])}, 1, torch.device("cpu"))
    assert list(some) == list(cond) and some["label"].item() == 3 and is_null(some["image"]).all()
    with pytest.raises(ValueError, match="cond must be a dict with vector, label, image, got one with text"):
        condition.complete({"text": torch.zeros(1)}, 1, torch.device("cpu"))
    with pytest.raises(ValueError, match="got a tensor"):
        condition.complete(torch.zeros(1), 1, torch.device("cpu"))
    assert torch.equal(condition.prepare(cond)["vector"], condition.members["vector"].prepare(cond["vector"]))
    assert class_of(cond) is cond["label"] and count_cond(cond) == N
    halves = [rows_of(cond, slice(0, 11)), rows_of(cond, slice(11, N))]
    assert all(torch.equal(value, cond[name]) for name, value in cat_cond(halves).items())


def test_new_samples_get_the_conditions_of_one_and_the_same():
    condition, batch = combined(), data()
    drawn = condition.sample(30, seeded(2))
    for i in range(30):
        (row,) = (batch["vector"] == drawn["vector"][i]).all(1).nonzero()[0]
        assert drawn["label"][i] == batch["label"][row] and torch.equal(drawn["image"][i], batch["image"][row])
    assert all(torch.equal(value, drawn[name][:4]) for name, value in condition.sample(4, seeded(2)).items())
    fresh = Combined({"a": Labels(5), "b": Vector(2), "c": Image((2, 4, 4))})
    assert not fresh.is_fitted and all(is_null(value).all() for value in fresh.sample(2, seeded()).values())


def test_each_is_withheld_by_itself_and_all_together():
    """Frequencies within five standard deviations of the products of the probabilities."""
    condition, n = combined(0.2, 0.3), 20_000
    cond = {"vector": torch.zeros(n, 2), "label": torch.zeros(n).long(), "image": torch.zeros(n, 2, 4, 4)}
    g = seeded(5)
    without = {name: is_null(v) for name, v in condition.withhold(cond, lambda: torch.rand(n, generator=g)).items()}
    a, b, c = without.values()
    for found, p in ((a, 0.2 + 0.8 * 0.3), (a & b, 0.2 + 0.8 * 0.09), (a & b & c, 0.2 + 0.8 * 0.027)):
        assert found.float().mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / n) ** 0.5)
    single = Labels(5, 0.3).withhold(torch.zeros(n).long(), lambda: torch.rand(n, generator=g))
    assert (single == -1).float().mean().item() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Combined({}), "at least one condition"),
        (lambda: Combined({"a": Vector(1), "b": Vector(2)}), "two conditions `vector`"),
        (lambda: Vector(0), "the data must give a `vector`"),
        (lambda: Image([]), "the data must give an `image`"),
        (lambda: fitted(Vector(2), data() | {"vector": torch.full((N, 2), torch.nan)}), "40 of 40 samples have NaN"),
        (lambda: Vector(3).check_data(data(), N), r"`vector` of the data must have the shape \(3,\), got \(2,\)"),
        (lambda: Vector(2).check_data({"x": torch.zeros(1)}, N), "must give `vector` .* have x only"),
        (lambda: scale_chain({"label": torch.zeros(2)}, {"text": 2.0}),
         "guidance.scale names text, but the conditions of this run are label"),
    ],
)  # fmt: skip
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_fewer_examples_than_fit():
    examples = Examples({"a": torch.zeros(1, 2), "b": torch.full((1,), -1)})
    assert examples.most == 256
    examples.keep([{"a": torch.arange(6.0).view(3, 2), "b": torch.tensor([4, 5, 6])}], seeded())
    drawn = examples.draw(200, seeded())
    assert sorted(drawn["b"].unique().tolist()) == [4, 5, 6] and torch.equal(
        drawn["a"][:, 0] / 2 + 4, drawn["b"].float()
    )
    assert Examples(torch.zeros(1, 3, 256, 256)).most == 16


# ---- nets ----


def net_for(condition, kind=UNet, **settings):
    size = {"width": 8} | ({"num_groups": 2} if kind is UNet else {"depth": 1})
    return kind(1, (8, 8), **size, **settings, encoders=condition.encoders)


@pytest.mark.parametrize("kind", [UNet, MLP])
@pytest.mark.parametrize("make", [lambda: fitted(Vector(2)), lambda: fitted(low_resolution()), combined])
def test_a_net_hears_each_of_its_conditions(kind, make):
    torch.manual_seed(0)
    condition, batch = make(), data()
    net = net_for(condition, kind)
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    denoiser, t = Denoiser(net, CosineSchedule(), V(), condition=condition).eval(), torch.tensor(0.7)
    x, cond = batch["x"][:4], rows_of(condition(batch), slice(4))
    given = denoiser(x, t, cond).x_0
    parts = cond if isinstance(cond, dict) else {"": cond}
    for name, value in parts.items():
        fewer = {**parts, name: null_like(value)}
        without = denoiser(x, t, fewer if isinstance(cond, dict) else fewer[""]).x_0
        assert (without - given).abs().amax((1, 2, 3)).min() > 1e-5, name
    assert torch.equal(denoiser(x, t).x_0, denoiser(x, t, condition.null(4)).x_0)


def test_a_net_told_nothing_is_what_it_was():
    torch.manual_seed(0)
    a = UNet(1, (8, 8), width=8, num_groups=2, num_classes=3)
    torch.manual_seed(0)
    b = UNet(1, (8, 8), width=8, num_groups=2, num_classes=3, encoders={})
    assert list(a.state_dict()) == list(b.state_dict()) and not any("encoders" in key for key in a.state_dict())
    assert all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))
    assert Labels(3).encoders == {} == NoCondition().encoders
    assert isinstance(Labels(3).encoder(8), ClassEncoder)


class Tokens(nn.Module):
    channels, token_width = 0, 6

    def forward(self, cond, x):
        from src.diffusion.conditions import Encoded

        return Encoded(tokens=cond[:, :, None].expand(-1, -1, 6).float(), mask=cond >= 0)


def test_tokens_are_handed_to_the_body_of_a_net_that_takes_them():
    class Attends(Net):
        cross_attention = True

        def body(self, x, embedding, tokens, mask):
            self.got = tokens, mask
            return x

    encoders = {"text": lambda dim: Tokens(), "more": lambda dim: Tokens()}
    net, text = Attends(1, (4,), 8, encoders=encoders), torch.tensor([[3, 4, -1]])
    net(torch.zeros(1, 1, 4), torch.zeros(1), {"text": text, "more": text + 1})
    assert net.token_width == 6 and net.got[0].shape == (1, 6, 6)
    assert net.got[1].tolist() == [[True, True, False, True, True, True]]
    without = MLP(1, (4,), width=8, depth=1, encoders=encoders)
    with pytest.raises(ValueError, match="MLP has no cross-attention"):
        without(torch.zeros(1, 1, 4), torch.zeros(1), {"text": text, "more": text})


def test_a_condition_of_ones_own_is_told_by_its_shape():
    class Own(Condition):
        name = "own"

        def __init__(self, *shape):
            super().__init__(dropout=0.1)
            self.shape = shape

        def forward(self, batch):
            return batch["own"]

        def sample(self, n, generator):
            return torch.randn(n, *self.shape, generator=generator)

    for shape, kind in (((3,), VectorEncoder), ((2, 4, 4), ImageEncoder)):
        condition = Own(*shape)
        assert isinstance(condition.encoder(8), kind)
        assert net_for(condition)(torch.zeros(2, 1, 8, 8), torch.zeros(2), condition.sample(2, seeded())).shape[0] == 2

    class Integers(Own):
        def sample(self, n, generator):
            return torch.zeros(n, 3).long()

    with pytest.raises(ValueError, match="condition `own` has no encoder"):
        net_for(Integers())


# ---- guidance ----


class Sum(nn.Module):
    """A denoiser that predicts a sum of what it is told, and counts its samples."""

    def __init__(self, weights):
        super().__init__()
        self.weights, self.evaluated = weights, 0

    def forward(self, x_t, t, cond=None):
        self.evaluated += len(x_t)
        x = x_t.clone()
        for name, weight in self.weights.items():
            value = cond[name].float()
            x = x + weight * torch.where(value.isnan(), 0, value)[:, None]
        return Prediction(x, 2 * x)


@pytest.mark.parametrize(
    ("scale", "evaluations"),
    [(1.0, 1), (3.0, 2), ({"a": 2.0, "b": 3.0, "c": 4.0}, 4), ({"a": 2.0}, 3), ({"c": 5.0}, 2), ({"b": 0.0}, 3),
     ({"a": 2.0, "b": 2.0, "c": 2.0}, 2), ({"a": 2.0, "b": 2.0, "c": 3.0}, 3), ({"a": 1.0}, 1), ({}, 1)],
)  # fmt: skip
def test_each_condition_has_a_scale_of_its_own(scale, evaluations):
    """For a sum of what is told, guidance multiplies each term by its scale, whatever is added before it."""
    cond = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([10.0, 20.0]), "c": torch.tensor([100.0, 200.0])}
    denoise, x, weights = Sum({"a": 1.0, "b": 2.0, "c": 3.0}), torch.zeros(2, 1), {"a": 1.0, "b": 2.0, "c": 3.0}
    scales = scale if isinstance(scale, dict) else dict.fromkeys(cond, scale)
    expected = sum(scales.get(name, 1.0) * weights[name] * cond[name] for name in cond)[:, None]
    for guidance in (CFG(scale), IntervalGuidance(CFG(scale), 1e-3, 1e3)):
        denoise.evaluated = 0
        x_0, variance = guidance(denoise, CosineSchedule())(x, torch.tensor(0.5, dtype=torch.float64), cond)
        torch.testing.assert_close(x_0, expected)
        torch.testing.assert_close(variance, 2 * sum(weights[name] * cond[name] for name in cond)[:, None])
        assert denoise.evaluated == 2 * evaluations


def test_the_order_of_guidance_is_that_of_brooks():
    """Equation 3: where the second condition says the same as the first, only what it adds is weighed by its scale."""
    conds, scales = scale_chain({"image": torch.ones(1), "text": torch.ones(1)}, {"text": 7.5, "image": 1.5})
    assert [[bool(is_null(v)) for v in cond.values()] for cond in conds] == [
        [False, False],
        [False, True],
        [True, True],
    ]
    assert scales == [7.5, 1.5]


def test_a_number_on_a_circle_has_no_ends():
    """Its encoding is the same a turn further, and nearly so on both sides of where the numbers end."""
    circle, line = (Vector(2, period=period) for period in ([360.0, None], None))
    vectors = torch.tensor([[0.0, 3.0], [360.0, 3.0], [359.9, 3.0], [180.0, 3.0], [torch.nan, torch.nan]])
    encoded = [c.encoder(16)(c.prepare(vectors), torch.zeros(5, 1)).embedding for c in (circle, line)]
    torch.testing.assert_close(encoded[0][0], encoded[0][1], atol=1e-4, rtol=0)
    near, far = ((encoded[0][0] - encoded[0][i]).norm() for i in (2, 3))
    assert near < 0.05 * far and (encoded[1][0] - encoded[1][1]).norm() > 0.1 * far
    back = restored(circle.prepare(vectors[2:4]), circle.mean, circle.std, circle.period)
    torch.testing.assert_close(back % 360, vectors[2:4], atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="one for each of 2 numbers"):
        Vector(2, period=[360.0])


def test_words_name_what_was_asked_for():
    both = Combined({"a": Labels(3), "b": Vector(2)})
    cond = both.request({"label": [1, 2], "vector": [[5, 0.25], [-1, 2]]}, 2)
    assert both.captions(cond) == ["label 1, vector 5, 0.25", "label 2, vector -1, 2"]
    names = {"label": ["cat", "dog"], "vector": ["mass", "age"]}
    assert both.captions(cond, names) == ["label dog, mass 5, age 0.25", "label 2, mass -1, age 2"]
    assert both.captions(both.request({"vector": [5, 0.25]}, 1), names) == ["mass 5, age 0.25"]
    assert both.captions(both.null(1), names) == [""]
