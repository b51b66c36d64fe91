"""TF32, channels_last and compiled nets change the speed, not the numbers beyond their last digits."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from src.commands.acceleration import compile_pipeline, set_tf32, use_channels_last
from src.diffusion.beta_schedules import CosineSchedule
from src.diffusion.denoiser import Denoiser
from src.diffusion.parameterizations import V
from src.nets.unet import UNet
from src.optim.ema import ConstantEMA
from src.samplers.multistep import DPMpp2M
from src.samplers.pipeline import Pipeline
from src.utils.hardware import CompiledNet
from tests.helpers.tiny import fit, make_module

pytestmark = pytest.mark.filterwarnings("ignore")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class OwnNet(nn.Module):
    """A net that knows nothing of layouts."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x, c_noise, cond=None):
        return self.last(self.first(x).tanh() + c_noise[:, None, None, None] / 1000)


def denoiser(net=None):
    torch.manual_seed(0)
    return Denoiser(OwnNet() if net is None else net(), CosineSchedule(), V()).eval()


def unet():
    net = UNet(2, (8, 8), width=8, num_heads=2)
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    return net


@pytest.fixture
def flags():
    """TF32 as it was."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("allow", [True, False])
def test_tf32_is_of_cuda_alone(flags, allow):
    def now():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before, of_cpu = now(), torch.backends.mkldnn.matmul.fp32_precision
    assert set_tf32(allow, CPU) is False and now() == before
    assert set_tf32(allow, CUDA) is allow and now() == (allow, allow)
    assert torch.backends.mkldnn.matmul.fp32_precision == of_cpu


@pytest.mark.parametrize("net", [None, unet], ids=["own", "unet"])
def test_channels_last_has_the_same_numbers(net):
    plain, last = denoiser(net), denoiser(net)
    average = ConstantEMA(last)
    assert use_channels_last(True, nn.ModuleList([last, average]), CPU, False)
    wide = [p for part in (last, average.model) for p in part.net.parameters() if p.ndim == 4 and p[0, 0].numel() > 1]
    assert wide and all(p.is_contiguous(memory_format=torch.channels_last) for p in wide)
    torch.manual_seed(0)
    x, t = torch.randn(3, 2, 8, 8), torch.tensor([0.2, 0.5, 0.9])
    found = []
    for model in (plain, last, average.model):
        x_0 = model(x, t).x_0
        assert x_0.is_contiguous()
        if model is not average.model:
            x_0.square().sum().backward()
        found.append(x_0.detach())
    assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(found[1], found[2])
    for p, q in zip(plain.parameters(), last.parameters(), strict=True):
        assert torch.equal(p, q)
        assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-4)


def test_channels_last_by_itself():
    """On CUDA, in half precision, for nets with 2-D convolutions."""
    assert not use_channels_last("auto", denoiser(), CPU, True)
    assert not use_channels_last("auto", denoiser(), CUDA, False)
    assert not use_channels_last(False, denoiser(), CUDA, True)
    assert not use_channels_last("auto", denoiser(lambda: nn.Linear(2, 2)), CUDA, True)
    assert use_channels_last("auto", denoiser(), CUDA, True)


def test_restored_states_follow_the_layout_of_the_weights(tmp_path):
    module = make_module()
    _, trainer, _ = fit(tmp_path, module, max_steps=2)
    (optimizer,) = trainer.optimizers
    p = max(optimizer.state, key=lambda p: p.numel() * (p.ndim == 2))
    state, value = optimizer.state[p], optimizer.state[p]["exp_avg"].clone()
    state["exp_avg"] = value.T.contiguous().T
    assert state["exp_avg"].stride() != p.stride()
    module.on_train_start()
    assert state["exp_avg"].stride() == p.stride() and torch.equal(state["exp_avg"], value)


class Overwriting(nn.Module):
    """Writes every output to the same memory, as CUDA graphs do."""

    def __init__(self):
        super().__init__()
        self.memory = torch.zeros(2, 3)

    def forward(self, x):
        return self.memory.copy_(x)


def test_outputs_of_cuda_graphs_are_copied(monkeypatch):
    marks, modes = [], []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(1))
    monkeypatch.setattr(nn.Module, "compile", lambda self, mode: modes.append(mode))
    net = CompiledNet(Overwriting(), CUDA, "reduce-overhead")
    with torch.no_grad():
        first, second = net(torch.ones(2, 3)), net(torch.zeros(2, 3))
    assert first.eq(1).all() and second.eq(0).all() and len(marks) == 2
    net(torch.ones(2, 3))
    assert len(marks) == 2, "a backward pass may follow"
    CompiledNet(Overwriting(), CPU, "reduce-overhead")(torch.ones(2, 3))
    CompiledNet(Overwriting(), CUDA, True)(torch.ones(2, 3))
    assert len(marks) == 2 and modes == ["reduce-overhead", "reduce-overhead", "default"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", [True, "reduce-overhead"])
def test_compiled_sampling(mode):
    """The same samples and evaluations, also in a smaller last batch; a CPU has no CUDA graphs, and needs none."""
    found = []
    for setting in (False, mode):
        pipeline = Pipeline(denoiser(), DPMpp2M(CosineSchedule(), steps=5), (2, 8, 8), batch_size=4)
        if setting:
            compile_pipeline(pipeline, setting)
            pipeline.warm_up(6)
        with pipeline.count_nfe() as cost:
            found.append(pipeline.sample(6))
        assert cost.evaluations == 30
    assert_close(*found, rtol=1e-4, atol=1e-4)
