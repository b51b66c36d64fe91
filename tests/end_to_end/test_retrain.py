"""src.retrain: a challenger that is promoted or not, resumed, rolled back; and new data that do not fit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from PIL import Image

from src.commands.retrain import command as retraining
from src.commands.retrain.contest import Verdict
from src.runs.registry import Registry
from src.runs.run import Run
from src.utils.errors import UserError

RUN = ["trainer=cpu", "debug=two_steps", "callbacks.sample_images=null", "net.width=8", "logger=csv"]
QUICK = ["metrics.held_out_loss.n=16", "metrics.held_out_loss.times=1"]
NOISE = np.random.default_rng(0).random((80, 8, 8), np.float32)


@pytest.fixture(scope="module")
def first(make_run, tmp_path_factory):
    """A run of digits with classes, in an outputs folder that is copied for each test."""
    folder = tmp_path_factory.mktemp("retrain")
    words = ["experiment=digits_ddpm", "condition=labels", *RUN, "data.batch_size=16", f"paths.outputs={folder}"]
    return make_run(folder / "train" / "first", *words)


@pytest.fixture
def digits(tmp_path):
    """A file of new digits, of the classes 7 to 9."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "new.npz", x=rng.random((80, 8, 8), np.float32), y=7 + np.arange(80) % 3)
    return tmp_path / "new.npz"


@pytest.fixture
def retrain(command, first, tmp_path, monkeypatch):
    """`retrain(*words)`: with training in this process, in outputs of its own."""

    def train(run, trust):
        before = Singleton.get_state()
        GlobalHydra.instance().clear()
        done = command("train", f"resume={run.path}")
        Singleton.set_state(before)
        if done.code:
            raise UserError(f"the training of the challenger in {run.path} ended: {done.error}")

    monkeypatch.setattr(retraining, "train_challenger", train)
    monkeypatch.setenv("DIFFUSION_LAB_OUTPUTS", str(tmp_path / "outputs"))

    def run(*words, of=(f"run={first}",)):
        return command("retrain", *of, *words)

    return run


def registry(tmp_path) -> Registry:
    return Registry(tmp_path / "outputs", "digits_ddpm")


@pytest.mark.slow
def test_a_refusal_then_a_promotion_then_back(retrain, command, digits, first, tmp_path, monkeypatch):
    """The same command again finds the same challenger; a champion goes on from the one before."""
    done = retrain(f"new={digits}", *QUICK, "share=0.25")
    assert done.code == 0, done.error
    assert "not promoted" in done.out and "held-out loss, new data" in done.out
    events = registry(tmp_path).entries()
    assert [event["event"] for event in events] == ["first", "refused"]
    challenger = Run(tmp_path / "outputs" / events[1]["run"])
    made = challenger.config()
    assert made.init_from == str(first / "checkpoints/best.ckpt") and made.data.share == 0.25
    assert made.data.old._target_.endswith("Digits") and made.data.new.root == str(digits)
    found = json.loads((challenger.path / "retrain.json").read_text())
    assert found["promoted"] is False and set(found["metrics"]["new"]) == {"champion", "challenger"}
    assert events[1]["data"]["new"] == str(digits) and events[1]["parent"] == events[0]["digest"]

    verdict = lambda self: Verdict(True, "told to")  # noqa: E731
    monkeypatch.setattr("src.commands.retrain.contest.Contest.verdict", verdict)
    assert retrain(f"new={digits}", *QUICK, "share=0.25").code == 0
    assert registry(tmp_path).champion.digest == events[1]["digest"], "the same challenger"
    done = retrain(f"new={digits}", *QUICK)
    assert done.code == 1 and f"the champion of digits_ddpm is {challenger.path}, not {first}" in done.error
    assert retrain(f"new={digits}", *QUICK, of=()).code == 0
    second = registry(tmp_path).champion
    assert second.parent == events[1]["digest"]
    made = Run(tmp_path / "outputs" / second.run).config()
    assert made.trainer.max_steps == 1, "as many as the first retraining"
    assert made.data.old._target_.endswith("Joined")

    done = command("sample", "run=champion", "n=2", "sampler.steps=2", f"out={tmp_path / 'drawn'}")
    assert done.code == 0 and second.run in done.out, done.error
    for digest in (events[1]["digest"], events[0]["digest"]):
        done = command("retrain", "rollback=true")
        assert done.code == 0 and digest in done.out, done.error
    done = command("retrain", "rollback=true")
    assert done.code == 1 and "is the first; there is none before it" in done.error
    assert command("retrain", f"rollback={second.digest[:6]}").code == 0
    assert registry(tmp_path).champion == second


