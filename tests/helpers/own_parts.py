"""Parts of a user's own, written by the documents alone."""

import torch
from torch import nn

from src.data.base import DataModule
from src.data.samples import TensorSamples
from src.diffusion.losses import MSE, Loss


class Plain(nn.Module):
    """A net by the contract, `net(x, c_noise, cond)` with the shape of x, for samples (B, C, *S) of any shape."""

    def __init__(self, channels: int, width: int = 8, num_classes: int = 0, bias: float = 0.0):
        super().__init__()
        self.inner, self.outer = nn.Linear(channels, width), nn.Linear(width, channels)
        self.noise, self.label = nn.Linear(1, width), nn.Embedding(num_classes + 1, width)
        nn.init.constant_(self.outer.bias, bias)

    def forward(self, x, c_noise, cond=None):
        cond = x.new_full((len(x),), -1, dtype=torch.int64) if cond is None else cond
        shift = self.noise(c_noise[:, None] / 1000) + self.label(cond + 1)
        h = torch.tanh(self.inner(x.movedim(1, -1)) + shift.view(len(x), *[1] * (x.ndim - 2), -1))
        return self.outer(h).movedim(-1, 1)


class Unconditional(Plain):
    """The same, which takes no condition."""

    def __init__(self, channels: int):
        super().__init__(channels)


class Fields(DataModule):
    """Smooth floats far outside [-1, 1], with labels, of any shape."""

    def __init__(self, channels: int = 2, size=(8, 8), num_classes: int = 0, batch_size: int = 8, scale: float = 3.0,
                 holes: bool = False, seed: int = 0):  # fmt: skip
        super().__init__(channels, size, num_classes, batch_size, seed=seed)
        self.scale, self.holes = scale, holes

    def load(self):
        g = torch.Generator().manual_seed(self.seed)
        x = self.scale * torch.randn(60, *self.shape, generator=g)
        x[0, 0] = torch.nan if self.holes else x[0, 0]
        label = torch.arange(60) % self.num_classes if self.num_classes else None
        self.train_set = TensorSamples(x[:40], None if label is None else label[:40])
        self.val_set = TensorSamples(x[40:], None if label is None else label[40:])
        self.source = "smooth fields"


class Pictures(Fields):
    """The same, called images."""

    kind = "images"


class Uncertain(nn.Module, Loss):
    """The squared error under a learned variance of each noise level."""

    def __init__(self, weighting):
        super().__init__()
        self.squared, self.log_variance = MSE(weighting), nn.Linear(1, 1)

    def __call__(self, denoiser, x_0, t, noise, cond=None):
        u = self.log_variance(t[:, None].float())[:, 0]
        return self.squared(denoiser, x_0, t, noise, cond) / u.exp() + u


class Forgetful(Loss):
    """A loss whose parameters nobody could find."""

    def __init__(self, weighting):
        self.squared, self.log_variance = MSE(weighting), nn.Linear(1, 1)

    def __call__(self, denoiser, x_0, t, noise, cond=None):
        return self.squared(denoiser, x_0, t, noise, cond)


class Unready(nn.Module):
    """A net that forgets super().__init__()."""

    def __init__(self, channels):
        self.layer = nn.Linear(channels, channels)
