"""What all tests share: one thread, the same random numbers, and models whose truth is known in closed form."""

import logging
import math
import random
import struct
import sys
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from src.diffusion import beta_schedules, discrete_schedules, schedules
from src.metrics.features import trained
from src.utils.console import tolerated
from tests.helpers.copied import pytest_pyfunc_call  # noqa: F401

torch.set_num_threads(1)
# Features of a data set are learned in a moment; tests/metrics/features asks for good ones.
trained.MIN_STEPS = 20


@pytest.fixture(autouse=True)
def nothing_is_tolerated(request):
    """A run goes on without a picture that fails; a test does not, unless it is marked `tolerates`."""
    tolerated.clear()
    yield
    if not request.node.get_closest_marker("tolerates"):
        assert not tolerated, dict(tolerated)


class Trigonometric(schedules.Schedule):
    """A smooth variance-preserving process that ends without any signal; not one of the project's."""

    def alpha_sigma(self, t):
        return torch.where(t < 1, torch.cos(math.pi / 2 * t), 0.0), torch.sin(math.pi / 2 * t)


# Every process of the project, by its name in conf/schedule, and one of a user.
SCHEDULES = {
    "linear": beta_schedules.LinearSchedule,
    "scaled_linear": beta_schedules.ScaledLinearSchedule,
    "quadratic": beta_schedules.QuadraticSchedule,
    "constant": beta_schedules.ConstantSchedule,
    "exponential": beta_schedules.ExponentialSchedule,
    "tanh": beta_schedules.TanhSchedule,
    "cosine": beta_schedules.CosineSchedule,
    "sigmoid": beta_schedules.SigmoidSchedule,
    "polynomial": beta_schedules.PolynomialSchedule,
    "linear_vp": schedules.LinearVPSchedule,
    "laplace": schedules.LaplaceSchedule,
    "vp_sde": schedules.VPSDE,
    "sub_vp_sde": schedules.SubVPSDE,
    "ve_sde": discrete_schedules.VESDE,
    "edm": discrete_schedules.EDMSchedule,
    "flow": schedules.FlowSchedule,
    "additive": discrete_schedules.AdditiveSchedule,
    "zero_snr": lambda: beta_schedules.LinearSchedule(zero_terminal_snr=True),
    "shifted": lambda: beta_schedules.CosineSchedule(shift=2.0),
    "trigonometric": Trigonometric,
}
VARIANCE_EXPLODING = ("ve_sde", "edm", "additive")
ENDS_IN_NOISE = ("linear_vp", "laplace", "flow", "zero_snr", "trigonometric")


# Where shapes are checked, but for many inputs of one shape; `make test-all` checks them in all tests.
TESTS = Path(__file__).parent
SHAPES_CHECKED = ("diffusion", "nets", "samplers/test_trajectory.py", "samplers/test_pipeline.py", "test_configs.py")


@pytest.hookimpl(tryfirst=True)  # before the fixtures, also those of a whole file
def pytest_runtest_setup(item):
    """The same random numbers, whatever ran before; and shapes checked, a tenth of the time, only for the core."""
    thorough = item.config.option.markexpr != "not slow"
    core = any(item.path.is_relative_to(TESTS / name) for name in SHAPES_CHECKED)
    checked = thorough or (core and not item.path.stem.endswith("_properties"))
    jaxtyping.config.update("jaxtyping_disable", not checked)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries draw from it
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def no_module_left(tmp_path_factory):
    """What the tests of a file import from their folders is forgotten: others have modules of the same names."""
    yield
    folder = f"{tmp_path_factory.getbasetemp()}/"
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__dict__", {}).get("__file__")).startswith(folder):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def no_log_left_open():
    """What a command said where to log to ends with the test, as it does with its process."""
    yield
    root = logging.getLogger()
    for handler in [h for h in root.handlers if type(h) in (logging.StreamHandler, logging.FileHandler)]:
        root.removeHandler(handler)
        handler.close()


@pytest.fixture
def unchecked():
    """No checks of shapes at run time, which cost three quarters of a long walk; the other tests make them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def make_schedule():
    """The schedule of a name."""
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
        level = levels_of(schedule, self.mean.ndim)

        def denoise(x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            alpha, sigma = level(t)
            gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
            return self.mean + gain * (x_t - alpha * self.mean)

        return denoise

    def moments(self, schedule: schedules.Schedule, t: float) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of x_t."""
        alpha, sigma = schedule.alpha_sigma(torch.tensor(t, dtype=torch.float64))
        return alpha * self.mean, (alpha**2 * self.std**2 + sigma**2).sqrt()

    def ode_solution(self, schedule: schedules.Schedule, x_t: Tensor, t: float = 1.0, s: float = 0.0) -> Tensor:
        """Where the probability-flow ODE takes x_t: the affine map between the two Gaussians."""
        (mean_t, std_t), (mean_s, std_s) = self.moments(schedule, t), self.moments(schedule, s)
        return mean_s + (x_t - mean_t) * std_s / std_t


