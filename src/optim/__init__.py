"""Optimizers, learning-rate schedules and moving averages of the weights."""

from src.optim.by_name import torch_optimizer
from src.optim.combined import CombinedOptimizer
from src.optim.ema import EMA, ConstantEMA, HalfLifeEMA, PowerFunctionEMA, reconstruct
from src.optim.lr_schedules import constant_lr, cosine_lr, one_cycle_lr, trapezoid_lr
from src.optim.muon import Muon

__all__ = [
    "EMA",
    "CombinedOptimizer",
    "ConstantEMA",
    "HalfLifeEMA",
    "Muon",
    "PowerFunctionEMA",
    "constant_lr",
    "cosine_lr",
    "one_cycle_lr",
    "reconstruct",
    "torch_optimizer",
    "trapezoid_lr",
]
