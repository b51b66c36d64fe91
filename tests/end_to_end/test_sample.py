"""`python -m src.sample`: the model is rebuilt from the run folder alone."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.api import load
from src.plots.pictures import sample_grid
from tests.end_to_end.preparing import mistake, prepare_sampling
from tests.end_to_end.running import POINTS

LABELED = ["condition=labels", "guidance=cfg"]


@pytest.fixture(scope="module")
def outputs(make_run, tmp_path_factory) -> Path:
    """A folder of outputs with one small conditional run of digits."""
    folder = tmp_path_factory.mktemp("outputs")
    words = [
        "experiment=digits_ddpm",
        *LABELED,
        "trainer=cpu",
        "net.width=8",
        "trainer.max_steps=10",
        "callbacks.sample_images=null",
        "sampler.steps=2",
        "logger=csv",
        f"paths.outputs={folder}",
    ]
    make_run(folder / "train/digits_ddpm/first", *words)
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


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_a_pipeline_in_python_draws_the_same(precision, draw, outputs):
    words = ["guidance=none", "label=3", "seed=4", f"precision={precision}"]
    drawn = draw("n=3", *words)["x"]
    pipeline = load(outputs / "train/digits_ddpm/first", "n=3", "sampler.steps=4", *words)
    assert np.array_equal(pipeline.to_units(pipeline.sample(3)).numpy(), drawn)
    pipeline.dtype = torch.bfloat16 if precision == "32" else None
    assert not np.array_equal(pipeline.to_units(pipeline.sample(3)).numpy(), drawn)


def test_what_is_written(draw):
    arrays = draw("n=12", "guidance=none")
    assert arrays["x"].shape == (12, 1, 8, 8)
    assert arrays["x"].dtype == np.float32
    assert 0 <= arrays["x"].min() < arrays["x"].max() <= 1
    assert arrays["label"].tolist() == [*range(10), 0, 1]
    assert arrays["nfe"] == 4
    assert arrays["seconds"] > 0


def test_the_runs_own_sampler_is_the_default(draw, outputs):
    assert draw("n=2", "guidance=none", "variance=fixed_large")["nfe"] == 4
    assert draw("n=2", "guidance=none", "sampler=ddim", "sampler.eta=0.5", "sampler.steps=7")["nfe"] == 7
    config = (outputs / "latest/config.yaml").read_text()
    assert "steps: 2" in config, "what the run itself uses; the words above change it"


def test_single_settings_change_what_the_run_itself_does(draw):
    """The net is hardly trained and every prediction is out of bounds: clipping shows."""
    narrow = draw("n=2", "guidance.scale=1", "clip.bound=0.25")
    assert narrow["nfe"] == 4
    assert abs(narrow["x"] - 0.5).max() <= 0.13


@pytest.fixture
def drawn(outputs):
    """`drawn(*words)` samples from the run, without the command, and gives (samples, evaluations each)."""

    def run(*words: str) -> tuple[torch.Tensor, float]:
        sampling = prepare_sampling(outputs / "latest", "sampler.steps=4", "precision=32", *words)
        x = sampling.draw().x
        return x, sampling.cost.evaluations / len(x)

    return run


def test_guidance_costs_twice_and_is_the_runs_own_by_default(drawn):
    assert drawn("n=2")[1] == 8
    plain = drawn("n=2", "guidance=none")[0]
    assert not torch.allclose(plain, drawn("n=2", "guidance=cfg", "guidance.scale=3")[0])
    torch.testing.assert_close(plain, drawn("n=2", "guidance=cfg", "guidance.scale=1")[0], atol=1e-5, rtol=0)


def test_a_fixed_seed_gives_the_same_samples(drawn):
    x = drawn("n=4")[0]
    assert torch.equal(x, drawn("n=4")[0])
    assert not torch.allclose(x, drawn("n=4", "seed=1")[0])


def test_sample_i_depends_neither_on_n_nor_on_the_batch_size(drawn):
    few, many = drawn("n=4", "label=3")[0], drawn("n=20", "label=3", "batch_size=7")[0]
    torch.testing.assert_close(few, many[:4], atol=4e-5, rtol=0)


def test_labels(outputs):
    def labels(*words: str) -> list[int]:
        return prepare_sampling(outputs / "latest", *words).draw().label.tolist()

    assert labels("n=3", "label=7") == [7, 7, 7]
    assert labels("n=5", "label=[1,4]") == [1, 4, 1, 4, 1]


def test_the_choices_change_the_samples(drawn):
    base = drawn("n=3")[0]
    for words in (["sampler=ddim"], ["weights=raw"], ["variance=fixed_large"]):
        assert not torch.allclose(base, drawn("n=3", *words)[0]), words
    assert drawn("n=3", "ckpt=last")[0].shape == base.shape


@pytest.fixture(scope="module")
def power(make_run, tmp_path_factory) -> Path:
    """A small run with power-function averages, and checkpoints that were kept."""
    words = ["ema=power_function", "trainer.max_steps=20", "callbacks.checkpoint.keep_every_n_steps=10"]
    words += ["optimizer.lr=2e-2", "clip.bound=5"]  # so that the averages differ
    return make_run(tmp_path_factory.mktemp("runs") / "power", *POINTS, *words)


@pytest.mark.slow
def test_an_average_of_any_width(command, power, tmp_path):
    """The stored width is that of the last checkpoint; others differ; each has a folder of its own."""
    run, drawn = Path(shutil.copytree(power, tmp_path / "run")), {}
    for words in (["ckpt=last"], ["weights=0.05"]):
        done = command("sample", f"run={run}", "n=3", "sampler.steps=3", "precision=32", *words)
        assert done.code == 0, done.error
        name = words[0].replace("weights=", "width_").removeprefix("ckpt=")
        assert f"({name})" in done.out
        drawn[name] = np.load(run / f"samples/{name}_3_seed_0/samples.npz")["x"]
    np.testing.assert_allclose(drawn["width_0.05"], drawn["last"], atol=1e-4)
    for words in (["weights=0.07"], ["weights=0.1"], ["ckpt=step_10"]):
        sampling = prepare_sampling(run, "n=3", "sampler.steps=3", "precision=32", *words)
        drawn[words[0]] = sampling.draw().x.numpy()
    for a, b in (("last", "weights=0.07"), ("weights=0.07", "weights=0.1"), ("last", "ckpt=step_10")):
        assert np.abs(drawn[a] - drawn[b]).max() > 1e-3, (a, b)


def test_the_widths_of_a_run_that_goes_on_stay_what_they_are(command, power):
    done = command("train", f"resume={power}", "ema.sigma_rel=[0.05,0.2]", "trainer.max_steps=40")
    assert done.code == 1 and "ema.sigma_rel= cannot be given with resume=" in done.error


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["weights=0.01"], ["weights=0.01", "20 snapshots", "use one from 0.025 to 0.24"]),
        (["weights=0.3"], ["weights=0.3", "between 0 and 0.289"]),
        (["ckpt=step_7"], ["step_7.ckpt", "it has best, last, step_10, step_20"]),
    ],
)
def test_a_width_or_checkpoint_that_is_not_there(power, words, parts):
    with mistake("sample", *parts):
        prepare_sampling(power, *words)


def test_the_trajectory_as_an_animation(draw, tmp_path):
    draw("n=4", "gif=true")
    with Image.open(tmp_path / "out/trajectory.gif") as animation:
        assert animation.n_frames == 5


def test_by_default_it_writes_into_the_run_folder(command, outputs, tmp_path):
    run = Path(shutil.copytree(outputs / "train", tmp_path / "train")) / "digits_ddpm/first"
    (tmp_path / "latest").symlink_to(run)
    done = command("sample", "run=latest", f"paths.outputs={tmp_path}", "n=2", "sampler.steps=2")
    assert done.code == 0, done.error
    assert len(list(run.glob("samples/*/samples.npz"))) == 1


def test_help_lists_the_choices():
    done = subprocess.run([sys.executable, "-m", "src.sample", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for group in ("task", "inverse_solver", "sampler", "time_grid", "clip", "guidance"):
        listed = re.search(rf"^{group}: ([\w, \n]+?)(?: \(.*)?\n(?=\w+:|\n)", done.stdout, re.MULTILINE)[1]
        assert set(re.split(r",\s+", listed)) == {p.stem for p in Path("conf", group).glob("*.yaml")}


@pytest.mark.slow
def test_signals(command, make_run, tmp_path):
    words = ["experiment=sine_ddpm", "data.n=200", "trainer=cpu", "debug=two_steps", "net.width=8", "logger=csv"]
    run = make_run(tmp_path / "run", *words, "callbacks.sample_images=null")
    done = command("sample", f"run={run}", "n=5", "sampler.steps=2", f"out={tmp_path / 'out'}", "gif=true")
    assert done.code == 0, done.error
    assert np.load(tmp_path / "out/samples.npz")["x"].shape == (5, 1, 100)


def test_points(command, power, drawn_figures, tmp_path):
    """All are drawn, in their own units."""
    done = command("sample", f"run={power}", "n=300", "sampler.steps=2", f"out={tmp_path / 'out'}", "gif=true")
    assert done.code == 0, done.error
    x = np.load(tmp_path / "out/samples.npz")["x"]
    assert x.shape == (300, 2) and x.min() < -1 and x.max() > 1
    np.testing.assert_array_equal(Image.open(tmp_path / "out/grid.png"), sample_grid(torch.from_numpy(x)))
