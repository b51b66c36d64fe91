"""Folders of labeled images."""

import pytest
import torch
from PIL import Image

from src.samplers.ancestral import DDIM
from src.samplers.pipeline import Pipeline
from src.tasks.augment import Augment
from src.tasks.base import TaskInput
from src.utils.errors import UserError
from tests.samplers.test_pipeline import make_denoiser


def make_model(n, size=(4, 4), channels=1, **more):
    denoiser = make_denoiser(size, channels, num_classes=3)
    return Pipeline(denoiser, DDIM(denoiser.schedule, 2), (channels, *size), cond=torch.arange(n) % 3, **more)


@pytest.mark.parametrize(("classes", "names"), [(["a", "b", "c"], ["a", "b", "c"]), ([], ["0", "1", "2"])])
@torch.no_grad()
def test_as_many_of_each_class(tmp_path, classes, names):
    model, task = make_model(8, class_names=classes), Augment(8)
    result = task(model, TaskInput())
    assert task.save(model, result, tmp_path) == ["images/ with 3 classes"]
    there = sorted(p.relative_to(tmp_path / "images").as_posix() for p in tmp_path.rglob("*.png"))
    assert there == sorted(f"{names[i % 3]}/{i // 3:05d}.png" for i in range(8))
    second = Image.open(tmp_path / f"images/{names[1]}/00001.png")
    expected = ((result.x[4, 0] + 1) * 127.5).clamp(0, 255).round()
    torch.testing.assert_close(torch.tensor(list(second.getdata())).view(4, 4).float(), expected, atol=1.01, rtol=0)


def test_runs_without_labels_or_images():
    unlabeled = make_model(3)
    unlabeled.cond = None
    with pytest.raises(UserError, match="condition=labels"):
        Augment(3)(unlabeled, TaskInput())
    with pytest.raises(UserError, match="needs a run trained on images"):
        Augment(3)(make_model(3, size=(6,)), TaskInput())
