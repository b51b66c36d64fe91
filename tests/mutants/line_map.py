"""Which test cases execute each line, and how long each takes: measured once, and again for files that change."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tests.mutants.scope import files_of_tests, mutated_files

FOLDER = Path("outputs/mutants")
IMPORTED = ""  # the case of what is executed by an import


class LineMap:
    """The cases by file and line.

    Attributes:
        seconds: the duration of each case that passes, by its node id, the cases of a file by that file.
        lines: the cases that execute each line, by file and line.
    """

    def __init__(self, parts: dict[str, dict[str, Any]]):
        self.seconds: dict[str, float] = {}
        self.lines: dict[str, dict[int, set[str]]] = {}
        for part in parts.values():
            self.seconds |= part["seconds"]
            cases = [*part["seconds"], IMPORTED]
            for file, lines in part["lines"].items():
                known = self.lines.setdefault(file, {})
                for line, numbers in lines.items():
                    known.setdefault(int(line), set()).update(cases[i] for i in numbers)

    def cases(self, file: str, lines: Iterable[int]) -> set[str]:
        """The cases that execute one of the lines, and `IMPORTED` if an import does."""
        known = self.lines.get(file, {})
        return set().union(*(known.get(line, ()) for line in lines))


def line_map(jobs: int, keep: bool = False) -> LineMap:
    """The map of the present files.

    Args:
        jobs: number of processes.
        keep: True to use the map as it is, though files have changed.
    """
    file = FOLDER / "lines.json"
    parts: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
    parts = {test: part for test, part in parts.items() if Path(test).exists()}
    if keep and parts:
        return LineMap(parts)
    sources = digest(mutated_files([]))
    keys = {test: digest([test]) + sources for test in files_of_tests()}
    stale = [test for test, key in keys.items() if parts.get(test, {}).get("key") != key]
    if stale:
        print(f"measuring which lines are executed by {len(stale)} of {len(keys)} files of tests", flush=True)
        found = measure(stale, jobs)
        parts = {test: part for test, part in parts.items() if test in keys}
        parts |= {test: found[test] | {"key": keys[test]} for test in stale}
        FOLDER.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(parts))
    return LineMap(parts)


def digest(files: Iterable[str]) -> str:
    found = blake2b(digest_size=8)
    for file in files:
        found.update(Path(file).read_bytes())
    return found.hexdigest()


def measure(tests: list[str], jobs: int) -> dict[str, dict[str, Any]]:
    """Run tests and note, by their file, the seconds of each case and the numbers of the cases of each line."""
    from coverage import CoverageData

    FOLDER.mkdir(parents=True, exist_ok=True)
    config, data, durations = (FOLDER / name for name in ("coveragerc", "coverage.sqlite", "durations.json"))
    files = mutated_files([])
    include = "\n    ".join(files)
    config.write_text(f"[run]\ndata_file = {data}\ncore = ctrace\ninclude =\n    {include}\n")
    coverage = ["--cov", f"--cov-config={config}", "--cov-context=test", "--cov-report="]
    spread = ["-n", str(jobs), "--dist", "loadscope", "--no-loadscope-reorder"] if jobs > 1 else []
    command = [sys.executable, "-m", "pytest", *coverage, *spread, "-p", "tests.mutants.durations", *tests]
    with (FOLDER / "tests.log").open("w") as log:
        environment = os.environ | {"MUTANTS_DURATIONS": str(durations), "OMP_NUM_THREADS": "1"}
        subprocess.run(command, stdout=log, stderr=log, env=environment)
    found: dict[str, dict[str, Any]] = {test: {"seconds": {}, "lines": {}} for test in tests}
    numbers: dict[str, int] = {}
    for case, seconds in json.loads(durations.read_text()).items():
        part = found[case.partition("::")[0]]["seconds"]
        numbers[case] = len(part)
        part[case] = seconds
    coverage_data = CoverageData(str(data))
    coverage_data.read()
    for file in files:
        for line, contexts in coverage_data.contexts_by_lineno(str(Path(file).resolve())).items():
            cases = {context.rpartition("|")[0] for context in contexts}
            for case in cases & numbers.keys():
                here = found[case.partition("::")[0]]["lines"].setdefault(file, {})
                here.setdefault(line, []).append(numbers[case])
            if IMPORTED in cases:
                for part in found.values():
                    part["lines"].setdefault(file, {}).setdefault(line, []).append(len(part["seconds"]))
    return found
