"""Generalization of a denoiser, from its errors on training and on test data."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from src.metrics.base import MetricValue
from src.statistics.significance import Better


class MeanWithMargin(NamedTuple):
    """A mean and the half width of its 95 % interval."""

    value: float
    margin: float

    @classmethod
    def of(cls, x: Float[Tensor, " n"]) -> "MeanWithMargin":
        return cls(x.mean().item(), 1.96 * x.std().item() / len(x) ** 0.5)

    def __sub__(self, other: "MeanWithMargin") -> "MeanWithMargin":
        """The difference of independent means."""
        return MeanWithMargin(self.value - other.value, (self.margin**2 + other.margin**2) ** 0.5)

    @property
    def positive(self) -> bool:
        """True if the mean is significantly above 0."""
        return self.value > self.margin

    def to_value(self, name: str, better: Better | None = "lower") -> MetricValue:
        return MetricValue(name, self.value, self.value - self.margin, self.value + self.margin, better=better)


class GeneralizationGap(NamedTuple):
    """Errors of the network and of the ideal denoiser of the training data, averaged over the noise levels.

    Attributes:
        train, test, ideal_train, ideal_test: mean squared errors of the network and of the ideal denoiser.
        gap: (test error - training error) / training error, averaged over the levels.
        ideal_gap: (test error - training error) / test error of the ideal denoiser.
        memorized_fraction: gap of the network as a fraction of the gap of the ideal denoiser, in the same units.
        n_better: noise levels at which the network has a lower test error than the ideal denoiser.
        n_levels: noise levels.
    """

    train: MeanWithMargin
    test: MeanWithMargin
    ideal_train: MeanWithMargin
    ideal_test: MeanWithMargin
    gap: MeanWithMargin
    ideal_gap: MeanWithMargin
    memorized_fraction: MeanWithMargin
    n_better: int
    n_levels: int

    @classmethod
    def of(cls, train: Tensor, test: Tensor, ideal_train: Tensor, ideal_test: Tensor) -> "GeneralizationGap":
        """Compute the gap from squared errors (L, n)."""
        # Average over the levels first: a sample has the same noise at all of them. Each level has equal weight, since
        # errors are relative to the training error of the network, or to the test error of the ideal denoiser.
        train_error, ideal_error = (x.mean(1, keepdim=True).clamp(min=1e-12) for x in (train, ideal_test))

        def gap(train: Tensor, test: Tensor, unit: Tensor) -> MeanWithMargin:
            return MeanWithMargin.of((test / unit).mean(0)) - MeanWithMargin.of((train / unit).mean(0))

        ideal_gap, own = gap(ideal_train, ideal_test, ideal_error), gap(train, test, ideal_error)
        scale = max(ideal_gap.value, 1e-12)
        return cls(
            train=MeanWithMargin.of(train.mean(0)),
            test=MeanWithMargin.of(test.mean(0)),
            ideal_train=MeanWithMargin.of(ideal_train.mean(0)),
            ideal_test=MeanWithMargin.of(ideal_test.mean(0)),
            gap=gap(train, test, train_error),
            ideal_gap=ideal_gap,
            memorized_fraction=MeanWithMargin(own.value / scale, own.margin / scale),
            n_better=sum(MeanWithMargin.of(x).positive for x in ideal_test - test),
            n_levels=len(test),
        )

    def values(self) -> dict[str, MetricValue]:
        """The values of the report; the memorized fraction only if memorization differs from generalization here."""
        found = {
            "mse_test": self.test.to_value("squared error on test data"),
            "mse_train": self.train.to_value("squared error on training data"),
            "ideal_mse_test": self.ideal_test.to_value("squared error of the ideal denoiser on test data", None),
            "ideal_mse_train": self.ideal_train.to_value("squared error of the ideal denoiser on training data", None),
            "generalization_gap": self.gap.to_value("generalization gap: relative excess of the test error"),
        }
        if self.ideal_gap.positive:
            found["memorized_fraction"] = self.memorized_fraction.to_value("fraction of the gap of full memorization")
        return found

    def interpretation(self) -> str:
        """The conclusion in one sentence: the network generalizes, memorizes or underfits."""
        side = "above" if self.gap.value >= 0 else "below"
        gap = f"test error is {abs(self.gap.value):.1%} {side} its training error (± {self.gap.margin:.1%})"
        if not self.ideal_gap.positive:
            excess = self.test.value / max(self.ideal_test.value, 1e-12) - 1
            return (
                f"The network's {gap}, and {excess:+.1%} from the test error of the ideal denoiser of the training "
                "data. These training data are so dense that memorization and generalization cannot be distinguished."
            )
        beats = (
            "has a lower test error than the ideal denoiser of the training data at "
            f"{self.n_better or 'none'} of {self.n_levels} noise levels"
        )
        if not self.gap.positive and self.n_better:
            return f"The network generalizes: its {gap}, and it {beats}."
        if not self.gap.positive:
            return f"The network underfits: its {gap}, but it {beats}."
        fraction = f"{self.memorized_fraction.value:.0%} of the gap of full memorization"
        if self.memorized_fraction.value < 0.5:
            return f"The network has begun to memorize its training data: its {gap}, {fraction}."
        return f"The network memorizes its training data: its {gap}, {fraction}."
