"""A discrete schedule in single precision, as other libraries compute it."""

from collections.abc import Sequence

import torch

from src.diffusion.discrete_schedules import DiscreteVP, Steps, check_steps
from src.diffusion.log_snr_table import LogSNRTable
from src.diffusion.schedules import Positive, Schedule


class Float32Schedule(DiscreteVP):
    r"""Betas and their products in float32, as diffusers computes them: that of a pretrained model, bit for bit.

    Near t = 0 its :math:`\sigma^2` has an error of some 1e-4, which such a model was trained with.

    Args:
        steps: T.
        beta_start, beta_end: :math:`\beta_1` and :math:`\beta_T`, between which the betas increase linearly.
        root: True for square roots that increase linearly.
        betas: all of them, in place of these; the last may be 1.
    """

    def __init__(
        self,
        steps: Steps = 1000,
        beta_start: Positive = 1e-4,
        beta_end: Positive = 0.02,
        root: bool = False,
        betas: Sequence[float] | None = None,
    ):
        Schedule.__init__(self)
        check_steps(steps)
        power = 2 if root else 1
        ends = beta_start ** (1 / power), beta_end ** (1 / power)
        chosen = torch.linspace(*ends, steps) ** power if betas is None else torch.tensor([*betas])
        kept = (1 - chosen.float()).cumprod(0)
        signal, noise = kept.double(), 1 - kept.double()
        if not (noise.diff(prepend=noise.new_zeros(1)) > 0).all():
            raise ValueError("all betas must be in (0, 1], and too large to vanish in float32")
        self.steps = len(chosen)
        self.table = LogSNRTable(signal.log() - noise.log())
