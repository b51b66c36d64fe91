"""Self-conditioning in sampling: the denoiser gets its estimate of the step before."""

import torch
from torch import Tensor

from src.diffusion.conditions import Cond
from src.diffusion.denoiser import Denoiser, Prediction


class SelfConditioned:
    """A denoiser for one trajectory, given its estimate of the step before if it uses self-conditioning."""

    def __init__(self, denoiser: Denoiser):
        self.denoiser = denoiser
        self.estimate: Tensor | None = None

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
        if not self.denoiser.self_conditioning_prob:
            return self.denoiser(x_t, t, cond)
        if self.estimate is None:
            self.estimate = torch.zeros_like(x_t)
        before, now = self.estimate.shape[0], x_t.shape[0]  # symbols in exports, unlike their len
        if before != now:  # guidance began to multiply the batch, or ceased to
            self.estimate = torch.cat([self.estimate] * -(-now // before))[:now]
        prediction = self.denoiser(x_t, t, cond, self.estimate)
        self.estimate = prediction.x_0.detach()
        return prediction
