"""Texts from the command line: trained with, resumed, asked for, and measured."""

import json

import numpy as np
import pytest
import torch

from src.diffusion.conditions.text import decode_text
from src.loggers.metrics_csv import read_metrics
from src.utils.checkpoints import load_checkpoint
from tests.end_to_end.running import forked

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def words(tiny_mnist):
    data = [f"data.root={tiny_mnist}", "data.sha256=null", "data.offline=error", "data.val_size=16"]
    data += ["data.slant=[-0.3,0.9]"]  # the pictures are noise
    more = ["data.batch_size=16", "net.width=8", "lr_schedule=constant", "trainer.val_check_interval=2"]
    run = ["trainer=cpu", "trainer.precision=32-true", "callbacks.sample_images=null", "sampler.steps=2"]
    return ["experiment=mnist_captions", "condition.encoder.width=16", *data, *more, *run]


@pytest.fixture(scope="module")
def run(make_run, words, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("texts") / "run", *words, "trainer.max_steps=4")


def test_a_run_resumes_to_the_bit(run, words, command, tmp_path):
    folder = tmp_path / "half"
    assert command("train", *words, "trainer.max_steps=2", f"hydra.run.dir={folder}").code == 0
    done = command("train", f"resume={folder}", "trainer.max_steps=4")
    assert done.code == 0, done.error
    whole, resumed = (load_checkpoint(path / "checkpoints/last.ckpt")["state_dict"] for path in (run, folder))
    assert whole.keys() == resumed.keys() and "denoiser.net.encoders.text.bytes.weight" in whole
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_texts_are_asked_for(run, command, tmp_path):
    """One for all samples, several in turn, and a file with one for each."""
    table = tmp_path / "rows.csv"
    table.write_text('text\n"a thin 3, leaning left"\neight\n')
    for word, n, texts in (
        ("condition.text=a bold slanted 7, with a pen", 2, ["a bold slanted 7, with a pen"] * 2),
        ("condition.text=[one,a bold 2]", 3, ["one", "a bold 2", "one"]),
        (f"condition={table}", None, ["a thin 3, leaning left", "eight"]),
    ):
        out = tmp_path / f"out_{n}"
        many = [] if n is None else [f"n={n}"]
        done = command("sample", f"run={run}", *many, word, "sampler.steps=2", f"out={out}")
        assert done.code == 0, done.error
        drawn = np.load(out / "samples.npz")
        assert decode_text(torch.from_numpy(drawn["text"])) == texts and len(drawn["x"]) == len(texts)


def test_a_text_changes_its_sample_alone(run, command, tmp_path):
    for name, word in (("a", "[one,two]"), ("b", "[one,three]")):
        asked = [f"condition.text={word}", "guidance.scale=3", "sampler.steps=2"]
        assert command("sample", f"run={run}", "n=2", *asked, f"out={tmp_path / name}").code == 0
    a, b = (np.load(tmp_path / name / "samples.npz")["x"] for name in "ab")
    assert np.abs(a[0] - b[0]).max() < 1e-5


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (f"condition.text={'x' * 73}", "condition.text must have at most 72 bytes, got 73"),
        ("condition.text=[]", "must be a text, or a list of them"),
        ("condition.label=3", "label"),
    ],
)
def test_what_is_refused(run, command, tmp_path, word, message):
    done = command("sample", f"run={run}", "n=2", word, f"out={tmp_path / 'out'}")
    assert done.code == 1 and message in done.error and len(done.error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_agreement_with_captions_is_measured(run, command, tmp_path):
    small = ["n=40", "sampler.steps=2", "features.width=8", "metrics=[captions]", f"out={tmp_path / 'report'}"]
    done = command("evaluate", f"run={run}", *small)
    assert done.code == 0, done.error
    found = json.loads((tmp_path / "report/metrics.json").read_text())["metrics"]
    assert {"caption_class", "thickness_order", "slant_order"} <= found.keys()
    assert found["thickness_order"]["real_baseline"] == found["slant_order"]["real_baseline"] == 1
    assert all(0 <= found[name]["value"] <= 1 for name in found)


def test_two_processes_train_as_one_with_texts_and_images(words, tmp_path):
    """The loss of each step, and the conditions that are withheld in it."""
    own = [word for word in words if word != "trainer=cpu"]
    own = [word.replace("condition.encoder", "condition.parts.text.encoder") for word in own]
    more = ["condition=[text,low_resolution]", "trainer=cpu,ddp_cpu", "trainer.max_steps=4", "logger=csv"]
    done = forked("-m", *own, *more, "trainer.log_every_n_steps=1", f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    one, two = (
        [row["train/loss"] for row in read_metrics(tmp_path / job / "metrics.csv") if "train/loss" in row]
        for job in ("0", "1")
    )
    assert len(one) == 4 and two == pytest.approx(one, rel=1e-5)
