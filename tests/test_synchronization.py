"""A training step waits for no accelerator: on the meta device, whose tensors have no values, it raises no error.

Reading a value (item, tolist, bool, nonzero, indexing by a mask, a copy to the CPU) fails there, as it would make the
host wait for a GPU. Copies to the device are watched: they must not block either.
"""

from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import src.module
from src.callbacks.graceful_stop import GracefulStop
from src.callbacks.progress import Progress
from src.commands.training import build_initial_module
from src.diffusion.conditions import Combined, Condition, Text, Vector
from src.loggers.metrics_csv import MetricsCSV
from src.utils.console import progress_bar
from src.utils.paths import CONF
from tests.end_to_end.preparing import changed, composed
from tests.helpers.tiny import Memory, make_kind
from tests.test_configs import NEEDS

META = torch.device("meta")


class Blocking(TorchDispatchMode):
    """Refuse copies between the CPU and the device for which the host waits."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            source = args[1] if func.overloadpacket is torch.ops.aten.copy_ else args[0]
            asynchronous = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
            crosses = {source.device.type, result.device.type} == {"cpu", "meta"}
            assert not crosses or (asynchronous and result.device == META), f"{func} of {tuple(source.shape)} blocks"
        if func.overloadpacket is torch.ops.aten.where and result.device == META:
            assert all(x.device == META for x in args), "where() copies what is not on the device"
        return result


class NoTensorFromNumbers(TorchFunctionMode):
    """Refuse torch.tensor(..., device=), which copies numbers to the device and waits."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor):
            assert kwargs.get("device") not in (META, "meta"), "torch.tensor(..., device=) blocks"
        return func(*args, **kwargs)


@contextmanager
def no_waiting():
    """Refuse all that makes the host wait for the device."""
    with NoTensorFromNumbers(), Blocking():
        yield


def trainer_stub():
    """As much of a trainer as a step asks for."""
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=3))
    return SimpleNamespace(
        world_size=1, global_rank=0, fit_loop=loop, log_every_n_steps=20, loggers=[], strategy=None, should_stop=False,
        max_steps=100, max_epochs=-1, accumulate_grad_batches=1, datamodule=SimpleNamespace(train_batches=100),
        precision_plugin=None, global_step=3,
    )  # fmt: skip


class MetaGenerator(torch.Generator):
    """A generator that says that it is on the meta device, which has none."""

    device = META


def draws_on_meta(monkeypatch) -> None:
    """Let the module draw on the meta device, which has neither generators nor autocast."""
    draw, autocast = src.module.generator, torch.autocast
    monkeypatch.setattr(
        src.module, "generator", lambda *keys, device="cpu": draw(*keys) if device == "cpu" else MetaGenerator()
    )
    monkeypatch.setattr(torch, "autocast", lambda device, *rest, **how: autocast("cpu", *rest, **how))


def step_on_meta(monkeypatch, cfg, batch: int = 4) -> None:
    """Two steps of a run of this config, as the module makes them, between two that are logged."""
    cfg.trainer.precision = "32-true"
    if "fused" in cfg.optimizer:
        cfg.optimizer.fused = None  # has no kernel for this device
    module = build_initial_module(cfg).to(META).train()
    shape = (cfg.data.channels, *cfg.data.size)
    fields = {"label": torch.zeros(batch, dtype=torch.int64, device=META)} if cfg.data.num_classes else {}
    fields |= {name: value.to(META) for name, value in given(module.denoiser.condition, batch).items()}
    draws_on_meta(monkeypatch)
    monkeypatch.setattr(type(module), "trainer", trainer_stub(), raising=False)
    optimizer = module.make_optimizer(p for p in module.trained_parameters() if p.requires_grad)
    for step in (4, 5):
        x = torch.zeros(batch, *shape, device=META)
        with no_waiting():
            loss = module.training_step({"x": x, **fields}, step)
            loss.backward()
            module.configure_gradient_clipping(
                optimizer, cfg.trainer.gradient_clip_val, cfg.trainer.gradient_clip_algorithm
            )
            optimizer.step()
            module.ema.update(module.denoiser, step)
            optimizer.zero_grad()


def given(condition: Condition, batch: int) -> dict[str, torch.Tensor]:
    """What data give for the condition of each sample."""
    if isinstance(condition, Combined):
        return {name: value for part in condition.members.values() for name, value in given(part, batch).items()}
    return {condition.name: condition.null(batch)} if isinstance(condition, Text | Vector) else {}


EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.most(3)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_no_experiment_waits(monkeypatch, experiment):
    words = {"array_ddpm": NEEDS["data", "array"][1:]}.get(experiment, NEEDS.get(("experiment", experiment), []))
    step_on_meta(monkeypatch, changed(composed("train", f"experiment={experiment}", *words), "net.width=8"))


@pytest.mark.parametrize(("experiment", "word"), [("mixture_mean_flow", "loss.diagonal_steps=5"), ("mnist_ect", "")])
def test_no_count_of_steps_waits(monkeypatch, experiment, word):
    """Of the flow maps whose loss changes in the course of the training."""
    step_on_meta(monkeypatch, changed(composed("train", f"experiment={experiment}", *word.split()), "net.width=8"))


class Meta(CPUAccelerator):
    """The meta device."""

    def setup_device(self, device: torch.device) -> None:
        pass


class MetaStrategy(SingleDeviceStrategy):
    """Trains on the meta device."""

    def __init__(self):
        super().__init__(META, accelerator=Meta())

    def teardown(self) -> None:
        """Leave the module where it is: it has no values to bring back."""


class Watched(pl.Callback):
    """Refuses to wait from the first batch on until the end of the training."""

    def on_train_start(self, *_):
        self.stack = ExitStack()
        self.stack.enter_context(no_waiting())

    def on_train_end(self, *_):
        self.stack.close()

    def on_exception(self, *_):
        getattr(self, "stack", ExitStack()).close()


def test_the_loop_does_not_wait(monkeypatch, tmp_path):
    """Lightning, its callbacks and ours, with a progress bar that is drawn at every step."""
    draws_on_meta(monkeypatch)
    module, data = make_kind("clusters"), Memory()
    data.load()
    module.denoiser.condition.fit([data.train_set[0, torch.arange(40)]], torch.Generator())
    monkeypatch.setattr("src.callbacks.progress.progress_bar", partial(progress_bar, miniters=1))
    # Called once before the first step, with the length of the loader on the device.
    monkeypatch.setattr("pytorch_lightning.loops.fit_loop.has_len_all_ranks", lambda *_: True)
    trainer = pl.Trainer(
        strategy=MetaStrategy(), max_steps=12, max_epochs=-1, limit_val_batches=0, log_every_n_steps=100,
        callbacks=[Progress(), GracefulStop(str(tmp_path)), Watched()], logger=[MetricsCSV(str(tmp_path))],
        enable_checkpointing=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, data)
    assert trainer.global_step == 12 and next(module.parameters()).device == META


WAITS = {
    "numbers": lambda x: torch.tensor([1.0], device=META),
    "where": lambda x: torch.where(x > 0, torch.tensor(1.0), x),
    "item": lambda x: x[0].item(),
    "list": lambda x: x.tolist(),
    "bool": lambda x: bool(x.any()),
    "cpu": lambda x: x.cpu(),
    "mask": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "to": lambda x: torch.ones(3).to(META),
    "copy": lambda x: x.copy_(torch.ones(3)),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_waits_is_found(name):
    x = torch.ones(3, device=META)
    with no_waiting(), pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
        WAITS[name](x)
    with no_waiting():
        x.copy_(torch.ones(3), non_blocking=True).sum()
