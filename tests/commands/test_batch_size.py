"""data.batch_size=auto: what is tried, what is found, and that nothing else changes."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from pytorch_lightning.strategies import SingleDeviceStrategy

from src.commands.batch_size import announcement, find_batch_size, largest_fitting, measured_batch, planned_batch
from src.commands.plan.trial import Trial
from src.nets.mlp import MLP
from src.utils.errors import UserError
from src.utils.fsdp import FSDP2Strategy
from tests.end_to_end.preparing import composed
from tests.helpers.memory import limited
from tests.helpers.tiny import Memory

CPU = torch.device("cpu")


def tiny_config():
    words = ["experiment=mixture_ddpm", "net.width=8", "net.depth=1", "net.fourier_features=0"]
    cfg = OmegaConf.create(OmegaConf.to_container(composed("train", *words), resolve=True))
    cfg.trainer.precision = "32-true"
    return cfg


@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(1, 3000))
def test_the_largest_that_fits(limit, guess, most):
    tried = []

    def fits(n):
        tried.append(n)
        return n <= limit

    found, best = largest_fitting(fits, guess, most), min(limit, most)
    assert found <= best and max(tried) <= most, "nothing larger than the data is tried"
    assert (found == 0) == (limit == 0)
    if found:
        assert found in tried, "what is used was tried"
        assert found >= best - max(8, best / 8)
        assert found < 16 or found % 8 == 0
    assert len(tried) <= 6 + abs(math.log2(max(1, min(guess, most)) / max(1, best)))


def test_a_trial_leaves_no_trace(monkeypatch):
    """It steps in earnest, an error for lack of memory is an answer, and it draws from no generator of the run."""
    limited(monkeypatch, MLP, 20)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    trial = Trial(tiny_config(), CPU)
    before = [p.clone() for p in trial.module.denoiser.net.parameters()]
    torch.set_rng_state(state)
    assert [trial.fits(n) for n in (8, 16, 24, 16, 20)] == [True, True, False, True, True]
    assert torch.equal(torch.get_rng_state(), state)
    assert any(not torch.equal(a, b) for a, b in zip(before, trial.module.denoiser.net.parameters(), strict=True))
    monkeypatch.setattr(Trial, "peak", lambda self: 100.0)
    trial.memory = 99.0
    assert not trial.fits(8), "although no error was raised"
    trial.close()


@pytest.mark.parametrize(
    ("limit", "samples", "processes", "found"), [(100, 10**6, 1, 96), (100, 60, 1, 56), (100, 10**6, 3, 288)]
)
def test_an_accelerator_is_tried(monkeypatch, limit, samples, processes, found):
    """A stand-in for one: a CPU that fills up."""
    limited(monkeypatch, MLP, limit)
    device = SimpleNamespace(type="accelerator")
    start = Trial.__init__
    monkeypatch.setattr(Trial, "__init__", lambda self, cfg, _, n: start(self, cfg, CPU, n))
    monkeypatch.setattr("src.commands.batch_size.usable_memory", lambda device: 1e6)
    facts = measured_batch(tiny_config(), device, processes, samples)
    assert facts["batch_size"] == found and facts["memory"] > 0
    assert f"{found:,}, found by data.batch_size=auto using 0.0 of" in announcement(facts, 3e-4)
    limited(monkeypatch, MLP, 0)
    with pytest.raises(UserError, match="not even one sample fits"):
        measured_batch(tiny_config(), device, processes, samples)


def test_a_cpu_takes_what_its_memory_holds_up_to_a_bound():
    cfg = tiny_config()
    assert planned_batch(cfg, 64e9, False, 1, None) == 256
    assert planned_batch(cfg, 64e9, False, 2, 100) == 96, "half of the data on each process, in multiples of 8"
    few = planned_batch(cfg, 4e5, False, 1, None)
    assert 0 < few < 256 and few % 8 == 0
    with pytest.raises(UserError, match="set a number"):
        planned_batch(cfg, None, True, 1, None)


def test_who_does_not_search():
    """A run that resumes takes the size that it began with; sharded weights cannot be tried on one device."""
    run = SimpleNamespace(settings=lambda: {"data": {"batch_size": 24}}, path="run")
    trainer = SimpleNamespace(strategy=SingleDeviceStrategy("cpu"), world_size=1)
    found = find_batch_size(tiny_config(), run, True, Memory(), trainer)
    assert found == {"batch_size": 24} and "24, found by data.batch_size=auto when" in announcement(found, 1.0)
    trainer.strategy = FSDP2Strategy()
    with pytest.raises(UserError, match="set a number"):
        find_batch_size(tiny_config(), run, False, Memory(), trainer)
