"""The bench of samplers measures what it says."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from src.diffusion.denoiser import Denoiser
from src.diffusion.parameterizations import Velocity
from src.diffusion.tables import cosine
from src.samplers.ode import Heun
from src.utils.errors import UserError
from tests import bench_samplers as bench
from tests.bench_results import Results
from tests.digit_features import Moments, check_digits, frechet
from tests.tiny import SHAPE


@dataclass
class Costly(Heun):
    """Refuses fewer than three steps."""

    def __post_init__(self):
        if self.steps < 3:
            raise ValueError("at least 3 steps")


@pytest.fixture
def denoiser():
    return Denoiser(torch.nn.Identity(), cosine(), Velocity())


def sampler(target, **settings):
    return OmegaConf.create({"sampler": {"_target_": target, "_partial_": True, **settings}})


def test_distance_is_that_of_torchmetrics(randn):
    from torchmetrics.image.fid import _compute_fid

    a, b = Moments.of(randn(300, 8)), Moments.of(randn(200, 8) * torch.linspace(0.5, 2, 8) + 1)
    assert frechet(a, b) == pytest.approx(float(_compute_fid(*a, *b)))
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("x", [torch.zeros(1, 1, 28, 28), torch.full((4, 1, 28, 28), -1.0), torch.zeros(4, *SHAPE)])
def test_what_are_no_digits_is_refused(x):
    with pytest.raises(UserError):
        check_digits(x)


@pytest.mark.parametrize(
    ("target", "budget", "steps"),
    [("src.samplers.ancestral.DDIM", 7, 7), ("src.samplers.ode.Heun", 7, 4), ("src.samplers.ode.Heun", 8, 4)],
)
def test_steps_are_the_most_that_the_budget_allows(denoiser, target, budget, steps):
    """Heun's method takes two evaluations a step, and one for the last."""
    cfg = sampler(target)
    assert bench.choose_steps(denoiser, cfg, budget) == steps
    assert bench.evaluations(denoiser, cfg, steps) <= budget < bench.evaluations(denoiser, cfg, steps + 1)


def test_a_sampler_without_such_steps_says_why(denoiser):
    with pytest.raises(UserError, match="steps=3, the fewest, takes 5 evaluations"):
        bench.choose_steps(denoiser, sampler(f"{__name__}.Costly"), 4)
    with pytest.raises(UserError, match="at least 3 steps"):
        bench.choose_steps(denoiser, sampler(f"{__name__}.Costly"), 1)


def test_results_are_kept_by_run_and_settings(tmp_path):
    first, other = Results(tmp_path, {"run": "a"}), Results(tmp_path, {"run": "b"})
    cell = {"row": "ddim", "kind": "quality", "budget": 5, "sampler": {"steps": 5, "churn_max": np.inf}, "nfe": 5}
    first.put("ddim@5", cell | {"distance": 1.0, "low": 0.5, "high": 2.0})
    other.put("ddim@5", cell | {"reason": "broken", "crashed": True})
    again = Results(tmp_path, {"run": "a"})
    assert again.holds("ddim@5", cell["sampler"])
    assert not again.holds("ddim@5", {"steps": 6})
    assert not other.holds("ddim@5", cell["sampler"]), "what crashed is tried again"
