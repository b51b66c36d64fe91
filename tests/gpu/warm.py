"""Compiles a model in a process of its own, and notes how long that took: `python -m tests.gpu.warm REQUEST.json`.

Compilation takes a minute a model, mostly on one core. Several at once, beside checks of another kind, leave the
minutes of a GPU to what is measured; the compiled code is found in torch's cache on disk.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from tests.gpu.bench import LONGEST_PROCESS, Bench
from tests.gpu.device import find
from tests.gpu.jobs import last_words
from tests.gpu.measuring import allow_fast_math, autocast_of, batch_of, make
from tests.gpu.models import MODELS, take_step
from tests.gpu.sampling import COMPILED_SAMPLING, compile_sampling


def warm_up(bench: Bench, name: str, who: str) -> None:
    """Start to compile a model, ours or theirs, or the sampling."""
    folder = bench.scratch / "warm"
    answer = folder / f"{name}_{who}.json"
    request = {"name": name, "who": who, "device": bench.device.kind, "tiny": bench.tiny, "answer": str(answer)}

    def job() -> Path:
        file = answer.with_suffix(".request")
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(request))
        log = answer.with_suffix(".log")
        code = bench.launch(["-m", "tests.gpu.warm", str(file)], log, LONGEST_PROCESS, {})
        if code:
            raise RuntimeError(f"tests.gpu.warm {name} {who} ended with {code}: {last_words(log)}")
        return answer

    bench.jobs.start(f"warm {name} {who}", job)


def warmed(bench: Bench, name: str, who: str, n: int) -> float | str:
    """Seconds that the compilation took, from nothing and beside others; empty where it was not done beforehand."""
    file = bench.scratch / "warm" / f"{name}_{who}.json"
    if not file.exists():
        return ""
    answer = json.loads(file.read_text())
    return round(answer["seconds"], 1) if answer["batch"] == n else ""


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Take a step compiled and one that is not."""
    device, tiny = find(request["device"]), request["tiny"]
    allow_fast_math()
    if request["name"] == COMPILED_SAMPLING:
        began = time.perf_counter()
        compile_sampling(device, tiny)
        return {"seconds": time.perf_counter() - began, "batch": 0}
    model = MODELS[request["name"]]
    cfg, n = model.config(tiny), batch_of(model, device, tiny)
    build = partial(make, request["who"], model, cfg, n, device, tiny)
    seconds = []
    for compiles in (None, device.compiles):
        side = build()
        if compiles is not None:
            side.net.compile(**compiles)
        device.synchronize()
        began = time.perf_counter()
        take_step(side, autocast_of(device)[0])
        device.synchronize()
        seconds.append(time.perf_counter() - began)
        del side
        device.empty()
    return {"seconds": seconds[1] - seconds[0], "batch": n}


def main(words: list[str]) -> None:
    request = json.loads(Path(words[0]).read_text())
    Path(request["answer"]).write_text(json.dumps(work(request)))


if __name__ == "__main__":
    main(sys.argv[1:])
