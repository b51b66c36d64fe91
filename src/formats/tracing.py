"""A model as modules that torch.export traces: its guided denoiser, and a whole sampler of few steps."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from src.diffusion.parameterizations import Preconditioning
from src.samplers.pipeline import Pipeline, SelfConditioned
from src.samplers.table import Row, follow
from src.utils.errors import UserError

INPUT = "cond"  # the name of a condition that is one tensor


def named_cond(cond: Any) -> dict[str, Tensor]:
    """Conditions by name."""
    return {} if cond is None else dict(cond) if isinstance(cond, dict) else {INPUT: cond}


def given_cond(cond: dict[str, Tensor]) -> Any:
    """Conditions as the denoiser takes them."""
    return cond.get(INPUT, cond) if cond else None


class TracedDenoiser(nn.Module):
    """The clipped, guided prediction of the data: (x_t, t, cond) -> x_0, of a flow map (x_t, t, cond, s).

    Shapes: x_t (B, C, *S); t and s (B,) float64 in [0, 1]; cond the conditions by name; result as x_t.
    """

    def __init__(self, pipeline: Pipeline):
        super().__init__()
        self.denoiser, self.clip = pipeline.denoiser, pipeline.sampler.clip
        self.guide = pipeline.guidance

    def forward(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor], s: Tensor | None = None) -> Tensor:
        denoiser = self.denoiser if s is None else toward(self.denoiser, s)
        x_0 = self.guide(denoiser, self.denoiser.schedule)(x_t, t, given_cond(cond)).x_0
        return x_0 if self.clip is None else self.clip(x_0)


def toward(flow_map: nn.Module, s: Tensor) -> Any:
    """The flow map to times s (B,), for batches that guidance multiplies."""

    def denoise(x_t: Tensor, t: Tensor, cond: Any = None) -> Any:
        return flow_map(x_t, t, cond, s=torch.cat([s] * (x_t.shape[0] // s.shape[0])))

    return denoise


class TracedSampler(nn.Module):
    """A whole sampler: (noise, seed, cond) -> samples in the units of the data.

    Shapes: noise (B, C, *S), standard normal; seed (B,) int64, of the noise that is added on the way; cond the
    conditions by name; result as noise.
    """

    def __init__(self, pipeline: Pipeline, rows: list[Row]):
        super().__init__()
        self.denoiser, self.pipeline, self.rows = pipeline.denoiser, pipeline, rows
        times = [torch.tensor(row.t, dtype=torch.float64) for row in rows if row.t is not None]
        denoiser = pipeline.denoiser
        self.folded = {
            float(t): [v.detach() for v in denoiser.parameterization.preconditioning(denoiser.schedule, t)]
            for t in times
        }
        self.times = {float(t): t for t in times}
        guidance = pipeline.guidance
        at = getattr(guidance, "at", lambda schedule, t: guidance)  # one that depends on the time need not branch on it
        self.guidance = {float(t): at(denoiser.schedule, t) for t in times}

    def forward(self, noise: Tensor, seed: Tensor, cond: dict[str, Tensor]) -> Tensor:
        pipeline, clip = self.pipeline, self.pipeline.sampler.clip
        conditioned = SelfConditioned(pipeline.denoiser)
        draws = iter(range(len(self.rows) * 100))

        def denoise(x: Tensor, t: float, *s: float) -> Tensor:
            end = torch.tensor(s, dtype=torch.float64) if s else None
            denoiser = conditioned if end is None else partial(pipeline.denoiser, s=end)
            guided = self.guidance[t](denoiser, pipeline.denoiser.schedule)
            with nullcontext() if s else folded(pipeline.denoiser, self.folded[t]):
                x_0 = guided(x, self.times[t], given_cond(cond)).x_0
            return x_0 if clip is None else clip(x_0)

        x = follow(self.rows, noise, denoise, lambda x: normal(seed, next(draws), x))
        return pipeline.to_units(x)


class Folded:
    """A parameterization with the coefficients of one time."""

    def __init__(self, coefficients: list[Tensor]):
        self.coefficients = coefficients

    def preconditioning(self, schedule: Any, t: Tensor) -> Preconditioning:
        """The coefficients."""
        return Preconditioning(*self.coefficients)


@contextmanager
def folded(denoiser: Any, coefficients: list[Tensor]) -> Iterator[None]:
    """Within the block the denoiser is that of one time."""
    before, denoiser.parameterization = denoiser.parameterization, Folded(coefficients)
    try:
        yield
    finally:
        denoiser.parameterization = before


def normal(seed: Tensor, draw: int, like: Tensor) -> Tensor:
    r"""Standard normal numbers, a function of (seed, draw, element) in integers of 32 bits, the same everywhere.

    Source: the hash is lowbias32 of Wellons 2018 ("hash-prospector"); Box, Muller 1958.
    """
    count = like[0].numel()
    element = torch.arange(count, device=like.device) * 2
    start = hash_bits(hash_bits(seed.long() & MASK) ^ (draw + 1))[:, None]
    first, second = (hash_bits((start + hash_bits(element + i)) & MASK).double() for i in (0, 1))
    radius = (-2 * ((first + 0.5) / 2**32).log()).sqrt()
    return (radius * torch.cos(second * (2 * torch.pi / 2**32))).to(like.dtype).view(like.shape)


MASK = 2**32 - 1


def hash_bits(x: Tensor) -> Tensor:
    """A hash of integers in [0, 2^32), in products that fit into int64."""
    x = x ^ (x // 2**16)
    x = product(x, 0x7FEB352D)
    x = x ^ (x // 2**15)
    x = product(x, 0x846CA68B)
    return x ^ (x // 2**16)


def product(x: Tensor, factor: int) -> Tensor:
    """x times a factor, modulo 2^32."""
    return ((x & 0xFFFF) * factor + (((x // 2**16) * (factor & 0xFFFF)) & 0xFFFF) * 2**16) & MASK


def trace(module: nn.Module, inputs: tuple[Any, ...], name: str) -> Any:
    """Export a module by torch.export, with a dynamic batch; see `traced`.

    Args:
        module: the module.
        inputs: examples of its inputs, whose first axis is the batch.
        name: the name of the format, for messages.

    Raises:
        UserError: if it cannot be traced, with the layer and the reason.
    """
    entered: list[tuple[str, nn.Module]] = []

    def watch(path: str, layer: nn.Module) -> list[Any]:
        def enter(*_: Any) -> None:
            entered.append((path, layer))

        def leave(*_: Any) -> None:
            entered.pop()

        return [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]

    hooks = [hook for path, layer in module.named_modules() for hook in watch(path, layer)]
    try:
        with torch.no_grad():
            return traced(module, inputs)
    except Exception as error:
        path, layer = entered[-1] if entered else ("", module)
        where = f"{path} ({type(layer).__name__})" if path else type(layer).__name__
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"format={name}: {where} cannot be traced: {type(error).__name__}: {reason}. Use format=safetensors"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def traced(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """The program of a module for any batch, or up to the largest for which it is the same program.

    Upsampling in diffusers, for instance, copies batches of 64 and more.
    """

    def export(**limits: int) -> Any:
        batch = torch.export.Dim("batch", min=1, **limits)
        shapes = torch.utils._pytree.tree_map(lambda value: {0: batch}, inputs)
        return torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)

    try:
        return export()
    except torch._dynamo.exc.UserError as error:
        found = re.search(r"batch = Dim\('batch', max=(\d+)\)", str(error))
        if not found:
            raise
        return export(max=int(found[1]))
