"""Commands that run beside the checks, as processes of their own, until their results are asked for."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

NO_BARS = {"TQDM_DISABLE": "1"}
# Float32 in full, also of convolutions; few threads, since several run at once.
EXACT = {"NVIDIA_TF32_OVERRIDE": "0", "OMP_NUM_THREADS": "2"}


class Jobs:
    """Jobs by name, each run once.

    Args:
        workers: how many at once; 0 runs a job when its result is asked for.
    """

    def __init__(self, workers: int):
        self.pool = ThreadPoolExecutor(workers) if workers else None
        self.futures: dict[str, Future[Any]] = {}
        self.waiting: dict[str, Callable[[], Any]] = {}

    def start(self, name: str, job: Callable[[], Any]) -> None:
        """Start a job, unless one of this name was."""
        if name in self.futures or name in self.waiting:
            return
        if self.pool is None:
            self.waiting[name] = job
        else:
            self.futures[name] = self.pool.submit(job)

    def result(self, name: str) -> Any:
        """What a job returned; what it raised is raised, each time."""
        if name in self.waiting:
            self.futures[name] = Future()
            try:
                self.futures[name].set_result(self.waiting.pop(name)())
            except Exception as error:
                self.futures[name].set_exception(error)
        return self.futures[name].result()

    def wait(self) -> None:
        """Until all are done, well or not, so that nothing else runs where time is measured."""
        for future in self.futures.values():
            future.exception()


def launch(words: Sequence[str], log: Path, timeout: float, environment: dict[str, str] | None = None) -> int:
    """Run Python with these words, and return its exit code; what it says goes into a file.

    Raises:
        TimeoutError: if it takes longer than so many seconds.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    env = os.environ | NO_BARS | (EXACT if environment is None else environment)
    with log.open("ab") as file:
        try:
            command = [sys.executable, *words]
            return subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=env, timeout=timeout).returncode
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{' '.join(words[:3])} ... took longer than {timeout:.0f} s") from None


def last_words(log: Path, lines: int = 3) -> str:
    """The line with which a command said what was wrong, else the last ones that it wrote."""
    said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in said if line.startswith("error: ")]
    return errors[-1] if errors else " | ".join(said[-lines:])
