"""A run on MNIST restores test digits. Trains for minutes."""

import pytest

from src.runs.run import Run
from tests.benchmarks.digits import reference
from tests.benchmarks.restore import CASES, bench, digits, load_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]
N = 200


@pytest.fixture(scope="module")
def restoring(trained_run, good_features):
    """The model, test digits, and what judges them."""
    run = trained_run("mnist_ddpm")
    real = reference(Run(run).config())
    return load_model(str(run)), digits(real, N), real.features


@pytest.mark.parametrize("case", CASES)
def test_restored_digits_are_taken_for_what_they_are(restoring, case):
    """After half of the training nearly as often as after all; and closer to the truth than without a model."""
    model, truth, judges = restoring
    _, simple, ours = bench(model, truth, judges, case, ["pigdm"])
    assert ours.accuracy >= CASES[case][1] - 0.05
    assert ours.psnr > simple.psnr + (0.5 if case == "inpaint, half" else 2), "half a digit can be of many"
