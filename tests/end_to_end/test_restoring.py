"""A run on MNIST as it is restores test digits, and makes digits that others can learn from. Takes half an hour."""

import os
from pathlib import Path

import pytest
import torch

from src.metrics.features.trained import load_images
from src.runs.run import Run
from tests.benchmarks.augment import accuracy, read_folder
from tests.benchmarks.digits import reference
from tests.benchmarks.restore import CASES, bench, digits, load_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]
N = 200


@pytest.fixture(scope="module")
def trained_run(make_run, mnist_words, tmp_path_factory):
    """`trained_run(experiment)`: trained once, or the run that MNIST_DDPM or MNIST_CONDITIONAL names."""

    def run(experiment: str) -> Path:
        given = os.environ.get(experiment.upper())
        return Path(
            given or make_run(tmp_path_factory.mktemp("runs") / "run", f"experiment={experiment}", *mnist_words)
        )

    return run


@pytest.fixture(scope="module")
def restoring(trained_run):
    """The model, test digits, and what judges them."""
    run = trained_run("mnist_ddpm")
    real = reference(Run(run).config())
    return load_model(str(run)), digits(real, N), real.features


@pytest.mark.parametrize("case", CASES)
def test_restored_digits_are_taken_for_what_they_are(restoring, case):
    """Nine of ten, or three of four where half is missing; closer to the truth than without a model."""
    model, truth, judges = restoring
    _, simple, ours = bench(model, truth, judges, case, ["pigdm"])
    assert ours.accuracy >= CASES[case][1]
    assert ours.psnr > simple.psnr + 2


def test_a_classifier_is_not_worse_for_new_digits(trained_run, command, tmp_path):
    """Beside 1,000 real ones, over three seeds; by less than their spread."""
    run = trained_run("mnist_conditional")
    words = ["n=3000", "sampler=dpmpp_2m", "sampler.steps=10", "time_grid=karras", "guidance=none", f"out={tmp_path}"]
    done = command("sample", f"run={run}", "task=augment", *words)
    assert done.code == 0, done.error
    real = reference(Run(run).config())
    x, y = (part[:1000] for part in load_images(real.train))
    new_x, new_y = read_folder(tmp_path / "images")
    both = torch.cat([x, new_x]), torch.cat([y, new_y])
    alone, with_new = (sum(accuracy(real, *some, 4000, seed) for seed in range(3)) / 3 for some in ((x, y), both))
    assert with_new > alone - 0.5
