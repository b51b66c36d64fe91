"""Models of other libraries from which a run starts, `init_from=NAME:PATH`, by class name."""

from src.pretrained.base import Pretrained
from src.pretrained.diffusers import DiffusersPretrained
from src.pretrained.lucidrains import LucidrainsPretrained

__all__ = ["DiffusersPretrained", "LucidrainsPretrained", "Pretrained"]
