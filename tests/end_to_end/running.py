"""Runs in processes of their own, which may be killed; and whether two of them are the same."""

import multiprocessing.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from src.commands.main import run_command
from src.commands.overrides import training_overrides
from src.loggers.metrics_csv import read_metrics
from src.train import train

# Seven batches an epoch; dropout, label dropout, flips and accumulation all draw random numbers.
SETTINGS = [
    "experiment=digits_ddpm",
    "data.batch_size=200",
    "net.width=8",
    "net.dropout=0.2",
    "condition=labels",
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.max_steps=17",
    "trainer.val_check_interval=5",
    "trainer.log_every_n_steps=2",
    "callbacks.sample_images.n=10",
    "callbacks.sample_images.every_n_steps=5",
    "sampler.steps=2",
    "logger=csv",
]
# Points in the plane, whose step takes milliseconds, without pictures: for what no data and no net matter to.
POINTS = [
    "experiment=mixture_ddpm",
    "data.n=1000",
    "data.batch_size=100",
    "net.width=8",
    "net.depth=1",
    "net.fourier_features=0",
    "trainer=cpu",
    "callbacks.sample_images=null",
    "sampler.steps=2",
    "logger=csv",
]
# Columns that say how fast a run was.
CLOCK = ("train/samples_per_second", "train/seconds")


class Ended(NamedTuple):
    """What is left of a process; a negative code is the signal that ended it."""

    returncode: int
    stderr: str


def trusting(words: Sequence[str]) -> list[str]:
    """The words, and the leave to go on with a run whose config names a fault, which is no part of the project."""
    return [*words, *(["trust=true"] if "callbacks.fault=null" in words else [])]


def started(*words: str) -> subprocess.CompletedProcess[str]:
    """The command as a user starts it; needed where it starts processes of its own."""
    return subprocess.run([sys.executable, "-m", "src.train", *trusting(words)], capture_output=True, text=True)


def forked(
    *words: str,
    kill_when: Callable[[], Any] | None = None,
    later: float = 0.0,
    number: int = signal.SIGKILL,
    first: Callable[[], Any] = lambda: None,
    of: Callable[[int], Sequence[int]] = lambda pid: [pid],
) -> Ended:
    """The command in a copy of this process, which has torch and Lightning loaded already: seconds less.

    Args:
        words: of its command line.
        kill_when, later, number: send it this signal so many seconds after this is so, where it lives that long.
        first: called in the copy before the command.
        of: the processes to send it to, of the copy's own.
    """
    with tempfile.TemporaryFile() as said:
        pid = os.fork()
        if pid == 0:
            in_this_copy(words, said.fileno(), first)
        status = wait(pid, kill_when, later, number, of)
        said.seek(0)
        return Ended(os.waitstatus_to_exitcode(status), said.read().decode(errors="replace"))


def in_this_copy(words: Sequence[str], said: int, first: Callable[[], Any]) -> None:
    """Run the command, and leave with its exit code."""
    code = 1
    try:
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
        sys.argv = ["src/train.py", *trusting(words)]
        # os.fork does not do this: data loaders of the copy would be served by this process, which lacks their tensors.
        multiprocessing.util._run_after_forkers()
        # Where the tests themselves run under nohup, the copy would inherit that SIGHUP is ignored.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        first()
        run_command(train, "train", training_overrides)
        code = 0
    except SystemExit as exit:
        code = int(exit.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(
    pid: int, kill_when: Callable[[], Any] | None, later: float, number: int, of: Callable[[int], Sequence[int]]
) -> int:
    """The status with which a process ended, by itself or killed."""
    deadline = float("inf")
    while kill_when is not None and time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        if deadline == float("inf") and kill_when():
            deadline = time.monotonic() + later
        time.sleep(0.02)
    if kill_when is not None:
        for process in of(pid):
            os.kill(process, number)
    return os.waitpid(pid, 0)[1]


def kill_at(step: int, validating: bool = False) -> list[str]:
    return [
        "+callbacks.fault._target_=tests.helpers.faults.SignalAt",
        f"+callbacks.fault.step={step}",
        f"+callbacks.fault.validating={validating}",
    ]


def assert_same(a, b, where: str = "") -> None:
    """Equal to the last bit, through all containers."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{i}")
    else:
        assert a == b, where


def assert_same_run(a: Path, b: Path) -> None:
    first, second = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (a, b))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert_same(first[part], second[part], part)
    first, second = (torch.load(run / "checkpoints/best.ckpt", weights_only=True) for run in (a, b))
    assert first["global_step"] == second["global_step"]
    assert_same(first["state_dict"], second["state_dict"], "best")
    rows = [
        [{k: v for k, v in row.items() if k not in CLOCK} for row in read_metrics(run / "metrics.csv")]
        for run in (a, b)
    ]
    assert rows[0] == rows[1]
