"""Conditions: what the network is given beside the noisy data and the noise level, such as class labels."""

from src.diffusion.conditions.base import Condition, FromData, NoCondition
from src.diffusion.conditions.clusters import Clusters
from src.diffusion.conditions.combined import Combined
from src.diffusion.conditions.encoders import ClassEncoder, Encoded, Encoder, ImageEncoder, VectorEncoder
from src.diffusion.conditions.image import Image, Measured
from src.diffusion.conditions.labels import Labels
from src.diffusion.conditions.text import Text
from src.diffusion.conditions.values import (
    NULL,
    Cond,
    all_null,
    cat_cond,
    class_of,
    count_cond,
    is_class,
    is_null,
    map_cond,
    null_like,
    rows_of,
)
from src.diffusion.conditions.vector import Vector

__all__ = [
    "NULL",
    "ClassEncoder",
    "Clusters",
    "Combined",
    "Cond",
    "Condition",
    "Encoded",
    "Encoder",
    "FromData",
    "Image",
    "ImageEncoder",
    "Labels",
    "Measured",
    "NoCondition",
    "Text",
    "Vector",
    "VectorEncoder",
    "all_null",
    "cat_cond",
    "class_of",
    "count_cond",
    "is_class",
    "is_null",
    "map_cond",
    "null_like",
    "rows_of",
]
