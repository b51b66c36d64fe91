"""Runs that are killed at random moments, several times each, and resumed: do they end as undisturbed ones?

    python -m tests.benchmarks.kills [KILLS] [SEED]

By default 100 kills over six kinds of runs. Each is killed with SIGKILL, up to five times, at moments that are uniform
in the time that an undisturbed one takes, and started again by the same command with auto_resume=true. Weights,
averages, optimizer state, the best checkpoint, snapshots and metrics.csv must be the same to the last bit.
"""

import random
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

from tests.data.image_trees import tree
from tests.end_to_end.running import Ended, assert_same, assert_same_run, forked

MOST = 5  # kills of a run
COMMON = [
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.max_steps=30",
    "trainer.val_check_interval=7",
    "trainer.log_every_n_steps=2",
    "callbacks.checkpoint.every_n_steps=3",
    "sampler.steps=2",
    "logger=csv",
]
DIGITS = [
    "experiment=digits_ddpm",
    "callbacks.sample_images=null",
    "data.batch_size=200",
    "net.width=8",
    "net.dropout=0.2",
]
# The batches of an epoch, 12, 7, 7, 9, 7 and 7, are divided by neither interval.
KINDS = {
    "sine waves, pictures": [
        "experiment=sine_ddpm",
        "net.width=8",
        "data.n=1000",
        "callbacks.sample_images.every_n_steps=10",
    ],
    "digits, labels, dropout, accumulation": [
        *DIGITS,
        "condition=labels",
        "trainer.accumulate_grad_batches=2",
    ],
    "digits, clusters": [*DIGITS, "condition=clusters", "condition.num_clusters=4"],
    "points, loss-aware times": [
        "experiment=mixture_ddpm",
        "callbacks.sample_images=null",
        "time_sampler=loss_second_moment",
        "time_sampler.bins=8",
        "data.n=1000",
        "data.batch_size=100",
        "net.width=16",
    ],
    "digits, ema=power_function": [*DIGITS, "ema=power_function", "callbacks.ema_snapshots.count=6"],
    "image folder, workers, flips": [
        "experiment=folder_ddpm",
        "callbacks.sample_images=null",
        "data.root=FOLDER/pictures",
        "data.size=[16,16]",
        "data.batch_size=8",
        "data.cache_gb=0",
        "data.num_workers=2",
        "data.flip=true",
        "net.width=8",
    ],
}


def start(words: list[str], run: Path, after: float | None = None) -> Ended:
    """Start or resume a run, and kill it after so many seconds."""
    kill = None if after is None else lambda: True
    return forked(*words, *COMMON, f"hydra.run.dir={run}", "auto_resume=true", kill_when=kill, later=after or 0.0)


def assert_same_snapshots(a: Path, b: Path) -> None:
    files = [sorted(run.glob("snapshots/*.pt")) for run in (a, b)]
    assert [file.name for file in files[0]] == [file.name for file in files[1]]
    for first, second in zip(*files, strict=True):
        assert_same(torch.load(first, weights_only=True), torch.load(second, weights_only=True), first.name)


def broken_run(words: list[str], run: Path, seconds: float, most: int, draws: random.Random) -> int:
    """A run that is killed up to `most` times and then ends; returns how often it was."""
    for kills in range(most + 1):
        ended = start(words, run, None if kills == most else draws.uniform(0, seconds))
        if ended.returncode == 0:
            return kills
        assert ended.returncode == -9, ended.stderr
    raise AssertionError("unreachable")


def main(kills: int = 100, seed: int = 0) -> int:
    """Print a line for each kind of run; returns how many runs ended otherwise than undisturbed ones."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    folder, draws, wrong, made = Path(tempfile.mkdtemp()), random.Random(seed), 0, 0
    tree(folder / "pictures", [f"{kind}/{i}.png" for kind in "ab" for i in range(30)], (16, 16))
    for number, (name, words) in enumerate(KINDS.items()):
        words = [word.replace("FOLDER", str(folder)) for word in words]
        whole, seconds = folder / f"{number}/run", 0.0
        for run in (whole, folder / f"{number}-again/run"):  # the second finds all files that it reads in memory
            began = time.perf_counter()
            ended = start(words, run)
            assert ended.returncode == 0, ended.stderr
            seconds = time.perf_counter() - began
        assert_same_run(whole, run)
        share, here, runs = (kills - made) // (len(KINDS) - number), 0, 0
        while here < share:
            run = folder / f"{number}-{runs}/run"  # alone in its folder, where auto_resume=true looks for it
            here += broken_run(words, run, seconds, min(MOST, share - here), draws)
            runs += 1
            try:
                assert_same_run(whole, run)
                assert_same_snapshots(whole, run)
            except AssertionError as error:
                wrong += 1
                print(f"  differs: {name}, run {run}: {str(error).splitlines()[0]}", flush=True)
            else:
                shutil.rmtree(run)
        made += here
        print(f"{name}: {here} kills of {runs} runs of {seconds:.1f} s", flush=True)
    print(f"{made} kills, {wrong} runs that end otherwise than undisturbed ones")
    if not wrong:
        shutil.rmtree(folder)
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main(*map(int, sys.argv[1:]))))
