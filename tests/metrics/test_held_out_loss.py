"""The held-out loss of a denoiser that is known."""

import pytest
import torch
from omegaconf import OmegaConf

from src.metrics.held_out_loss import HeldOutLoss

WEIGHTING = {"_target_": "src.diffusion.weightings.uniform_weighting", "_partial_": True}


@pytest.fixture
def with_loss(context, monkeypatch):
    """Contexts of a run with a loss, whose denoiser always says 0."""

    def make(x, loss="losses.MSE", **settings):
        made = context(x[:2], x, x, predict=lambda x_t, t, cond: torch.zeros_like(x_t), **settings)
        config = OmegaConf.merge(
            made.run.config(), {"loss": {"_target_": f"src.diffusion.{loss}", "weighting": WEIGHTING}}
        )
        monkeypatch.setattr(type(made.run), "config", lambda self: config)
        return made

    return make


@pytest.mark.usefixtures("unchecked")
def test_the_error_of_a_constant(with_loss, randn):
    """It is x^2 at all times, and its interval that of the mean over the data."""
    x = randn(60, 3).float()
    found = HeldOutLoss(n=60, times=3)(with_loss(x)).values["held_out_loss"]
    each = x.double().square().mean(1)
    assert found.value == pytest.approx(each.mean().item(), rel=1e-6)
    assert found.high - found.value == pytest.approx(1.96 * each.std().item() / 60**0.5, rel=1e-6)
    assert found.better == "lower"


@pytest.mark.usefixtures("unchecked")
def test_runs_are_given_the_same_data(with_loss, randn):
    """A function of the seed."""
    x = randn(40, 2).float()
    first, again, other = (HeldOutLoss(n=20)(with_loss(x, seed=seed)).values["held_out_loss"] for seed in (0, 0, 1))
    assert first == again != other


def test_a_loss_with_parameters_does_not_apply(with_loss, randn):
    x = randn(8, 2).float()
    assert "parameters of its own" in HeldOutLoss().why_not_applicable(with_loss(x, "uncertainty.Uncertainty"))
    assert HeldOutLoss().why_not_applicable(with_loss(x)) is None
