"""Guidance from the command line: by an earlier checkpoint of the run, and by a classifier of one's own."""

from pathlib import Path

import numpy as np
import pytest

SMALL = ["experiment=digits_ddpm", "trainer=cpu", "net.width=8", "trainer.max_steps=6", "callbacks.pictures.n=1"]
KEPT = ["sampler.steps=2", "callbacks.checkpoints.keep_every_n_steps=2"]
CLASS, FUNCTION = "tests.brightness.Brightness", "tests.brightness.brightness"


@pytest.fixture
def run(command, tmp_path) -> Path:
    """A small run without labels, of data that has them, with checkpoints that were kept."""
    folder = tmp_path / "run"
    done = command("train", *SMALL, *KEPT, f"hydra.run.dir={folder}")
    assert done.code == 0, done.error
    return folder


def test_guidance_by_checkpoints_and_classifiers(command, run, tmp_path):
    def draw(*words: str) -> dict[str, np.ndarray]:
        done = command("sample", f"run={run}", f"out={tmp_path / 'out'}", "sampler=ddim", "sampler.steps=4", *words)
        assert done.code == 0, done.error
        with np.load(tmp_path / "out/samples.npz") as arrays:
            return dict(arrays)

    plain = draw("n=10", "precision=32")
    assert "label" not in plain and plain["nfe"] == 4

    auto = ["guidance=autoguidance", "guidance.guide.ckpt=step_2", "n=10", "precision=32"]
    guided, none = draw(*auto, "guidance.scale=3"), draw(*auto, "guidance.scale=1")
    assert guided["nfe"] == 8 and not np.allclose(guided["x"], plain["x"], atol=1e-3)
    np.testing.assert_allclose(none["x"], plain["x"], atol=1e-6)
    assert none["nfe"] == 4
    other = draw(*auto[:1], "guidance.guide.ckpt=step_4", *auto[2:], "guidance.scale=3")
    assert not np.allclose(guided["x"], other["x"], atol=1e-4)

    made = {"class": [f"guidance.log_prob._target_={CLASS}"],
            "function": [f"guidance.log_prob._target_={FUNCTION}", "guidance.log_prob._partial_=true"]}  # fmt: skip
    drawn = {kind: draw("guidance=classifier", *words, "n=10", "precision=32") for kind, words in made.items()}
    by_class = drawn["class"]
    assert by_class["label"].tolist() == list(range(10)), "all labels of the data in turn"
    np.testing.assert_allclose(by_class["x"], drawn["function"]["x"], atol=1e-5)
    brighter = (by_class["x"] - plain["x"]).mean((1, 2, 3))
    assert (brighter[:3] < -0.01).all() and (brighter[-3:] > 0.01).all()
    chosen = draw("guidance=classifier", *made["class"], "label=[9,0]", "n=4", "precision=32")
    assert chosen["label"].tolist() == [9, 0, 9, 0]

    mistakes = {
        ("guidance=autoguidance",): ["guidance.guide.ckpt=VALUE is needed"],
        ("guidance=autoguidance", "guidance.guide.ckpt=step_3"): ["guidance.guide", "step_3.ckpt", "step_2, step_4"],
        ("guidance=autoguidance", "guidance.guide.ckpt=best", "guidance.guide.run=nowhere"): ["run folder nowhere"],
        ("guidance=classifier",): ["guidance.log_prob._target_=VALUE is needed"],
        ("guidance=classifier", "guidance.log_prob._target_=no.Net"): ["guidance.log_prob._target_", "no.Net"],
        ("guidance=classifier", f"guidance.log_prob._target_={FUNCTION}"): ["guidance.log_prob", "also needs x_t, t"],
        ("guidance=classifier", *made["class"], "label=10"): ["label=10", "0 to 9"],
        ("guidance=cfg", "label=3"): ["label=3", "without labels"],
        ("guidance=classifier", *made["class"], "guidance.scael=2"): ["Did you mean guidance.scale?"],
    }
    for words, parts in mistakes.items():
        done = command("sample", f"run={run}", "n=2", *words)
        lines = [line for line in done.error.splitlines() if line.startswith("error: ")]
        assert done.code == 1 and len(lines) == 1 and "Traceback" not in done.error, done.error
        assert all(part in lines[0] for part in parts), lines[0]
