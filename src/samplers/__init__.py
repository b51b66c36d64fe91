"""Samplers, their time grids and clipping, and the pipeline that draws samples."""

from src.samplers.ancestral import DDIM, DDPM
from src.samplers.base import DenoiserMemory, NoiseLevel, Sampler, SeededNoise, State
from src.samplers.clipping import DynamicClip, NoClip, StaticClip
from src.samplers.flow_map import FlowMapSampler
from src.samplers.multistep import AdamsBashforth, DPMpp2M, DPMpp2MSDE, DPMpp3MSDE, UniPC
from src.samplers.noise_prediction import DPM2, PLMS, PNDM, DPMSolver3, GradientEstimation
from src.samplers.ode import DPMpp2S, Euler, Heun, HeunVE, Restart
from src.samplers.pipeline import Cost, Pipeline, SelfConditioned
from src.samplers.sde import AnnealedLangevin, DPMppSDE, EulerMaruyama, PredictorCorrector, PredictorCorrectorALD
from src.samplers.time_grids import (
    TimeGrid,
    align_your_steps_time_grid,
    karras_time_grid,
    leading_time_grid,
    log_snr_time_grid,
    quadratic_time_grid,
    trailing_time_grid,
    uniform_time_grid,
)

__all__ = [
    "DDIM",
    "DDPM",
    "DPM2",
    "PLMS",
    "PNDM",
    "AdamsBashforth",
    "AnnealedLangevin",
    "Cost",
    "DPMSolver3",
    "DPMpp2M",
    "DPMpp2MSDE",
    "DPMpp2S",
    "DPMpp3MSDE",
    "DPMppSDE",
    "DenoiserMemory",
    "DynamicClip",
    "Euler",
    "EulerMaruyama",
    "FlowMapSampler",
    "GradientEstimation",
    "Heun",
    "HeunVE",
    "NoClip",
    "NoiseLevel",
    "Pipeline",
    "PredictorCorrector",
    "PredictorCorrectorALD",
    "Restart",
    "Sampler",
    "SeededNoise",
    "SelfConditioned",
    "State",
    "StaticClip",
    "TimeGrid",
    "UniPC",
    "align_your_steps_time_grid",
    "karras_time_grid",
    "leading_time_grid",
    "log_snr_time_grid",
    "quadratic_time_grid",
    "trailing_time_grid",
    "uniform_time_grid",
]
