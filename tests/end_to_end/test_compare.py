"""src.compare as a user runs it: tables, plots and pages of real, tiny runs, and one line for every mistake."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from src.loggers.metrics_csv import read_metrics, write_metrics
from src.runs.sweep import SweepPlan

X = ("training_samples", "seconds_of_training")
SMALL = [
    "trainer=cpu",
    "debug=two_steps",
    "net.width=8",
    "sampler.steps=3",
    "time_grid=trailing",
    "callbacks.sample_images=null",
    "data.batch_size=16",
]


@pytest.fixture(scope="module")
def sweep(make_run, tmp_path_factory) -> Path:
    """Two schedules, two seeds each: one run and three that claim to be others, of which each has learned less."""
    folder = tmp_path_factory.mktemp("sweep")
    make_run(folder / "0", "experiment=sine_ddpm", *SMALL, "data.n=400", "schedule=linear", "seed=0")
    cosine = yaml.safe_load(Path("conf/schedule/cosine.yaml").read_text())
    for job in (1, 2, 3):
        run = shutil.copytree(folder / "0", folder / str(job))
        config = yaml.safe_load((run / "config.yaml").read_text()) | ({"schedule": cosine} if job > 1 else {})
        config["seed"] = config["module"]["seed"] = config["data"]["seed"] = job % 2
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        facts = json.loads((run / "run.json").read_text())
        facts["overrides"] = [f"schedule={'cosine' if job > 1 else 'linear'}", f"seed={job % 2}"]
        (run / "run.json").write_text(json.dumps(facts))
        more = 1 + 0.1 * job
        rows = [{k: more * v if "loss" in k else v for k, v in r.items()} for r in read_metrics(run / "metrics.csv")]
        write_metrics(run / "metrics.csv", rows, list(dict.fromkeys(key for row in rows for key in row)))
    return folder


@pytest.fixture(scope="module")
def conditional(make_run, tmp_path_factory) -> Path:
    """A run on images with labels."""
    words = ["experiment=digits_ddpm", *SMALL, "condition=labels"]
    return make_run(tmp_path_factory.mktemp("conditional") / "run", *words)


def table_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_stands_alone(page: Path, pictures: int) -> None:
    """One file that fetches nothing, for light and dark and narrow screens."""
    html = page.read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", html) and "@import" not in html and "url(" not in html
    assert html.count("<img") == pictures and "prefers-color-scheme: dark" in html and 'name="viewport"' in html


def test_a_sweep(command, sweep, tmp_path):
    done = command("compare", f"sweep_dir={sweep}", f"out={tmp_path}/out", "n_shown=4")
    assert done.code == 0, done.error
    rows = table_of(tmp_path / "out")
    assert [(r["run"], r["schedule"], r["seeds"]) for r in rows] == [
        ("0, 1", "linear", "0, 1"),
        ("2, 3", "cosine", "0, 1"),
    ]
    loss = json.loads((sweep / "0/run.json").read_text())["results"]["best_val_loss"]
    assert float(rows[0]["val loss"]) == pytest.approx(1.05 * loss) and rows[0]["val loss"] != rows[1]["val loss"]
    assert float(rows[0]["val loss std"]) == pytest.approx(0.1 * loss / 2**0.5)
    assert [float(r["nfe"]) for r in rows] == [3, 3]
    assert "Losses are not comparable: the runs differ in schedule." in done.out and "★ " in done.out
    assert_stands_alone(tmp_path / "out/comparison.html", 5)
    losses = {file.name for file in (tmp_path / "out").glob("validation_loss_*.png")}
    assert losses == {f"validation_loss_{n}_by_{x}.png" for n in (1, 2) for x in X}, "what cannot be compared is apart"
    assert (tmp_path / "out/samples_1x100.png").is_file() and "| linear " in (tmp_path / "out/table.md").read_text()


def test_a_half_finished_sweep(command, sweep, tmp_path):
    """A job that was killed, one without a checkpoint, one that never began: compared as far as it got."""
    half = tmp_path / "half"
    shutil.copytree(sweep, half)
    facts = json.loads((half / "2/run.json").read_text())
    (half / "2/run.json").write_text(json.dumps({k: v for k, v in facts.items() if k != "results"}))
    shutil.rmtree(half / "2/checkpoints")
    shutil.rmtree(half / "3")
    jobs = [[f"schedule={schedule}", f"seed={seed}"] for schedule in ("linear", "cosine") for seed in (0, 1)]
    SweepPlan("train", [], [], ["schedule", "seed"], jobs, 4).write(half)
    done = command("compare", f"sweep_dir={half}", f"out={tmp_path}/out", "n_shown=2")
    assert done.code == 0, done.error
    assert [r["run"] for r in table_of(tmp_path / "out")] == ["0, 1", "2"]
    assert "Run 2 is unfinished: at step 2 of 2, without a checkpoint." in done.out
    assert "Run 3 was not started: schedule=cosine seed=1." in done.out


def test_runs_and_where_it_writes(command, sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSION_LAB_OUTPUTS", str(tmp_path))
    for _ in range(2):
        done = command("compare", f"runs=[{sweep}/0,{sweep}/2]", "n_shown=0")
        assert done.code == 0, done.error
    assert len(list((tmp_path / "compare").iterdir())) == 2, "a comparison overwrites no other"


def test_different_data(command, sweep, conditional, tmp_path):
    runs = f"runs=[{sweep}/0,{conditional}]"
    refused = command("compare", runs)
    assert refused.code == 1 and "Sine and Digits" in refused.error and "allow_different_data=true" in refused.error
    done = command("compare", runs, "allow_different_data=true", "n_shown=2", f"out={tmp_path}")
    assert done.code == 0, done.error
    assert {p.name for p in tmp_path.glob("samples*")} == {"samples_1x100.png", "samples_1x8x8.png"}


def test_samplers_on_one_run(command, sweep, tmp_path, monkeypatch):
    """A number of steps that a sampler refuses is left out; the same command again samples nothing."""
    words = [f"run={sweep}/2", "samplers=[ddim,heun]", "steps=[2,1500]", "n=8", f"out={tmp_path}"]
    done = command("compare", *words)
    assert done.code == 0, done.error
    rows = table_of(tmp_path)
    measured = [(r["sampler"], r["steps"], float(r["nfe"])) for r in rows]
    assert measured == [("ddim", "2", 2), ("heun", "2", 3)]
    assert "Skipped: heun in 1500 steps; sampler: time_grid=trailing needs sampler.steps <= schedule.steps" in done.out
    assert_stands_alone(tmp_path / "comparison.html", 3)

    from src.commands.evaluation import Evaluation

    monkeypatch.setattr(Evaluation, "draw", lambda self: pytest.fail("it was sampled again"))
    again = command("compare", *words)
    assert again.code == 0, again.error
    assert table_of(tmp_path) == rows


def test_equal_noise_gives_equal_samples(command, sweep, tmp_path):
    """In one step all deterministic samplers make the same samples of the same noise."""
    import numpy as np

    command("compare", f"run={sweep}/2", "samplers=[ddim,euler]", "steps=[1]", "n=4", f"out={tmp_path}")
    a, b = (np.load(tmp_path / name / "samples.npz")["x"] for name in ("ddim_1", "euler_1"))
    assert np.abs(a - b).max() < 1e-4 and a.std() > 0


def test_help(command):
    done = command("compare", "--help")
    assert done.code == 0 and "python -m src.compare" in done.out and "guidance_scales=[0,1,3]" in done.out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["runs=[RUN,RUN]", "sweep_dir=FOLDER", "run=RUN"]),
        (["sweep_dir={sweep}", "run={sweep}/0"], ["not sweep_dir and run"]),
        (["runs=[nowhere,{sweep}/0]"], ["nowhere", "run folder"]),
        (["runs=[{sweep}/0]"], ["at least two runs, got 1"]),
        (["runs=[{sweep}/0,{sweep}/0]"], ["named twice"]),
        (["runs=[{sweep},{sweep}/0]"], ["config.yaml"]),
        (["runs=[{sweep}/0,{sweep}/1]", "n_shown=-1"], ["n_shown must be >= 0, got -1"]),
        (["sweep_dir={sweep}/0"], ["sweep_dir=", "at least two runs (folders with a config.yaml), got 1"]),
        (["sweep_dir=nowhere"], ["sweep_dir=nowhere", "does not exist"]),
        (["run=nowhere"], ["nowhere", "run folder"]),
        (["run={sweep}/0", "samplers=[dim]"], ["samplers", "Did you mean ddim?", "Choices"]),
        (["run={sweep}/0", "steps=[0]"], ["steps", "0"]),
        (["run={sweep}/0", "steps=[many]"], ["steps", "many"]),
        (["run={sweep}/0", "n=1"], ["n must be >= 2, got 1"]),
        (["run={sweep}/0", "ckpt=step_7"], ["step_7.ckpt", "best, last"]),
        (["run={sweep}/0", "guidance_scales=[0,1]"], ["guidance_scales=[0, 1]", "without a condition"]),
        (["run={conditional}", "guidance_scales=[high]"], ["guidance_scales", "high"]),
        (["run={sweep}/0", "step=[5]"], ["step", "Did you mean steps?"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_line(command, sweep, conditional, words, parts):
    done = command("compare", *(word.format(sweep=sweep, conditional=conditional) for word in words))
    lines = [line for line in done.error.splitlines() if line.startswith("error: ")]
    assert done.code == 1 and len(lines) == 1 and "Traceback" not in done.error, done.error
    assert all(part in lines[0] for part in parts), lines[0]


def test_a_run_without_a_checkpoint(command, sweep, tmp_path):
    shutil.copytree(sweep / "0", tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare/checkpoints")
    done = command("compare", f"runs=[{tmp_path}/bare,{sweep}/1]")
    assert done.code == 1 and f"{tmp_path}/bare holds no checkpoint best.ckpt" in done.error
