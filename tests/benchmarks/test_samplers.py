"""The bench of samplers measures what it says."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from src.diffusion.beta_schedules import CosineSchedule
from src.diffusion.denoiser import Denoiser
from src.diffusion.parameterizations import V
from src.samplers.ode import Heun
from src.utils.errors import UserError
from tests.benchmarks import samplers as bench
from tests.benchmarks.results import Results


@dataclass
class Costly(Heun):
    """Refuses fewer than three steps."""

    def __post_init__(self):
        if self.steps < 3:
            raise ValueError("at least 3 steps")


@pytest.fixture
def denoiser():
    return Denoiser(torch.nn.Identity(), CosineSchedule(), V())


def sampler(target, **settings):
    return OmegaConf.create({"sampler": {"_target_": target, "_partial_": True, **settings}})


def test_the_distance_of_moved_features_is_known(randn):
    """By m in each of D directions it is D m^2; real ones in place of samples are nearer."""
    features = SimpleNamespace(test=randn(500, 4), train=randn(400, 4), logits=lambda x: 0 * x)
    score, real_baseline = bench.score(features, features.test + 3), bench.real_baseline(features, 300)
    assert score.distance == pytest.approx(36) and score.low < 36 < score.high and score.confidence == 0.25
    assert 0 <= real_baseline.low < real_baseline.distance < 0.1
    with pytest.raises(UserError, match="n=401 is more than the 400 training digits"):
        bench.real_baseline(features, 401)


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
    cell = {"row": "ddim", "kind": "quality", "budget": 5, "sampler": {"steps": 5, "s_max": np.inf}, "nfe": 5}
    first.put("ddim@5", cell | {"distance": 1.0, "low": 0.5, "high": 2.0})
    other.put("ddim@5", cell | {"reason": "broken", "crashed": True})
    again = Results(tmp_path, {"run": "a"})
    assert again.holds("ddim@5", cell["sampler"])
    assert not again.holds("ddim@5", {"steps": 6})
    assert not other.holds("ddim@5", cell["sampler"]), "what crashed is tried again"


@pytest.mark.parametrize("flow_map", [True, False])
def test_only_flow_maps_are_sampled_as_such(flow_map, monkeypatch):
    """From one step on, unless it is asked for."""
    monkeypatch.setattr(bench.Row, "config", lambda row, trained: OmegaConf.create({"sampler": str(row)}))
    trained, args = OmegaConf.create({"flow_map": flow_map}), bench.parse([])
    assert args.budgets[0] == 1
    there = [row.sampler for row in bench.rows(args, trained)]
    assert ("flow_map" in there) == flow_map and "ddim" in there
    assert [row.sampler for row in bench.rows(bench.parse(["--only", "flow_map"]), trained)] == ["flow_map"]


def test_one_evaluation_is_one_step(denoiser):
    assert bench.choose_steps(denoiser, sampler("src.samplers.ode.Heun"), 1) == 1
