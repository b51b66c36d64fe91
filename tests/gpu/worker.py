"""Runs checks one after the other, in the process that uses the device: `python -m tests.gpu.worker REQUEST.json`.

It ends with 3 if the device does not answer after a check, so that another process goes on with the next.
"""

import json
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tests.gpu import fast, good, plan, right
from tests.gpu.bench import Bench
from tests.gpu.device import Device, find
from tests.gpu.jobs import Jobs
from tests.gpu.results import Outcome, Results, read

SECTIONS: dict[str, ModuleType] = {"right": right, "fast": fast, "plan": plan, "good": good}
LOST = 3  # exit code


def select(words: Sequence[str]) -> dict[str, list[str]]:
    """The checks of each section that words name: SECTION or SECTION.CHECK; by default all.

    Raises:
        SystemExit: for a name that there is not.
    """
    chosen: dict[str, list[str]] = {}
    for word in words or SECTIONS:
        section, _, check = word.partition(".")
        known = list(SECTIONS[section].CHECKS) if section in SECTIONS else []
        if section not in SECTIONS or (check and check not in known):
            there = ", ".join(known or SECTIONS)
            raise SystemExit(f"error: there is no {word}; {section if known else 'sections'}: {there}")
        chosen.setdefault(section, []).extend([check] if check else known)
    return {name: list(dict.fromkeys(chosen[name])) for name in SECTIONS if name in chosen}


def deadlines(sections: Sequence[str], began: float, budget: float) -> dict[str, float]:
    """When each section ends: the time is shared out among those that are run; what one leaves is the next one's."""
    shares, ends, until = {name: SECTIONS[name].SHARE for name in sections}, {}, 0.0
    for name in sections:
        until += shares[name] / sum(shares.values())
        ends[name] = began + until * budget
    return ends


def run_check(bench: Bench, results: Results, section: str, check: str) -> dict[str, Any]:
    """Run a check, print and record what it found; whatever it raises."""
    name, outcome, began = f"{section}.{check}", Outcome(), time.time()
    print(f"{name}", flush=True)
    results.begin(name)
    if bench.left < 0:
        outcome.skipped = "the time of its section was over"
    else:
        try:
            SECTIONS[section].CHECKS[check](bench, outcome)
        except (Exception, SystemExit) as error:
            text = " ".join(str(error).split())
            outcome.error = f"{type(error).__name__}: {text[:500]}"
    entry = results.end(name, outcome, time.time() - began)
    message = f": {entry['message']}" if entry["message"] else ""
    print(f"  {entry['status']} in {entry['seconds']:.1f} s{message}", flush=True)
    return entry


def wait_for(jobs: Jobs) -> None:
    """Let all other processes end, so that nothing else runs where time is measured."""
    began = time.time()
    jobs.wait()
    if time.time() - began > 1:
        print(f"waited {time.time() - began:.0f} s for processes that compile", flush=True)


def answers(device: Device) -> bool:
    """False if the device does nothing any more, as after an illegal access to memory."""
    try:
        torch.ones(1, device=device.place).add_(1)
        device.synchronize()
        return True
    except Exception:
        return False


def run_checks(bench: Bench, results: Results, chosen: dict[str, list[str]], ends: dict[str, float]) -> bool:
    """Run all; returns False if the device does not answer any more.

    Args:
        bench: what each is given.
        results: where the findings go.
        chosen: checks by section.
        ends: when each section ends.
    """
    for section, checks in chosen.items():
        if hasattr(SECTIONS[section], "prepare"):
            SECTIONS[section].prepare(bench, checks)
    for section, checks in chosen.items():
        bench.ends = ends[section]
        if section != "right":
            wait_for(bench.jobs)
        for check in checks:
            entry = run_check(bench, results, section, check)
            if entry["status"] == "failed" and not answers(bench.device):
                return False
            bench.clean()
    return True


def main(words: list[str]) -> int:
    request = json.loads(Path(words[0]).read_text())
    warnings.filterwarnings("ignore")
    device = find(request["device"])
    results = Results(Path(request["out"]) / "gpu.json", device.about())
    chosen = select(request["names"])
    ends = deadlines(list(chosen), request["began"], request["budget"])
    # Those that an earlier worker of this run has ended.
    done = {k for k, entry in read(results.file)["checks"].items() if entry.get("ended", 0) > request["began"]}
    left = {s: [c for c in checks if f"{s}.{c}" not in done] for s, checks in chosen.items()}
    bench = Bench(
        device,
        Path(request["scratch"]),
        Path(request["out"]),
        request["tiny"],
        *(Path(request[key]) if request[key] else None for key in ("data", "images")),
        jobs=Jobs(device.jobs),
    )
    bench.ends = max(ends.values())
    print(f"{results.about}", flush=True)
    return 0 if run_checks(bench, results, left, ends) else LOST


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
