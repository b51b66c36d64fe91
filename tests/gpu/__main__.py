"""What a GPU proves, in eight minutes: `make gpu-check`.

    python -m tests.gpu                     # all sections: right, fast, plan, good
    python -m tests.gpu right fast.loop     # a section, a check
    python -m tests.gpu --write --from gpu.json   # docs/gpu.md from what another machine found

Each check prints what it found and how long it took, and is recorded in outputs/gpu/gpu.json; one that fails, hangs or
ends its process does not stop the next. Exit code 1: a check failed. Goals of speed that were missed are no failures.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.gpu.results import FAILED, RUNNING, SKIPPED, Results, read

BUDGET = 480.0  # seconds
GRACE = 45.0  # seconds after which a check that is still running is ended
LONGEST_CHECK = 200.0  # seconds


def parse(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="SECTION", help="right, fast, plan, good, or SECTION.CHECK")
    parser.add_argument("--write", action="store_true", help="also update docs/gpu.md")
    parser.add_argument("--from", dest="source", type=Path, help="with --write: run nothing, take this gpu.json")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds in all (default: %(default)g)")
    parser.add_argument("--tiny", action="store_true", help="tiny nets, to rehearse")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: the GPU")
    parser.add_argument("--data", type=Path, help="folder of MNIST; default: 5,000 digits of a package")
    parser.add_argument("--images", type=Path, help="folder with train/CLASS/ and test/CLASS/, such as CIFAR-10")
    out = Path(os.environ.get("DIFFUSION_LAB_OUTPUTS", "outputs")) / "gpu"
    parser.add_argument("--out", type=Path, default=out, help="folder of the results (default: %(default)s)")
    args = parser.parse_args(words)
    if args.source is not None and not (args.write and args.source.exists()):
        parser.error(f"--from needs --write and an existing file, got {args.source}")
    for name in ("data", "images", "out"):
        path = getattr(args, name)
        if path is not None:
            setattr(args, name, path.absolute())
    return args


def watch(process: subprocess.Popen[bytes], file: Path, until: float) -> int | None:
    """Wait for a worker; None if its check takes too long."""
    while True:
        try:
            return process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            pass
        now, running = time.time(), unfinished(file)
        since = [entry["started"] for entry in running.values()]
        if now > until or (since and now - min(since) > LONGEST_CHECK):
            return None


def end(process: subprocess.Popen[bytes]) -> None:
    """End a worker with all that it started, if it runs."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def unfinished(file: Path) -> dict[str, Any]:
    return {name: entry for name, entry in read(file)["checks"].items() if entry["status"] == RUNNING}


def reason(code: int | None) -> str:
    if code is None:
        return "took too long, and its process was ended"
    return f"its process ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"


def run(args: argparse.Namespace) -> int:
    """Start workers until all checks have been run or the time is over; returns the exit code of the last."""
    began, file, code = time.time(), args.out / "gpu.json", 0
    drop_unfinished(file)
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as scratch:
        for attempt in range(100):
            place = Path(scratch) / str(attempt)
            place.mkdir()
            request = vars(args) | {"began": began, "scratch": place}
            (place / "request.json").write_text(json.dumps(request, default=str))
            places = {"TORCHINDUCTOR_CACHE_DIR": f"{scratch}/compiled", "DIFFUSION_LAB_OUTPUTS": f"{scratch}/outputs"}
            command = [sys.executable, "-m", "tests.gpu.worker", str(place / "request.json")]
            process = subprocess.Popen(command, env=os.environ | places, start_new_session=True)
            try:
                ended = watch(process, file, began + args.budget + GRACE)
            finally:
                end(process)
            broken = unfinished(file)
            results = Results(file, read(file)["about"])
            for name in broken:
                results.fail(name, reason(ended))
                print(f"  failed: {name}: {reason(ended)}", flush=True)
            code = 1 if ended is None else ended
            # Another worker goes on after a check that ended this one, and after a device that was lost.
            if ended == 0 or time.time() > began + args.budget or not (broken or ended == 3):
                break
    print(summary(file, began), flush=True)
    failed = any(entry["status"] == FAILED and entry["ended"] > began for entry in read(file)["checks"].values())
    return 1 if failed or (code and not broken) else 0


def drop_unfinished(file: Path) -> None:
    """Forget checks that an earlier run began and did not end."""
    content = read(file)
    left = {name: entry for name, entry in content["checks"].items() if entry["status"] != RUNNING}
    if len(left) < len(content["checks"]):
        file.write_text(json.dumps(content | {"checks": left}, indent=2))


def summary(file: Path, began: float) -> str:
    """How many checks ended how, and those that did not pass."""
    entries = {name: e for name, e in read(file)["checks"].items() if e.get("ended", 0) > began}
    statuses = [entry["status"] for entry in entries.values()]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    lines = [f"\n{len(entries)} checks in {time.time() - began:.0f} s: {counts}; {file}"]
    lines += [f"  {n}: {e['status']}: {e['message']}" for n, e in entries.items() if e["status"] in (FAILED, SKIPPED)]
    return "\n".join(lines)


def main() -> None:
    args = parse(sys.argv[1:])
    source, code = args.source, 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which ends the worker too
    if source is None:
        code, source = run(args), args.out / "gpu.json"
    if args.write:
        from tests.gpu.report import write_page

        print(f"written: {write_page(source)}")
    sys.exit(code)


if __name__ == "__main__":
    main()
