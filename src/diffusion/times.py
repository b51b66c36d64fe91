"""Which times to train on. Each is called for one global batch, whatever the number of processes."""

from abc import ABC, abstractmethod

import torch

from src.diffusion.schedules import Time


class TimeSampler(ABC):
    """A new one is one method."""

    @abstractmethod
    def __call__(self, n: int, generator: torch.Generator) -> Time:
        """Draw n times in (0, 1], float64 on the CPU."""


class Uniform(TimeSampler):
    """Independent times, uniform in [t_min, 1].

    Args:
        t_min: smallest time; below about 1e-6 float32 cannot tell x_t from x_0.
    """

    def __init__(self, t_min: float = 1e-5):
        if not 0 < t_min < 1:
            raise ValueError(f"times.t_min lies between 0 and 1, not {t_min}")
        self.t_min = t_min

    def __call__(self, n, generator):
        return self.t_min + (1 - self.t_min) * torch.rand(n, generator=generator, dtype=torch.float64)


class Stratified(Uniform):
    r"""Times that cover [t_min, 1] evenly: :math:`u_i = (u + i / n) \bmod 1` with one uniform u for the whole batch.

    Each time alone is uniform, but the loss of a batch varies less.

    Source: Kingma et al. 2021, arXiv:2107.00630, appendix I.1.
    """

    def __call__(self, n, generator):
        u = torch.rand((), generator=generator, dtype=torch.float64)
        return self.t_min + (1 - self.t_min) * ((u + torch.arange(n, dtype=torch.float64) / n) % 1)


class DiscreteUniform(TimeSampler):
    """Independent times, uniform on the nodes k / steps, k = 1 .. steps.

    Source: Ho et al. 2020, arXiv:2006.11239, algorithm 1.
    """

    def __init__(self, steps: int = 1000):
        self.steps = steps

    def __call__(self, n, generator):
        return torch.randint(1, self.steps + 1, (n,), generator=generator, dtype=torch.float64) / self.steps
