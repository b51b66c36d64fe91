"""Any prediction of the data, for our samplers and for others, and what runs those of diffusers in float64."""

import inspect
import sys
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from diffusers import (
    DPMSolverSinglestepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor
from torch.testing import assert_close

from src.diffusion.denoiser import Prediction
from tests.samplers.registry import seeded

EDM = (EDMEulerScheduler, EDMDPMSolverMultistepScheduler)
FLOW = (FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler)
# Their samples are x / alpha.
STRETCHED = (EulerDiscreteScheduler, EulerAncestralDiscreteScheduler)
# Their samples hold the data as it is. (Heun's method there is one of x / alpha whatever the schedule.)
EXPLODING = (*EDM, HeunDiscreteScheduler)
# Called twice a step, and once in the last.
TWO_CALLS = (HeunDiscreteScheduler, FlowMatchHeunDiscreteScheduler, DPMSolverSinglestepScheduler)


def data(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Any prediction, of the sample and its level; it exceeds the bounds of the clipped runs."""
    return 1.5 * torch.sin(0.5 * x + torch.atan2(sigma, alpha) - 0.3)


def spread(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """A second output of the network, for the variance."""
    return torch.tanh(x - torch.atan2(sigma, alpha))


def ours(sampler, x, seed=0, **where):
    """Every state of a trajectory of ours."""

    def denoise(x_t, t):
        level = sampler.schedule.alpha_sigma(t)
        return Prediction(data(x_t, *level), spread(x_t, *level))

    return torch.stack([state.x_t for state in sampler.trajectory(denoise, x, seeded(seed), **where)])


class Float64:
    """A module (torch or numpy) whose float32 is float64."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        return getattr(self.module, "float64" if name == "float32" else name)


@contextmanager
def float64(kind):
    """Diffusers keeps tables in float32 and casts samples to it; within this a kind of scheduler does so in float64."""
    module = sys.modules[kind.__module__]
    with ExitStack() as stack:
        for name in {"torch", "np"} & set(vars(module)):
            stack.enter_context(patch.object(module, name, Float64(getattr(module, name))))
        torch.set_default_dtype(torch.float64)
        stack.callback(torch.set_default_dtype, torch.float32)
        yield


def scheduler_of(kind, steps, **config):
    """A scheduler of diffusers, ready to walk; `steps` may be the arguments of its `set_timesteps` instead."""
    with float64(kind):
        scheduler = kind(**config)
        scheduler.set_timesteps(**(steps if isinstance(steps, dict) else {"num_inference_steps": steps}))
    return scheduler


def levels_of(scheduler):
    """alpha and sigma at every state there, from its own table."""
    if not hasattr(scheduler, "sigmas"):
        bar = torch.cat([scheduler.alphas_cumprod[scheduler.timesteps], torch.ones(1, dtype=torch.float64)])
        alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
    elif isinstance(scheduler, FLOW) or scheduler.config.get("use_flow_sigmas"):
        alpha, sigma = 1 - scheduler.sigmas, scheduler.sigmas
    elif isinstance(scheduler, EXPLODING):
        alpha, sigma = torch.ones_like(scheduler.sigmas), scheduler.sigmas
    else:
        alpha = 1 / (1 + scheduler.sigmas**2).sqrt()
        sigma = alpha * scheduler.sigmas
    assert alpha.dtype == sigma.dtype == torch.float64
    return alpha, sigma


def output_of(scheduler, x, alpha, sigma):
    """The output of the network at which x_0 is `data`."""
    x_0 = data(x, alpha, sigma)
    if isinstance(scheduler, EDM):
        std = scheduler.config.sigma_data
        total = sigma**2 + std**2
        return (x_0 - std**2 / total * x) / (sigma * std / total.sqrt())
    eps = (x - alpha * x_0) / sigma
    kind = "flow_prediction" if isinstance(scheduler, FLOW) else scheduler.config.prediction_type
    said = {"sample": x_0, "epsilon": eps, "v_prediction": alpha * eps - sigma * x_0, "flow_prediction": eps - x_0}[
        kind
    ]
    if scheduler.config.get("variance_type") == "learned_range":
        return torch.cat([said, spread(x, alpha, sigma)], 1)
    return said


def theirs(scheduler, x, seed=0, begin=0, end=None, **options):
    """Every state of a trajectory of theirs, or of its calls from `begin` to `end`, in our scale."""
    options = dict(options)
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = torch.Generator().manual_seed(seed)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    scheduler.is_scale_input_called = True  # it scales the network's input, of which this one has no need
    alphas, sigmas = levels_of(scheduler)
    scales = alphas if isinstance(scheduler, STRETCHED) else torch.ones_like(alphas)
    calls, states = range(len(scheduler.timesteps))[begin:end], [x]
    with float64(type(scheduler)):
        for i in calls:
            if isinstance(scheduler, UniPCMultistepScheduler) and i == len(scheduler.timesteps) - 1:
                scheduler.lower_order_nums = 0  # only the last step is of first order, as is ours
            output = output_of(scheduler, states[-1], alphas[i], sigmas[i])
            timestep = scheduler.timesteps[i]
            if not hasattr(scheduler, "sigmas"):
                timestep = int(timestep)
            x = scheduler.step(output, timestep, states[-1] / scales[i], **options).prev_sample
            states.append(scales[i + 1] * x)
    if isinstance(scheduler, TWO_CALLS):
        states = [*states[:-1:2], states[-1]]
    return torch.stack(states)


def assert_equal(mine, other, atol=1e-9):
    """All states but the common first one, so that a test cannot pass on that alone."""
    assert len(mine) > 1
    assert_close(mine[1:], other[1:], rtol=0, atol=atol)
