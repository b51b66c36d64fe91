"""Class labels."""

from typing import Annotated

import torch
from annotated_types import Ge, Interval
from jaxtyping import Int
from torch import Tensor

from src.diffusion.conditions.base import Batch, Condition


class Labels(Condition):
    """The class labels of the data. New samples are of all classes in turn unless labels are given.

    Args:
        num_classes: number of labels of the data.
        dropout: see `Condition`.

    Raises:
        ValueError: if there are no labels.
    """

    name = "label"

    def __init__(self, num_classes: Annotated[int, Ge(0)], dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.1):
        if num_classes < 1:
            raise ValueError(
                f"the data must have labels, but data.num_classes is {num_classes}; set it to the number of labels if "
                "there are any, or use condition=none or condition=clusters"
            )
        super().__init__(num_classes, dropout)

    def forward(self, batch: Batch) -> Int[Tensor, " batch"]:
        return batch["label"]

    def sample(self, n: int, generator: torch.Generator) -> Int[Tensor, " n"]:
        return torch.arange(n) % self.num_classes

    def check_data(self, batch: Batch, n: int) -> None:
        if "label" not in batch:
            raise ValueError('the data must have labels, batches {"x": ..., "label": ...}; or use condition=none')
