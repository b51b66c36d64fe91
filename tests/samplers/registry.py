"""Every sampler and grid of the project, and what the tests of them share."""

import itertools
from functools import partial

import torch

from src.diffusion.variances import FixedLargeVariance
from src.samplers import time_grids
from src.samplers.ancestral import DDIM, DDPM
from src.samplers.multistep import AdamsBashforth, DPMpp2M, DPMpp2MSDE, DPMpp3MSDE, UniPC
from src.samplers.noise_prediction import DPM2, HARDLY_ANY_SIGNAL, PLMS, PNDM, DPMSolver3, GradientEstimation
from src.samplers.ode import DPMpp2S, Euler, Heun, HeunVE, Restart
from src.samplers.sde import AnnealedLangevin, DPMppSDE, EulerMaruyama, PredictorCorrector, PredictorCorrectorALD

# Points, signals and images, square and not, of one channel and of three.
SHAPES = [(2,), (1, 7), (3, 5), (1, 4, 4), (3, 4, 6)]

DETERMINISTIC = {
    "euler": Euler,
    "ddim": DDIM,
    "heun": Heun,
    "heun_ve": HeunVE,
    "dpmpp_2s": DPMpp2S,
    "dpmpp_2m": DPMpp2M,
    "dpmpp_3m": partial(DPMpp3MSDE, eta=0.0),
    "unipc 1": partial(UniPC, order=1),
    "unipc 2": partial(UniPC, lower_order_final=False),
    "unipc 3": partial(UniPC, order=3, lower_order_final=False),
    "unipc lowered": partial(UniPC, order=3),
    "adams_bashforth 1": partial(AdamsBashforth, order=1),
    "adams_bashforth 2": partial(AdamsBashforth, order=2),
    "adams_bashforth 3": AdamsBashforth,
    "adams_bashforth 4": partial(AdamsBashforth, order=4),
    "dpm_2": DPM2,
    "dpm_solver_3": DPMSolver3,
    "gradient_estimation": GradientEstimation,
    "plms": PLMS,
    "pndm": PNDM,
}
# The order of convergence that each states. (That of UniPC 3 is 4 until the error of its first steps shows.)
ORDER = {
    "euler": 1, "ddim": 1, "heun": 2, "heun_ve": 2, "dpmpp_2s": 2, "dpmpp_2m": 2, "dpmpp_3m": 2,
    "unipc 1": 2, "unipc 2": 3, "unipc 3": 3, "unipc lowered": 2,
    "adams_bashforth 1": 1, "adams_bashforth 2": 2, "adams_bashforth 3": 3, "adams_bashforth 4": 4,
    "dpm_2": 2, "dpm_solver_3": 3, "gradient_estimation": 1, "plms": 2, "pndm": 2,
}  # fmt: skip
# Those whose errors fall more slowly than that while steps are few: by how much less.
SLACK = {"adams_bashforth 4": 0.95, "gradient_estimation": 0.45}
STOCHASTIC = {
    "ddpm": DDPM,
    "ddpm large": partial(DDPM, variance=FixedLargeVariance()),
    "ddim half": partial(DDIM, eta=0.5),
    "ddim ancestral": partial(DDIM, eta=1.0),
    "heun churn": partial(Heun, s_churn=10.0),
    "restart": Restart,
    "dpm_2 churn": partial(DPM2, s_churn=10.0),
    "dpmpp_sde": DPMppSDE,
    "dpmpp_sde half": partial(DPMppSDE, eta=0.5),
    "dpmpp_2m_sde": DPMpp2MSDE,
    "dpmpp_2m_sde half": partial(DPMpp2M, eta=0.5),
    "dpmpp_3m_sde": DPMpp3MSDE,
    "euler_maruyama": EulerMaruyama,
    "predictor_corrector": PredictorCorrector,
    "predictor_corrector_ald": PredictorCorrectorALD,
    "annealed_langevin": AnnealedLangevin,
}
SAMPLERS = DETERMINISTIC | STOCHASTIC
# Those that are affine functions of their draws where the denoiser is affine.
AFFINE = [name for name in STOCHASTIC if name != "predictor_corrector"]
# Those whose steps extrapolate the ones before.
MULTISTEP = (
    "dpmpp",
    "unipc",
    "adams_bashforth 2",
    "adams_bashforth 3",
    "adams_bashforth 4",
    "plms",
    "pndm",
    "gradient",
)
SINGLE_STEP = [name for name in SAMPLERS if not name.startswith(MULTISTEP)]
# Those whose last step does not end at the prediction of the data.
BEYOND_X_0 = ("adams", "euler_maruyama", "plms", "pndm", "gradient")
# Those that begin where there is no signal; the drift of the SDE is infinite there.
FROM_PURE_NOISE = [name for name in SAMPLERS if name != "euler_maruyama"]

