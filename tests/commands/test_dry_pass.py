"""What breaks the contract of its part is refused before the training, in one line; nothing of the pass stays."""

import copy
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch import nn

from src.callbacks.sample_images import SampleImages
from src.commands.dry_pass import dry_pass
from src.diffusion.beta_schedules import CosineSchedule
from src.diffusion.conditions import Clusters, Condition, Labels
from src.diffusion.denoiser import Denoiser
from src.diffusion.guidance import CFG, NoGuidance
from src.diffusion.losses import MSE, Loss
from src.diffusion.noise_samplers import GaussianNoiseSampler
from src.diffusion.parameterizations import V
from src.diffusion.time_samplers import TimeSampler, UniformTimeSampler
from src.diffusion.weightings import v_weighting
from src.module import DiffusionModule
from src.optim.ema import ConstantEMA
from src.samplers.ancestral import DDIM
from src.utils.errors import UserError
from tests.helpers.tiny import CLASSES, SHAPE, Memory, make_module


class Conv(nn.Module):
    """A net by the contract, and no more; `broken` says how it breaks it."""

    def __init__(self, broken=""):
        super().__init__()
        self.conv, self.broken = nn.Conv1d(1, 1, 3, padding=1), broken
        if broken == "unused":
            self.spare = nn.Linear(2, 2)

    def forward(self, x, c_noise, cond=None):
        if self.broken == "raises":
            return {}["my own"]
        h = self.conv(x)
        changes = {"shape": h[..., :-1], "nan": h * torch.nan, "tuple": (h, h), "integers": h.long(), "cut": h.detach()}
        return changes.get(self.broken, h)


class Number(Condition):
    """A real number, the mean of the sample; `broken` says how it breaks the contract."""

    def __init__(self, broken="", dropout=0.2):
        super().__init__(dropout=dropout)
        self.broken = broken

    def forward(self, batch):
        if self.broken == "field":
            return batch["mean"]
        mean = batch["x"].flatten(1).mean(1, keepdim=True)
        return {"none": None, "list": mean.tolist(), "few": mean[1:]}.get(self.broken, mean)

    def sample(self, n, generator):
        mean = torch.randn(n, 1, generator=generator)
        if self.broken == "prefix":
            mean = mean.flip(0)
        return {"flat": mean[:, 0], "double": mean.double()}.get(self.broken, mean)

    def drop(self, cond, dropped):
        return cond.long() if self.broken == "drop" else super().drop(cond, dropped)


class Told(nn.Module):
    """A net that is told a number, which may be missing."""

    def __init__(self):
        super().__init__()
        self.conv, self.embed = nn.Conv1d(1, 1, 3, padding=1), nn.Linear(2, 1)

    def forward(self, x, c_noise, cond):
        known = torch.cat([cond.nan_to_num(), cond.isnan().float()], 1)
        return self.conv(x) + self.embed(known)[..., None]


class Uncertain(nn.Module, Loss):
    """A loss with a parameter of its own; `broken` says how it breaks the contract."""

    def __init__(self, broken=""):
        super().__init__()
        self.squared, self.log_variance, self.broken = MSE(v_weighting), nn.Linear(1, 1), broken

    def __call__(self, denoiser, x_0, t, noise, cond=None):
        losses, u = self.squared(denoiser, x_0, t, noise, cond), self.log_variance(t[:, None].float())[:, 0]
        if self.broken == "raises":
            raise RuntimeError("two\nlines")
        changes = {"mean": losses.mean(), "unused": losses, "inf": losses / 0, "list": losses.tolist()}
        return changes.get(self.broken, losses / u.exp() + u)


class Late(TimeSampler):
    def __call__(self, n, generator, schedule):
        return 2 * torch.rand(n, dtype=torch.float64)


class Single(TimeSampler):
    def __call__(self, n, generator, schedule):
        return torch.rand(n)