@pytest.mark.slow
def test_a_folder_of_pictures_in_classes(retrain, tmp_path):
    """Its classes are matched by the names of the folders; the optimizer and a rate are of the command line."""
    for i in range(60):
        file = tmp_path / "pictures" / str(3 + i % 2) / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9), 4 * i, np.uint8)).save(file)
    words = ["optimizer=adam", "optimizer.lr=1e-5", "trainer.max_steps=3", "new_data.val_fraction=0.3"]
    done = retrain(f"new={tmp_path / 'pictures'}", *QUICK, *words)
    assert done.code == 0, done.error
    (run,) = (tmp_path / "outputs/retrain/digits_ddpm").iterdir()
    made = Run(run).config()
    assert made.data.new.num_classes == 2 and made.data.num_classes == 10 and not made.data.new.flip
    assert made.optimizer._target_.endswith("Adam") and made.optimizer.lr == 1e-5
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 3


@pytest.mark.parametrize(
    ("arrays", "words", "reason"),
    [
        ({"x": np.zeros((80, 9, 9))}, [],
         "new.npz holds samples of shape 1 x 9 x 9, but those of this run are 1 x 8 x 8"),
        ({"x": np.full((80, 8, 8), 7.0)}, [], "images must be in [0, 1] or uint8"),
        ({"x": np.full((80, 8, 8), np.nan)}, [], "holds NaN or infinity"),
        ({"x": np.full((80, 8, 8), 0.5), "y": np.arange(80) % 9}, [], "convert them to the same units"),
        ({"x": NOISE, "y": 5 + np.arange(80) % 6}, [],
         "has the class 10, which this run does not know; its classes are 0, 1"),
        ({"x": NOISE}, [], "has no classes, which this run is conditioned on"),
        ({"x": NOISE[:40], "y": np.arange(40) % 9}, [], "at least 8 samples to test on, got 4"),
        ({"x": NOISE}, ["share=1.5"], "share must be"),
        ({"x": NOISE}, ["new_data.labl=y"], "new_data.labl: there is no such option. Did you mean label?"),
        ({"x": NOISE}, ["name=../a"], "name must be"),
        ({"x": NOISE}, ["rollback=true"], "rollback= is for a champion"),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, list) else "",
)  # fmt: skip
def test_new_data_that_do_not_fit(retrain, tmp_path, arrays, words, reason):
    """In one line, before anything is trained or written."""
    np.savez(tmp_path / "new.npz", **arrays)
    done = retrain(f"new={tmp_path / 'new.npz'}", *words)
    assert done.code == 1 and done.error.count("\n") == 1, done.error
    assert reason in done.error, done.error
    assert not list((tmp_path / "outputs").rglob("*.jsonl")) and not (tmp_path / "outputs/retrain").exists()


@pytest.mark.slow
def test_other_mistakes(retrain, command, tmp_path, digits):
    for words, reason in [
        ((), "new=DATA must be given"),
        ((f"new={tmp_path / 'none'}",), "does not exist"),
        ((f"new={digits}", "metric=x", *QUICK), "metric=x must be one of held_out_loss"),
        ((f"new={digits}", "trainer.max_stesp=3"), "trainer.max_stesp"),
        ((f"new={digits}", "optimizer.lr=-1"), "optimizer.lr"),
    ]:
        done = retrain(*words)
        assert done.code == 1 and reason in done.error, done.error
    assert [event["event"] for event in registry(tmp_path).entries()] == ["first"]


@pytest.mark.slow
def test_a_champion_that_was_trained_further(retrain, digits, first, tmp_path):
    """Its weights are no longer those that were compared."""
    assert retrain(f"new={digits}", *QUICK).code == 0
    file = registry(tmp_path).file
    file.write_text(file.read_text().replace(registry(tmp_path).champion.digest, "0123456789abcdef"))
    done = retrain(f"new={digits}", *QUICK)
    assert done.code == 1 and "no longer those of the champion 0123456789abcdef" in done.error


@pytest.mark.slow
def test_a_kill_in_the_middle_leaves_the_champion_and_is_gone_on_from(first, digits, tmp_path):
    """In processes of their own, as a user has it."""
    words = [f"run={first}", f"new={digits}", *QUICK, "trainer.max_steps=60", "trainer.val_check_interval=2"]
    environment = os.environ | {"DIFFUSION_LAB_OUTPUTS": str(tmp_path / "outputs")}
    line = [sys.executable, "-m", "src.retrain", *words]
    process = subprocess.Popen(line, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    checkpoint, until = None, time.monotonic() + 500
    while checkpoint is None and time.monotonic() < until:
        checkpoint = next(iter(Path(tmp_path / "outputs").glob("retrain/*/*/checkpoints/last.ckpt")), None)
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoint is not None
    step = torch.load(checkpoint, weights_only=True)["global_step"]
    assert step < 60 and registry(tmp_path).champion.run == str(first)
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "resumes" in done.stdout, done.stderr
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 60
    assert [event["event"] for event in registry(tmp_path).entries()] in (["first", "promoted"], ["first", "refused"])
