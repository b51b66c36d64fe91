"""Every net learns clean sine waves, and so does the formulation of 2015. Takes minutes."""

import pytest

from tests.benchmarks.nets import NETS, NO_OTHER_WORK, Job, fit_sines, sample, train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("net", NETS["sine"])
def test_clean_sines(tmp_path, net):
    steps = {"dit": 1200}.get(net, 800)
    words = [*Job(net, "sinusoidal", []).overrides("sine_ddpm"), f"trainer.max_steps={steps}"]
    fit = fit_sines(sample(train(words, tmp_path / "run"), 256)[:, 0])
    assert (fit.residual / fit.amplitude).median() < 0.06 and fit.unexplained.mean() < 0.02


def test_the_full_bound(tmp_path):
    words = ["experiment=sine_vlb", "trainer=cpu", "trainer.max_steps=2000", *NO_OTHER_WORK]
    fit = fit_sines(sample(train(words, tmp_path / "run"), 256)[:, 0])
    assert (fit.residual / fit.amplitude).median() < 0.06
