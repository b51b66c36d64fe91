"""Killed before any one change of its files, a run ends as an undisturbed one does."""

import json
from pathlib import Path

import pytest

from src.runs.run import Run
from tests.end_to_end.running import SETTINGS, Ended, assert_same_run, forked
from tests.helpers.faults import die_before

WORDS = [
    *SETTINGS,
    "trainer.max_steps=4",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1",
    "callbacks.sample_images=null",
    "callbacks.checkpoint.every_n_steps=1",
    "callbacks.checkpoint.keep_every_n_steps=3",
    "auto_resume=true",
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, list[str]]:
    """A whole run, and the changes of its files in their order."""
    run, note = tmp_path_factory.mktemp("undisturbed") / "run", tmp_path_factory.mktemp("note") / "changes"
    done = forked(*WORDS, f"hydra.run.dir={run}", first=die_before(run, -1, note))
    assert done.returncode == 0, done.stderr
    return run, note.read_text().splitlines()


def killed_and_resumed(undisturbed: Path, run: Path, number: int, *, by_name: bool = False) -> Ended:
    killed = forked(*WORDS, f"hydra.run.dir={run}", first=die_before(run, number))
    assert killed.returncode == -9, (number, killed.stderr)
    by_name = by_name and (run / "config.yaml").is_file() and not Run(run).finished
    done = forked(*([f"resume={run}"] if by_name else [*WORDS, f"hydra.run.dir={run}"]))
    assert done.returncode == 0, (number, done.stderr)
    assert_same_run(undisturbed, run)
    first, second = (json.loads((folder / "run.json").read_text()) for folder in (undisturbed, run))
    clock = ("seconds", "samples_per_second")
    first["results"], second["results"] = (
        {k: v for k, v in f["results"].items() if k not in clock} for f in (first, second)
    )
    for name in ("results", "finished", "key", "overrides", "parameters", "failed"):
        assert first[name] == second[name], (number, name)
    return done


def test_the_changes_are_those_that_matter(undisturbed):
    said = "\n".join(undisturbed[1])
    for part in (".config.", ".run.", "metrics.csv", "last.ckpt", "best.ckpt", "step_3.ckpt"):
        assert part in said, said


@pytest.mark.parametrize(
    "last", [pytest.param("os.rename checkpoints/.best.ckpt.partial", marks=pytest.mark.slow), "os.rename .run."]
)
def test_a_kill_at_the_end_of_a_run(undisturbed, tmp_path, last):
    """Before the last change of its kind: the best checkpoint, the results."""
    run, changes = undisturbed
    number = max(n for n, change in enumerate(changes) if change.startswith(last))
    killed_and_resumed(run, tmp_path / "run", number, by_name=True)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_a_kill_before_any_change(undisturbed, tmp_path, part):
    run, changes = undisturbed
    for number in range(part, len(changes), 8):
        killed_and_resumed(run, tmp_path / str(number) / "run", number, by_name=number // 8 % 2 == 0)
