"""A log-SNR given at T times."""

import torch
from jaxtyping import Float
from torch import Tensor

from src.diffusion.schedules import Time


class LogSNRTable:
    r"""A log-SNR given at the nodes t = k / T, k = 1 .. T.

    The log-SNR is interpolated linearly between nodes; :math:`\sigma^2 / \alpha^2` is between t = 0 and the first node,
    and :math:`\alpha^2 / \sigma^2` before a last node without signal.

    Args:
        log_snr: (T,) decreasing values, float64; the last may be minus infinity.
    """

    def __init__(self, log_snr: Float[Tensor, " steps"]):
        self.steps = len(log_snr)
        self.ends_in_noise = bool(log_snr[-1] == -torch.inf)
        # A finite value in the last place keeps infinities out of gradients; it is never read.
        self.values = log_snr.nan_to_num(neginf=float(log_snr[-2]) - 1.0) if self.ends_in_noise else log_snr

    def __call__(self, t: Time) -> Time:
        k = torch.as_tensor(t, dtype=torch.float64, device="cpu") * self.steps
        # Times such as 0.29 * 1000 miss their node by a rounding error, which must not show as interpolation.
        k = k + torch.where((k - k.round()).abs() < 1e-9 * self.steps, k.round() - k, 0.0).detach()
        below = k.floor().clamp(1, max(self.steps - 1, 1)).long() - 1
        above = (below + 1).clamp(max=self.steps - 1)
        inside = torch.lerp(self.values[below], self.values[above], k - 1 - below)
        log_snr = torch.where(k < 1, self.values[0] - k.log(), inside)
        if self.ends_in_noise:
            last = k > self.steps - 1
            log_snr = torch.where(last, self.values[-2] + (self.steps - k).log(), log_snr)
        return log_snr

    def inverse(self, log_snr: Time) -> Time:
        """The t with this log-SNR."""
        value = torch.as_tensor(log_snr, dtype=torch.float64)
        above = torch.searchsorted(-self.values, -value).clamp(1, max(self.steps - 1, 1))
        high, low = self.values[above - 1], self.values[above.clamp(max=self.steps - 1)]
        k = above + ((high - value) / (high - low)).nan_to_num(0.0)
        k = torch.where(value > self.values[0], torch.exp(self.values[0] - value), k)
        if self.ends_in_noise:
            k = torch.where(value < self.values[-2], self.steps - torch.exp(value - self.values[-2]), k)
        return (k / self.steps).clamp(0, 1)
