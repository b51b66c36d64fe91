"""Models of the library diffusers as networks of this project."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

import torch
from torch import Tensor, nn

from src.nets.base import encode, make_encoders
from src.utils.imports import need
from src.utils.ranges import PositiveInt


class DiffusersNet(nn.Module):
    r"""Any model of diffusers that predicts from (sample, timestep), such as UNet2DModel, UNet1DModel or
    DiTTransformer2DModel.

    The model gets the time :math:`k - 1` at the node :math:`t = k / T` of a discrete schedule, as diffusers counts, and
    for classes, if it takes any, one more for those that are withheld. Other conditions are concatenated to x (images),
    added to the embedding of the time in place of that of a class (vectors, texts), and attended to (texts) by models
    with cross-attention, such as UNet2DConditionModel.

    Shapes: x (B, in_channels, *size); c_noise (B,), 1000 t; cond None or (B,) int64, -1 for no class; result
    (B, out_channels, *size).

    Args:
        channels: channels of the data.
        size: spatial size of the data.
        model: the name of the class.
        config: arguments of the class, without those that the data determine; null leaves one out.
        steps: T, the number of the model's times.
        first_time: the time of the node t = 1 / T.
        in_channels, out_channels, num_classes, encoders: as in `Net`, determined by the other parts.

    Raises:
        ValueError: if diffusers has no such model, or that has no such argument, or takes no such condition.
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
        encoders: Mapping[str, Callable[[int], nn.Module]] | None = None,
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
        self.embed_dim = 4 * given.get("block_out_channels", [0])[0]
        self.encoders = nn.ModuleDict(make_encoders(encoders or {}, self.embed_dim))
        concatenated, self.embedded, self.token_width = self.ways(model, takes, inspect.signature(kind.forward))
        determined = {
            "sample_size": size[0] if len(set(size)) == 1 else tuple(size),
            "in_channels": (channels if in_channels is None else in_channels) + concatenated,
            "out_channels": channels if out_channels is None else out_channels,
            "num_class_embeds": num_classes + 1 if num_classes else None,  # the last is no class
            "num_embeds_ada_norm": max(num_classes, 1),  # to which the model adds one
            "class_embed_type": "identity" if self.embedded else None,
            "cross_attention_dim": self.token_width or None,
        }
        given |= {key: value for key, value in determined.items() if key in takes and value is not None}
        self.model = kind(**given)
        for module in self.model.modules():  # classes are withheld by the condition, not by the model too
            if type(module).__name__ == "LabelEmbedding":
                module.dropout_prob = 0.0
        self.labeled = "num_embeds_ada_norm" in takes or bool(num_classes)
        if num_classes and "class_labels" not in inspect.signature(kind.forward).parameters:
            raise ValueError(f"{model} takes no classes; use condition=none")

    def ways(self, model: str, takes: Mapping[str, Any], forward: inspect.Signature) -> tuple[int, bool, int]:
        """How the model takes its conditions in: channels beside x, whether embedded, and the width of tokens."""
        parts: list[Any] = list(self.encoders.values())
        attends = "encoder_hidden_states" in forward.parameters
        words = [part for part in parts if not part.channels]
        if words and not (self.embed_dim and "class_embed_type" in takes):
            raise ValueError(f"{model} takes classes and images only; use net.model=UNet2DModel or another net")
        widths = {part.token_width for part in parts} - {0} if attends else set()
        if len(widths) > 1:
            raise ValueError(f"the tokens of all conditions must have one width, got {sorted(widths)}")
        if attends and not widths and "cross_attention_dim" in takes:
            widths = {self.embed_dim}  # the only token is the embedding
        return sum(part.channels for part in parts), bool(words), max(widths, default=0)

    def encoded(self, x: Tensor, cond: Tensor | dict[str, Tensor] | None) -> tuple[Tensor, dict[str, Any]]:
        """x with the channels of images, and the arguments of the model for other conditions."""
        parts = encode(self.encoders, cond, x) if self.encoders else []
        x_in = torch.cat([x, *(part.channels for part in parts if part.channels is not None)], 1)
        embedding = x.new_zeros(x.shape[0], self.embed_dim)  # a symbol in exports, unlike len(x)
        for part in parts:
            embedding = embedding if part.embedding is None else embedding + part.embedding
        given: dict[str, Any] = {"class_labels": embedding} if self.embedded else {}
        if self.token_width:
            some = [part for part in parts if part.tokens is not None]
            tokens = torch.cat([part.tokens for part in some], 1) if some else embedding[:, None]
            given["encoder_hidden_states"] = tokens
            if some:
                masks = [
                    torch.ones_like(p.tokens[..., 0], dtype=torch.bool) if p.mask is None else p.mask for p in some
                ]
                given["encoder_attention_mask"] = torch.cat(masks, 1)
        return x_in, given

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | dict[str, Tensor] | None = None) -> Tensor:
        given: dict[str, Any] = {}
        if self.encoders or self.token_width:
            x, given = self.encoded(x, cond)
        if self.labeled and not self.embedded:
            none = max(self.num_classes, 1)
            labels = cond if isinstance(cond, Tensor) and self.num_classes else torch.full_like(c_noise, -1).long()
            given["class_labels"] = torch.where(labels < 0, none, labels)
        return self.model(x, self.times(c_noise), **given).sample

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
