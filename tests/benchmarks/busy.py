"""Keep cores busy, as other programs of a machine do, while a command runs.

python -m tests.benchmarks.busy --cores 2 -- make test
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Ends with the process that started it, however that ends.
LOAD = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): sum(range(1_000_000))"


@contextmanager
def busy(cores: int) -> Iterator[list[subprocess.Popen]]:
    """So many other programs compute, each on a core."""
    command = [sys.executable, "-S", "-c", LOAD, str(os.getpid())]
    # Each in a session of its own, as those of other windows: Linux divides the cores among sessions.
    programs = [subprocess.Popen(command, start_new_session=True) for _ in range(cores)]
    try:
        yield programs
    finally:
        for program in programs:
            program.kill()
            program.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="as many programs; default: one a core")
    parser.add_argument("command", nargs="+", metavar="-- COMMAND")
    args = parser.parse_args()
    with busy(args.cores):
        return subprocess.run(args.command).returncode


if __name__ == "__main__":
    sys.exit(main())
