"""Pictures come when they should, from the averaged and the raw weights."""

import numpy as np
import pytest
import torch
from PIL import Image

from src.callbacks.checkpoint import BestLastCheckpoint
from src.callbacks.sample_images import SampleImages
from src.data.gaussian_mixture import GaussianMixture
from src.diffusion.conditions import Labels
from src.diffusion.guidance import CFG
from src.plots.pictures import sample_grid
from src.samplers.ancestral import DDIM
from src.samplers.pipeline import Pipeline
from tests.helpers import tiny
from tests.helpers.pictures import without_layout
from tests.helpers.tiny import CLASSES, Memory, fit, make_module

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def quick():
    with without_layout():
        yield


def pictures(tmp_path, **arguments) -> SampleImages:
    return SampleImages(str(tmp_path), lambda schedule: DDIM(schedule, 2), **{"n": 4, "times": (0.3, 0.9)} | arguments)


def names(tmp_path) -> list[str]:
    return sorted(p.stem for p in (tmp_path / "samples").glob("*.png"))


def kinds(*steps: int) -> list[str]:
    return sorted(f"step_{step:06d}_{kind}" for step in steps for kind in ("raw", "ema", "denoised"))


@pytest.mark.most(2)
@pytest.mark.parametrize(
    ("every", "settings", "steps"),
    [
        (100, {"val_check_interval": 2}, [6]),  # always at the end
        (4, {"val_check_interval": 2}, [4, 6]),
        (3, {"val_check_interval": 2}, [4, 6]),  # at the next validation
        (1, {"val_check_interval": 3}, [3, 6]),
    ],
)
def test_when_they_are_drawn(tmp_path, monkeypatch, every, settings, steps):
    for name in ("pictures.sample_grid", "denoising_strip.denoising_strip", "schedule.schedule_picture"):
        monkeypatch.setattr(f"src.plots.{name}", lambda *args, **kwargs: Image.new("RGB", (9, 9)))
    fit(tmp_path, callbacks=[pictures(tmp_path, every_n_steps=every)], **settings)
    assert names(tmp_path) == kinds(*steps)
    assert (tmp_path / "schedule.png").exists() and (tmp_path / "loss_curves.png").exists()


def test_the_grid_shows_what_the_weights_give(tmp_path):
    module = make_module(decay=0.9, warmup=False)
    fit(tmp_path, module, callbacks=[pictures(tmp_path)], max_steps=2)
    shown = {}
    for name, model in module.models.items():
        x = Pipeline(model, DDIM(model.schedule, 2), (1, 6)).sample(4)
        shown[name] = np.asarray(sample_grid(x))
        assert (np.asarray(Image.open(tmp_path / f"samples/step_000002_{name}.png")) == shown[name]).all()
    assert (shown["raw"] != shown["ema"]).any()


def test_of_points_many_are_drawn(tmp_path, monkeypatch):
    """A thousand samples in the grid, unless told, and all that is there of the validation data in the strip."""
    monkeypatch.setattr(tiny, "SHAPE", (2,))
    module, strips = make_module(), []
    data = GaussianMixture(n=60, val_fraction=0.5, batch_size=8)
    monkeypatch.setattr(
        "src.plots.denoising_strip.point_strip", lambda x_0, *parts: strips.append(x_0) or Image.new("RGB", (9, 9))
    )
    fit(tmp_path, module, data, callbacks=[pictures(tmp_path, n=None)], max_steps=1)
    x = Pipeline(module.denoiser, DDIM(module.denoiser.schedule, 2), (2,)).sample(1000)
    assert (np.asarray(Image.open(tmp_path / "samples/step_000001_raw.png")) == np.asarray(sample_grid(x))).all()
    assert torch.equal(strips[0], data.val_set.x)
    assert (tmp_path / "schedule.png").exists()


def test_each_row_is_a_class(tmp_path):
    module = make_module(condition=Labels(CLASSES))
    seen = []
    module.denoiser.net.register_forward_pre_hook(lambda net, inputs: seen.append((net.training, inputs[2])))
    fit(
        tmp_path, module, callbacks=[pictures(tmp_path, n=9, guidance=CFG(2.0))], max_steps=1,
        limit_val_batches=1,
    )  # fmt: skip
    drawn = [label.tolist() for _, label in seen if label is not None and len(label) == 16]
    assert drawn == [[0, 0, 1, 1, 2, 2, 3, 3] + [-1] * 8] * 2


def test_rows_of_images_bear_the_names_of_their_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "SHAPE", (1, 4, 4))
    monkeypatch.setattr(Memory, "kind", "images")
    module, data = make_module(condition=Labels(CLASSES)), Memory()
    data.class_names = ["ant", "bee", "cicada", "dragonfly"]
    fit(tmp_path, module, data, callbacks=[pictures(tmp_path, n=8)], max_steps=1)
    label = torch.arange(4).repeat_interleave(2)
    x = Pipeline(module.denoiser, DDIM(module.denoiser.schedule, 2), (1, 4, 4), cond=label).sample(8)
    expected = sample_grid(data.to_units(x), 2, label, data.class_names)
    assert (np.asarray(Image.open(tmp_path / "samples/step_000001_raw.png")) == np.asarray(expected)).all()


def test_the_step_of_the_last_picture_survives():
    first, again = pictures("x"), pictures("x")
    first.drawn_step = 7
    again.load_state_dict(first.state_dict())
    assert again.drawn_step == 7


def fail(*args, **kwargs):
    raise RuntimeError("no\nroom")


@pytest.mark.tolerates
@pytest.mark.parametrize(
    "name",
    [
        "pictures.sample_grid",
        pytest.param("denoising_strip.denoising_strip", marks=pytest.mark.slow),
        pytest.param("schedule.schedule_picture", marks=pytest.mark.slow),
    ],
)
def test_a_picture_that_fails_is_said_once_and_the_run_goes_on(tmp_path, monkeypatch, caplog, name):
    monkeypatch.setattr(f"src.plots.{name}", fail)
    _, trainer, _ = fit(tmp_path, callbacks=[pictures(tmp_path, every_n_steps=1)], val_check_interval=2)
    assert trainer.global_step == 6
    said = [record.getMessage() for record in caplog.records if "goes on without" in record.getMessage()]
    assert len(said) == 1 and said[0].endswith("RuntimeError: no room")
    there = {"denoised"} if "grid" in name else {"raw", "ema"} if "strip" in name else {"raw", "ema", "denoised"}
    assert {each.rpartition("_")[2] for each in names(tmp_path)} == there


def test_the_checkpoint_comes_first(tmp_path, monkeypatch):
    """A run that is killed while it draws, or by what it draws with, has lost no training, and does not draw again."""
    checkpoint, there = BestLastCheckpoint(str(tmp_path / "checkpoints")), []

    def look(*args):
        there.append(torch.load(checkpoint.last_path, weights_only=True) if checkpoint.last_path.exists() else None)

    monkeypatch.setattr(SampleImages, "draw_samples", look)
    drawn = pictures(tmp_path, every_n_steps=2)
    trainer = fit(tmp_path, callbacks=[checkpoint, drawn], val_check_interval=2, max_steps=0)[1]
    trainer.callbacks.sort(key=lambda callback: isinstance(callback, SampleImages))
    trainer.fit_loop.epoch_loop.max_steps = 4
    trainer.fit(make_module(), Memory())
    assert [state["global_step"] for state in there] == [2, 4]
    assert [state["callbacks"]["SampleImages"]["drawn_step"] for state in there] == [2, 4]
