"""The base class of conditions: what the network is given beside the noisy data and the noise level."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from src.diffusion.conditions.encoders import ClassEncoder, Encoder, ImageEncoder, VectorEncoder
from src.diffusion.conditions.examples import Examples
from src.diffusion.conditions.values import NULL, Cond, in_turn, is_null, map_cond, null_like, rows_from, rows_of

Batch = Mapping[str, Tensor]


class Condition(nn.Module):
    """The condition of a denoiser; the base class of all.

    A new one is a class with `forward`, which takes the condition from a batch of data, and `sample`, which draws it
    for new samples: a tensor with one row for each sample, classes (B,) int64, or numbers, vectors and images as
    floats (B, ...), in units of their own. Where there is no condition, its row is :func:`null_like` it: -1 for
    integers, NaN for floats.

    The network gets it as its argument `cond`, by `prepare`. A `src.nets.Net` takes it in by an `encoder`: classes and
    vectors as an embedding added to that of the noise level, images as channels concatenated to the noisy data.

    Args:
        num_classes: number of classes that the network has to embed, which becomes its argument of that name; 0 for a
            condition that is no class.
        dropout: probability with which the condition of a training sample is replaced by the null value, so that the
            network also learns to work without it. Classifier-free guidance and given data need that.

    Attributes:
        name: the name of the condition among several, and of `condition.NAME=` in sampling.
    """

    name = "value"

    def __init__(self, num_classes: int = 0, dropout: float = 0.0):
        super().__init__()
        self.num_classes, self.dropout = num_classes, dropout

    def forward(self, batch: Batch) -> Cond | None:
        """The condition (B, ...) of a batch {"x": (B, C, *S), ...} of data; None for none."""
        raise NotImplementedError

    def sample(self, n: int, generator: torch.Generator) -> Cond | None:
        """Draw the conditions (n, ...) of new samples, on the CPU; the first k of n are those that n = k gives."""
        raise NotImplementedError

    def null(self, n: int) -> Cond | None:
        """The conditions (n, ...) of samples without one, on the CPU."""
        if self.num_classes:
            return torch.full((n,), NULL)
        one = self.sample(1, torch.Generator())
        return map_cond(lambda value: value.expand(n, *value.shape[1:]), null_like(one))

    def complete(self, cond: Cond | None, n: int, device: torch.device) -> Cond | None:
        """The conditions of n samples on a device, with the null value for what is not given."""
        if cond is not None:
            return cond
        return map_cond(lambda value: value.to(device, non_blocking=True), self.null(n))

    def drop(self, cond: Cond, dropped: Bool[Tensor, " batch"]) -> Cond:
        """Replace the conditions of some samples by the null value."""
        return map_cond(
            lambda value: torch.where(dropped.view(-1, *[1] * (value.ndim - 1)), null_like(value), value), cond
        )

    def withhold(self, cond: Cond, coins: Callable[[], Float[Tensor, " batch"]]) -> Cond:
        """Drop the condition of each sample with the probability `dropout`.

        Args:
            cond: the conditions (B, ...).
            coins: draws a number in [0, 1) for each sample, others at each call.
        """
        return self.drop(cond, coins() < self.dropout) if self.dropout else cond

    def log_prior(self, cond: Cond) -> Float[Tensor, " n"]:
        r""":math:`\log p(c)` in nats, for a condition that is found in the data; 0 for one that comes with them.

        With it the density of data given their condition is a bound: :math:`\log p(x) \ge \log p(c) + \log p(x | c)`.
        """
        value = next(iter(cond.values())) if isinstance(cond, dict) else cond
        return torch.zeros(len(value), dtype=torch.float64, device=value.device)

    # ---- what a user asks for ----

    def read(self, value: Any) -> Tensor:
        """The conditions (m, ...) that numbers, lists of them or an array stand for: one or several.

        Raises:
            ValueError: if they are none of this condition.
        """
        one = self.null(1)
        if not isinstance(one, Tensor):
            raise ValueError("cannot be given")
        rows = rows_from(value, one)
        if self.num_classes and (odd := (rows < 0) | (rows >= self.num_classes)).any():
            raise ValueError(f"must be one of 0 to {self.num_classes - 1}, got {rows[odd][0]}")
        return rows

    def request(self, given: Mapping[str, Any], n: int) -> Cond:
        """The conditions of n samples from values by name, see `read`, which are repeated in turn.

        Of several conditions those that are not given are null values.

        Raises:
            ValueError: naming the condition whose value is wrong.
        """
        found = {name: in_turn(self.read_as(name, value), n) for name, value in self.known(given)}
        return found[self.name]

    def read_as(self, name: str, value: Any) -> Tensor:
        """Read a value, and name its condition in errors."""
        try:
            return self.members[name].read(value)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from error

    def known(self, given: Mapping[str, Any]) -> list[tuple[str, Any]]:
        """The values by name, after a check of the names."""
        if unknown := [name for name in given if name not in self.members]:
            there = ", ".join(self.members) or "none"
            raise ValueError(f"{unknown[0]} is no condition that this run was trained with; it has {there}")
        return list(given.items())

    @property
    def members(self) -> dict[str, "Condition"]:
        """The conditions by name: this one alone, or those that it is made of."""
        return {self.name: self}

    def captions(self, cond: Cond, names: Mapping[str, Sequence[str]] = MappingProxyType({})) -> list[str] | None:
        """A few words for the condition of each sample, empty for null values; None if it cannot be written.

        Args:
            cond: the conditions (B, ...).
            names: of the classes, or of the numbers of a vector, by the name of the condition.
        """
        if not isinstance(cond, Tensor) or cond.ndim > 2:
            return None
        known = names.get(self.name, ())
        rows = [row.flatten().tolist() for row in cond]
        if self.num_classes:
            texts = [f"{self.name} {known[row[0]] if row[0] < len(known) else row[0]}" for row in rows]
        elif len(known) == len(rows[0]):
            texts = [", ".join(f"{name} {v:.3g}" for name, v in zip(known, row, strict=True)) for row in rows]
        else:
            texts = [f"{self.name} {', '.join(f'{v:.3g}' for v in row)}" for row in rows]
        return ["" if missing else text for text, missing in zip(texts, is_null(cond).tolist(), strict=True)]

    # ---- how the network gets it ----

    def prepare(self, cond: Cond) -> Cond:
        """The conditions as the network gets them, such as standardized."""
        return cond

    def encoder(self, embed_dim: int) -> Encoder | None:
        """Make the part of a `src.nets.Net` that takes the condition in; None if such a net cannot take it."""
        if self.num_classes:
            return ClassEncoder(self.num_classes, embed_dim)
        one = self.null(1)
        if not isinstance(one, Tensor) or not one.is_floating_point() or one.ndim < 2:
            return None
        return VectorEncoder(one.shape[1], embed_dim) if one.ndim == 2 else ImageEncoder(one.shape[1])

    @property
    def encoders(self) -> dict[str, Callable[[int], Encoder | None]]:
        """The makers of encoders by name; none for a single class, which nets embed by `num_classes`."""
        return {} if self.num_classes else {self.name: self.encoder}

    # ---- what it depends on ----

    @property
    def is_fitted(self) -> bool:
        """True unless `fit` has to be called before training."""
        return True

    def fit(self, batches: Iterable[Batch], generator: torch.Generator) -> None:
        """Learn from batches of the training data what the condition depends on."""

    def check_data(self, batch: Batch, n: int) -> None:
        """Refuse data that the condition cannot be taken from.

        Args:
            batch: some samples.
            n: number of training samples.

        Raises:
            ValueError: if it cannot.
        """


class NoCondition(Condition):
    """No condition: the network models all data alike."""

    def __init__(self) -> None:
        super().__init__()

    @property
    def members(self) -> dict[str, Condition]:
        return {}

    @property
    def encoders(self) -> dict[str, Callable[[int], Encoder | None]]:
        return {}

    def forward(self, batch: Batch) -> None:
        return None

    def sample(self, n: int, generator: torch.Generator) -> None:
        return None


class FromData(Condition):
    """A condition that comes with the data in a field of its batches; the base class of such.

    Args:
        null: (1, ...), one null value.
        name: the field.
        dropout: see `Condition`.

    Attributes:
        examples: some of the training data's, from which those of new samples are drawn.
    """

    def __init__(self, null: Tensor, name: str, dropout: float):
        super().__init__(dropout=dropout)
        self.name, self.examples = name, Examples(null)

    def forward(self, batch: Batch) -> Shaped[Tensor, "batch *c"]:
        return batch[self.name]

    def sample(self, n: int, generator: torch.Generator) -> Shaped[Tensor, "n *c"]:
        value = self.examples.draw(n, generator)
        assert isinstance(value, Tensor)
        return value

    def null(self, n: int) -> Shaped[Tensor, "n *c"]:
        one = rows_of(self.examples.kept, slice(1))
        assert isinstance(one, Tensor)
        return null_like(torch.zeros(n, *one.shape[1:], dtype=one.dtype))  # on the CPU; reading `one` would wait

    @property
    def is_fitted(self) -> bool:
        return bool(self.examples.count)

    def fit(self, batches: Iterable[Batch], generator: torch.Generator) -> None:
        self.examples.keep((self(batch) for batch in batches), generator)

    def check_data(self, batch: Batch, n: int) -> None:
        if self.name not in batch:
            raise ValueError(
                f"the data must give `{self.name}` for each sample, but their batches have {', '.join(batch)} only"
            )
        given, wanted = self(batch).shape[1:], self.null(1).shape[1:]
        if given != wanted:
            raise ValueError(f"`{self.name}` of the data must have the shape {tuple(wanted)}, got {tuple(given)}")
