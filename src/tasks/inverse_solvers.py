r"""Solvers of linear inverse problems :math:`y = A x_0 + s z`: guided sampling, and RePaint."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from src.diffusion.guidance import Guidance
from src.diffusion.operators import LinearOperator, Mask
from src.diffusion.posterior_guidance import DDNM, DPS, PiGDM
from src.samplers.ancestral import DDIM
from src.samplers.pipeline import Pipeline
from src.utils.console import log
from src.utils.errors import UserError
from src.utils.ranges import NonNegativeFloat, PositiveFloat, PositiveInt

DIVERGED = 1e3  # times the largest measured value


class InverseSolver(Protocol):
    """An estimator of data from a linear measurement."""

    def __call__(
        self, pipeline: Pipeline, indices: range, operator: LinearOperator, y: Tensor, noise_std: float
    ) -> Tensor:
        """Estimate one batch.

        Args:
            pipeline: the model.
            indices: indices of the samples in the batch.
            operator: A.
            y: (len(indices), ...), their measurements.
            noise_std: s, in units of the model.

        Returns:
            (len(indices), C, *S).
        """


@dataclass
class PosteriorGuided:
    """Guide the sampling by the measurement.

    By default the probability-flow ODE is solved by DDIM, in the steps of the run's sampler, from the mean of the
    noise, x_1 = 0. This estimates the posterior mean, exactly for Gaussian data, with a smaller error than a sample.

    Args:
        guidance: builds the guidance of a batch from (pipeline, operator, y, noise_std); see
            :mod:`src.diffusion.posterior_guidance`.
        sample: True to draw a posterior sample instead, by the run's sampler from pure noise.
    """

    guidance: Callable[[Pipeline, LinearOperator, Tensor, float], Guidance]
    sample: bool = False

    def __call__(
        self, pipeline: Pipeline, indices: range, operator: LinearOperator, y: Tensor, noise_std: float
    ) -> Tensor:
        guidance = self.guidance(pipeline, operator, y, noise_std)
        if self.sample:
            return converged(pipeline.sample_batch(indices, guidance=guidance), y)
        own = pipeline.sampler
        ddim = DDIM(own.schedule, own.steps, own.time_grid, own.clip)
        mean = torch.zeros(len(indices), *pipeline.shape, device=pipeline.device)
        return converged(replace(pipeline, sampler=ddim).sample_batch(indices, mean, guidance=guidance), y)


def converged(x: Tensor, y: Tensor) -> Tensor:
    """Return an estimate x, and warn if it is beyond anything that the measurement y says."""
    if not x.abs().max() <= DIVERGED * y.abs().max().clamp(min=1):
        log.warning(
            "WARNING: the solver diverged, its assumption about the data does not hold; use a larger "
            "inverse_solver.sigma_data, inverse_solver=ddnm, more steps, or clip=static clip.bound=B"
        )
    return x


def sigma_data_of(pipeline: Pipeline) -> float:
    """The assumed standard deviation of the data along every direction.

    0.5 for data in [-1, 1]. For data without a range it is so large that nothing is assumed: a direction along which
    correlated elements vary together may vary more than an element by any factor, and too small a value adds more than
    the measurement says at each step, until it diverges.
    """
    units = pipeline.units
    within = pipeline.kind == "images" or (pipeline.kind == "signals" and (units is None or units.is_identity))
    return 0.5 if within else 1000.0


def ddnm(sigma_data: PositiveFloat | None = None, sample: bool = False) -> PosteriorGuided:
    """Project the predicted data onto the data that agree with the measurement.

    Args:
        sigma_data: standard deviation of the data in the model, by default `sigma_data_of`; unused without noise.
        sample: draw a posterior sample rather than estimate the posterior mean.

    Source: Wang et al. 2022, arXiv:2212.00490, eq. 13, and 17 to 19 for DDNM+; with noise it is the type II guidance of
    Peng et al. 2024, arXiv:2402.02149.
    """

    def guidance(pipeline: Pipeline, operator: LinearOperator, y: Tensor, noise_std: float) -> Guidance:
        return DDNM(operator, y, noise_std, sigma_data or sigma_data_of(pipeline))

    return PosteriorGuided(guidance, sample)


def dps(scale: NonNegativeFloat = 10.0, sample: bool = False) -> PosteriorGuided:
    """Diffusion posterior sampling: the gradient of the distance to the measurement, through the network.

    Args:
        scale: of the gradient.
        sample: draw a posterior sample rather than estimate the posterior mean.

    Source: Chung et al. 2023, arXiv:2209.14687, eq. 16 and algorithm 1.
    """

    def guidance(pipeline: Pipeline, operator: LinearOperator, y: Tensor, noise_std: float) -> Guidance:
        return DPS(operator, y, noise_std, scale)

    return PosteriorGuided(guidance, sample)


def pigdm(
    scale: NonNegativeFloat = 1.0, sigma_data: PositiveFloat | None = None, sample: bool = False
) -> PosteriorGuided:
    """Pseudoinverse guidance: the gradient of the log-likelihood of the measurement, through the network.

    Args:
        scale: of the gradient; 1 is the posterior.
        sigma_data: standard deviation of the data in the model, by default that of `sigma_data_of`.
        sample: draw a posterior sample rather than estimate the posterior mean.

    Source: Song et al. 2023, Pseudoinverse-guided diffusion models for inverse problems (ICLR), section 3.
    """

    def guidance(pipeline: Pipeline, operator: LinearOperator, y: Tensor, noise_std: float) -> Guidance:
        return PiGDM(operator, y, noise_std, scale, sigma_data or sigma_data_of(pipeline))

    return PosteriorGuided(guidance, sample)


@dataclass
class RePaint:
    r"""Inpaint by replacing the known part with the noised measurement after each step of the sampler.

    .. math:: x_s = m \odot (\alpha_s y + \sigma_s z) + (1 - m) \odot \text{step}(x_t)

    After every `jump_length` steps noise is added to go back as many, until each stretch has been sampled
    `jump_n_sample` times, which harmonizes the two parts. Each step is a trajectory of its own, so multistep samplers
    act as the one-step methods that they begin with.

    Args:
        jump_length: steps to go back; j in the paper.
        jump_n_sample: number of times each stretch is sampled; r in the paper. 1 never goes back.

    Raises:
        UserError: if the measurement is noisy, or the operator is not a mask.

    Source: Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1; the positions of the jumps are those of its code.
    """

    jump_length: PositiveInt = 5
    jump_n_sample: PositiveInt = 5

    def __post_init__(self) -> None:
        for name in ("jump_length", "jump_n_sample"):
            if getattr(self, name) < 1:
                raise ValueError(f"inverse_solver.{name} must be >= 1, got {getattr(self, name)}")

    def __call__(
        self, pipeline: Pipeline, indices: range, operator: LinearOperator, y: Tensor, noise_std: float
    ) -> Tensor:
        if not isinstance(operator, Mask) or noise_std > 0:
            raise UserError(
                "inverse_solver=repaint is for task=inpaint without noise; use inverse_solver=ddnm or pigdm"
            )
        sampler, noise, denoise = pipeline.sampler, pipeline.noise(indices), pipeline.denoise(indices)
        x_t = sampler.sample_prior(noise, torch.empty(len(indices), *pipeline.shape, device=pipeline.device))
        lowest = 1.0
        for t, s in pairwise(self.times(sampler.time_grid(sampler.schedule, sampler.steps, 1.0))):
            *_, end = sampler.trajectory(denoise, x_t, noise, times=torch.stack([t, s]))
            x_t = end.x_t
            if s < t:
                x_t = operator(sampler.schedule.add_noise(y, s, noise(y))) + x_t - operator(x_t)
            if s < lowest:
                lowest = float(s)
                if pipeline.on_step is not None:
                    pipeline.on_step(len(indices))
        return x_t

    def times(self, grid: Tensor) -> Tensor:
        """Insert the jumps back into a decreasing time grid; the first is one step before its end."""
        last = len(grid) - 1
        left = {last - k: self.jump_n_sample - 1 for k in range(1, last - self.jump_length + 1, self.jump_length)}
        places = [0]
        while places[-1] < last:
            places.append(places[-1] + 1)
            if left.get(places[-1]):
                left[places[-1]] -= 1
                places.append(places[-1] - self.jump_length)
        return grid[places]
