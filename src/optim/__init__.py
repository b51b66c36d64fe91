"""Optimizers, learning-rate schedules and moving averages of the weights."""

from src.optim.ema import EMA, ConstantEMA, HalfLifeEMA, PowerFunctionEMA, reconstruct
from src.optim.lr_schedules import constant_lr, cosine_lr, one_cycle_lr, trapezoid_lr
from src.optim.muon import Muon

__all__ = [
    "EMA",
    "ConstantEMA",
    "HalfLifeEMA",
    "Muon",
    "PowerFunctionEMA",
    "constant_lr",
    "cosine_lr",
    "one_cycle_lr",
    "reconstruct",
    "trapezoid_lr",
]
