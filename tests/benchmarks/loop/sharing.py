"""Training steps on an idle machine and beside a busy program: as the project waits for threads, and as OpenMP does."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext

import src
from tests.benchmarks.busy import busy
from tests.benchmarks.loop.page import Figure

DEFAULT = {"GOMP_SPINCOUNT": "300000"}  # of libgomp, where nothing is said: about 3 ms
SITUATIONS = {"machine idle": nullcontext, "beside a busy program": lambda: busy(1)}


class Stepper:
    """A process of `stepper.py`."""

    def __init__(self, process: subprocess.Popen[str]):
        assert process.stdin and process.stdout
        self.requests, self.answers = process.stdin, process.stdout

    def step(self, seconds: float) -> float:
        """Seconds that a step takes, the mean over so many seconds."""
        print(seconds, file=self.requests, flush=True)
        return float(self.answers.readline())


@contextmanager
def stepper(words: list[str], environment: dict[str, str]) -> Iterator[Stepper]:
    """Start one, ready to step; it ends with the context."""
    command = [sys.executable, "-m", "tests.benchmarks.loop.stepper", *words]
    unset = {k: v for k, v in os.environ.items() if k not in src.THREAD_WAIT}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=unset | environment
    ) as process:
        one = Stepper(process)
        if one.answers.readline() != "ready\n":
            raise SystemExit(f"error: {' '.join(command)} failed")
        yield one


def sharing(words: list[str], name: str, rounds: int, seconds: float) -> list[Figure]:
    """A step with the waiting of `src/__init__.py` beside one with OpenMP's own, in turns."""
    figures = [Figure(f"{name}, {where}", "OpenMP's default", "ms", [], []) for where in SITUATIONS]
    with ExitStack() as stack:
        ours, default = (stack.enter_context(stepper(words, e)) for e in ({}, DEFAULT))
        for turn in range(rounds):
            for figure, load in zip(figures, SITUATIONS.values(), strict=True):
                with load():
                    pairs = [(ours, figure.ours), (default, figure.theirs)]
                    for one, values in pairs[:: (-1) ** turn]:
                        values.append(one.step(seconds))
    return figures