class Lost(DDIM):
    def step(self, denoise, x_t, t, s, noise):
        return super().step(denoise, x_t, t, s, noise)[..., :-1]


class Infinite(DDIM):
    def step(self, denoise, x_t, t, s, noise):
        return super().step(denoise, x_t, t, s, noise) / 0


def module_of(net=None, condition=None, loss=None, time_sampler=None, noise_sampler=None) -> DiffusionModule:
    return DiffusionModule(
        Denoiser(net or Conv(), CosineSchedule(), V(), condition=condition),
        loss or MSE(v_weighting),
        time_sampler or UniformTimeSampler(),
        torch.optim.Adam,
        lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer),
        ConstantEMA,
        noise_sampler=noise_sampler,
    )


def tried(module, sampler=DDIM, guidance=None, data=None, callbacks=(), precision=None) -> None:
    data = data or Memory()
    data.setup()
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer = SimpleNamespace(strategy=strategy, callbacks=callbacks, precision_plugin=precision)
    dry_pass(module, data, lambda schedule: sampler(schedule, 2), guidance or NoGuidance(), trainer)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("raises", r"net: Conv\(x, c_noise, cond\) with x float32 \(4, 1, 6\), c_noise float32 \(4,\) and cond None "
                   r"raised KeyError: 'my own' \(test_dry_pass.py, line \d+\)$"),
        ("shape", r"must return floats \(4, 1, 6\) for .*, got float32 \(4, 1, 5\)$"),
        ("nan", "NaN"),
        ("tuple", "got tuple$"),
        ("integers", "got int64"),
        ("unused", r"net: Conv: spare.weight gets no gradient .*requires_grad_\(False\)"),
        ("cut", "backward.. raised RuntimeError"),
    ],
)  # fmt: skip
def test_nets(broken, says):
    with pytest.raises(UserError, match=says) as refused:
        tried(module_of(Conv(broken)))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("field", r"condition: Number\(batch\) raised KeyError: 'mean' \(test_dry_pass.py"),
        ("none", "or None where"),
        ("list", "must return a tensor"),
        ("few", "as many as samples"),
        ("flat", r"agree with Number\(batch\), which gave float32 \(4, 1\), got float32 \(4,\)"),
        ("double", "got float64"),
        ("prefix", "the first k conditions"),
        ("drop", r"drop\(cond, dropped\) must return float32 \(4, 1\)"),
    ],
)
def test_conditions(broken, says):
    with pytest.raises(UserError, match=says):
        tried(module_of(Told(), Number(broken)))


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("raises", r"raised RuntimeError: two lines \(test_dry_pass.py"),
        ("mean", r"one float for each sample, \(4,\), got float32 \(\)$"),
        ("unused", "loss: Uncertain: log_variance.weight gets no gradient"),
        ("inf", "NaN or infinity"),
        ("list", "got list"),
    ],
)
def test_losses(broken, says):
    with pytest.raises(UserError, match=says):
        tried(module_of(loss=Uncertain(broken)))


@pytest.mark.parametrize(("time_sampler", "says"), [(Late(), "float64 .4,. in"), (Single(), "float32")])
def test_time_samplers(time_sampler, says):
    with pytest.raises(UserError, match=f"time_sampler: .*must return n times in .*{says}"):
        tried(module_of(time_sampler=time_sampler))


class Cut(GaussianNoiseSampler):
    def draw(self, shape, generator, dtype):
        return super().draw(shape[1:], generator, dtype)


class Double(GaussianNoiseSampler):
    def pair(self, x_0, noise):
        return noise.double()


@pytest.mark.parametrize(("noise_sampler", "says"), [(Cut(), r"got float32 \(1, 6\)"), (Double(), "got float64")])
def test_noise_samplers(noise_sampler, says):
    with pytest.raises(UserError, match=rf"noise_sampler: .* like the data, float32 \(4, 1, 6\), {says}"):
        tried(module_of(noise_sampler=noise_sampler))


