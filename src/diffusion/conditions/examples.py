"""Some conditions of the training data, from which those of new samples are drawn."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from src.diffusion.conditions.values import Cond, map_cond

KEPT, KEPT_ELEMENTS = (16, 256), 2**18  # the fewest and the most that are kept, and their elements


class Examples(nn.Module):
    """Some conditions of the training data, from which those of new samples are drawn.

    Args:
        null: (1, ...), one null value; it says the shapes.

    Attributes:
        count: the number of conditions that are kept, 0 before `keep`.
    """

    count: Tensor

    def __init__(self, null: Cond):
        super().__init__()
        self.single = isinstance(null, Tensor)
        values = null if isinstance(null, dict) else {"value": null}
        elements = sum(value.numel() for value in values.values())
        self.most = min(max(KEPT_ELEMENTS // elements, KEPT[0]), KEPT[1])
        for name, value in values.items():
            self.register_buffer(name, value.expand(self.most, *value.shape[1:]).clone())
        self.register_buffer("count", torch.tensor(0))
        self.names = list(values)

    @property
    def kept(self) -> Cond:
        """The conditions, (most, ...), null values beyond `count`."""
        values = {name: self.get_buffer(name) for name in self.names}
        return values["value"] if self.single else values

    def keep(self, conds: Iterable[Cond], generator: torch.Generator) -> None:
        """Keep as many as fit, each of the given ones with the same probability."""
        found: dict[str, Tensor] = {}
        keys = torch.zeros(0)
        for cond in conds:
            values = cond if isinstance(cond, dict) else {"value": cond}
            values = {name: value.cpu() for name, value in values.items()}
            more = len(next(iter(values.values())))
            keys, chosen = torch.cat([keys, torch.rand(more, generator=generator)]).sort()  # the lowest are kept
            keys, chosen = keys[: self.most], chosen[: self.most]
            found = {name: torch.cat([found.get(name, value[:0]), value])[chosen] for name, value in values.items()}
        for name, value in found.items():
            self.get_buffer(name)[: len(value)] = value.to(self.get_buffer(name))
        self.count.fill_(len(keys))

    def draw(self, n: int, generator: torch.Generator) -> Cond:
        """Draw n of them, on the CPU; null values before `keep`."""
        u = torch.rand(n, generator=generator, dtype=torch.float64)
        rows = (u * self.count.cpu()).long()
        return map_cond(lambda value: value.cpu()[rows], self.kept)
