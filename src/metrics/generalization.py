"""Whether a network has learned the law of its training data, or the data."""

from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from src.metrics.base import Value


class Estimate(NamedTuple):
    """A mean, and half of its 95 % interval."""

    value: float
    margin: float

    @classmethod
    def of(cls, x: Float[Tensor, " n"]) -> "Estimate":
        return cls(x.mean().item(), 1.96 * x.std().item() / len(x) ** 0.5)

    def __sub__(self, other: "Estimate") -> "Estimate":
        """Of what is independent."""
        return Estimate(self.value - other.value, (self.margin**2 + other.margin**2) ** 0.5)

    @property
    def certain(self) -> bool:
        """Whether it is above 0 by more than chance."""
        return self.value > self.margin

    def to_value(self, name: str, better: Literal["lower", "higher"] | None = "lower") -> Value:
        return Value(name, self.value, self.value - self.margin, self.value + self.margin, better=better)


class Findings(NamedTuple):
    """What the errors come to.

    train, test, ideal_train, ideal_test: mean squared errors over all levels, of the network and the ideal denoiser.
    gap: by what share of the training error the test error is larger, on average over the levels.
    ideal_gap: by what share of its test error that of the ideal denoiser is larger than its training error.
    remembered: how much of that gap, in the same units, the network has.
    better, levels: at how many noise levels, of how many, the network beats the ideal denoiser on test data.
    """

    train: Estimate
    test: Estimate
    ideal_train: Estimate
    ideal_test: Estimate
    gap: Estimate
    ideal_gap: Estimate
    remembered: Estimate
    better: int
    levels: int

    @classmethod
    def of(cls, train: Tensor, test: Tensor, ideal_train: Tensor, ideal_test: Tensor) -> "Findings":
        """Of errors (L, n)."""
        # Means over the levels come first, since a sample has one noise at all of them. Each level counts as much as
        # any other: by the network's error on training data, or by the ideal denoiser's on test data.
        usual, remembered = (x.mean(1, keepdim=True).clamp(min=1e-12) for x in (train, ideal_test))

        def gap(train: Tensor, test: Tensor, unit: Tensor) -> Estimate:
            return Estimate.of((test / unit).mean(0)) - Estimate.of((train / unit).mean(0))

        ideal_gap, own = gap(ideal_train, ideal_test, remembered), gap(train, test, remembered)
        scale = max(ideal_gap.value, 1e-12)
        return cls(
            train=Estimate.of(train.mean(0)),
            test=Estimate.of(test.mean(0)),
            ideal_train=Estimate.of(ideal_train.mean(0)),
            ideal_test=Estimate.of(ideal_test.mean(0)),
            gap=gap(train, test, usual),
            ideal_gap=ideal_gap,
            remembered=Estimate(own.value / scale, own.margin / scale),
            better=sum(Estimate.of(x).certain for x in ideal_test - test),
            levels=len(test),
        )

    def values(self) -> dict[str, Value]:
        """Of the report; `remembered` only where remembering the training data differs from knowing their law."""
        found = {
            "mse_test": self.test.to_value("squared error on test data"),
            "mse_train": self.train.to_value("squared error on training data"),
            "ideal_mse_test": self.ideal_test.to_value("squared error of the ideal denoiser on test data", None),
            "ideal_mse_train": self.ideal_train.to_value("squared error of the ideal denoiser on training data", None),
            "gap": self.gap.to_value("test error above training error, share of it"),
        }
        if self.ideal_gap.certain:
            found["remembered"] = self.remembered.to_value("this gap, share of that of perfect memory")
        return found

    def verdict(self) -> str:
        """In a sentence."""
        side = "above" if self.gap.value >= 0 else "below"
        gap = f"test error is {abs(self.gap.value):.1%} {side} its training error (± {self.gap.margin:.1%})"
        if not self.ideal_gap.certain:
            excess = self.test.value / max(self.ideal_test.value, 1e-12) - 1
            return (
                f"The network's {gap}, and {excess:+.1%} from that of the ideal denoiser of the training data, which "
                "is no worse on these test data: to remember and to know the law cannot be told apart."
            )
        beats = (
            f"beats the ideal denoiser of the training data at {self.better or 'none'} of {self.levels} noise levels"
        )
        share = f"{self.remembered.value:.0%} of the gap that perfect memory has"
        if not self.gap.certain and self.better:
            return f"The network generalises: its {gap}, and on test data it {beats}."
        if not self.gap.certain:
            return f"The network under-fits: its {gap}, but on test data it {beats}."
        if self.remembered.value < 0.5:
            return f"The network has begun to remember its training data: its {gap}, {share}."
        return f"The network remembers its training data: its {gap}, {share}."
