"""Run commands of a checkout in copies of one process, which saves each the seconds of importing torch and Lightning.

It is started in the checkout, and reads from its standard input JSON of the form `{"jobs": 1, "chains": {NAME:
[[MODULE, [ARGUMENT...], LOG FILE]...]}}`. The commands of a chain run in turn until one fails; up to `jobs` chains run
at once. As each ends, it prints a line `NAME SECONDS`.
"""

import json
import os
import runpy
import sys
import time
import traceback
from pathlib import Path

Command = tuple[str, list[str], str]


def run_here(module: str, arguments: list[str], log: str) -> None:
    """Run `python -m MODULE ARGUMENT...` in this process, and end it with the exit code."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    sys.argv = [module, *arguments]
    code = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_chain(name: str, commands: list[Command]) -> None:
    """Run the commands one after the other, each in a copy of this process."""
    began = time.perf_counter()
    for command in commands:
        pid = os.fork()
        if pid == 0:
            run_here(*command)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            break
    os.write(1, f"{name} {time.perf_counter() - began:.1f}\n".encode())


def main() -> None:
    work = json.loads(sys.stdin.read())
    sys.path[0] = str(Path.cwd())  # the checkout, as for `python -m`, and not the folder of this file
    import pytorch_lightning  # noqa: F401
    import torchmetrics  # noqa: F401

    running = 0
    for name, commands in work["chains"].items():
        if running == work["jobs"]:
            os.wait()
            running -= 1
        if os.fork() == 0:
            run_chain(name, commands)
            os._exit(0)
        running += 1
    for _ in range(running):
        os.wait()


if __name__ == "__main__":
    main()
