"""Mutation testing: change the code at random places, one change at a time, and see if the tests notice.

    python -m tests.mutants [PATH...] [--n N] [--seed N] [--only-survivors] [--jobs N] [--budget SECONDS]

Each mutant is run with the test cases that execute the changed line, until one fails. Those that survive must be killed
by a new test, or be listed as equivalent, with the reason, in tests/mutants/equivalent.toml. Results are in
outputs/mutants/mutants.json. Exit code 1: too few are killed, or a survivor is not listed.
"""

import argparse
import json
import sys
import tempfile
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from tests.mutants.drawing import Mutant, cases_of, draw, find
from tests.mutants.line_map import FOLDER, LineMap, line_map
from tests.mutants.pool import request, run_all
from tests.mutants.scope import mutated_files, package_of

EQUIVALENT = Path(__file__).with_name("equivalent.toml")
SHARE = 0.95  # of the mutants must be killed
KEY = ("file", "function", "before", "after")
RESULTS = FOLDER / "mutants.json"


def equivalents() -> dict[tuple[str, ...], str]:
    """The reasons of the mutants that no test can kill, by their key."""
    listed = tomllib.loads(EQUIVALENT.read_text()).get("mutant", [])
    return {key_of(m): m["reason"] for m in listed}


def key_of(result: dict[str, Any]) -> tuple[str, ...]:
    """What remains of a mutant when lines move."""
    return tuple(result[name] for name in KEY)


def chosen_mutants(args: argparse.Namespace) -> list[Mutant]:
    if args.only_survivors:
        last = json.loads(RESULTS.read_text())
        return find({key_of(m) for m in last if not m["killers"]} - equivalents().keys())
    return draw(mutated_files(args.paths), args.n, args.seed)


def run(mutants: list[Mutant], known: LineMap, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the tests on each mutant, and print what comes of it; returns the results in the order of the mutants."""
    groups = [cases_of(mutant, known, args.budget) for mutant in mutants]
    requests = [request(m, groups[i], known.seconds, i, args.exhaustive) for i, m in enumerate(mutants)]
    count_cases = [sum(map(len, group)) for group in groups]
    results: list[dict[str, Any]] = [{} for _ in mutants]
    count = Counter[str]()

    def tell(i: int, found: dict[str, Any]) -> None:
        m = mutants[i]
        fields = {name: getattr(m, name) for name in (*KEY, "operator", "line")}
        more = {"cases": count_cases[i], "run": found["run"], "seconds": found["seconds"]}
        results[i] = fields | {"killers": found["failed"]} | more
        RESULTS.write_text(json.dumps([result for result in results if result], indent=1))
        count["killed" if found["failed"] else "survived"] += 1
        says = f"killed by {found['failed'][0]}" if found["failed"] else f"SURVIVED {count_cases[i]} cases"
        print(
            f"{sum(count.values()):4} {count['survived']:3}  {m}\n          {says} ({found['seconds']} s)", flush=True
        )

    tests = sorted({case.partition("::")[0] for each in groups for group in each for case in group})
    with tempfile.TemporaryDirectory() as folder:
        run_all(requests, tests, Path(folder), args.jobs, tell)
        check_killers(results, known, Path(folder) / "check")
    return results


def check_killers(results: list[dict[str, Any]], known: LineMap, folder: Path) -> None:
    """Run all cases that killed without any mutant; those that fail even so have killed nothing."""
    killers = sorted({case for r in results for case in r["killers"] if case in known.seconds})
    failed: set[str] = set()
    if killers:
        told = [request(None, [killers], known.seconds, 0, exhaustive=True)]
        files = sorted({case.partition("::")[0] for case in killers})
        run_all(told, files, folder, 1, lambda _, found: failed.update(found["failed"]))
    for case in failed:
        print(f"fails without a mutant: {case}")
    for result in results:
        result["killers"] = [case for case in result["killers"] if case not in failed]


def table(results: list[dict[str, Any]], listed: Any) -> str:
    """Numbers of mutants by package."""
    count: dict[str, Counter[str]] = {}
    for r in results:
        for name in (package_of(r["file"]), "all"):
            of = count.setdefault(name, Counter())
            of["mutants"] += 1
            of["killed"] += bool(r["killers"])
            of["listed"] += not r["killers"] and key_of(r) in listed
    lines = [f"{'':12}{'mutants':>9}{'killed':>9}{'share':>9}{'survived':>10}{'listed':>9}"]
    for name in sorted(count, key=lambda name: (name == "all", name)):
        n, killed, known = (count[name][key] for key in ("mutants", "killed", "listed"))
        lines.append(f"{name:12}{n:9}{killed:9}{killed / n:9.1%}{n - killed:10}{known:9}")
    return "\n".join(lines)


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", help="files and folders to mutate; by default all of the scope")
    parser.add_argument("--n", type=int, default=600, help="number of mutants; 0 for one at every position")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of mutants")
    parser.add_argument(
        "--only-survivors", action="store_true", help="those that survived in the last run and are not listed"
    )
    parser.add_argument("--jobs", type=int, default=2, help="workers")
    parser.add_argument("--budget", type=float, default=60, help="seconds of test cases for each mutant")
    parser.add_argument("--exhaustive", action="store_true", help="go on after the first case that kills")
    parser.add_argument("--keep-map", action="store_true", help="do not measure again which lines tests execute")
    args = parser.parse_args(words)
    for path in args.paths:
        if not mutated_files([path]):
            parser.error(f"{path} holds no file that is mutated; tests/mutants/scope.py lists them")
    return args


def main() -> None:
    args = parse()
    known = line_map(args.jobs, args.keep_map)
    mutants = chosen_mutants(args)
    results = run(mutants, known, args)
    RESULTS.write_text(json.dumps(results, indent=1))
    listed = equivalents()
    open_ones = [r for r in results if not r["killers"] and key_of(r) not in listed]
    for r in open_ones:
        print(f"not killed, not listed: {r['file']}:{r['line']}  {r['before']}  ->  {r['after']}")
    print(table(results, listed))
    killed = sum(bool(r["killers"]) for r in results)
    sys.exit(bool(open_ones) or killed < SHARE * len(results))


if __name__ == "__main__":
    main()
