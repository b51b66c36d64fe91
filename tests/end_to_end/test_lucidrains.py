"""A checkpoint of denoising-diffusion-pytorch becomes a run, which predicts and draws what that library does."""

import pytest
import torch
from torch.testing import assert_close

from src.api import load
from src.nets.lucidrains import stand_in_for_torchvision
from src.runs.run import Run
from src.samplers import DDIM, trailing_time_grid

pytest.importorskip("denoising_diffusion_pytorch")
pytestmark = pytest.mark.slow  # its import takes seconds
NOTHING = [
    "experiment=digits_ddpm", "trainer=cpu", "trainer.precision=32-true", "logger=csv", "callbacks.sample_images=null",
]  # fmt: skip
KINDS = {
    "default": {},
    "eps linear": {"objective": "pred_noise", "beta_schedule": "linear"},
    "x0 cosine snr": {"objective": "pred_x0", "beta_schedule": "cosine", "min_snr_loss_weight": True},
    "own betas": {"schedule_fn_kwargs": {"tau": 0.7}},
    "self-conditioning": {},
}


def diffusion(name: str):
    """Theirs, with random weights."""
    with stand_in_for_torchvision():
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    torch.manual_seed(0)
    unet = Unet(8, dim_mults=(1, 2), channels=1, attn_heads=2, attn_dim_head=8, self_condition=name.startswith("self"))
    return GaussianDiffusion(unet, image_size=8, timesteps=100, sampling_timesteps=10, **KINDS[name]).eval()


@pytest.fixture(params=KINDS)
def pair(request, command, tmp_path):
    """Theirs, and the pipeline of the run that takes its checkpoint in."""
    from ema_pytorch import EMA

    theirs = diffusion(request.param)
    average = EMA(theirs, beta=0.995, update_every=10)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=8e-5, betas=(0.9, 0.99))
    content = {"step": 3, "model": theirs.state_dict(), "opt": optimizer.state_dict(), "ema": average.state_dict()}
    torch.save(content | {"scaler": None, "version": "2.3.4"}, tmp_path / "model-3.pt")
    words = [f"init_from=lucidrains:{tmp_path / 'model-3.pt'}", "trainer.max_steps=0"]
    done = command("train", *NOTHING, *words, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.code == 0, done.error
    return theirs, load(Run(tmp_path / "run"), "precision=32")


def test_the_same_predictions(pair):
    """At every time, of the data."""
    theirs, pipeline = pair
    t = torch.arange(100)
    x_t = torch.randn(100, 1, 8, 8)
    estimate = torch.randn(100, 1, 8, 8) if theirs.self_condition else None
    with pipeline.inference():
        ours = pipeline.denoiser(x_t, (t + 1) / 100, estimate=estimate).x_0
        expected = theirs.model_predictions(x_t, t, estimate).pred_x_start
    assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_the_same_schedule(pair):
    theirs, pipeline = pair
    t = torch.arange(1, 101, dtype=torch.float64) / 100
    alpha, sigma = pipeline.denoiser.schedule.alpha_sigma(t)
    assert_close(alpha, theirs.sqrt_alphas_cumprod.double(), rtol=1e-5, atol=1e-5)
    assert_close(sigma, theirs.sqrt_one_minus_alphas_cumprod.double(), rtol=2e-4, atol=1e-5)


def test_the_same_samples(pair, monkeypatch):
    """Of DDIM in the ten steps that theirs takes, from the same noise."""
    theirs, pipeline = pair
    x_t = torch.randn(3, 1, 8, 8)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn", lambda *shape, **options: x_t)
        expected = theirs.ddim_sample((3, 1, 8, 8))
    steps = [int(t) for t in reversed(torch.linspace(-1, 99, 11).int().tolist())]
    pipeline.sampler = DDIM(pipeline.denoiser.schedule, 10, trailing_time_grid, pipeline.sampler.clip)
    times = torch.tensor([(t + 1) / 100 for t in steps], dtype=torch.float64)
    with pipeline.inference():
        *_, end = pipeline.sampler.trajectory(pipeline.denoise(range(3)), x_t, torch.zeros_like, times=times)
    assert_close((end.x_t + 1) / 2, expected, rtol=0, atol=1e-4)
