"""Several optimizers as one."""

from collections.abc import Callable, Sequence
from typing import Any

import torch


class CombinedOptimizer(torch.optim.Optimizer):
    """Optimizers of different parameters that step together, with one learning-rate schedule and one state.

    Args:
        optimizers: the optimizers; parameters that are added later go to the first.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]):
        self.optimizers: list[torch.optim.Optimizer] = []
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        super().__init__(groups, {})
        self.optimizers = list(optimizers)
        self.count = [len(optimizer.param_groups) for optimizer in optimizers]
        self.share()

    def share(self) -> None:
        """Make the groups and the state of the optimizers those of this one, which is what is saved and scheduled."""
        groups = iter(self.param_groups)
        for optimizer, count in zip(self.optimizers, self.count, strict=True):
            optimizer.param_groups = [next(groups) for _ in range(count)]
            optimizer.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.share()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if not self.optimizers:  # within __init__
            super().add_param_group(param_group)
            return
        first = self.optimizers[0]
        first.add_param_group(param_group)
        self.param_groups.insert(self.count[0], first.param_groups[-1])
        self.count[0] += 1
