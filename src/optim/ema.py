"""Moving averages of the weights during training, which give better samples than the weights themselves."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Interval, MinLen
from jaxtyping import Float
from torch import Tensor, nn

MAX_STD = 12**-0.5  # relative width of the plain mean over the whole run, where gamma = 0
TOLERANCE = 0.05  # largest relative distance of a reconstructed profile from the requested one


class EMA(nn.Module, ABC):
    r"""Average :math:`\bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta` of the weights of a model.

    It is kept in `model`, a copy. The decay depends on the step alone, so a resumed run continues exactly. A subclass
    defines `decay_at`.

    Args:
        model: the model to average; it is copied.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = deepcopy(model).requires_grad_(False).eval()

    @abstractmethod
    def decay_at(self, step: int) -> float:
        """The decay d in [0, 1) at optimizer step `step`, counted from 1."""

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Update the average with the weights of `model` after optimizer step `step`."""
        averages: list[Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(averages, list(model.parameters()), 1 - self.decay_at(step))
        for average, value in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(value)

    def train(self, mode: bool = True) -> "EMA":
        """Stay in evaluation mode: the average is never trained."""
        return super().train(False)


class ConstantEMA(EMA):
    r"""Exponential moving average with a constant decay.

    Args:
        model: the model to average; it is copied.
        decay: d, per optimizer step.
        start: optimizer steps before averaging begins; until then the copy equals the weights.
        warmup: begin with a short memory, :math:`d_n = \min(d, (1 + n) / (10 + n))` after n averaged steps, so that the
            initial weights are forgotten.

    Source: warm-up as in TensorFlow's ExponentialMovingAverage(num_updates).
    """

    def __init__(
        self,
        model: nn.Module,
        decay: Annotated[float, Interval(ge=0, lt=1)] = 0.999,
        start: Annotated[int, Ge(0)] = 0,
        warmup: bool = True,
    ):
        super().__init__(model)
        if not 0 <= decay < 1:
            raise ValueError(f"ema.decay must be in [0, 1), got {decay}")
        self.decay, self.start, self.warmup = decay, start, warmup

    def decay_at(self, step):
        n = step - self.start
        if n <= 0:
            return 0.0
        return min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay


class HalfLifeEMA(EMA):
    r"""Exponential moving average with a half-life in samples, independent of the batch size.

    .. math:: d = 2^{-B / h}, \quad h = \min(\text{half\_life},\; \text{rampup\_ratio} \cdot \text{samples seen before})

    Args:
        model: the model to average; it is copied.
        half_life: half-life in samples.
        batch_size: samples per batch, over all processes.
        accumulate_grad_batches: batches per optimizer step; B is batch_size times this.
        rampup_ratio: the half-life is at most this fraction of the samples so far; None for no ramp-up.

    Source: Karras et al. 2022, arXiv:2206.00364; the ramp-up is that of `training_loop.py` in NVlabs/edm.
    """

    def __init__(
        self,
        model: nn.Module,
        half_life: Annotated[float, Gt(0)] = 500_000,
        batch_size: Annotated[int, Ge(1)] = 1,
        accumulate_grad_batches: Annotated[int, Ge(1)] = 1,
        rampup_ratio: Annotated[float, Gt(0)] | None = 0.05,
    ):
        super().__init__(model)
        if half_life <= 0:
            raise ValueError(f"ema.half_life must be > 0 samples, got {half_life}")
        if rampup_ratio is not None and rampup_ratio <= 0:
            raise ValueError(f"ema.rampup_ratio must be > 0 or null, got {rampup_ratio}")
        self.half_life, self.rampup_ratio = half_life, rampup_ratio
        self.samples_per_step = batch_size * accumulate_grad_batches

    def decay_at(self, step):
        half_life = self.half_life
        if self.rampup_ratio is not None:
            half_life = min(half_life, self.rampup_ratio * (step - 1) * self.samples_per_step)
        return 2 ** (-self.samples_per_step / half_life) if half_life else 0.0


class PowerFunctionEMA(EMA):
    r"""Averages whose length grows with the run: the weights at time t have a weight proportional to a power of t.

    .. math:: \hat\theta_\gamma(T) = \frac{\gamma + 1}{T^{\gamma + 1}} \int_0^T t^\gamma \theta(t)\, dt, \quad
              d = (1 - 1/\text{step})^{\gamma + 1}

    With weights that change at optimizer steps only, d makes this exact. `model` is the average of the first width,
    `others` those of the other widths. `reconstruct` computes the average of any width from snapshots along the run.

    Args:
        model: the model to average; it is copied.
        sigma_rel: widths, as standard deviations of the weighting over t relative to T; between 0 and 0.289.

    Source: Karras et al. 2024, arXiv:2312.02696, section 3.1, eq. 127.
    """

    def __init__(
        self, model: nn.Module, sigma_rel: Annotated[Sequence[Annotated[float, Gt(0)]], MinLen(1)] = (0.05, 0.10)
    ):
        super().__init__(model)
        if not sigma_rel or len(set(sigma_rel)) < len(sigma_rel):
            raise ValueError(f"ema.sigma_rel must be one or more different widths, got {list(sigma_rel)}")
        self.sigma_rel, *more = sigma_rel
        self.gamma = std_to_exp(self.sigma_rel)
        self.others = nn.ModuleList(PowerFunctionEMA(model, [width]) for width in more)

    def decay_at(self, step):
        return (1 - 1 / step) ** (self.gamma + 1)

    def update(self, model, step):
        super().update(model, step)
        for other in self.others:
            other.update(model, step)

    def snapshot(self, step: int) -> dict[str, Any]:
        """Copies of all averages after optimizer step `step`, in plain containers, for `reconstruct`."""

        def kept(x: Tensor) -> Tensor:
            return x.detach().to("cpu", copy=True)

        averages = {power.sigma_rel: power.model for power in (self, *self.others)}
        weights = [
            {name: kept(p) for name, p in model.named_parameters(remove_duplicate=False)} for model in averages.values()
        ]
        buffers = {name: kept(b) for name, b in self.model.state_dict().items() if name not in weights[0]}
        return {"step": step, "sigma_rel": list(averages), "weights": weights, "buffers": buffers}


def std_to_exp(sigma_rel: float) -> float:
    r"""The exponent gamma of the power-function average with a relative width.

    .. math:: \sigma_{rel}^2 = \frac{\gamma + 1}{(\gamma + 2)^2 (\gamma + 3)}

    With u = gamma + 2 this is the cubic u^3 + u^2 - r u + r = 0, where r = 1 / sigma_rel^2; its largest root, by
    Viète's formula, is the one with gamma > 0.

    Raises:
        ValueError: if the width is outside (0, 0.289), the range of gamma > 0.

    Source: Karras et al. 2024, arXiv:2312.02696, eq. 123 and 126.
    """
    if not 0 < sigma_rel < MAX_STD:
        raise ValueError(f"a relative width must be between 0 and {MAX_STD:.3f}, got {sigma_rel}")
    r = sigma_rel**-2
    p, q = r + 1 / 3, 2 / 27 + 4 * r / 3
    return 2 * math.sqrt(p / 3) * math.cos(math.acos(-1.5 * q / p * math.sqrt(3 / p)) / 3) - 7 / 3


def power_function_correlation(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    r"""The inner product over t of two weightings, each a final time T and an exponent gamma, of shapes that broadcast.

    .. math:: \langle a, b \rangle = \frac{(\gamma_a + 1)(\gamma_b + 1)}{\gamma_a + \gamma_b + 1}
              \frac{1}{T_{late}} \left( \frac{T_{early}}{T_{late}} \right)^{\gamma_{late}}

    Source: Karras et al. 2024, arXiv:2312.02696, eq. 151.
    """
    (t_a, gamma_a), (t_b, gamma_b) = a, b
    early, late = torch.minimum(t_a, t_b), torch.maximum(t_a, t_b)
    gamma_late = torch.where(t_a < t_b, gamma_b, gamma_a)
    return (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * (early / late) ** gamma_late / late


def posthoc_coefficients(
    t: Float[Tensor, " n"], gamma: Float[Tensor, " n"], width: float
) -> tuple[Float[Tensor, " n"], float]:
    r"""The linear combination of stored weightings that is nearest to the one of a relative width at the last time.

    .. math:: x = A^{-1} b, \quad A_{ij} = \langle p_i, p_j \rangle, \quad b_i = \langle p_i, p \rangle

    Returns x (n,), scaled to sum to 1, and its distance :math:`\|\sum_i x_i p_i - p\| / \|p\|`.

    Source: Karras et al. 2024, arXiv:2312.02696, section 3.2 and algorithm 3.
    """
    stored, wanted = (t, gamma), (t.max(), torch.tensor(std_to_exp(width), dtype=t.dtype))
    products = power_function_correlation((t[:, None], gamma[:, None]), stored)
    b, norm = power_function_correlation(stored, wanted), power_function_correlation(wanted, wanted)
    scale = products.diagonal().rsqrt()  # normalized profiles, for the condition number of the matrix
    fit = torch.linalg.lstsq(scale[:, None] * products * scale, (scale * b)[:, None], driver="gelsd").solution[:, 0]
    x = scale * fit / (scale @ fit)
    return x, ((x @ products @ x - 2 * b @ x + norm) / norm).clamp(min=0).sqrt().item()


def reconstruct(snapshots: Sequence[dict[str, Any]], sigma_rel: float) -> dict[str, Tensor]:
    r"""The average of another width at the step of the last snapshot, :math:`\sum_i x_i \hat\theta_i`.

    Args:
        snapshots: results of `PowerFunctionEMA.snapshot` along one run.
        sigma_rel: the relative width.

    Returns:
        The state dict of the averaged model.

    Raises:
        ValueError: if the snapshots do not represent the width within 5 %.
    """
    stored = [pair for s in snapshots for pair in zip(s["sigma_rel"], s["weights"], strict=True)]
    t = torch.tensor([s["step"] for s in snapshots for _ in s["sigma_rel"]], dtype=torch.float64)
    gamma = torch.tensor([std_to_exp(width) for width, _ in stored], dtype=torch.float64)
    x, distance = posthoc_coefficients(t, gamma, sigma_rel)
    if distance > TOLERANCE:
        grid = torch.arange(0.005, MAX_STD, 0.005).tolist() + [width for width, _ in stored]
        fitting = [width for width in grid if posthoc_coefficients(t, gamma, width)[1] <= TOLERANCE]
        raise ValueError(
            f"the {len(snapshots)} snapshots represent this relative width only to {distance:.0%}; "
            f"use one from {min(fitting):.3f} to {max(fitting):.3f}, or more snapshots"
        )
    weights = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in stored[0][1].items()}
    for factor, (_, part) in zip(x.tolist(), stored, strict=True):
        for name, total in weights.items():
            total.add_(part[name], alpha=factor)
    last = max(snapshots, key=lambda snapshot: snapshot["step"])
    return {name: total.to(stored[0][1][name].dtype) for name, total in weights.items()} | last["buffers"]
