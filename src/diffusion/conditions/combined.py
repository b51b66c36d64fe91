"""Several conditions at once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any

import torch
from annotated_types import Interval
from jaxtyping import Bool, Float
from torch import Tensor, nn

from src.diffusion.conditions.base import Batch, Condition
from src.diffusion.conditions.encoders import Encoder
from src.diffusion.conditions.examples import Examples
from src.diffusion.conditions.values import Cond, in_turn


class Combined(Condition):
    """Several conditions at once, each given to the network in its own way: a dict of their values by name.

    Each is withheld in training with its own probability, and all at once with the probability `dropout`, so that
    guidance may weigh each of them and the whole. New samples get the conditions of a training sample, all of the same
    one, since two that are drawn apart may contradict each other.

    Args:
        parts: the conditions, in the order in which guidance adds them; their keys are free.
        dropout: probability with which all conditions of a training sample are withheld together.

    Raises:
        ValueError: if there are none, or two of the same name.

    Source: Brooks et al. 2023, arXiv:2211.09800, section 3.2.1 (withheld each and together).
    """

    name = "combined"

    def __init__(self, parts: Mapping[str, Condition], dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.05):
        conditions = [condition for condition in parts.values() if condition is not None]
        names = [condition.name for condition in conditions]
        if not names:
            raise ValueError("parts must hold at least one condition, got none; use condition=none")
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"parts must have different names, got two conditions `{twice[0]}`; leave one out")
        super().__init__(dropout=dropout)
        self.parts = nn.ModuleDict(dict(zip(names, conditions, strict=True)))
        self.examples = Examples(self.null(1))

    @property
    def members(self) -> dict[str, Condition]:
        """The conditions by name."""
        return dict(self.parts.items())  # type: ignore[arg-type]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {name: part(batch) for name, part in self.members.items()}

    def sample(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        return self.examples.draw(n, generator)  # type: ignore[return-value]

    def null(self, n: int) -> dict[str, Tensor]:
        return {name: part.null(n) for name, part in self.members.items()}  # type: ignore[misc]

    def complete(self, cond: Cond | None, n: int, device: torch.device) -> Cond:
        given = {} if cond is None else cond
        if not isinstance(given, dict) or set(given) - set(self.members):
            what = f"one with {', '.join(given)}" if isinstance(given, dict) else "a tensor"
            raise ValueError(f"cond must be a dict with {', '.join(self.members)}, got {what}")
        if len(given) == len(self.members):
            return given
        null = {name: value.to(device, non_blocking=True) for name, value in self.null(n).items()}
        return null | given

    def request(self, given: Mapping[str, Any], n: int) -> Cond:
        found = {name: in_turn(self.read_as(name, value), n) for name, value in self.known(given)}
        return self.null(n) | found

    def captions(self, cond: Cond, names: Mapping[str, Sequence[str]] = MappingProxyType({})) -> list[str] | None:
        found = [part.captions(cond[name], names) for name, part in self.members.items()]  # type: ignore[index]
        written = [texts for texts in found if texts is not None]
        return [", ".join(filter(None, texts)) for texts in zip(*written, strict=True)] if written else None

    def drop(self, cond: Cond, dropped: Bool[Tensor, " batch"]) -> Cond:
        return {name: part.drop(cond[name], dropped) for name, part in self.members.items()}  # type: ignore[misc,index]

    def withhold(self, cond: Cond, coins: Callable[[], Float[Tensor, " batch"]]) -> Cond:
        cond = super().withhold(cond, coins)
        return {name: part.withhold(cond[name], coins) for name, part in self.members.items()}  # type: ignore[misc,index]

    def log_prior(self, cond: Cond) -> Float[Tensor, " n"]:
        priors = [part.log_prior(cond[name]) for name, part in self.members.items()]  # type: ignore[index]
        return torch.stack(priors).sum(0)

    def prepare(self, cond: Cond) -> Cond:
        return {name: part.prepare(cond[name]) for name, part in self.members.items()}  # type: ignore[misc,index]

    @property
    def encoders(self) -> dict[str, Callable[[int], Encoder | None]]:
        return {name: part.encoder for name, part in self.members.items()}

    @property
    def is_fitted(self) -> bool:
        return bool(self.examples.count) and all(part.is_fitted for part in self.members.values())

    def fit(self, batches: Iterable[Batch], generator: torch.Generator) -> None:
        """Fit each part, and keep some of their values; the batches are read more than once."""
        for part in self.members.values():
            if not part.is_fitted:
                part.fit(batches, generator)
        self.examples.keep((self(batch) for batch in batches), generator)

    def check_data(self, batch: Batch, n: int) -> None:
        for part in self.members.values():
            part.check_data(batch, n)
