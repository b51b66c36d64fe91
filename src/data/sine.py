"""Sine waves with parameters of known distribution: small data to check a diffusion model on."""

from collections.abc import Sequence
from functools import cached_property
from math import isfinite, pi
from typing import Annotated, Any

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from src.data.base import DataModule
from src.data.samples import BatchDataset, TensorSamples, split, val_count
from src.utils.errors import UserError
from src.utils.ranges import NonNegativeFloat, NonNegativeInt, OpenFraction, PositiveInt
from src.utils.seeding import generator


class Sine(DataModule):
    r"""Sine waves of random frequency, amplitude and phase.

    .. math:: x(u) = a \sin(2 \pi f u + \varphi) + \nu \epsilon, \quad u = 0, \dots, 1 \text{ in } L \text{ steps}

    with f, a and phi uniform in their ranges and eps standard normal. Samples: float32 (channels, L), the channels
    drawn independently. frequency=[1,1] amplitude=[1,1] phase=[0,0] gives n copies of sin(linspace(0, 2 pi, L)).

    Args:
        n: number of signals.
        val_fraction: fraction of them for validation.
        n_test: number of further signals for evaluation, from the same distributions.
        frequency: lowest and highest f, in cycles per window.
        amplitude: lowest and highest a, in the units of the signal.
        phase: lowest and highest phi, in radians.
        noise: nu, the standard deviation of the added noise.
        vector_size: 1 to 3: give the first of frequency, amplitude and phase of each signal as field `vector`; 0: none.
        channels, size, num_classes, batch_size, num_workers, seed: see DataModule; size is (L,), num_classes 0. The
            seed also draws the signals.

    Raises:
        UserError: if a range is not two finite numbers, lowest first, or another value is out of its range.
    """

    def __init__(
        self,
        n: Annotated[int, Ge(2)] = 1000,
        val_fraction: OpenFraction = 0.2,
        n_test: PositiveInt = 100,
        frequency: Sequence[float] = (1.0, 3.0),
        amplitude: Sequence[float] = (0.5, 1.0),
        phase: Sequence[float] = (0.0, 2 * pi),
        noise: NonNegativeFloat = 0.0,
        vector_size: Annotated[int, Interval(ge=0, le=3)] = 0,
        channels: PositiveInt = 1,
        size: Sequence[PositiveInt] = (100,),
        num_classes: NonNegativeInt = 0,
        batch_size: PositiveInt = 64,
        num_workers: Annotated[int, Interval(ge=0, le=1024)] = 0,
        seed: NonNegativeInt = 0,
    ):
        super().__init__(channels, size, num_classes, batch_size, num_workers, seed)
        if len(self.size) != 1 or self.size[0] < 2:
            raise UserError(f"data.size must be the length of a signal, >= 2, such as [100], got {list(size)}")
        if num_classes:
            raise UserError(f"data.num_classes must be 0, as sine waves have no labels, got {num_classes}")
        if not noise >= 0:
            raise UserError(f"data.noise must be >= 0, got {noise}")
        if n_test < 1:
            raise UserError(f"data.n_test must be >= 1, got {n_test}")
        self.n, self.n_val, self.n_test, self.noise = n, val_count(n, val_fraction), n_test, noise
        if vector_size and channels > 1:
            raise UserError(
                f"data.vector_size must be 0 for several channels, which are drawn apart, got {vector_size}"
            )
        self.vector_names = ["frequency", "amplitude", "phase"][:vector_size]
        self.frequency = _range("frequency", frequency)
        self.amplitude = _range("amplitude", amplitude)
        self.phase = _range("phase", phase)

    @property
    def distributions(self) -> dict[str, Any]:
        """The ranges of frequency, amplitude and phase, and the noise nu, which metrics compare samples with."""
        ranges = {"frequency": self.frequency, "amplitude": self.amplitude, "phase": self.phase}
        return {**ranges, "noise": self.noise}

    def load(self) -> None:
        x, fields = self._draw(self.n, "sine")
        train, val = split(self.n, self.n_val, self.seed)
        self.train_set, self.val_set = (
            TensorSamples(x[rows], fields={name: value[rows] for name, value in fields.items()})
            for rows in (train, val)
        )
        self.source = f"{len(train):,} train / {len(val):,} validation sine waves of length {self.size[0]}, drawn"
        peak = float(x.abs().max())
        if peak > 1 + 1e-6:
            self.warning = (
                f"The signals reach {peak:.2f}, beyond the [-1, 1] that samplers may clip to: "
                "lower data.amplitude or data.noise"
            )

    @cached_property
    def test_set(self) -> BatchDataset:  # type: ignore[override]
        x, fields = self._draw(self.n_test, "sine test")
        return TensorSamples(x, fields=fields)

    def _draw(self, n: int, purpose: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw signals (n, channels, L) and their further fields, independently for each purpose."""
        draws = generator(self.seed, purpose)

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(n, self.channels, 1, dtype=torch.float64, generator=draws)

        f, a, phi = uniform(*self.frequency), uniform(*self.amplitude), uniform(*self.phase)
        u = torch.linspace(0, 1, self.size[0], dtype=torch.float64)
        x = a * torch.sin(2 * pi * f * u + phi)
        x = (x + self.noise * torch.randn(x.shape, dtype=x.dtype, generator=draws)).float()
        known = torch.cat([f, a, phi], 2)[:, 0, : len(self.vector_names)].float()
        return x, {"vector": known} if self.vector_names else {}


def _range(name: str, values: Sequence[float]) -> tuple[float, float]:
    values = tuple(values)
    if len(values) != 2 or not all(map(isfinite, values)) or values[0] > values[1]:
        raise UserError(f"data.{name} must be the lowest and the highest value, such as [1, 3], got {list(values)}")
    return float(values[0]), float(values[1])
