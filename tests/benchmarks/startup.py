"""Compare how long the commands of two checkouts take to start: `python -m tests.benchmarks.startup OTHER_CHECKOUT`.

Each command is run in both in turns, the other checkout ("old") first in one turn and last in the next, so that what
slows the machine slows both. CPU seconds are compared as well, which other processes disturb less. The ratio is the
median over the turns, with the quartiles; below 1 this checkout is faster.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

TINY = ["experiment=sine_ddpm", "trainer=cpu", "trainer.max_steps=1", "trainer.limit_val_batches=1"]
COMMANDS = {
    "import src.train": ["-c", "import src.train"],
    "src.train --help": ["-m", "src.train", "--help"],
    "src.sample --help": ["-m", "src.sample", "--help"],
    "src.compare --help": ["-m", "src.compare", "--help"],
    "src.train of one step": ["-m", "src.train", *TINY],
}


class Took(NamedTuple):
    """Seconds of a process: by the clock, and of the CPU."""

    wall: float
    cpu: float


def run(checkout: Path, words: list[str]) -> Took:
    """Run Python in a checkout; an error with the end of what it printed where it fails."""
    with tempfile.TemporaryDirectory() as scratch, (Path(scratch) / "log").open("w+") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "DIFFUSION_LAB_OUTPUTS": scratch}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else files that were never compiled count as slow ones
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, *words], cwd=checkout, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"error: python {' '.join(words)} in {checkout}:\n{log.read()[-2000:]}")
    return Took(wall, usage.ru_utime + usage.ru_stime)


def measure(words: list[str], old: Path, new: Path, turns: int) -> tuple[list[Took], list[Took]]:
    """Run a command in both checkouts in turns, after one run each that compiles their files."""
    run(old, words), run(new, words)
    took: tuple[list[Took], list[Took]] = ([], [])
    sides = list(zip(took, (old, new), strict=True))
    for turn in range(turns):
        for times, checkout in sides if turn % 2 == 0 else reversed(sides):
            times.append(run(checkout, words))
    return took


def row(title: str, old: list[Took], new: list[Took]) -> str:
    """Medians of both, and the ratio by the clock and of the CPU."""
    cells = []
    for times in (zip(*old, strict=True), zip(*new, strict=True)):
        wall, cpu = (statistics.median(seconds) for seconds in times)
        cells.append(f"{wall:.2f} ({cpu:.2f})")
    for field in Took._fields:
        ratios = [getattr(b, field) / getattr(a, field) for a, b in zip(old, new, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        cells.append(f"{middle:.3f} [{low:.2f}, {high:.2f}]")
    return f"{title:24}" + "".join(f"{cell:>22}" for cell in cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the checkout to compare with")
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    old, new = args.other.resolve(), Path.cwd()
    if shutil.which("git"):
        names = [
            subprocess.run(["git", "-C", str(p), "describe", "--always", "--dirty"], capture_output=True, text=True)
            for p in (old, new)
        ]
        print(f"old {names[0].stdout.strip()}, new {names[1].stdout.strip()}; {args.turns} turns")
    head = ("old, s wall (CPU)", "new, s wall (CPU)", "ratio, wall", "ratio, CPU")
    print(f"{'':24}" + "".join(f"{cell:>22}" for cell in head))
    for title, words in COMMANDS.items():
        print(row(title, *measure(words, old, new, args.turns)), flush=True)


if __name__ == "__main__":
    main()
