"""Is it fast: beside diffusers, beside the peak of the device, beside bare steps; and where the host waits."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from tests.gpu import loop
from tests.gpu.bench import Bench
from tests.gpu.measuring import (
    OURS,
    THEIRS,
    Speed,
    allow_fast_math,
    autocast_of,
    batch_of,
    largest,
    make,
    measure,
    peak_flops,
)
from tests.gpu.models import MODELS
from tests.gpu.results import Outcome
from tests.gpu.sampling import COMPILED_SAMPLING, sampling
from tests.gpu.warm import warm_up, warmed

SHARE = 0.5
TIMES_DIFFUSERS = 1.5  # goal
SECONDS = 0.8  # of each of three rounds
LARGE_FROM, LARGE_MOST = 1024, 2**18  # images
ADAMW = f"{OURS}, AdamW"  # the optimizer of the peer, where an experiment has another one
MODES = ("eager", "compiled")


def speed(bench: Bench, found: Outcome, name: str) -> None:
    """Training of a model and of its nearest one of diffusers, eager and compiled."""
    bench.jobs.wait()
    n = batch_of(MODELS[name], bench.device, bench.tiny)
    beside_diffusers(bench, found, name, n)


def largest_batch(bench: Bench, found: Outcome, name: str) -> None:
    """The same with the largest batch, a power of two, that ours has room for."""
    bench.jobs.wait()
    model = MODELS[name]
    cfg = model.config(bench.tiny)

    def build(n: int) -> Any:
        return make(OURS, model, cfg, n, bench.device, bench.tiny)

    start, most = (2, 4) if bench.tiny else (LARGE_FROM, LARGE_MOST)
    n = largest(build, bench.device, start, most)
    found.add("largest batch", n, "images")
    beside_diffusers(bench, found, name, n)


def beside_diffusers(bench: Bench, found: Outcome, name: str, n: int) -> None:
    """Measure each side in each mode; the one that fails does not stop the others."""
    allow_fast_math()
    model, errors, speeds = MODELS[name], [], dict[tuple[str, str], Speed]()
    peak, source = peak_flops(bench.device, autocast_of(bench.device)[1])
    found.note(f"peak {peak / 1e12:.4g} TFLOP/s, of {source}")
    own = model.config(bench.tiny)
    sides = {OURS: own, THEIRS: own}
    if "AdamW" not in own.optimizer._target_:
        sides[ADAMW] = model.config(bench.tiny, "optimizer=adamw")
    for mode in MODES:
        for who, cfg in sides.items():
            if bench.left < 0:
                found.note(f"{who}, {mode}: no time left")
                continue
            compiles = bench.device.compiles if mode == "compiled" else None
            build = partial(make, who, model, cfg, n, bench.device, bench.tiny)
            try:
                one = measure(build, bench.device, compiles, 0.0 if bench.tiny else SECONDS)
            except Exception as error:
                errors.append(f"{who}, {mode}: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
                found.note(errors[-1])
            else:
                eager = speeds.get((who, "eager"))
                speeds[who, mode] = one if mode == "eager" or eager is None else replace(one, flop=eager.flop)
                cold = warmed(bench, name, who, n) if mode == "compiled" else ""
                found.row(**{"model": name}, **speeds[who, mode].row(who, mode, peak), **{"compile, s": cold})
            finally:
                bench.clean()
    goals(found, name, speeds, peak)
    if errors:
        raise RuntimeError("; ".join(errors))


def goals(found: Outcome, name: str, speeds: dict[tuple[str, str], Speed], peak: float) -> None:
    """What was reached of them: like for like, with the optimizer of the peer."""
    ours = ADAMW if (ADAMW, "eager") in speeds else OURS
    for mode in MODES:
        if (ours, mode) in speeds and (THEIRS, mode) in speeds:
            ratio = speeds[THEIRS, mode].step / speeds[ours, mode].step
            found.add(f"images/s, times diffusers, {mode}", ratio, at_least=TIMES_DIFFUSERS, goal=True)
    reached = [100 * one.flop / one.step / peak for (who, _), one in speeds.items() if who == ours]
    if (share := MODELS[name].peak_share) is not None and reached:
        found.add("share of peak arithmetic", max(reached), "%", at_least=100 * share, goal=True)


CHECKS: dict[str, Callable[[Bench, Outcome], None]] = {
    **{name: partial(speed, name=name) for name in MODELS},
    "loop": partial(loop.overhead, name="mnist_ddpm"),
    "loop_unet": partial(loop.overhead, name="unet_53m"),
    "syncs": partial(loop.syncs, name="mnist_ddpm"),
    "sampling": sampling,
    "mnist_ddpm_largest": partial(largest_batch, name="mnist_ddpm"),
}


def prepare(bench: Bench, checks: list[str]) -> None:
    """Compile beforehand, beside other checks and all at once, into the cache that these checks then find."""
    for check in checks:
        if check in MODELS:
            for who in (OURS, THEIRS):
                warm_up(bench, check, who)
        elif check == COMPILED_SAMPLING:
            warm_up(bench, check, OURS)
