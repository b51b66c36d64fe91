"""What `plan=` says of this device, beside what was measured."""

from collections.abc import Callable
from functools import partial

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.commands.batch_size import measured_batch
from src.commands.plan.command import estimate_run
from src.commands.plan.device import Plan
from src.commands.plan.estimate import CostEstimate
from src.utils.paths import CONF
from tests.gpu.bench import Bench
from tests.gpu.device import GB, Device
from tests.gpu.measuring import OURS, autocast_of, batch_of, fits, make, measure, peak_flops
from tests.gpu.models import MODELS
from tests.gpu.results import Outcome, read

SHARE = 0.06
SAMPLES = 50_000  # of a data set
SEARCH_GOAL, MEMORY_USED = 30.0, 0.75  # seconds of the search, share of the memory that the batch found takes
MEMORY_GOAL = 0.1  # of the memory by `plan=`, relative


def planned(cfg: DictConfig, device: Device, n: int) -> CostEstimate:
    """What `plan=` says of a config with batches of n images on this device, or on another where it has no file."""
    cfg = cfg.copy()
    cfg.data.batch_size = n
    cfg.trainer.precision = autocast_of(device)[1]
    name = device.plan() or "h100"
    settings = OmegaConf.merge(OmegaConf.load(CONF / "plan/local.yaml"), OmegaConf.load(CONF / f"plan/{name}.yaml"))
    assert isinstance(settings, DictConfig)
    settings.pop("defaults", None)
    settings.update({"images": 50_000, "devices": 1})
    plan: Plan = instantiate(OmegaConf.create(settings))
    return estimate_run(cfg, plan)


def beside_the_plan(bench: Bench, found: Outcome, name: str) -> None:
    """Memory and time of a step by `plan=`, and as measured."""
    model, device = MODELS[name], bench.device
    cfg = model.config(bench.tiny)
    n = batch_of(model, device, bench.tiny)
    estimate = planned(cfg, device, n)
    speed = measure(partial(make, OURS, model, cfg, n, device, bench.tiny), device, None, 0.0 if bench.tiny else 0.5)
    peak, source = peak_flops(device, autocast_of(device)[1])
    reached = n * estimate.costs.training / speed.step / peak
    found.row(
        **{
            "model": name,
            "batch": n,
            "memory by plan=, GB": estimate.memory.total / GB,
            "measured, GB": speed.memory / GB,
            "ms a step by plan=": 1000 * estimate.time.compute,
            "measured, ms": 1000 * speed.step,
            "plan.mfu": estimate.plan.mfu,
            "reached, eager": reached,
            "reached, compiled": compiled_share(bench, name),
        }
    )
    ratio = estimate.memory.total / speed.memory
    found.add("memory by plan= over measured", ratio, at_least=1 - MEMORY_GOAL, at_most=1 + MEMORY_GOAL, goal=True)
    found.add("time by plan= over measured", estimate.time.compute / speed.step)
    found.note(f"utilization of {peak / 1e12:.4g} TFLOP/s ({source}) reached in eager mode: plan.mfu={reached:.2g}")


def compiled_share(bench: Bench, name: str) -> float | str:
    """The share of the peak that the compiled model reached where its speed was measured before."""
    rows = read(bench.out / "gpu.json")["checks"].get(f"fast.{name}", {}).get("rows", [])
    shares = [row["of peak, %"] / 100 for row in rows if row["library"] == OURS and row["mode"] == "compiled"]
    return shares[0] if shares else ""


def largest_batch(bench: Bench, found: Outcome) -> None:
    """What data.batch_size=auto finds for the U-Net, and whether steps of it fit."""
    model, device = MODELS["unet_53m"], bench.device
    cfg = model.config(bench.tiny)
    cfg.trainer.precision = autocast_of(device)[1]
    facts = measured_batch(cfg, device.place, 1, SAMPLES if not bench.tiny else 2)
    bench.clean()
    n = facts["batch_size"]
    found.add("batch of data.batch_size=auto", n, "images")
    found.add("estimated by plan=", facts["estimated"], "images")
    found.add("search", facts["seconds"], "s", at_most=SEARCH_GOAL, goal=True)
    if facts.get("peak") is not None:
        found.add("share of the memory in use", facts["peak"] / facts["memory"], at_least=MEMORY_USED, goal=True)
    build = partial(make, OURS, model, cfg, n, device, bench.tiny)
    found.add("steps of it fit", fits(lambda n: build(), n, autocast_of(device)[0], device), at_least=1)


CHECKS: dict[str, Callable[[Bench, Outcome], None]] = {
    **{name: partial(beside_the_plan, name=name) for name in MODELS},
    "batch_size": largest_batch,
}
