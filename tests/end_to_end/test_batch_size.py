"""data.batch_size=auto from the command line."""

import json

import pytest
import yaml

from tests.end_to_end.running import POINTS, assert_same_run, started

WORDS = [*[w for w in POINTS if "batch_size" not in w], "ema=half_life", "trainer.val_check_interval=2", "data.n=110"]


def config_of(run):
    return yaml.safe_load((run / "config.yaml").read_text())


def test_a_run_is_that_of_the_number(tmp_path, command, monkeypatch):
    """Recorded, in all that refers to it; resumed with it; found again by the same command; bit by bit the same."""
    monkeypatch.setenv("DIFFUSION_LAB_OUTPUTS", str(tmp_path / "outputs"))
    auto, number = tmp_path / "auto/1", tmp_path / "number"
    again = [*WORDS, "data.batch_size=auto", "auto_resume=true"]
    done = command("train", *again, "trainer.max_steps=4", f"hydra.run.dir={auto}")
    assert done.code == 0 and "the learning rate stays" in done.out, done.error
    assert "found by data.batch_size=auto by the estimate" in done.out
    cfg = config_of(auto)
    assert cfg["data"]["batch_size"] == 96 and cfg["ema"]["batch_size"] == cfg["module"]["ema"]["batch_size"] == 96
    assert json.loads((auto / "run.json").read_text())["batch_size"]["batch_size"] == 96
    done = command("train", *again, "trainer.max_steps=4", f"hydra.run.dir={tmp_path}/auto/2")
    assert "already finished" in done.out and done.code == 0, "the same settings are the same run"
    assert command("train", f"resume={auto}", "trainer.max_steps=6").code == 0
    assert config_of(auto)["data"]["batch_size"] == 96
    words = [*WORDS, "data.batch_size=96", "trainer.max_steps=4", f"hydra.run.dir={number}"]
    assert command("train", *words).code == 0 and command("train", f"resume={number}", "trainer.max_steps=6").code == 0
    assert_same_run(auto, number)


def test_a_plan_estimates_it(command, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSION_LAB_OUTPUTS", str(tmp_path / "outputs"))
    done = command("train", *WORDS, "data.batch_size=auto", "plan=h100", "plan.images=50000", "trainer.max_steps=9")
    assert done.code == 0 and "data.batch_size=auto: 50,000 by this estimate" in done.out, done.error


@pytest.mark.slow
@pytest.mark.parametrize("words", [["trainer=ddp_cpu"], ["-m", "seed=1,2"]], ids=["ddp", "sweep"])
def test_with_several_processes_and_runs(tmp_path, words):
    where = [f"hydra.sweep.dir={tmp_path}/sweep"] if "-m" in words else [f"hydra.run.dir={tmp_path}/sweep/0"]
    start = [*WORDS, "data.batch_size=auto", "trainer.max_steps=3", *where, *words]
    for _ in range(2 if "-m" in words else 1):
        done = started(*start)
        assert done.returncode == 0, done.stderr
    runs = list(tmp_path.glob("sweep/*/config.yaml"))
    assert len(runs) == (2 if "-m" in words else 1)
    assert all(config_of(run.parent)["data"]["batch_size"] == 96 for run in runs)
