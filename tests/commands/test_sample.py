"""`python -m src.sample`: the model is rebuilt from the run folder alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

LABELLED = ["net.num_classes=10", "module.conditional=true", "guidance=cfg"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    """A folder of outputs with one small conditional run of digits."""
    folder = tmp_path_factory.mktemp("outputs")
    words = [
        "experiment=digits_ddpm",
        *LABELLED,
        "trainer=cpu",
        "net.width=8",
        "trainer.max_steps=30",
        "callbacks.pictures.n=10",
        "sampler.steps=2",
        f"paths.outputs={folder}",
    ]
    done = subprocess.run([sys.executable, "-m", "src.train", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def draw(command, outputs, tmp_path):
    """`draw(*words)` samples from the run and gives what samples.npz holds."""

    def run(*words: str) -> dict[str, np.ndarray]:
        out = tmp_path / "out"
        done = command("sample", "run=latest", f"paths.outputs={outputs}", f"out={out}", "sampler.steps=4", *words)
        assert done.code == 0, done.error
        assert min(Image.open(out / "grid.png").size) > 100
        with np.load(out / "samples.npz") as arrays:
            return dict(arrays)

    return run


def test_what_is_written(draw):
    arrays = draw("n=12", "guidance=none")
    assert arrays["x"].shape == (12, 1, 8, 8)
    assert arrays["x"].dtype == np.float32
    assert 0 <= arrays["x"].min() < arrays["x"].max() <= 1
    assert arrays["label"].tolist() == [*range(10), 0, 1]
    assert arrays["nfe"] == 4
    assert arrays["seconds"] > 0


def test_guidance_costs_twice_and_is_the_runs_own_by_default(draw):
    assert draw("n=2")["nfe"] == 8
    plain = draw("n=2", "guidance=none")["x"]
    assert not np.allclose(plain, draw("n=2", "guidance=cfg", "guidance.scale=3")["x"])
    np.testing.assert_allclose(plain, draw("n=2", "guidance=cfg", "guidance.scale=1")["x"], atol=1e-6)


def test_the_runs_own_sampler_is_the_default(draw, outputs):
    assert draw("n=2", "guidance=none", "sampler.eta=0.5")["nfe"] == 4
    assert draw("n=2", "guidance=none", "sampler=ddpm", "sampler.steps=7")["nfe"] == 7
    config = (outputs / "latest/config.yaml").read_text()
    assert "steps: 2" in config, "what the run itself uses; the words above change it"


def test_a_fixed_seed_gives_the_same_samples(draw):
    np.testing.assert_array_equal(draw("n=4")["x"], draw("n=4")["x"])
    assert not np.allclose(draw("n=4")["x"], draw("n=4", "seed=1")["x"])


def test_sample_i_depends_neither_on_n_nor_on_the_batch_size(draw):
    few, many = draw("n=4", "label=3", "precision=32"), draw("n=20", "label=3", "batch_size=7", "precision=32")
    np.testing.assert_allclose(few["x"], many["x"][:4], atol=2e-5)


def test_labels(draw):
    assert draw("n=3", "label=7")["label"].tolist() == [7, 7, 7]
    assert draw("n=5", "label=[1,4]")["label"].tolist() == [1, 4, 1, 4, 1]


def test_the_choices_change_the_samples(draw):
    base = draw("n=3")["x"]
    for words in (["sampler=ddpm"], ["weights=raw"], ["sampler.eta=0"]):
        assert not np.allclose(base, draw("n=3", *words)["x"]), words
    assert draw("n=3", "ckpt=last")["x"].shape == base.shape


def test_the_trajectory_as_an_animation(draw, tmp_path):
    draw("n=4", "gif=true")
    with Image.open(tmp_path / "out/trajectory.gif") as animation:
        assert animation.n_frames == 5


def test_by_default_it_writes_into_the_run_folder(command, outputs):
    done = command("sample", "run=latest", f"paths.outputs={outputs}", "n=2", "sampler.steps=2")
    assert done.code == 0, done.error
    assert len(list((outputs / "latest").resolve().glob("samples/*/samples.npz"))) == 1


def test_help_lists_the_choices():
    done = subprocess.run([sys.executable, "-m", "src.sample", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for group in ("sampler", "guidance"):
        assert f"{group}: {', '.join(sorted(p.stem for p in Path('conf', group).glob('*.yaml')))}\n" in done.stdout


def test_signals(command, tmp_path):
    run = tmp_path / "run"
    words = ["experiment=sine_ddpm", "trainer=cpu", "debug=two_steps", "net.width=8", f"hydra.run.dir={run}"]
    assert command("train", *words).code == 0
    done = command("sample", f"run={run}", "n=5", "sampler.steps=2", f"out={tmp_path / 'out'}", "gif=true")
    assert done.code == 0, done.error
    assert np.load(tmp_path / "out/samples.npz")["x"].shape == (5, 1, 100)