class Mixture:
    r"""Data from three Gaussians in a row, :math:`\sum_k w_k N(c_k u, s_0^2 I)`, float64.

    u is a unit vector that touches every element. Along it x_t is a mixture in one dimension, across it a Gaussian, so
    that the best denoiser, the law of every x_t and the solution of the probability-flow ODE are all known.
    """

    def __init__(self, shape: tuple[int, ...]):
        index = torch.arange(math.prod(shape), dtype=torch.float64).view(shape)
        u = 1 + 0.5 * torch.sin(2 * index)
        self.direction = u / u.norm()
        self.weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
        self.places = torch.tensor([-1.6, 0.3, 1.7], dtype=torch.float64)
        self.std = 0.3

    def along(self, x: Tensor) -> Tensor:
        """The component along u, (B,)."""
        return (x * self.direction).flatten(1).sum(1)

    def outer(self, y: Tensor) -> Tensor:
        """y u, shaped as the data."""
        return y.view(-1, *[1] * self.direction.ndim) * self.direction

    def denoiser(self, schedule: schedules.Schedule):
        r"""The best possible one.

        .. math:: E[x_0 | x_t] = \sum_k r_k \left(c_k u + \frac{\alpha s_0^2}{\alpha^2 s_0^2 + \sigma^2}
                  (x_t - \alpha c_k u)\right), \quad r_k \propto w_k N(x_t; \alpha c_k u, \alpha^2 s_0^2 + \sigma^2)
        """
        level = levels_of(schedule, 1)

        def denoise(x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
            alpha, sigma = level(t)
            v = alpha**2 * self.std**2 + sigma**2
            distance = self.along(x_t)[:, None] - alpha * self.places
            place = (self.weights.log() - distance**2 / (2 * v)).softmax(1) @ self.places
            gain = alpha * self.std**2 / v
            shrink = gain if gain.ndim == 0 else gain.view(-1, *[1] * self.direction.ndim)
            return self.outer(place * (1 - gain * alpha).flatten()) + shrink * x_t

        return denoise

    def cdf(self, schedule: schedules.Schedule, y: Tensor, t: float) -> Tensor:
        """The probability that x_t lies below y along u."""
        alpha, sigma = schedule.alpha_sigma(torch.tensor(t, dtype=torch.float64))
        z = (y[:, None] - alpha * self.places) / (alpha**2 * self.std**2 + sigma**2).sqrt()
        return torch.special.ndtr(z) @ self.weights

    def ode_solution(self, schedule: schedules.Schedule, x_t: Tensor, t: float = 1.0, s: float = 0.0) -> Tensor:
        """Where the probability-flow ODE takes x_t: in one dimension it keeps every quantile; by bisection."""
        y, rank = self.along(x_t), self.cdf(schedule, self.along(x_t), t)
        low, high = torch.full_like(y, -500), torch.full_like(y, 500)
        for _ in range(100):
            middle = (low + high) / 2
            below = self.cdf(schedule, middle, s) < rank
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (
            schedule.alpha_sigma(torch.tensor(v, dtype=torch.float64)) for v in (t, s)
        )
        scale = ((alpha_s**2 * self.std**2 + sigma_s**2) / (alpha_t**2 * self.std**2 + sigma_t**2)).sqrt()
        return self.outer((low + high) / 2) + scale * (x_t - self.outer(y))

    def draw(self, n: int, randn) -> Tensor:
        """n samples, with exactly `weights` of them from each mode."""
        place = self.places.repeat_interleave((n * self.weights).round().long())
        return self.outer(place) + self.std * randn(n, *self.direction.shape)


def levels_of(schedule: schedules.Schedule, ndim: int):
    """alpha and sigma as a function of t, to multiply data of ndim dimensions; scalar times are computed once."""
    known: dict[float, tuple[Tensor, Tensor]] = {}

    def level(t: Tensor) -> tuple[Tensor, Tensor]:
        if t.ndim:
            alpha, sigma = (v.view(-1, *[1] * ndim) for v in schedule.alpha_sigma(t))
            return alpha, sigma
        if float(t) not in known:
            known[float(t)] = schedule.alpha_sigma(t)
        return known[float(t)]

    return level


@pytest.fixture
def gaussian():
    """`gaussian(shape)`: Gaussian data with a closed-form denoiser."""
    return Gaussian


@pytest.fixture
def mixture():
    """`mixture(shape)`: data from three Gaussians with a closed-form denoiser."""
    return Mixture


@pytest.fixture
def randn():
    """`randn(*shape)`: float64 normal numbers, each call other ones, each test the same."""
    g = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)


@pytest.fixture(scope="session")
def tiny_mnist(tmp_path_factory):
    """A folder with the four IDX files of a data set like MNIST, but with 512 + 32 random images."""
    folder, random = tmp_path_factory.mktemp("mnist"), np.random.default_rng(0)
    for part, n in (("train", 512), ("t10k", 32)):
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
