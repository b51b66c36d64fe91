"""A run on MNIST makes digits that a classifier can learn from. Trains for minutes."""

import pytest
import torch

from src.metrics.features.trained import load_images
from src.runs.run import Run
from tests.benchmarks.augment import accuracy, read_folder
from tests.benchmarks.digits import reference

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]


@pytest.mark.usefixtures("good_features")
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
