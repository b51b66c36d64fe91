"""What a sweep plans, and what it says at its end."""

import pytest
from omegaconf import OmegaConf

from src.commands.sweep.callback import make_plan, summary_lines
from src.runs.sweep import Job, SweepPlan

BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def config(words, params=None, target=BASIC, **sweeper):
    sweeper |= {"_target_": target, "params": params}
    hydra = {
        "sweeper": sweeper,
        "overrides": {"task": words, "hydra": ["hydra.sweep.dir=x", "hydra/launcher=parallel"]},
    }
    return OmegaConf.create({"hydra": hydra | {"job": {"config_name": "train"}}})


def test_the_jobs_of_a_grid():
    plan = make_plan(config(["net=unet", "seed=1,2", "a=choice(x,y)"], {"b": "range(0,2)"}))
    assert plan.swept == ["b", "seed", "a"] and plan.count == 8 and plan.hydra_overrides == ["hydra/launcher=parallel"]
    assert plan.jobs[1] == ["b=0", "net=unet", "seed=1", "a=y"]


def test_a_search_chooses_as_it_goes():
    plan = make_plan(config(["seed=1"], {"lr": "interval(0,1)"}, "hydra_plugins.OptunaSweeper", n_trials=7))
    assert plan.swept == ["lr"] and plan.count == 7 and plan.jobs == []


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ("dd", ["2 of 2 jobs done", "lowest best_val_loss: 0, job 0, seed=0"]),
        ("df", ["1 of 2 jobs done", "failed: job 1, seed=1: no", "sweep.resume=F sweep.retry=true"]),
        ("d", ["1 of 2 jobs done", "Resume with: python -m src.train -m sweep.resume=F"]),
    ],
)
def test_the_end(tmp_path, states, expected):
    names = {"d": "done", "f": "failed"}
    jobs = [
        Job(n, [f"seed={n}"], names[s], 0, 9, float(n) if s == "d" else None, None if s == "d" else "no")
        for n, s in enumerate(states)
    ]
    lines = summary_lines(tmp_path, SweepPlan("train", [], [], ["seed"], [], 2), jobs, "best_val_loss", [])
    assert len(lines) == len(expected)
    for line, part in zip(lines, expected, strict=True):
        assert part.replace("=F", f"={tmp_path}") in line
