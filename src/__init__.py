"""Diffusion models in Lightning and Hydra."""

__version__ = "0.2.0"
