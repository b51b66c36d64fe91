"""Every net and guidance as a graph says what it says in Python, for batches of any size."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from src.diffusion import CFG, Clusters, CosineSchedule, Denoiser, EDMSchedule, FlowSchedule, Labels, NoCondition
from src.diffusion.flow_map import FlowMap
from src.diffusion.guidance import IntervalGuidance, NoGuidance
from src.diffusion.parameterizations import EDM, Flow, V
from src.formats.graphs import ONNXFormat, TorchExportFormat
from src.formats.tracing import TracedDenoiser, TracedSampler, named_cond, normal, trace
from src.nets.mlp import MLP
from src.runs.run import Run
from src.samplers import DDIM, DDPM, DPMpp2MSDE, FlowMapSampler, Heun, Pipeline
from src.samplers.clipping import DynamicClip, StaticClip
from src.samplers.table import tabulate
from src.utils.errors import UserError
from tests.nets.networks import DATA, NETS, SIGNALS_ONLY, randomize_zeros

IMAGE = (1, (8, 8))
pytestmark = pytest.mark.usefixtures("unchecked")  # sizes are symbols, which no check takes for numbers


def pipeline(name="unet", shape=IMAGE, condition=None, guidance=None, frame=(CosineSchedule, V), sampler=None, **more):
    """A pipeline of a small net that says something."""
    torch.manual_seed(0)
    condition = condition or NoCondition()
    classes = {"num_classes": condition.num_classes} if condition.num_classes else {}
    net = randomize_zeros(NETS[name](*shape, **classes))
    denoiser = Denoiser(net, frame[0](), frame[1](), condition=condition).eval().requires_grad_(False)
    sampler = (sampler or DDIM)(denoiser.schedule, 3, clip=StaticClip(1.0), **more)
    channels, size = shape
    return Pipeline(denoiser, sampler, (channels, *size), **({"guidance": guidance} if guidance else {}))


def traced(pipe, batch=3):
    """The program of a denoiser, and inputs of another batch size for it."""
    condition = pipe.denoiser.condition
    conds = [named_cond(condition.sample(n, torch.Generator())) for n in (2, batch)]
    inputs = [
        (torch.randn(n, *pipe.shape), torch.rand(n, dtype=torch.float64), cond)
        for n, cond in zip((2, batch), conds, strict=True)
    ]
    return trace(TracedDenoiser(pipe), inputs[0], "test"), inputs[1]


@pytest.mark.most(1)
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("guidance", [CFG(2.0, 0.5), IntervalGuidance(CFG(3.0), 0.3, 3.0)], ids=["cfg", "interval"])
def test_a_program_takes_any_batch(batch, guidance):
    pipe = pipeline("mlp", condition=Labels(4, 0.1), guidance=guidance)
    program, inputs = traced(pipe, batch)
    assert_close(program.module()(*inputs), TracedDenoiser(pipe)(*inputs), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *((name, DATA["signal" if name in SIGNALS_ONLY else "image"]) for name in NETS),
        ("mlp", (2, ())),
        ("cnn", DATA["3-channel signal"]),
    ],
)
@pytest.mark.parametrize("kind", [ONNXFormat, TorchExportFormat])
def test_every_net(name, shape, kind, tmp_path):
    pipe = pipeline(name, shape)
    program, inputs = traced(pipe, 5)
    form = kind()
    for library in form.libraries:
        pytest.importorskip(library)
    form.save(program, tmp_path / f"model{form.suffix}", ["x_t", "t"], "x_0")
    x_0 = form.open(tmp_path / f"model{form.suffix}", ["x_t", "t"], "x_0")(*inputs[:2])
    assert_close(x_0, TracedDenoiser(pipe)(*inputs), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"condition": Labels(4, 0.1), "guidance": CFG(2.0)},
        {"condition": Clusters(5, 1, (8, 8)), "guidance": CFG(1.5, 0.3)},
        {"frame": (EDMSchedule, EDM)},
        {"frame": (FlowSchedule, Flow)},
    ],
)
def test_every_framework(options):
    if isinstance(options.get("condition"), Clusters):
        options["condition"].weights.fill_(1.0)
    pipe = pipeline(**options)
    program, inputs = traced(pipe, 5)
    assert_close(program.module()(*inputs), TracedDenoiser(pipe)(*inputs), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "guidance"),
    [
        *((sampler, CFG(2.0)) for sampler in (DDIM, DDPM, DPMpp2MSDE, Heun)),
        (DDIM, IntervalGuidance(CFG(3.0), 0.3, 3.0)),
    ],
)
def test_a_whole_sampler(sampler, guidance):
    """From noise and seed to pictures; other seeds, other pictures where noise is added."""
    pipe = pipeline(condition=Labels(4, 0.1), guidance=guidance, sampler=sampler)
    noise, seed, cond = torch.randn(2, *pipe.shape), torch.tensor([3, 9]), {"cond": torch.tensor([0, 3])}
    program = trace(TracedSampler(pipe, tabulate(pipe.sampler)), (noise, seed, cond), "test")
    noise, seed, cond = torch.randn(5, *pipe.shape), torch.arange(5), {"cond": torch.arange(5) % 4}
    x = program.module()(noise, seed, cond)
    draws = iter(range(100))
    with pipe.inference():
        pipe.cond = cond["cond"]
        start = pipe.sampler.sample_prior(lambda like: noise, noise)
        *_, end = pipe.sampler.trajectory(pipe.denoise(range(5)), start, lambda like: normal(seed, next(draws), like))
    assert_close(x, pipe.to_units(end.x_t), rtol=0, atol=1e-5)
    assert torch.equal(x, program.module()(noise, seed + 1, cond)) == (sampler in (DDIM, Heun))


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [NoGuidance(), CFG(2.0)])
def test_a_flow_map(guidance):
    """One step to anywhere, and the whole sampler with new noise between its steps."""
    torch.manual_seed(0)
    net = randomize_zeros(MLP(1, (8, 8), 16, 1, num_classes=4, second_time=True))
    flow_map = FlowMap(net, FlowSchedule(), Flow(), condition=Labels(4, 0.1)).eval().requires_grad_(False)
    pipe = Pipeline(flow_map, FlowMapSampler(flow_map.schedule, 3, gamma=0.5), (1, 8, 8), guidance)
    noise, time, seed, cond = (
        torch.randn(5, 1, 8, 8),
        torch.full((5,), 0.7).double(),
        torch.arange(5),
        torch.arange(5) % 4,
    )

    def program(module, *inputs):
        given = [{"cond": v["cond"][:2]} if isinstance(v, dict) else v[:2] for v in inputs]
        return trace(module, tuple(given), "test").module()(*inputs)

    pipe.cond = cond
    with pipe.inference():
        x_0 = pipe.denoise(range(5))(noise, time[0], time[0] / 2).x_0
        draws = iter(range(100))
        *_, end = pipe.sampler.trajectory(pipe.denoise(range(5)), noise, lambda like: normal(seed, next(draws), like))
    one = program(TracedDenoiser(pipe), noise, time, {"cond": cond}, time / 2)
    assert_close(one, x_0, rtol=0, atol=1e-5)
    whole = program(TracedSampler(pipe, tabulate(pipe.sampler)), noise, seed, {"cond": cond})
    assert_close(whole, pipe.to_units(end.x_t), rtol=0, atol=1e-5)


def test_the_noise_of_a_graph():
    """It is standard normal, independent between seeds, draws and elements."""
    like = torch.zeros(40, 1, 50, 50)
    x = torch.stack([normal(torch.arange(40), draw, like) for draw in (0, 1)])
    assert abs(x.mean()) < 0.01 and abs(x.std() - 1) < 0.01 and abs((x**4).mean() - 3) < 0.1
    assert abs((x[0] * x[1]).mean()) < 0.01 and abs((x[:, :-1] * x[:, 1:]).mean()) < 0.01
    assert abs((x[..., :-1] * x[..., 1:]).mean()) < 0.01
    assert torch.equal(normal(torch.tensor([7]), 0, like[:1])[0], x[0, 7])


class Stubborn(nn.Module):
    """A net that asks what its input is."""

    def __init__(self):
        super().__init__()
        self.asking = Asking()

    def forward(self, x, c_noise, cond=None):
        return self.asking(x)


class Asking(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x):
        return x if x.mean() > 0 else -x


def test_a_net_that_cannot_be_traced():
    """The layer and the reason."""
    pipe = pipeline("mlp")
    pipe.denoiser.net = Stubborn()
    with pytest.raises(UserError, match=r"denoiser\.net\.asking \(Asking\) cannot be traced: "):
        traced(pipe)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sampler": DDIM, "clip_eps": False}, "clip_eps=true"),
        ({"steps": 50}, "at most 20 steps"),
    ],
)
def test_refusals(change, said):
    from src.formats.base import Model

    steps = change.pop("steps", 3)
    pipe = pipeline("mlp", **change)
    pipe.sampler.steps = steps
    with pytest.raises(UserError, match=said):
        TorchExportFormat(unroll=True).check(Model(pipe, Run(Path("nowhere")), {}, {}))


@pytest.mark.parametrize("clip", [DynamicClip(0.9, 0.2), StaticClip(1.0, snap=0.5)])
def test_clipping_is_traced(clip):
    pipe = pipeline("mlp")
    pipe.sampler.clip = clip
    program, inputs = traced(pipe, 4)
    assert_close(program.module()(*inputs), TracedDenoiser(pipe)(*inputs), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [CFG(2.0), IntervalGuidance(CFG(3.0), 0.3, 3.0)], ids=["cfg", "interval"])
def test_a_whole_sampler_with_self_conditioning(guidance):
    """Guidance doubles the batch of the estimate, which a graph of any batch size must not take for a number."""
    torch.manual_seed(0)
    net = randomize_zeros(MLP(1, (8, 8), 16, 1, num_classes=4, in_channels=2))
    denoiser = Denoiser(net, CosineSchedule(), V(), condition=Labels(4, 0.1), self_conditioning_prob=0.5).eval()
    pipe = Pipeline(denoiser.requires_grad_(False), DDIM(denoiser.schedule, 3), (1, 8, 8), guidance)
    module, label = TracedSampler(pipe, tabulate(pipe.sampler)), torch.arange(5) % 4
    example = (torch.randn(2, *pipe.shape), torch.arange(2), {"cond": label[:2]})
    noise = torch.randn(5, *pipe.shape)
    x = trace(module, example, "test").module()(noise, torch.arange(5), {"cond": label})
    pipe.cond = label
    with pipe.inference():
        *_, end = pipe.sampler.trajectory(pipe.denoise(range(5)), noise, torch.zeros_like)
    assert_close(x, pipe.to_units(end.x_t), rtol=0, atol=1e-5)
