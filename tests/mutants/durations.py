"""A plugin of pytest that writes which cases passed, and how many seconds each took, to the file MUTANTS_DURATIONS."""

import json
import os
from pathlib import Path
from typing import Any

seconds: dict[str, float] = {}
failed: set[str] = set()


def pytest_runtest_logreport(report: Any) -> None:
    seconds[report.nodeid] = seconds.get(report.nodeid, 0.0) + report.duration
    if not report.passed:  # skipped ones prove nothing, either
        failed.add(report.nodeid)


def pytest_sessionfinish(session: Any) -> None:
    if not hasattr(session.config, "workerinput"):
        passed = {case: round(t, 4) for case, t in seconds.items() if case not in failed}
        Path(os.environ["MUTANTS_DURATIONS"]).write_text(json.dumps(passed))
