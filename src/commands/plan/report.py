"""The cost estimate as a table of text."""

from omegaconf import DictConfig

from src.commands.plan.estimate import SPARE, CostEstimate
from src.commands.summary import Rows
from src.utils.console import format_duration, key_value_table

SIZES = (2, 4, 8, 12, 16, 24, 32, 40, 48, 80, 96, 141, 180, 288)  # common sizes of device memory in GB
BOTH = "with raw and with averaged weights"


def report(cfg: DictConfig, estimate: CostEstimate) -> str:
    """The whole report."""
    layout = estimate.layout
    kind = "" if layout.devices == 1 else ", FSDP" if layout.sharded else ", DDP"
    rows = [*model_rows(cfg, estimate), *compute_rows(estimate), *memory_rows(estimate), *time_rows(estimate)]
    title = f"Plan of {cfg.name} on {layout.devices} x {estimate.plan.name}{kind}; nothing is trained"
    return f"\n{title}\n{key_value_table(rows)}\n"


def model_rows(cfg: DictConfig, estimate: CostEstimate) -> Rows:
    """Network, data and length of the run."""
    length, layout = estimate.length, estimate.layout
    batch = f"{cfg.data.batch_size:,} images" + (f", {layout.batch:,} a device" if layout.devices > 1 else "")
    if length.batches > 1:
        batch += f"; {length.batches} batches a step"
    epochs = "plan.images=N tells how many epochs" if length.epochs is None else f"{rounded(length.epochs)} epochs"
    net = cfg.net._target_.rpartition(".")[2]
    return [
        ("net", f"{net}, {estimate.costs.parameters:,} parameters, {cfg.trainer.precision}"),
        ("sample", " x ".join(map(str, (cfg.data.channels, *cfg.data.size)))),
        ("batch", batch),
        ("length", f"{length.steps:,} steps, {length.images:,} images, {epochs}"),
    ]


def compute_rows(estimate: CostEstimate) -> Rows:
    """FLOP of matrix products, convolutions and attention."""
    costs, length = estimate.costs, estimate.length
    return [
        ("compute", f"{with_prefix(costs.training * length.images, 'FLOP')} for all steps"),
        ("  a step", f"{with_prefix(costs.training * length.images / length.steps, 'FLOP')}, forward and backward"),
        ("  an evaluation", f"{with_prefix(costs.forward, 'FLOP')}, of one image"),
    ]


def memory_rows(estimate: CostEstimate) -> Rows:
    """Memory per device, and size of a checkpoint."""
    memory, plan, layout = estimate.memory, estimate.plan, estimate.layout
    enough = next((n for n in SIZES if memory.total <= SPARE * n * 1e9), None)
    total = f"{size(memory.total)} at most at once" + (f"; {enough} GB are enough" if enough else "")
    if plan.memory and memory.most is not None:
        does = "has room for" if layout.batch <= memory.most else "DOES NOT FIT: there is room for"
        total += f"; {size(plan.memory)} {does} {memory.most:,} images"
    return [
        ("memory" if layout.devices == 1 else "memory of each", total),
        *((f"  {name}", size(part)) for name, part in memory.parts.items()),
        ("checkpoint", f"{size(estimate.checkpoint)} on disk"),
    ]


def time_rows(estimate: CostEstimate) -> Rows:
    """Time of the run, and its assumptions."""
    time, length, layout, speed = estimate.time, estimate.length, estimate.layout, estimate.speed
    step = time.compute + time.communication
    hours = f", {rounded(layout.devices * time.run / 3600)} device-hours" if layout.devices > 1 else ""
    bound = (
        f", bound by starting {estimate.costs.operations:,} operations (plan.launch_overhead)" if time.starting else ""
    )
    rows = [
        ("time, estimated", f"{format_duration(time.run)}{hours}; reading data and what callbacks measure come on top"),
        ("  speed", f"{rounded(speed.flops / 1e12)} TFLOP/s on each device, {speed.source}"),
        ("  a step", f"{format_duration(step)}, {rounded(length.images / length.steps / step)} images/s{bound}"),
    ]
    if layout.devices > 1:
        rows.append(("  of it sending", communication(estimate, step)))
    rows.append(("  all steps", format_duration(time.training)))
    validation = "not counted: plan.images=N tells how many images there are"
    if length.validated is not None:
        validation = f"{format_duration(time.validation)}, {length.validated:,.0f} images {BOTH}"
    rows.append(("  validation", validation))
    if estimate.grid:
        n, images, evaluations = estimate.grid.number, estimate.grid.images, estimate.grid.evaluations
        each = f"{images:,} images in {evaluations:g} evaluations {BOTH}"
        rows.append(("  sample grids", f"{n:,} of {format_duration(time.grid)}, each {each}"))
    return rows


def communication(estimate: CostEstimate, step: float) -> str:
    seconds, bandwidth = estimate.time.communication, estimate.plan.bandwidth(estimate.layout.devices)
    if not bandwidth:
        return "not counted: how fast these devices are linked is not known (plan.link_bandwidth=BYTES)"
    return (
        f"{format_duration(seconds)}, {seconds / step:.1%}, assumed: a ring at {bandwidth / 1e9:g} GB/s, "
        "as if nothing were computed meanwhile"
    )


def rounded(value: float) -> str:
    """Three digits, with commas and without exponents: 545,000."""
    return f"{float(f'{value:.3g}'):,.10g}"


def size(value: float) -> str:
    return with_prefix(value, "B")


def with_prefix(value: float, unit: str) -> str:
    """Three digits and a prefix, 1.57 TFLOP for 1.57e12."""
    prefixes = ["", *"kMGTPEZ"]
    while value >= 999.5 and len(prefixes) > 1:
        value, prefixes = value / 1000, prefixes[1:]
    return f"{value:.3g} {prefixes[0]}{unit}"
