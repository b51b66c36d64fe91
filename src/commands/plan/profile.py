"""FLOP and memory of a training step, counted on fake tensors, which have shapes but no data."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import BaseFinetuning
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves

from src.commands.plan.counting import GPUKernels, MemoryTracker, SavedTensors, count_flops, size_of
from src.module import DiffusionModule
from src.runs.loading import build_denoiser
from src.utils.errors import UserError, config_errors
from src.utils.seeding import generator

DTYPES = {"bf16": torch.bfloat16, "16": torch.float16, "32": torch.float32, "64": torch.float64}
FAKE = FakeTensorMode(allow_non_fake_inputs=True)
NEVER = 1e-12  # a probability that no draw meets


@dataclass(frozen=True)
class Costs:
    """Costs of one training step on one device, without sharding.

    Attributes:
        parameters: number of parameters of the network and of a learned schedule.
        forward: FLOP of one evaluation of one image.
        training: FLOP of one image, forward and backward.
        validation: FLOP of the loss of one image, forward alone; several evaluations for some losses.
        weights, gradients, optimizer, averages: bytes of weights, gradients, optimizer state and averaged weights.
        batch: bytes of the images, their noise and their condition.
        activations: bytes saved for the backward pass.
        peak: peak bytes of gradients, activations and temporary tensors.
        image: bytes that one more image adds to the peak.
        operations, operations_forward, operations_validation: operations of a step, of an evaluation and of the loss of
            a validation batch, for any batch size.
    """

    parameters: int
    forward: float
    training: float
    validation: float
    weights: int
    gradients: int
    optimizer: int
    averages: int
    batch: int
    activations: int
    peak: int
    image: float
    operations: int
    operations_forward: int
    operations_validation: int


def profile_step(module: DiffusionModule, shape: tuple[int, ...], n: int, precision: Any, on_gpu: bool) -> Costs:
    """Costs of one training step.

    Args:
        module: from `build_module` with fake=True.
        shape: (C, *S) of one sample.
        n: batch size per device.
        precision: the trainer's precision.
        on_gpu: True for a GPU, on which some operations save other tensors for the backward pass.
    """
    denoiser = module.denoiser
    # Self-conditioning adds an evaluation with this probability; its mean is added below.
    share, denoiser.self_conditioning_prob = (
        denoiser.self_conditioning_prob,
        NEVER if denoiser.self_conditioning_prob else 0,
    )
    trained = [p for p in denoiser.parameters() if p.requires_grad]
    optimizer = module.make_optimizer(iter(trained))
    for p in trained:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    state = [v for values in optimizer.state.values() for v in values.values() if isinstance(v, Tensor)]

    def step(n: int) -> tuple[float, int, MemoryTracker]:
        """FLOP per image, bytes saved for the backward pass, and the memory tracker."""
        optimizer.zero_grad()
        batch = fake_batch(module, shape, n, precision)
        kept = SavedTensors([*contents(module), *tensors(batch)])
        with MemoryTracker() as traffic, count_flops() as flops:
            with saved_tensors_hooks(kept.pack, lambda tensor: tensor):
                loss = loss_of(module, batch, precision)
            activations = kept.forget()
            loss.backward()
            optimizer.step()
        return flops.get_total_flops() / n, activations, traffic

    with GPUKernels() if on_gpu else nullcontext():
        (_, _, twice), (training, activations, once) = step(2 * n), step(n)
    one = fake_batch(module, shape, 1, precision)
    with MemoryTracker() as evaluation, count_flops() as flops, torch.no_grad():
        denoiser(one["x_0"], torch.tensor(0.5), one["cond"], one["noise"])
    forward = flops.get_total_flops()
    with MemoryTracker() as validation, count_flops() as flops, torch.no_grad():
        denoiser.eval()
        loss_of(module, fake_batch(module, shape, n, precision), precision)
    return Costs(
        parameters=sum(p.numel() for p in denoiser.parameters()),
        forward=forward,
        training=training + share * forward,
        validation=flops.get_total_flops() / n,
        weights=size_of(contents(denoiser)),
        gradients=size_of(trained),
        optimizer=size_of(state),
        averages=size_of(contents(module.ema)),
        batch=n * size_of(tensors(one)),
        activations=activations,
        peak=once.peak,
        image=(twice.peak - once.peak) / n,
        operations=once.operations + round(share * evaluation.operations),
        operations_forward=evaluation.operations,
        operations_validation=validation.operations,
    )


# ---- the training step, fake or real ----


def build_module(cfg: DictConfig, callbacks: Iterable[Any] = (), fake: bool = False) -> DiffusionModule:
    """Build the LightningModule as training does.

    Args:
        cfg: the resolved config.
        callbacks: the trainer's callbacks, some of which freeze weights.
        fake: make the weights of the network fake tensors. Those of the schedule are real: values depend on them.
    """
    with default_dtype(dtypes(cfg.trainer.precision)[0]):
        denoiser = build_denoiser(cfg, FAKE if fake else nullcontext())
    with config_errors("module"):
        module: DiffusionModule = instantiate(cfg.module)(denoiser=denoiser)
    for callback in callbacks:
        if isinstance(callback, BaseFinetuning):
            callback.freeze_before_training(module)
    return module.train()


def make_batch(module: DiffusionModule, shape: tuple[int, ...], n: int, precision: Any) -> dict[str, Any]:
    """Arguments of the loss: n samples, their noise and their condition."""
    x_0 = torch.zeros(n, *shape, dtype=dtypes(precision)[0])
    return {"x_0": x_0, "noise": torch.zeros_like(x_0), "cond": module.denoiser.condition.null(n)}


def fake_batch(module: DiffusionModule, shape: tuple[int, ...], n: int, precision: Any) -> dict[str, Any]:
    """The same with fake tensors."""
    with FAKE:
        return make_batch(module, shape, n, precision)


def loss_of(module: DiffusionModule, batch: dict[str, Any], precision: Any) -> Tensor:
    """The mean loss of a batch."""
    x_0, autocast = batch["x_0"], dtypes(precision)[1]
    t = module.time_sampler(len(x_0), generator("plan"), module.denoiser.schedule)
    with torch.autocast(x_0.device.type, autocast, enabled=autocast is not None):
        return module.loss(module.denoiser, t=t, **batch).mean()


def make_step(module: DiffusionModule, shape: tuple[int, ...], n: int, precision: Any, device: torch.device) -> Any:
    """Make a function that runs a real training step on n images."""
    module.to(device)
    optimizer = module.make_optimizer(p for p in module.denoiser.parameters() if p.requires_grad)
    with device:
        batch = make_batch(module, shape, n, precision)

    def step() -> None:
        loss_of(module, batch, precision).backward()
        optimizer.step()
        optimizer.zero_grad()
        module.ema.update(module.denoiser, step=1)

    return step


def dtypes(precision: Any) -> tuple[torch.dtype, torch.dtype | None]:
    """Data types of the weights and of autocast (None without), by Lightning's name of the precision.

    Raises:
        UserError: for a precision that is not supported here.
    """
    bits, _, kind = str(precision).partition("-")
    if bits not in DTYPES or kind not in ("", "mixed", "true"):
        raise UserError(f"trainer.precision={precision} cannot be planned; use bf16-mixed, 16-mixed or 32-true")
    mixed = kind == "mixed" or (not kind and "16" in bits)
    return (torch.float32, DTYPES[bits]) if mixed else (DTYPES[bits], None)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make new tensors of this type, since fake tensors cannot be converted in place."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def contents(module: nn.Module) -> list[Tensor]:
    """All parameters and buffers."""
    return [*module.parameters(), *module.buffers()]


def tensors(batch: dict[str, Any]) -> Iterable[Tensor]:
    """The tensors of a batch, those of several conditions included."""
    return [value for value in tree_leaves(batch) if isinstance(value, Tensor)]
