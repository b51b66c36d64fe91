"""A dry pass: before the training, every part is tried once on a few samples, and refused if it breaks its contract.

Nothing that is learned or drawn in it stays: the run is bit for bit what it would be without.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from src.callbacks.sample_images import SampleImages
from src.data.base import DataModule
from src.diffusion.conditions import Cond
from src.diffusion.denoiser import Denoiser
from src.diffusion.flow_map import FlowMap
from src.module import DiffusionModule
from src.samplers.pipeline import Pipeline
from src.utils.errors import UserError, is_out_of_memory, place_of
from src.utils.fsdp import FSDP2Strategy
from src.utils.seeding import generator

N = 4  # samples
TRIES = 3  # draws of times and noise in which each parameter must get a gradient, for nets that skip parts at random


def check_parts(cfg: DictConfig, module: DiffusionModule, data: DataModule, trainer: Any) -> None:
    """Make a dry pass with the sampler and the guidance of a config; none if the weights are to be sharded.

    Raises:
        UserError: see `dry_pass`.
    """
    if not isinstance(trainer.strategy, FSDP2Strategy):  # the net may be too large for one device
        dry_pass(module, data, instantiate(cfg.sampler), instantiate(cfg.guidance), trainer)


def dry_pass(
    module: DiffusionModule, data: DataModule, sampler: Callable[..., Any], guidance: Any, trainer: Any
) -> None:
    """Try the condition, the net, the loss, its gradients, a step of the sampler, a picture and a checkpoint.

    Args:
        module: the module, whose weights and buffers stay as they are.
        data: the data, loaded.
        sampler: makes the sampler from the schedule.
        guidance: wraps the denoiser when sampling.
        trainer: the trainer, which says the device and the precision.

    Raises:
        UserError: naming the part, what its contract says, and what it did.
    """
    device = trainer.strategy.root_device
    with without_traces(module, device):
        module.to(device)
        with trial(f"data: {type(data).__name__}.train_set[epoch, indices]"):
            chosen = data.train_set[0, torch.arange(N) % len(data.train_set)]
            batch = {name: part.to(device) for name, part in chosen.items()}
        with precision_of(trainer):
            cond = try_condition(module.denoiser, batch)
            try_net(module.denoiser, batch["x"], cond)
            try_loss(module, batch, cond)
            try_sampling(Pipeline(module.denoiser, sampler(schedule=module.denoiser.schedule), data.shape, guidance))
    if any(isinstance(callback, SampleImages) for callback in trainer.callbacks):
        try_picture(data, batch["x"].cpu())
    try_checkpoint(module)


# ---- the parts ----


def try_condition(denoiser: Denoiser, batch: dict[str, Tensor]) -> Cond | None:
    """The condition of a batch, some of it dropped."""
    condition, x = denoiser.condition, batch["x"]
    name = type(condition).__name__
    with trial(f"condition: {name}(batch)"):
        cond = condition(batch)
    with trial(f"condition: {name}.sample(n, generator)"):
        new, fewer = (condition.sample(n, generator("dry pass")) for n in (N, N - 1))
    with trial(f"condition: {name}.null(n)"):
        null = condition.null(N)
    for what, value in {"(batch)": cond, ".sample(n, generator)": new, ".null(n)": null}.items():
        if (value is None) != (cond is None) or not are_tensors(value):
            raise UserError(f"condition: {name}{what} must return a tensor, or None where {name}(batch) does")
        if value is not None and not agree(value, cond):
            raise UserError(
                f"condition: {name}{what} must return as many as samples and agree with {name}(batch), which gave "
                f"{shape_of(cond)}, got {shape_of(value)} for {N}"
            )
    if cond is None or new is None or fewer is None:
        return None
    pairs = zip(leaves(new), leaves(fewer), strict=True)
    if any(not torch.equal(a[: N - 1].nan_to_num(), b.nan_to_num()) for a, b in pairs):
        raise UserError(f"condition: the first k conditions of {name}.sample(n, generator) must be those for n = k")
    if any(len(value) != len(x) for value in leaves(cond)):
        raise UserError(f"condition: {name}(batch) must return one condition for each sample")
    with trial(f"condition: {name}.withhold(cond, coins)"):
        condition.withhold(cond, lambda: torch.arange(N, device=x.device) / N)
    if not condition.dropout:
        return cond
    with trial(f"condition: {name}.drop(cond, dropped)"):
        dropped = condition.drop(cond, torch.arange(N, device=x.device) >= N // 2)
    if not are_tensors(dropped) or not agree(dropped, cond):
        raise UserError(
            f"condition: {name}.drop(cond, dropped) must return {shape_of(cond)}, as it was given, got "
            f"{shape_of(dropped)}"
        )
    return dropped


def leaves(cond: Any) -> list[Any]:
    """The values of a condition: of several conditions those of each."""
    return list(cond.values()) if isinstance(cond, dict) else [cond]


def are_tensors(cond: Any) -> bool:
    """True for a condition that is a tensor or a dict of them, or None."""
    return cond is None or all(isinstance(value, Tensor) for value in leaves(cond))


def agree(value: Any, cond: Any) -> bool:
    """True if conditions have the shapes and dtypes of others, for N samples."""
    if isinstance(value, dict) != isinstance(cond, dict) or (isinstance(cond, dict) and list(value) != list(cond)):
        return False
    return all(
        len(a) == N and a.shape[1:] == b.shape[1:] and a.dtype == b.dtype
        for a, b in zip(leaves(value), leaves(cond), strict=True)
    )


def try_net(denoiser: Denoiser, x: Tensor, cond: Cond | None) -> None:
    """The net, called as the denoiser calls it."""
    net, name = denoiser.net, type(denoiser.net).__name__
    t = torch.linspace(0.1, 0.9, N, dtype=torch.float64)
    c_noise = denoiser.parameterization.preconditioning(denoiser.schedule, t)[3]
    if isinstance(denoiser, FlowMap):
        c_noise = denoiser.both_levels(c_noise, t / 2, x)
    x_in = torch.cat([x, torch.zeros_like(x)], 1) if denoiser.self_conditioning_prob else x
    cond = None if cond is None else denoiser.condition.prepare(cond)
    given = f"x {shape_of(x_in)}, c_noise {shape_of(c_noise.float())} and cond {shape_of(cond)}"
    with trial(f"net: {name}(x, c_noise, cond) with {given}"), torch.no_grad():
        output = net(x_in, c_noise.to(x.device, torch.float32), cond)
    wanted = (N, denoiser.variance.outputs * x.shape[1], *x.shape[2:])
    if not isinstance(output, Tensor) or output.shape != wanted or not output.is_floating_point():
        raise UserError(
            f"net: {name}(x, c_noise, cond) must return floats {wanted} for {given}, got {shape_of(output)}"
        )
    check_finite(f"net: {name}(x, c_noise, cond)", output)


def try_loss(module: DiffusionModule, batch: dict[str, Tensor], cond: Cond | None) -> None:
    """The time sampler and the loss, and a gradient for every parameter that is to be trained."""
    x_0, denoiser, time_sampler, loss = batch["x"], module.denoiser, module.time_sampler, module.loss
    names = {f"net: {type(denoiser.net).__name__}": denoiser.net, f"condition: {type(denoiser.condition).__name__}":
             denoiser.condition, f"schedule: {type(denoiser.schedule).__name__}": denoiser.schedule}  # fmt: skip
    for name in ("loss", "time_sampler", "noise_sampler"):
        if isinstance(part := getattr(module, name), nn.Module):
            names[f"{name}: {type(part).__name__}"] = part
    owner = {p: (part, name) for part, owned in names.items() for name, p in owned.named_parameters()}
    waiting = {p for p in module.trained_parameters() if p.requires_grad}
    for i in range(TRIES if waiting else 1):
        with trial(f"time_sampler: {type(time_sampler).__name__}(n, generator, schedule)"):
            t = time_sampler(N, generator("dry pass", i), denoiser.schedule)
        if t.shape != (N,) or t.dtype != torch.float64 or t.min() < 0 or t.max() > 1:
            raise UserError(
                f"time_sampler: {type(time_sampler).__name__}(n, generator, schedule) must return n times in (0, 1], "
                f"float64, got {shape_of(t)} in [{t.min():.3g}, {t.max():.3g}]"
            )
        noise = try_noise(module, x_0, i)
        call = f"loss: {type(loss).__name__}(denoiser, x_0, t, noise, cond)"
        with trial(call):
            fresh = denoiser.condition(batch) if i else cond  # the gradient may also go through the condition
            losses = loss(denoiser, x_0, t, noise, fresh)
        if not isinstance(losses, Tensor) or losses.shape != (N,) or not losses.is_floating_point():
            raise UserError(f"{call} must return one float for each sample, ({N},), got {shape_of(losses)}")
        check_finite(call, losses)
        if waiting:
            with trial(f"{call}.backward()"):
                (time_sampler.importance_weights(t).to(losses) * losses).mean().backward()
            waiting = {p for p in waiting if p.grad is None}
        if not waiting:
            return
    part, name = owner.get(next(p for p in module.trained_parameters() if p in waiting), ("module", "a parameter"))
    raise UserError(
        f"{part}: {name} gets no gradient from the loss, so that it would not be trained; use it in the forward pass, "
        "or set requires_grad_(False) if it is to stay as it is"
    )


def try_noise(module: DiffusionModule, x_0: Tensor, i: int) -> Tensor:
    """The training noise, as the training draws it."""
    sampler, kind = module.noise_sampler, type(module.noise_sampler).__name__
    with trial(f"noise_sampler: {kind}.draw(shape, generator, dtype)"):
        drawn = sampler.draw(x_0.shape, generator("dry pass", i, device=x_0.device), x_0.dtype)
    with trial(f"noise_sampler: {kind}.pair(x_0, noise)"):
        noise = sampler.pair(x_0, drawn)
    if (noise.shape, noise.dtype, noise.device) != (x_0.shape, x_0.dtype, x_0.device):
        raise UserError(
            f"noise_sampler: {kind} must return noise like the data, {shape_of(x_0)}, got {shape_of(noise)} on "
            f"{noise.device}"
        )
    check_finite(f"noise_sampler: {kind}", noise)
    return noise


def try_sampling(pipeline: Pipeline) -> None:
    """The first step of the sampler, with its guidance."""
    sampler = type(pipeline.sampler).__name__
    with trial(f"sampler: the first step of {sampler}"), pipeline.inference():
        indices = range(2)
        pipeline = replace(pipeline, cond=pipeline.conditions(indices))
        state = list(islice(pipeline.trajectory(indices), 2))[-1]
    if state.x_t.shape != (2, *pipeline.shape) or not state.x_t.is_floating_point():
        raise UserError(
            f"sampler: {sampler}.step must return x_s of the shape of x_t, {(2, *pipeline.shape)}, got "
            f"{shape_of(state.x_t)}"
        )
    check_finite(f"sampler: the first step of {sampler}", state.x_t)


def try_picture(data: DataModule, x: Tensor) -> None:
    """A picture of a few samples."""
    from src.plots.pictures import sample_grid

    with trial(f"data: a picture of {data.kind} {shape_of(x)}"):
        sample_grid(data.to_units(x), kind=data.kind)


def try_checkpoint(module: DiffusionModule) -> None:
    """The state of the module, written without the values of its tensors and read again, and loaded into itself."""
    state = module.state_dict()
    small = tree_map(lambda v: v.new_empty(0) if isinstance(v, Tensor) else v, dict(state))
    buffer = io.BytesIO()
    with trial("module: its state_dict, which must hold tensors, numbers, strings, lists and dicts only,"):
        torch.save(small, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    with trial("module: load_state_dict of its own state_dict"):
        module.load_state_dict(state)


# ---- how they are tried ----


@contextmanager
def trial(what: str) -> Iterator[None]:
    """Re-raise an error of a part as a UserError that says what was tried, and in which line it failed."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise UserError(f"{what} runs out of memory; use a smaller net") from error
        text = " ".join(str(error).split())[:300]
        raise UserError(f"{what} raised {type(error).__name__}: {text}{place_of(error, __file__)}") from error


@contextmanager
def without_traces(module: DiffusionModule, device: torch.device) -> Iterator[None]:
    """Restore the random state, the buffers and the gradients, and leave out compilation."""
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            for parameter in module.parameters():
                parameter.grad = None


def precision_of(trainer: Any) -> Any:
    """The context of mixed precision; other precisions convert the weights only when the training starts."""
    plugin = trainer.precision_plugin
    return plugin.forward_context() if isinstance(plugin, MixedPrecision) else ExitStack()


def check_finite(what: str, value: Tensor) -> None:
    """Refuse numbers that are not finite."""
    if not value.isfinite().all():
        raise UserError(f"{what} gives NaN or infinity for the first samples of the data")


def shape_of(value: Any) -> str:
    """The dtype and the shape of a tensor, or of each of several by name; the type of anything else."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {shape_of(each)}" for name, each in value.items())
    if not isinstance(value, Tensor):
        return "None" if value is None else type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
