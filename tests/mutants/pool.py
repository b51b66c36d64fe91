"""Workers, each in a copy of the checkout, that run the tests on mutants at the same time."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from tests.mutants.drawing import Mutant

SLACK, SLOWER = 20.0, 20.0  # a case may take so many seconds, and so many times as long, as it did


def request(
    mutant: Mutant | None, groups: list[list[str]], seconds: dict[str, float], number: int, exhaustive: bool = False
) -> dict[str, Any]:
    """What a worker is told: the file and its text, and the cases with the seconds that each and all may take."""
    limits = [{case: SLACK + SLOWER * seconds[case] for case in group} for group in groups]
    totals = [5 * SLACK + SLOWER * sum(seconds[case] for case in group) for group in groups]
    return {
        "file": mutant and mutant.file,
        "source": mutant and mutant.source,
        "groups": list(zip(limits, totals, strict=True)),
        "number": number,
        "exhaustive": exhaustive,
    }


def run_all(
    requests: Sequence[dict[str, Any]],
    tests: list[str],
    folder: Path,
    jobs: int,
    tell: Callable[[int, dict[str, Any]], None],
) -> None:
    """Send each request to a free worker.

    Args:
        requests: see `request`.
        tests: the files of tests that they name.
        folder: an empty folder for the copies.
        jobs: number of workers.
        tell: called with the number of a request and its answer, as they come.
    """
    waiting: Queue[int] = Queue()
    for number in range(len(requests)):
        waiting.put(number)
    lock = threading.Lock()

    def work(place: Path) -> None:
        copy_checkout(place)
        command = [sys.executable, "-m", "tests.mutants.worker"]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, cwd=place, env=environment, **pipes) as process:
            assert process.stdin is not None and process.stdout is not None
            print(json.dumps(tests), file=process.stdin, flush=True)
            while True:
                try:
                    number = waiting.get_nowait()
                except Empty:
                    break
                print(json.dumps(requests[number]), file=process.stdin, flush=True)
                found = json.loads(process.stdout.readline())
                with lock:
                    tell(number, found)
            process.stdin.close()

    threads = [threading.Thread(target=work, args=(folder / str(i),)) for i in range(min(jobs, len(requests)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def copy_checkout(place: Path) -> None:
    """Copy the files that git knows or would take."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0"):
        if name and Path(name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, place / name)
