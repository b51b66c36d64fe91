"""What the report shows, and what it says of the cost and of the training."""

import numpy as np
import pytest
import torch

from src.metrics.loss_by_noise import LossByNoise
from src.metrics.samples import Samples
from src.metrics.sampling_cost import SamplingCost
from src.metrics.trajectory import Trajectory
from src.plots.pictures import image_grid
from src.samplers.pipeline import Cost
from tests.metrics.test_class_accuracy import Known


def sure(confidences: list[float]) -> torch.Tensor:
    """Images (N, 3, 1, 1) whose first channel beats the others by so much."""
    x = torch.zeros(len(confidences), 3, 1, 1)
    x[:, 0, 0, 0] = torch.tensor(confidences)
    return x


def shown(picture) -> np.ndarray:
    return np.asarray(picture.image)


def test_best_and_worst_by_confidence(context):
    x = sure([0.5, 0.01, 0.9, 0.1, 0.3, 0.02, 0.7, 0.2])
    section = Samples(n=4)(context(x, (x, torch.arange(8) % 3), (x, torch.arange(8) % 3), features=Known))
    assert (shown(section.pictures["worst"]) == np.asarray(image_grid(sure([0.01, 0.02]), columns=8))).all()
    assert (shown(section.pictures["best"]) == np.asarray(image_grid(sure([0.9, 0.7]), columns=8))).all()
    assert "2 of 8 samples" in section.pictures["worst"].caption


def test_worst_is_what_is_least_of_the_class_asked_for(context):
    """The surest of all is the worst, where another class was asked for."""
    x = sure([0.5, 0.9, 0.1, 0.3])
    of = context(
        x, (x, torch.arange(4) % 3), (x, torch.arange(4) % 3), label=torch.tensor([0, 1, 0, 0]), features=Known
    )
    worst = Samples(n=2)(of).pictures["worst"]
    assert (shown(worst) == np.asarray(image_grid(sure([0.9]), columns=8))).all()
    assert "in their requested label: 0% to 0%" in worst.caption


def test_random_ones_are_a_function_of_the_seed(context, rand):
    x, data = rand(50, 1, 4, 4), rand(9, 1, 4, 4)
    first, again, other = (shown(Samples(n=5)(context(x, data, data, seed=s)).pictures["random"]) for s in (0, 0, 1))
    assert (first == again).all() and (first != other).any()


@pytest.mark.most(1)
@pytest.mark.parametrize("shape", [(2,), (1, 20)])
def test_points_and_signals_are_shown_too(context, rand, shape):
    of = context(rand(30, *shape), rand(30, *shape), rand(30, *shape))
    assert set(Samples()(of).pictures) == {"random", "data"}


def test_the_cost(context, rand):
    of = context(rand(20, 1, 4, 4), rand(9, 1, 4, 4), rand(9, 1, 4, 4))
    of.cost = Cost()
    of.cost.evaluations, of.cost.seconds = 200, 4.0
    values = SamplingCost()(of).values
    assert values["nfe"].value == 10 and values["seconds_per_1000"].value == 200
    of.from_file = True
    assert "no known cost" in SamplingCost().why_not_applicable(
        of
    ) and "no trajectory" in Trajectory().why_not_applicable(of)


def test_the_animation_ends_with_the_samples(context, rand):
    of = context(rand(5, 1, 4, 4), rand(9, 1, 4, 4), rand(9, 1, 4, 4))
    of.trajectory = rand(7, 5, 1, 4, 4)
    frames = Trajectory()(of).pictures["trajectory"].image
    assert len(frames) == 7
    assert (np.asarray(frames[-1]) == np.asarray(image_grid(of.trajectory[-1], least=420))).all()


def test_losses_by_noise_and_the_status(context, rand):
    of = context(rand(5, 1, 4, 4), rand(9, 1, 4, 4), rand(9, 1, 4, 4))
    assert "no metrics.csv" in LossByNoise().why_not_applicable(of)
    lines = ["step,epoch,val/loss_ema,val_ema/log_snr/a_-inf..0,val_ema/log_snr/b_0..inf"]
    lines += [f"{10 * i},{i},{0.9**i},{0.9**i},{0.9**i}" for i in range(1, 9)]
    (of.run.path / "metrics.csv").write_text("\n".join(lines) + "\n")
    assert LossByNoise().why_not_applicable(of) is None
    section = LossByNoise()(of)
    assert section.interpretation.startswith("Improving")
    assert section.tables["relative_decrease"]["0 to inf"] == pytest.approx(1 - 0.9**2)


def test_volumes_are_shown_by_views_and_slice_by_slice(context):
    x = torch.randn(5, 1, 4, 6, 8)
    section = Samples(n=4)(context(x, x, x))
    frames = section.pictures["slices"].image
    assert len(frames) == 4 and "middle slices across D, H and W" in section.notes[0]
    assert shown(section.pictures["random"]).shape[1] > shown(section.pictures["random"]).shape[0]
