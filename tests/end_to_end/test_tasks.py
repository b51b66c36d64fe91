"""What `python -m src.sample` does with a run beside generating, and what a user gets wrong about it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.end_to_end.preparing import mistake, prepare_sampling
from tests.end_to_end.test_mistakes import assert_one_line

IMAGES = ["experiment=digits_ddpm", "condition=labels", "guidance=cfg"]
SMALL = ["trainer=cpu", "net.width=8", "callbacks.sample_images=null", "sampler.steps=2", "logger=csv"]
COLORS = ["experiment=folder_ddpm", "data.batch_size=16", "net.attention_levels=[]"]


@pytest.fixture(scope="module")
def digits(make_run, tmp_path_factory) -> Path:
    """A small conditional run of 8 x 8 digits, trained enough to tell ink from paper."""
    words = [*IMAGES, *SMALL, "trainer.max_steps=20", "data.batch_size=32", "optimizer.lr=5e-3", "ema.decay=0.9"]
    return make_run(tmp_path_factory.mktemp("runs") / "digits", *words)


@pytest.fixture(scope="module")
def colors(make_run, tmp_path_factory, tiny_images) -> Path:
    words = [*COLORS, f"data.root={tiny_images}", "data.size=[16,16]", "trainer.max_steps=2"]
    return make_run(tmp_path_factory.mktemp("runs") / "colors", *words, *SMALL)


@pytest.fixture(scope="module")
def waves(make_run, tmp_path_factory) -> Path:
    words = ["experiment=sine_ddpm", *SMALL, "data.n=200", "trainer.max_steps=2"]
    return make_run(tmp_path_factory.mktemp("runs") / "waves", *words)


@pytest.fixture
def sample(command, tmp_path):
    """`sample(run, *words)` gives (outcome, folder)."""

    def run(folder: Path, *words: str):
        out = tmp_path / "out"
        return command("sample", f"run={folder}", f"out={out}", "sampler.steps=4", *words), out

    return run


RESTORING = {
    "denoise": ["task=denoise", "task.noise_std=0.3"],
    "denoise by sampling": ["task=denoise", "task.noise_std=0.3", "task.sample=true"],
    "inpaint": ["task=inpaint"],
    "inpaint a box": ["task=inpaint", "inverse_solver=ddnm", "task.box=[0.25,0.25,0.75,0.75]"],
    "repaint": [
        "task=inpaint",
        "inverse_solver=repaint",
        "inverse_solver.jump_length=1",
        "inverse_solver.jump_n_sample=2",
    ],
    "super_resolution": ["task=super_resolution", "task.factor=2", "inverse_solver=ddnm"],
    "dps": ["task=super_resolution", "task.factor=4", "inverse_solver=dps"],
    "deblur": ["task=deblur"],
}


@pytest.mark.most(4)
@pytest.mark.parametrize("words", RESTORING.values(), ids=RESTORING)
def test_restoring_test_data(sample, digits, words):
    """Input, result and comparison are written, and errors against the truth."""
    done, out = sample(digits, *words, "input=test", "n=6")
    assert done.code == 0, done.error
    assert {p.name for p in out.iterdir()} == {
        "samples.npz",
        "comparison.png",
        "input",
        "result",
        "metrics.json",
        ".diffusion-lab",
    }
    assert [len(list((out / name).glob("*.png"))) for name in ("input", "result")] == [6, 6]
    x = np.load(out / "samples.npz")["x"]
    assert x.shape == (6, 1, 8, 8) and 0 <= x.min() < x.max() <= 1
    quality = json.loads((out / "metrics.json").read_text())
    assert set(quality) == {"input", "result"} and set(quality["result"]) == {"mse", "psnr", "ssim"}
    assert f"{quality['result']['psnr']:.4g} of the result" in done.out
    assert min(Image.open(out / "comparison.png").size) > 100


def test_files(sample, digits, tmp_path):
    """What one task writes another reads; with a truth given, the error is told."""
    done, out = sample(digits, "task=denoise", "input=test", "n=3", "task.noise_std=0.3")
    assert done.code == 0, done.error
    noisy = tmp_path / "noisy"
    (out / "input").rename(noisy)
    first, second = noisy / "00000.png", noisy / "00001.png"
    words = ["task=denoise", f"input=[{first},{second}]", f"truth=[{first},{second}]", "task.noise_std=0.1"]
    done, out = sample(digits, *words)
    assert done.code == 0, done.error
    assert len(np.load(out / "samples.npz")["x"]) == 2
    assert json.loads((out / "metrics.json").read_text())["input"]["mse"] == pytest.approx(1e-10)
    done, _ = sample(digits, "task=denoise", f"input={noisy}")
    assert done.code == 0 and ", estimated; that is t = " in done.out


def test_a_mask_from_a_file(sample, digits, tmp_path):
    """What is black in it stays as it is."""
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    picture = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(picture).save(tmp_path / "in.png")
    words = [
        "task=inpaint",
        "inverse_solver=ddnm",
        f"input={tmp_path / 'in.png'}",
        f"task.mask={tmp_path / 'mask.png'}",
    ]
    done, out = sample(digits, *words)
    assert done.code == 0, done.error
    result = np.asarray(Image.open(out / "result/00000.png")).astype(int)
    assert np.abs(result - picture)[:, :4].max() <= 1 < np.abs(result - picture)[:, 4:].max()
    assert not (out / "metrics.json").exists(), "the truth is not known"


def test_a_small_picture_is_enlarged(sample, digits, tmp_path):
    small = np.random.default_rng(0).integers(0, 256, (4, 4), np.uint8)
    Image.fromarray(small).save(tmp_path / "small.png")
    words = [
        "task=super_resolution",
        "task.factor=2",
        "inverse_solver=ddnm",
        "clip=none",
        f"input={tmp_path / 'small.png'}",
    ]
    done, out = sample(digits, *words)
    assert done.code == 0, done.error
    assert np.load(out / "samples.npz")["x"].shape == (1, 1, 8, 8)


def test_color_images(sample, colors):
    done, out = sample(colors, "task=colorize", "input=test", "n=2", "inverse_solver=ddnm")
    assert done.code == 0, done.error
    gray = np.asarray(Image.open(out / "input/00000.png")).astype(int)
    assert gray.shape == (16, 16, 3) and (gray[..., 0] == gray[..., 2]).all()
    x = np.load(out / "samples.npz")["x"]
    assert np.abs(x[:, 0] - x[:, 2]).max() > 0.05


@pytest.mark.most(1)
@pytest.mark.parametrize(
    ("words", "count"),
    [(["task=sdedit", "task.t_start=0.4"], 4), (["task=interpolate", "task.n_between=3", "task.steps=5"], 10)],
    ids=["edit", "interpolate"],
)
def test_others(sample, digits, waves, words, count):
    for run, shape in ((digits, (1, 8, 8)), (waves, (1, 100))):
        done, out = sample(run, *words, "input=test", "n=4")
        assert done.code == 0, done.error
        assert np.load(out / "samples.npz")["x"].shape == (count, *shape)
        (picture,) = [p for p in out.iterdir() if p.name in ("grid.png", "comparison.png")]
        picture.unlink()


def test_waves_are_restored(sample, waves, tmp_path):
    np.save(tmp_path / "wave.npy", np.sin(np.linspace(0, 6, 100)))
    for words in (["task=denoise"], ["task=inpaint"], ["task=super_resolution", "task.factor=2"]):
        done, out = sample(waves, *words, f"input={tmp_path / 'wave.npy'}")
        assert done.code == 0, done.error
        assert np.load(out / "samples.npz")["x"].shape == (1, 1, 100)


def test_a_folder_of_labeled_images_trains_a_run(sample, command, digits, tmp_path):
    done, out = sample(digits, "task=augment", "n=40", "guidance.scale=1")
    assert done.code == 0, done.error
    assert {p.name: len(list(p.iterdir())) for p in (out / "images").iterdir()} == {str(i): 4 for i in range(10)}
    words = ["experiment=folder_ddpm", f"data.root={out / 'images'}", "data.size=[8,8]", "data.channels=1"]
    more = [
        "data.num_classes=10",
        "condition=labels",
        "net.channel_mults=[1,2]",
        "debug=two_steps",
        "callbacks.sample_images=null",
        "logger=csv",
    ]
    more += ["data.batch_size=8", "trainer=cpu", "net.width=8", f"hydra.run.dir={tmp_path / 'next'}"]
    done = command("train", *words, *more)
    assert done.code == 0, done.error


def test_the_same_inputs_and_seed_give_the_same_result(digits):
    words = ["task=inpaint", "inverse_solver=ddnm", "inverse_solver.sample=true", "input=test", "n=3"]
    first, again, other = (
        prepare_sampling(digits, *words, *more).draw().x for more in ([], ["batch_size=2"], ["seed=1"])
    )
    torch.testing.assert_close(first, again, atol=2e-2, rtol=0)
    assert (first - other).abs().max() > 0.1


@pytest.fixture
def files(tmp_path) -> Path:
    """A folder of inputs that do not fit."""
    Image.new("L", (8, 8)).save(tmp_path / "gray.png")
    np.save(tmp_path / "colors.npy", np.zeros((1, 3, 8, 8)))
    Image.new("L", (9, 8)).save(tmp_path / "wide.png")
    (tmp_path / "text.png").write_text("text")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["task=inpaint", "input=nowhere.png"], ["input=nowhere.png does not exist"]),
        (["task=inpaint", "input={}/text.png"], ["cannot be read as a picture"]),
        (["task=inpaint", "input={}/colors.npy"], ["3 x 8 x 8", "1 x 8 x 8"]),
        (["task=denoise", "input={}/colors.npy"], ["must have 1 channel(s)", "got 3"]),
        (["task=sdedit", "input={}/wide.png"], ["1 x 8 x 9", "1 x 8 x 8"]),
        (["task=inpaint", "input={}/gray.png", "task.mask={}/wide.png"], ["task.mask=", "8 x 9", "8 x 8"]),
        (["task=inpaint", "input={}/gray.png", "task.box=[0,1]"], ["task.box must be", "fractions", "[0, 1]"]),
        (
            ["task=super_resolution", "task.factor=3", "input=test"],
            ["task.factor must", "8 x 8", "got 3"],
        ),
        (
            ["task=super_resolution", "task.factor=2", "inverse_solver=repaint", "input=test"],
            ["for task=inpaint"],
        ),
        (["task=interpolate", "input={}/gray.png"], ["pairs", "1 sample"]),
        (["task=sdedit", "input=test", "task.t_start=2"], ["task.t_start must be in (0, 1], got 2"]),
        (["task=denoise", "input=test"], ["task.noise_std="]),
        (["task=denoise", "input=test", "task.noise_std=-1"], ["task.noise_std must be > 0, got -1"]),
        (["task=denoise", "input=test", "n=100000", "task.noise_std=0.1"], ["n must be <=", "got 100000"]),
        (
            ["task=denoise", "input={}/gray.png", "truth=[{}/gray.png,{}/gray.png]"],
            ["truth must hold as many samples as input, 1, got 2"],
        ),
        (["task=denoise", "input=test", "truth={}/gray.png", "task.noise_std=0.1"], ["leave truth= out"]),
        (["task=sdedit", "input=test", "gif=true"], ["gif=true", "task=generate"]),
        (["label=12"], ["label must be one of 0 to 9", "got 12"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and "=" in value[0] else None,
)
def test_mistakes_in_inputs_and_tasks(digits, files, words, parts):
    with mistake("sample", *parts):
        prepare_sampling(digits, *(word.replace("{}", str(files)) for word in words)).draw()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["task=inpaint"], ["input=FILE is needed"]),
        (["task=paint", "input=test"], ["task=paint", "Did you mean inpaint?"]),
        (["task=inpaint", "task.boks=1", "input=test"], ["boks", "box"]),
        (["task=colorize", "input=test"], ["task.weights", "1 channels", "got 3"]),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] else "",
)
def test_a_mistake_gets_one_line(sample, digits, words, parts):
    done, out = sample(digits, *words)
    assert_one_line(done, *parts)
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "part"), [(["task=augment"], "task=augment"), (["task=sdedit", "input=test", "label=3"], "label=3")]
)
def test_runs_without_labels(waves, words, part):
    with mistake("sample", part, "condition=labels"):
        prepare_sampling(waves, *words).draw()
