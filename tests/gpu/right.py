"""Is it right: the device computes what the CPU does, resumes what was killed, and all settings of speed agree."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch

from src.runs.loading import build_denoiser, load_weights, strip_prefix
from src.runs.run import Run
from src.utils.checkpoints import load_checkpoint
from src.utils.seeding import generator
from tests.end_to_end.running import assert_same_run
from tests.gpu import runs
from tests.gpu.agreement import EXPERIMENTS, FLOAT32, agree, difference
from tests.gpu.bench import Bench
from tests.gpu.results import Outcome

SHARE = 0.27
SAME_LOSSES = 1e-4  # relative, in float32 over the first steps
TOLERANCE = 1e-2  # of weights, relative, where the order of sums may change


def same_losses(bench: Bench, found: Outcome, name: str) -> None:
    """A setting changes nothing that is learned, beyond rounding."""
    one, other = (runs.losses(bench.jobs.result(job)) for job in ("plain", name))
    if not one or len(one) != len(other):
        raise AssertionError(f"{len(one)} losses without, {len(other)} with it")
    worst = max(abs(a - b) / abs(a) for a, b in zip(one, other, strict=True))
    found.add(f"largest difference of {len(one)} training losses, relative", worst, at_most=SAME_LOSSES)


def resume(bench: Bench, found: Outcome, name: str) -> None:
    """A run that was killed and resumed ends as an undisturbed one: to the last bit where it is deterministic."""
    one, other = (bench.jobs.result(f"{name}_{kind}") for kind in ("whole", "killed"))
    weights = [load_checkpoint(run / "checkpoints/last.ckpt")["state_dict"] for run in (one, other)]
    a, b = (torch.cat([state[key].flatten().double() for key in weights[0]]) for state in weights)
    found.add("difference of the weights, relative", difference(a, b), at_most=TOLERANCE)
    steps = len(runs.losses(one))
    found.add("logged losses missing", steps - len(runs.losses(other)), at_most=0)
    if "trainer.deterministic=true" in runs.RESUMED[name]:
        assert_same_run(one, other)
        found.note("weights, averages, optimizer, best checkpoint and metrics are the same to the last bit")
    else:
        found.note("identical" if torch.equal(a, b) else "not identical, as is allowed without deterministic")


def fp16(bench: Bench, found: Outcome) -> None:
    """An overflow of float16 skips one step, and does no harm."""
    run = bench.jobs.result("fp16")
    seen, logged = runs.overflow(run), runs.losses(run)
    found.add("weights moved by the step that overflowed, at most", seen["weights moved"], at_most=0.0)
    found.add("average farther from the weights", seen["average farther"], at_most=0.0)
    found.add("scale after over before", seen["scale after"] / seen["scale before"], at_most=0.5, at_least=0.5)
    found.add("weights and average finite", seen["finite"], at_least=1)
    found.note(f"step {seen['steps counted']} counted; learning rate {seen['lr before']:g}, then {seen['lr after']:g}")
    finite = all(torch.isfinite(torch.tensor(logged)))
    found.add("later losses finite", finite and len(logged) > 1, at_least=1)
    done = load_checkpoint(run / "checkpoints/last.ckpt")["global_step"]
    asked = Run(run).settings()["trainer"]["max_steps"]
    found.add("steps of the run missing", asked - done, at_most=0)


def checkpoints(bench: Bench, found: Outcome) -> None:
    """A run goes from the device to the CPU and back, and its checkpoint says the same on both."""
    run = bench.jobs.result("moved")
    state = load_checkpoint(run / "checkpoints/last.ckpt")
    found.add("steps in all", state["global_step"], at_least=15, at_most=15)
    where = {value.device.type for value in state["state_dict"].values()}
    found.add("tensors that load elsewhere than on the CPU", len(where - {"cpu"}), at_most=0)
    cfg = Run(run).config()
    denoiser = build_denoiser(cfg)
    load_weights(denoiser, strip_prefix(state["state_dict"], "ema.model."), run)
    denoiser.eval()
    copy = deepcopy(denoiser).to(bench.device.place)
    n, draws = 8, generator("moved")
    x_t = torch.randn(n, cfg["data"]["channels"], *cfg["data"]["size"], generator=draws)
    t, cond = torch.rand(n, generator=draws, dtype=torch.float64), torch.arange(n)
    with torch.no_grad(), bench.device.exact():
        here = denoiser(x_t, t, cond).x_0
        there = copy(x_t.to(bench.device.place), t, cond.to(bench.device.place)).x_0.cpu()
    found.add("difference of what it predicts on both, relative", difference(here, there), at_most=FLOAT32)


CHECKS: dict[str, Callable[[Bench, Outcome], None]] = {
    **{name: partial(agree, name=name) for name in EXPERIMENTS},
    **{name: partial(resume, name=name) for name in runs.RESUMED},
    "fp16": fp16,
    "checkpoints": checkpoints,
    **{name: partial(same_losses, name=name) for name in ("ddp", "fsdp", *runs.SETTINGS_OF_SPEED)},
}
NEEDS = {
    **{name: (f"{name}_whole", f"{name}_killed") for name in runs.RESUMED},
    "fp16": ("fp16",),
    **{name: ("plain", name) for name in (*runs.SETTINGS_OF_SPEED, "ddp", "fsdp")},
    "checkpoints": ("moved",),
}


def prepare(bench: Bench, checks: list[str]) -> None:
    """Start the runs that these checks look at; where several run at once, the one that compiles begins first."""
    for check in sorted(checks, key=lambda check: check != "compile") if bench.device.jobs > 1 else checks:
        for job in NEEDS.get(check, ()):
            bench.jobs.start(job, partial(runs.JOBS[job], bench))