GRIDS = {
    "uniform": time_grids.uniform_time_grid,
    "trailing": time_grids.trailing_time_grid,
    "quadratic": time_grids.quadratic_time_grid,
    "karras": time_grids.karras_time_grid,
    "log_snr": time_grids.log_snr_time_grid,
    "align_your_steps": partial(
        time_grids.align_your_steps_time_grid,
        sigmas=[14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152],
    ),
}


def evaluations(name: str, sampler, schedule) -> int:
    """The number of evaluations that the documentation of the sampler states."""
    times = sampler.times()
    steps = int((times.diff() < 0).sum())
    kind = name.split()[0]
    if kind in ("heun", "heun_ve", "restart"):
        return 2 * steps - 1
    from_pure_noise = int(steps > 1 and float(schedule.alpha_sigma(times[0])[0]) == 0)
    if kind in ("dpmpp_2s", "dpmpp_sde"):
        return 2 * steps - 1 - from_pure_noise
    # Steps but the last from levels with signal enough for a predicted noise.
    clear = int((schedule.alpha_sigma(times[:-2])[0] >= HARDLY_ANY_SIGNAL).sum())
    if kind in ("dpm_2", "dpm_solver_3"):
        return steps + (1 if kind == "dpm_2" else 2) * clear
    if kind in ("plms", "pndm"):
        more, begins = {"plms": (1, 1), "pndm": (3, 3)}[kind]
        return steps + more * min(begins, clear)
    if kind == "adams_bashforth":
        return steps + (3 if sampler.order == 4 else 1) * (min(sampler.order, steps) - 1)
    if kind.startswith("predictor_corrector"):
        return steps + sampler.corrector_steps * (steps - 1)
    if kind == "annealed_langevin":
        return sampler.steps_per_level * steps + 1
    return steps


def equal_in_log_snr(schedule, steps: int, t: float = 0.95, s: float = 0.15) -> torch.Tensor:
    """Times from t to s."""
    high, low = schedule.log_snr(torch.tensor([t, s], dtype=torch.float64)).tolist()
    return schedule.inverse_log_snr(torch.linspace(high, low, steps + 1, dtype=torch.float64))


def walk(sampler, denoise, x_t, noise=torch.randn_like, **where):
    """The end of a trajectory."""
    *_, end = sampler.trajectory(denoise, x_t, noise, **where)
    return end.x_t


def sample(sampler, denoise, noise, like):
    """The end of a trajectory from pure noise, shaped as `like`."""
    return walk(sampler, denoise, sampler.sample_prior(noise, like), noise)


def seeded(seed: int):
    """Noise for a whole batch."""
    g = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=g, dtype=torch.float64).to(x)


def one_hot(first: int = 0):
    """Noise that is a one in this row of the batch at its first draw, in the next row at its second, ..., else zero.

    A sampler with an affine denoiser is an affine function of its draws: then these are its coefficients, one draw a
    row, added to what a row without noise becomes.
    """
    row = itertools.count(first)

    def noise(x):
        z = torch.zeros_like(x)
        z[next(row)] = 1
        return z

    return noise


def tensor(value) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)
