"""A process that runs tests on mutants, in a copy of the checkout of its own: `python -m tests.mutants.worker` there.

It imports the libraries once. For each mutant it forks, and the fork imports the code and the tests anew.
"""

import importlib
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

MEMORY = 24 * 2**30  # bytes of address space; a mutant may ask for any number of samples
OPTIONS = ["-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist", "-p", "no:cov", "--hypothesis-seed=0", "-q"]


class Chosen:
    """A plugin of pytest that runs the chosen cases in their order and notes which one fails.

    Args:
        cases: the cases with the seconds that each may take.
    """

    def __init__(self, cases: dict[str, float]):
        self.cases = cases
        self.failed: list[str] = []
        self.run = 0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        found = {item.nodeid: item for item in items}
        items[:] = [found[case] for case in self.cases if case in found]
        for item in items:
            item.add_marker(pytest.mark.timeout(self.cases[item.nodeid]))

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.run += report.when == "call"
        if report.failed:
            self.failed.append(report.nodeid)


def run_tests(cases: dict[str, float], exhaustive: bool) -> dict[str, Any]:
    """Run the cases until one fails, or all; "collection" fails where the tests cannot be imported."""
    chosen = Chosen(cases)
    files = [file for file in dict.fromkeys(case.partition("::")[0] for case in cases) if Path(file).exists()]
    code = pytest.main([*OPTIONS, *([] if exhaustive else ["-x"]), *files], [chosen])
    if code in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR) and not chosen.failed:
        chosen.failed.append("collection")
    return {"failed": list(dict.fromkeys(chosen.failed)), "run": chosen.run}


def import_libraries(files: list[str], writer: int) -> None:
    """In a fork: collect the tests, which compiles all files, and tell which libraries they import."""
    pytest.main([*OPTIONS, "--collect-only", *files])
    own = ("src", "tests", "conftest", "__main__")
    names = [name for name in sys.modules if name.partition(".")[0] not in own]
    os.write(writer, json.dumps(names).encode())


def in_fork(work: Any, seconds: float) -> str | None:
    """What `work(writer)` writes in a fork of this process; None if that takes too long or it ends without a word."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        try:
            work(writer)
        finally:
            os._exit(0)
    os.close(writer)
    text, end = b"", time.monotonic() + seconds
    while select.select([reader], [], [], max(0, end - time.monotonic()))[0] and (part := os.read(reader, 2**16)):
        text += part
        if text.endswith((b"]", b"}")):  # processes that the tests started may hold the pipe open
            break
    os.close(reader)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return text.decode() or None


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Run the tests of one request, with the file changed, group by group until one fails."""
    began = time.monotonic()
    with changed(request["file"], request["source"], request["number"]):
        run, failed = 0, []
        for cases, limit in request["groups"]:

            def work(writer: int, cases: dict[str, float] = cases) -> None:
                os.write(writer, json.dumps(run_tests(cases, request["exhaustive"])).encode())

            text = in_fork(work, limit)
            found = json.loads(text) if text else {"failed": ["no end"], "run": 0}
            run, failed = run + found["run"], failed + found["failed"]
            if failed and not request["exhaustive"]:
                break
    return {"failed": failed, "run": run, "seconds": round(time.monotonic() - began, 1)}


@contextmanager
def changed(file: str | None, source: str, number: int) -> Iterator[None]:
    """The text of a file, if one is named, and its time of change, which tells bytecode of the original from its."""
    if file is None:
        yield
        return
    path = Path(file)
    original, times = path.read_text(), path.stat()
    path.write_text(source)
    os.utime(path, (times.st_atime, times.st_mtime - 1000 - number))
    try:
        yield
    finally:
        path.write_text(original)
        os.utime(path, (times.st_atime, times.st_mtime))


def main() -> None:
    talk = os.fdopen(os.dup(1), "w")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    files = json.loads(sys.stdin.readline())
    names = in_fork(lambda writer: import_libraries(files, writer), 600)
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    for name in json.loads(names or "[]"):
        try:
            importlib.import_module(name)
        except Exception:  # a library that is made anew, or that only another one may import
            continue
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=talk, flush=True)


if __name__ == "__main__":
    main()
