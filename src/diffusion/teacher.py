"""A trained denoiser with its guidance, which a loss distills."""

from torch import Tensor

from src.diffusion.conditions import Cond
from src.diffusion.denoiser import Denoiser
from src.diffusion.guidance import Guidance, NoGuidance, to_schedule
from src.diffusion.schedules import Schedule, Time


class Teacher:
    """A frozen denoiser with its guidance: ``teacher(schedule, x_t, t, cond)`` is its prediction of the data.

    It is neither trained nor saved with what is trained. It may have another schedule: it is evaluated at the same
    signal-to-noise ratio.

    Args:
        denoiser: the denoiser.
        guidance: wraps it; its effect becomes part of what is distilled.
    """

    def __init__(self, denoiser: Denoiser, guidance: Guidance | None = None):
        self.denoiser = denoiser.eval().requires_grad_(False)
        self.guidance = guidance or NoGuidance()

    def __call__(self, schedule: Schedule, x_t: Tensor, t: Time, cond: Cond | None = None) -> Tensor:
        """The predicted data (B, C, *S) for x_t of the given schedule at times t (B,)."""
        own = self.denoiser.to(x_t.device).schedule
        return self.guidance(self.denoiser, own)(*to_schedule(x_t, t, schedule, own), cond).x_0
