"""Settings that are legal and extreme: a run of two steps whose loss is finite, or one line."""

import math

import pytest

from src.loggers.metrics_csv import read_metrics

SMALL = ["experiment=mixture_ddpm", "trainer=cpu", "trainer.precision=32-true", "debug=two_steps", "net.width=8"]
EXTREMES = [
    ["optimizer.lr=1e30"],
    *(
        pytest.param(words.split(), marks=pytest.mark.slow)
        for words in (
            "parameterization=v schedule=laplace schedule.mean=1e30",
            "data.radius=1e30",
            "net.fourier_scale=1e30",
            "optimizer.weight_decay=1e30",
            "schedule.shift=1e30",
            "schedule=laplace schedule.scale=1e30",
            "schedule=sigmoid schedule.tau=1e30",
            "schedule=sigmoid schedule.start=1e30",
            "schedule=tanh schedule.width=1e30",
            "schedule=cosine schedule.offset=1e30",
            "schedule.beta_max=1e30",
            "schedule=vp_sde schedule.beta_max=1e30",
            "schedule=ve_sde schedule.sigma_max=1e30",
            "schedule=edm schedule.rho=1e30",
            "time_sampler=log_normal time_sampler.mean=1e30",
            "time_sampler=logit_normal time_sampler.std=1e30",
            "weighting=p2 weighting.k=1e30",
            "weighting=p2 weighting.gamma=1e30",
            "weighting=sigmoid weighting.bias=1e30",
            "loss=huber loss.delta=1e30",
            "loss=pseudo_huber loss.c=1e30",
            "ema=half_life ema.half_life=1e30",
            "ema=half_life ema.rampup_ratio=1e30",
            "ema=power_function ema.sigma_rel=[1e30]",
        )
    ),
]


@pytest.mark.parametrize("words", EXTREMES, ids=" ".join)
def test_no_third_outcome(command, tmp_path, words):
    outcome = command("train", *SMALL, "callbacks.sample_images=null", f"hydra.run.dir={tmp_path / 'run'}", *words)
    lines = [line for line in outcome.error.splitlines() if line.startswith("error: ")]
    if outcome.code == 0:
        losses = [row["train/loss"] for row in read_metrics(tmp_path / "run/metrics.csv") if "train/loss" in row]
        assert len(losses) == 2 and all(map(math.isfinite, losses)) and not lines
    else:
        assert outcome.code == 1 and len(lines) == 1 and "Traceback" not in outcome.error
