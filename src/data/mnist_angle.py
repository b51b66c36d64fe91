"""MNIST rotated by known angles."""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from math import pi
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from src.data.mnist import MNIST, MNISTOptions
from src.data.samples import Batch, BatchDataset
from src.statistics.handwriting import slant
from src.utils.errors import UserError
from src.utils.seeding import generator

CHUNK = 2000  # digits measured at a time


class MNISTAngle(MNIST):
    """Digits rotated counterclockwise by angles uniform in a range, another one in each epoch.

    The angle is a function of (seed, epoch, index). People write at a slant, whose standard deviation is 14 degrees; a
    shear removes it before the rotation, so that the angle can be seen in a single digit.

    Samples: as those of MNIST, and vector (1,) float32, the angle in degrees.

    Args:
        angle: lowest and highest angle in degrees. Beyond a quarter of a turn some digits look like others, a 6 like a
            9, or like themselves, a 0.
        upright: True to remove the slant; False to rotate the digits as they were written.
        vector_size: 1.
        **options: see MNIST.

    Raises:
        UserError: if the angles are not an increasing range of at most 360 degrees; and as MNIST.
    """

    vector_names: Sequence[str] = ("angle",)

    def __init__(
        self,
        angle: Sequence[float] = (-60.0, 60.0),
        upright: bool = True,
        vector_size: int = 1,
        **options: Unpack[MNISTOptions],
    ):
        super().__init__(**options)
        self.angle, self.upright, self.vector_size = tuple(angle), upright, vector_size
        if len(self.angle) != 2 or not 0 < self.angle[1] - self.angle[0] <= 360:
            raise UserError(
                f"data.angle must be the lowest and the highest angle in degrees, such as [-60, 60], got {list(angle)}"
            )
        if vector_size != 1:
            raise UserError(f"data.vector_size must be 1, as the vector is the angle, got {vector_size}")

    def load(self) -> None:
        super().load()
        self.train_set, self.val_set = self._rotate(self.train_set, "train"), self._rotate(self.val_set, "val")
        self.source += f", rotated by {self.angle[0]:g} to {self.angle[1]:g} degrees"

    @cached_property
    def test_set(self) -> BatchDataset:  # type: ignore[override]
        return self.val_set if self.missing() else self._rotate(super().test_set, "test")

    def _rotate(self, samples: BatchDataset, part: str) -> "RotatedSamples":
        chunks = (samples[0, rows]["x"] for rows in torch.arange(len(samples)).split(CHUNK))
        slants = torch.cat([slant(self.to_units(x)) for x in chunks]) if self.upright else torch.zeros(len(samples))
        return RotatedSamples(samples, slants, (self.angle[0], self.angle[1]), self.seed, part)


class RotatedSamples(Dataset):
    """Samples rotated by angles that are functions of (seed, epoch, index).

    Args:
        samples: the images, with -1 as background.
        slants: (N,), the slant in degrees that is removed from each.
        angle: lowest and highest angle in degrees.
        seed: seed of the angles.
        part: name of the part of the data, whose angles are drawn independently.
    """

    def __init__(self, samples: BatchDataset, slants: Tensor, angle: tuple[float, float], seed: int, part: str):
        self.samples, self.slants, self.angle, self.seed, self.part = samples, slants, angle, seed, part

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, where: tuple[int, Tensor]) -> Batch:
        epoch, indices = where
        low, high = self.angle
        angle = low + (high - low) * uniform(len(self), epoch, self.seed, self.part)[indices]
        batch = self.samples[where]
        return {**batch, "x": rotate(batch["x"] + 1, angle, self.slants[indices]) - 1, "vector": angle[:, None]}


@lru_cache(maxsize=4)
def uniform(n: int, epoch: int, seed: int, part: str) -> Tensor:
    """A number in [0, 1) for each of n samples in an epoch."""
    return torch.rand(n, generator=generator(seed, "angle", part, epoch))


def rotate(
    x: Float[Tensor, "batch channels height width"],
    angle: Float[Tensor, " batch"],
    slant: Float[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch channels height width"]:
    r"""Rotate images counterclockwise about their center, after a shear that removes a slant; 0 outside of them.

    .. math:: y(R_\theta S^{-1} u) = x(u), \quad R_\theta = \begin{pmatrix} \cos \theta & -\sin \theta \\
              \sin \theta & \cos \theta \end{pmatrix}, \quad S = \begin{pmatrix} 1 & \tan \varphi \\ 0 & 1 \end{pmatrix}

    for u to the right and upwards in pixels, interpolated once, linearly.

    Args:
        x: the images.
        angle: :math:`\theta` in degrees.
        slant: :math:`\varphi` in degrees; 0 by default.
    """
    theta = angle * (pi / 180)
    shear = torch.zeros_like(theta) if slant is None else (slant * (pi / 180)).tan()
    cos, sin, zero = theta.cos(), theta.sin(), torch.zeros_like(theta)
    # The inverse map, S R^-1, from the pixels of the result to those of x; the vertical axis of a picture is downwards.
    rows = (cos - shear * sin, -(sin + shear * cos), zero), (sin, cos, zero)
    matrix = torch.stack([torch.stack(row, 1) for row in rows], 1)
    height, width = x.shape[2:]
    matrix[:, 0, 1] *= height / width  # torch takes coordinates in [-1, 1]
    matrix[:, 1, 0] *= width / height
    grid = F.affine_grid(matrix.to(x), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)
