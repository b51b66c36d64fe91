"""The U-Net of the library denoising-diffusion-pytorch as a network of this project."""

import importlib.util
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from typing import Any, Literal

from torch import Tensor, nn

from src.utils.imports import need
from src.utils.ranges import PositiveInt, Probability


class LucidrainsNet(nn.Module):
    r"""`Unet`, or for signals `Unet1D`, of denoising-diffusion-pytorch.

    It gets the time :math:`k - 1` at the node :math:`t = k / T` of a discrete schedule, as that library counts, and
    with self-conditioning its estimate.

    Shapes: x (B, in_channels, *size); c_noise (B,), 1000 t; cond None; result (B, out_channels, *size).

    Args:
        channels: channels of the data.
        size: spatial size of the data.
        dim: width of the first level.
        dim_mults: widths of the levels, relative to dim.
        dropout: dropout probability.
        attn_dim_head: channels of an attention head.
        attn_heads: attention heads.
        full_attn: for each level, whether its attention is full instead of linear; null: the last level's alone.
        steps: T, the number of its times.
        first_time: the time of the node t = 1 / T.
        in_channels, out_channels: as in `Net`, determined by the other parts.
    """

    def __init__(
        self,
        channels: PositiveInt,
        size: Sequence[PositiveInt],
        dim: PositiveInt = 32,
        dim_mults: Sequence[PositiveInt] = (1, 2, 4),
        dropout: Probability = 0.0,
        attn_dim_head: PositiveInt = 32,
        attn_heads: PositiveInt = 4,
        full_attn: Sequence[bool] | None = None,
        steps: PositiveInt = 1000,
        first_time: Literal[0, 1] = 0,
        in_channels: PositiveInt | None = None,
        out_channels: PositiveInt | None = None,
    ):
        super().__init__()
        if len(size) not in (1, 2):
            raise ValueError(f"data.size must have one or two axes for net=lucidrains, got {list(size)}")
        factor = 2 ** (len(dim_mults) - 1)
        if any(s % factor for s in size):
            raise ValueError(f"data.size must be a multiple of {factor} for {len(dim_mults)} levels, got {list(size)}")
        self.steps, self.first_time = steps, first_time
        self.share = in_channels is not None and in_channels == 2 * channels
        options: dict[str, Any] = {"attn_dim_head": attn_dim_head, "attn_heads": attn_heads, "dropout": dropout}
        if len(size) == 2:
            options["full_attn"] = None if full_attn is None else tuple(full_attn)
        self.model = library_class("Unet" if len(size) == 2 else "Unet1D")(
            dim, dim_mults=tuple(dim_mults), channels=channels, self_condition=self.share,
            out_dim=channels if out_channels is None else out_channels, **options,
        )  # fmt: skip

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        k = c_noise * (self.steps / 1000)
        times = k.round().where((k - k.round()).abs() < 1e-3, k) - 1 + self.first_time
        if not self.share:
            return self.model(x, times)
        x, estimate = x.chunk(2, 1)
        return self.model(x, times, estimate)


def library_class(name: str) -> Any:
    """A class of denoising-diffusion-pytorch."""
    need("denoising_diffusion_pytorch", "for net=lucidrains", "lucidrains")
    with stand_in_for_torchvision():
        import denoising_diffusion_pytorch

    return getattr(denoising_diffusion_pytorch, name)


@contextmanager
def stand_in_for_torchvision() -> Iterator[None]:
    """Import the library where torchvision is missing: it uses that for folders of pictures only."""
    names = [] if importlib.util.find_spec("torchvision") else ["torchvision.transforms", "torchvision.utils"]
    for name in ["torchvision", *names] if names else []:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = ModuleSpec(name, None)
    for name in names:
        setattr(sys.modules["torchvision"], name.rpartition(".")[2], sys.modules[name])
    try:
        yield
    finally:
        for name in ["torchvision", *names] if names else []:
            sys.modules.pop(name, None)
