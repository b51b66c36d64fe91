"""Models of the library diffusers as networks of this project."""

import inspect
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

import torch
from torch import Tensor, nn

from src.utils.imports import need
from src.utils.ranges import PositiveInt


class DiffusersNet(nn.Module):
    r"""Any model of diffusers that predicts from (sample, timestep), such as UNet2DModel, UNet1DModel or
    DiTTransformer2DModel.

    The model gets the time :math:`k - 1` at the node :math:`t = k / T` of a discrete schedule, as diffusers counts, and
    for classes, if it takes any, one more for those that are withheld.

    Shapes: x (B, in_channels, *size); c_noise (B,), 1000 t; cond None or (B,) int64, -1 for no class; result
    (B, out_channels, *size).

    Args:
        channels: channels of the data.
        size: spatial size of the data.
        model: the name of the class.
        config: arguments of the class, without those that the data determine; null leaves one out.
        steps: T, the number of the model's times.
        first_time: the time of the node t = 1 / T.
        in_channels, out_channels, num_classes: as in `Net`, determined by the other parts.

    Raises:
        ValueError: if diffusers has no such model, or that has no such argument.
    """

    def __init__(
        self,
        channels: PositiveInt,
        size: Sequence[PositiveInt],
        model: str = "UNet2DModel",
        config: Mapping[str, Any] | None = None,
        steps: PositiveInt = 1000,
        first_time: Literal[0, 1] = 0,
        in_channels: PositiveInt | None = None,
        out_channels: PositiveInt | None = None,
        num_classes: int = 0,
    ):
        super().__init__()
        self.steps, self.first_time, self.num_classes = steps, first_time, num_classes
        kind = model_class(model)
        takes = inspect.signature(kind.__init__).parameters
        given = {key: plain_containers(value) for key, value in (config or {}).items() if value is not None}
        for key in given:
            if key not in takes:
                near = get_close_matches(key, takes, n=1)
                hint = f"Did you mean {near[0]}?" if near else "null leaves it out"
                raise ValueError(f"config.{key}: {model} has no such argument. {hint}")
        determined = {
            "sample_size": size[0] if len(set(size)) == 1 else tuple(size),
            "in_channels": channels if in_channels is None else in_channels,
            "out_channels": channels if out_channels is None else out_channels,
            "num_class_embeds": num_classes + 1 if num_classes else None,  # the last is no class
            "num_embeds_ada_norm": max(num_classes, 1),  # to which the model adds one
        }
        given |= {key: value for key, value in determined.items() if key in takes and value is not None}
        self.model = kind(**given)
        for module in self.model.modules():  # classes are withheld by the condition, not by the model too
            if type(module).__name__ == "LabelEmbedding":
                module.dropout_prob = 0.0
        self.labeled = "num_embeds_ada_norm" in takes or bool(num_classes)
        if num_classes and "class_labels" not in inspect.signature(kind.forward).parameters:
            raise ValueError(f"{model} takes no classes; use condition=none")

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        labels = {}
        if self.labeled:
            none = max(self.num_classes, 1)
            given = torch.full_like(c_noise, -1, dtype=torch.int64) if cond is None else cond
            labels = {"class_labels": torch.where(given < 0, none, given)}
        return self.model(x, self.times(c_noise), **labels).sample

    def times(self, c_noise: Tensor) -> Tensor:
        """The model's times of c_noise; those of nodes without their rounding error."""
        k = c_noise * (self.steps / 1000)
        return torch.where((k - k.round()).abs() < 1e-3, k.round(), k) - 1 + self.first_time


def model_class(name: str) -> Any:
    """The class of a model of diffusers.

    Raises:
        ValueError: if there is none of this name.
    """
    need("diffusers", "for net=diffusers", "diffusers")
    import diffusers

    kind = getattr(diffusers, name, None) if name.isidentifier() else None
    if not (inspect.isclass(kind) and issubclass(kind, diffusers.ModelMixin)):
        raise ValueError(f"model: diffusers has no model {name}; use UNet2DModel, UNet1DModel or DiTTransformer2DModel")
    return kind


def plain_containers(value: Any) -> Any:
    """Lists and dicts in place of a config's own containers."""
    if isinstance(value, Mapping):
        return {key: plain_containers(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain_containers(item) for item in value]
    return value