class Tilted(nn.Module, UniformTimeSampler):
    """Times with weights that are learned."""

    __call__ = UniformTimeSampler.__call__

    def __init__(self, used=True):
        super().__init__()
        self.t_min, self.used, self.slope = 1e-5, used, nn.Parameter(torch.zeros(()))

    def importance_weights(self, t):
        return (self.slope * t).exp().float() if self.used else torch.ones_like(t)


def test_all_that_can_be_trained_is_or_is_refused():
    module = module_of(time_sampler=Tilted())
    tried(module)
    assert any(p is module.time_sampler.slope for p in module.trained_parameters())
    assert not {*module.trained_parameters()} & {*module.ema.parameters()}
    with pytest.raises(UserError, match="time_sampler: Tilted: slope gets no gradient"):
        tried(module_of(time_sampler=Tilted(used=False)))


@pytest.mark.parametrize(("sampler", "says"), [(Lost, r"got float32 \(2, 1, 5\)"), (Infinite, "NaN or infinity")])
def test_samplers(sampler, says):
    with pytest.raises(UserError, match=f"sampler: .*{says}"):
        tried(module_of(), sampler)


def test_state_that_no_checkpoint_may_hold():
    module = module_of()
    type(module.denoiser.net).get_extra_state = lambda self: SimpleNamespace()
    type(module.denoiser.net).set_extra_state = lambda self, state: None
    try:
        with pytest.raises(UserError, match=r"state_dict, which must hold tensors.*raised UnpicklingError"):
            tried(module)
    finally:
        del type(module.denoiser.net).get_extra_state, type(module.denoiser.net).set_extra_state


class Rare(Conv):
    """A net that skips its second layer two times out of three: each layer is trained all the same."""

    def __init__(self):
        super().__init__()
        self.second, self.calls = nn.Conv1d(1, 1, 1), 0

    def forward(self, x, c_noise, cond=None):
        self.calls += self.training and torch.is_grad_enabled()
        h = super().forward(x, c_noise)
        return self.second(h) if self.calls == 3 else h


@pytest.mark.parametrize(
    "make",
    [
        module_of,
        make_module,
        lambda: make_module(condition=Labels(CLASSES)),
        lambda: make_module(condition=Clusters(3, *SHAPE[:1], SHAPE[1:])),
        lambda: module_of(Told(), Number()),
        lambda: module_of(Told(), Number(dropout=0)),
        lambda: module_of(Rare()),
        lambda: module_of(loss=Uncertain()),
    ],
)
@pytest.mark.parametrize("precision", [None, MixedPrecision("bf16-mixed", "cpu")])
def test_nothing_stays(make, precision):
    module = make()
    before, state = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    guidance = CFG(2.0) if type(module.denoiser.condition) in (Number, Labels) else None
    tried(module, guidance=guidance, precision=precision)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


class BatchNorm(Conv):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x, c_noise, cond=None):
        return self.norm(super().forward(x, c_noise))


def test_buffers_are_what_they_were():
    module = module_of(BatchNorm())
    tried(module)
    norm = module.denoiser.net.norm
    assert norm.running_mean.item() == 0 and norm.running_var.item() == 1 and norm.num_batches_tracked.item() == 0


def test_a_picture_of_the_data(monkeypatch, tmp_path):
    def fail(*args, **kwargs):
        raise ValueError("too many channels")

    monkeypatch.setattr("src.plots.pictures.sample_grid", fail)
    tried(module_of())  # no pictures are drawn in this run
    with pytest.raises(UserError, match=r"data: a picture of signals float32 \(4, 1, 6\) raised ValueError: too many"):
        tried(module_of(), callbacks=[SampleImages(str(tmp_path), DDIM)])


def test_data_of_fewer_samples_than_the_pass_takes():
    tried(module_of(), data=Memory(n=2, batch_size=1))
