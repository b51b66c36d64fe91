"""What all tests share: one thread, shapes checked at run time, and models whose truth is known in closed form."""

import math
import os
import struct
import tempfile

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

torch.set_num_threads(1)
# What the tests run must not move a user's outputs/latest.
os.environ["DIFFUSION_LAB_OUTPUTS"] = tempfile.mkdtemp()
# An int passes where a float is asked for, as it does in Python and in YAML.
TYPECHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
jaxtyping.install_import_hook(["src.diffusion", "src.samplers", "src.nets"], TYPECHECKER)

from src.diffusion import schedules  # noqa: E402 - the hook comes first


class Trigonometric(schedules.Schedule):
    """A smooth variance-preserving process that ends without any signal."""

    def alpha_sigma(self, t):
        return torch.where(t < 1, torch.cos(math.pi / 2 * t), 0.0), torch.sin(math.pi / 2 * t)


class Flow(schedules.Schedule):
    """The straight paths of flow matching: neither variance-preserving nor with any signal at the end."""

    def alpha_sigma(self, t):
        return 1 - t, t.clone()


class Exploding(schedules.Schedule):
    """All of the signal stays, and the noise grows to a standard deviation of 80."""

    def alpha_sigma(self, t):
        return torch.ones_like(t), 80 * t


SCHEDULES = {
    "linear": schedules.linear,
    "cosine": schedules.cosine,
    "trigonometric": Trigonometric,
    "flow": Flow,
    "exploding": Exploding,
}


@pytest.fixture
def make_schedule():
    """The schedule of a name: linear and cosine are the project's, the others show that nothing depends on them."""
    return lambda name: SCHEDULES[name]()


@pytest.fixture(params=SCHEDULES)
def schedule(request):
    """Each schedule in turn."""
    return SCHEDULES[request.param]()


class Gaussian:
    r"""Data from :math:`N(\mu, s_0^2)`, every element with a mean and a standard deviation of its own.

    Both vary smoothly over the elements of one sample of the shape asked for; float64.
    """

    def __init__(self, shape: tuple[int, ...]):
        index = torch.arange(math.prod(shape), dtype=torch.float64).view(shape)
        self.mean = 0.5 * torch.sin(index + 0.5)
        self.std = 0.7 + 0.2 * torch.cos(index)

    def denoiser(self, schedule: schedules.Schedule):
        r"""The best possible one.

        .. math:: E[x_0 | x_t] = \mu + \frac{\alpha s_0^2}{\alpha^2 s_0^2 + \sigma^2} (x_t - \alpha \mu)
        """

        def denoise(x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            alpha, sigma = (v if v.ndim == 0 else v.view(-1, *[1] * self.mean.ndim) for v in schedule.alpha_sigma(t))
            gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
            return self.mean + gain * (x_t - alpha * self.mean)

        return denoise

    def ode_solution(self, schedule: schedules.Schedule, x_1: Tensor) -> Tensor:
        """Where the probability-flow ODE takes x_1: the affine map between the two Gaussians."""
        alpha, sigma = schedule.alpha_sigma(torch.tensor(1.0, dtype=torch.float64))
        return self.mean + (x_1 - alpha * self.mean) * self.std / (alpha**2 * self.std**2 + sigma**2).sqrt()


@pytest.fixture
def gaussian():
    """`gaussian(shape)`: Gaussian data with a closed-form denoiser."""
    return Gaussian


@pytest.fixture
def randn():
    """`randn(*shape)`: float64 normal numbers, each call other ones, each test the same."""
    g = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)


@pytest.fixture(scope="session")
def tiny_mnist(tmp_path_factory):
    """A folder with the four IDX files of a data set like MNIST, but with 96 + 32 random images."""
    folder, random = tmp_path_factory.mktemp("mnist"), np.random.default_rng(0)
    for part, n in (("train", 96), ("t10k", 32)):
        images, labels = random.integers(0, 256, (n, 28, 28), np.uint8), random.integers(0, 10, n).astype(np.uint8)
        header = struct.pack(">4I", 2051, n, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, n) + labels.tobytes())
    return folder


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory):
    """A folder of 40 small images in two class folders."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(40):
        path = folder / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 48, 3), np.uint8)).save(path)
    return folder
