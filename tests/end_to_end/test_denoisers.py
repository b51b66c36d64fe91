"""The denoisers of the textbooks, by their experiments; in earnest with `make test-all`."""

import json
import re

import pytest
from PIL import Image

from tests.end_to_end.test_mistakes import assert_one_line


def facts(run) -> dict:
    return json.loads((run / "run.json").read_text())


def test_the_textbook(command, tmp_path):
    """One of its fifty epochs; by then the noise is hardly lower, but all is written."""
    run = tmp_path / "run"
    done = command("train", "experiment=sine_denoiser", "trainer=cpu", "trainer.max_epochs=1", f"hydra.run.dir={run}")
    assert done.code == 0, done.error
    results = facts(run)["results"]
    assert results["steps"] == 25 and 0.09 < results["test/mse_noisy"] < 0.11
    assert f"MSE {results['test/mse']:.3g} on 100 samples" in done.out
    for name in ("denoising.png", "loss_curves.png", "samples/step_000025_denoised.png"):
        assert min(Image.open(run / name).size) > 100
    assert not list(run.glob("samples/*_raw.png")), "what only denoises draws no samples"


@pytest.fixture
def words(tiny_mnist):
    """A few steps on something like MNIST."""
    data = [f"data.root={tiny_mnist}", "data.sha256=null", "data.offline=error", "data.val_size=16"]
    return [
        *data,
        "data.batch_size=120",
        "trainer=cpu",
        "trainer.precision=32-true",  # in bf16 a step or two may change nothing
        "trainer.max_epochs=1",
        "net.width=8",
        "callbacks.sample_images=null",
    ]


def test_fine_tuning(command, tmp_path, words):
    """From one run to the next; the second says what it trained and what that did."""
    first, second = tmp_path / "first", tmp_path / "second"
    done = command("train", "experiment=mnist_denoiser", *words, f"hydra.run.dir={first}")
    assert done.code == 0, done.error
    assert re.search(r"PSNR \d+\.\d+ dB, of the noisy 6\.0", done.out)
    done = command("train", "experiment=mnist_finetune", *words, f"init_from={first}", f"hydra.run.dir={second}")
    assert done.code == 0, done.error
    assert re.search(r"fine-tuned +\S+, \S+, \S+, \S+: [\d,]+ of [\d,]+ parameters", done.out)
    assert re.search(r"validation MSE \S+ before, \S+ after \([-+]\S+ %\)", done.out)
    assert len(facts(second)["note"]) == 4
    assert facts(second)["results"]["val/mse"] != facts(second)["results"]["val/mse_before"]


@pytest.mark.slow
def test_any_net_can_be_fine_tuned(command, tmp_path, tiny):
    first, second = tmp_path / "first", tmp_path / "second"
    words = ["experiment=sine_ddpm", *tiny]
    assert command("train", *words, f"hydra.run.dir={first}").code == 0
    more = ["callbacks=finetune", "callbacks.finetune.layers=2", f"init_from={first}", f"hydra.run.dir={second}"]
    done = command("train", *words, *more)
    assert done.code == 0, done.error
    assert "norm, head" in done.out


def test_a_depth_that_the_net_does_not_have(command, tmp_path, tiny):
    run = tmp_path / "run"
    words = ["experiment=sine_ddpm", *tiny, "callbacks=finetune", "callbacks.finetune.layers=500"]
    assert_one_line(
        command("train", *words, f"hydra.run.dir={run}"), "callbacks.finetune.layers must be between 1 and", "got 500"
    )
    assert not run.exists(), "nothing was begun"


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "epochs"), [("sine_denoiser", 50), ("sine_denoiser_random", 15)])
def test_sines(command, tmp_path, experiment, epochs):
    """At least 20 times below the noisy input."""
    words = ["trainer=cpu", f"trainer.max_epochs={epochs}", f"hydra.run.dir={tmp_path / 'run'}"]
    done = command("train", f"experiment={experiment}", *words)
    assert done.code == 0, done.error
    results = facts(tmp_path / "run")["results"]
    assert results["test/mse"] < results["test/mse_noisy"] / 20


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_digits(command, tmp_path, mnist_words):
    """At least 12 dB above the noisy input, of however many digits there are; and fine-tuning makes it no worse."""
    first, second = tmp_path / "first", tmp_path / "second"
    steps = ["trainer.max_epochs=-1", "trainer.max_steps=800"]
    done = command("train", "experiment=mnist_denoiser", *steps, *mnist_words, f"hydra.run.dir={first}")
    assert done.code == 0, done.error
    results = facts(first)["results"]
    assert results["test/psnr"] > results["test/psnr_noisy"] + 12
    words = [f"init_from={first}", f"hydra.run.dir={second}"]
    assert command("train", "experiment=mnist_finetune", *mnist_words, *words).code == 0
    results = facts(second)["results"]
    assert results["val/mse"] < 1.005 * results["val/mse_before"]
