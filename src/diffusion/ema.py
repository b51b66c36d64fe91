"""The exponential moving average of the weights, which samples better than the weights themselves."""

from copy import deepcopy

import torch
from torch import Tensor, nn


class EMA(nn.Module):
    r"""Keeps :math:`\bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta` in `model`, a copy of the one it follows.

    The decay depends on the step alone, so a resumed run continues exactly.

    Args:
        model: what to average; it is copied.
        decay: d, the share kept at each optimizer step.
        start: optimizer steps before averaging begins; until then the copy follows the weights.
        warmup: begin with a short memory, :math:`d_n = \min(d, (1 + n) / (10 + n))` after n averaged steps, so that the
            initial weights are forgotten.

    Source: warm-up as in TensorFlow's ExponentialMovingAverage(num_updates).
    """

    def __init__(self, model: nn.Module, decay: float = 0.999, start: int = 0, warmup: bool = True):
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"ema.decay lies in [0, 1), not {decay}")
        self.model = deepcopy(model).requires_grad_(False).eval()
        self.decay, self.start, self.warmup = decay, start, warmup

    def decay_at(self, step: int) -> float:
        """The decay used after optimizer step `step`, counted from 1."""
        n = step - self.start
        if n <= 0:
            return 0.0
        return min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights of `model` after optimizer step `step`."""
        averages: list[Tensor] = list(self.model.parameters())
        weights = [p.detach() for p in model.parameters()]
        torch._foreach_lerp_(averages, weights, 1 - self.decay_at(step))
        for average, value in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(value)

    def train(self, mode: bool = True) -> "EMA":
        """Stay in evaluation mode: the average is never trained."""
        return super().train(False)
