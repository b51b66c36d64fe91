"""The test of a denoiser, on data whose best denoiser is known."""

import pytest
import torch
from PIL import Image

from src.callbacks.denoising import DenoisingTest
from src.data.samples import TensorSamples
from src.diffusion.discrete_schedules import AdditiveSchedule
from src.diffusion.time_samplers import FixedTimeSampler
from src.loggers.metrics_csv import read_metrics
from tests.diffusion.reference import Oracle
from tests.helpers.tiny import Memory, fit, make_module


class OwnTest(Memory):
    """With test data of its own, standard normal."""

    @property
    def test_set(self):
        x = torch.randn(3000, *self.shape, generator=torch.Generator().manual_seed(5))
        return TensorSamples(x, torch.arange(3000) % 4)


def run(tmp_path, predict, t=1.0, n=None):
    schedule, module = AdditiveSchedule(4, 0.5), make_module()
    module.time_sampler = FixedTimeSampler(t)
    module.ema.model = Oracle(predict, schedule)
    module.ema.update = lambda model, step: None
    module.denoiser.schedule = schedule
    test = DenoisingTest(str(tmp_path), n)
    _, trainer, _ = fit(tmp_path, module, OwnTest(), [test], max_steps=1)
    return test, trainer


@pytest.mark.parametrize("t", [0.25, 1.0])
def test_the_best_denoiser_has_its_error(tmp_path, t):
    """Of N(0, 1) data with noise s: s² / (1 + s²), at the one time that is trained on."""
    power = 4 * 0.25 * t
    test, _ = run(tmp_path, lambda x_t, _, cond: x_t / (1 + power), t)
    assert test.results["test/mse"] == pytest.approx(power / (1 + power), rel=0.03)
    assert test.results["test/mse_noisy"] == pytest.approx(power, rel=0.03)
    assert "times below" in test.report[0][1] and "3,000 samples" in test.report[0][1]


def test_what_is_written(tmp_path):
    test, trainer = run(tmp_path, lambda x_t, _, cond: 0 * x_t, n=100)
    assert "100 samples" in test.report[0][1]
    for logger in trainer.loggers:
        logger.save()
    rows = [row for row in read_metrics(tmp_path / "metrics.csv") if "test/mse" in row]
    assert [row["test/mse"] for row in rows] == [pytest.approx(test.results["test/mse"])]
    width, height = Image.open(tmp_path / "denoising.png").size
    assert width > 2.5 * height, "three panels side by side"
