"""Estimate the cost of a run before it begins: python -m src.train plan=local ..."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from src.callbacks.sample_images import SampleImages
from src.commands.batch_size import planned_batch
from src.commands.cli import to_container
from src.commands.config import resolve_config, take_auto
from src.commands.options import TrainOptions
from src.commands.plan.device import Plan, benchmark, local_device, with_device_info
from src.commands.plan.estimate import CostEstimate, Layout, grid_of, length_of, memory_of, time_of
from src.commands.plan.profile import build_module, make_step, profile_step
from src.commands.plan.report import report
from src.commands.run_dir import hydra_run
from src.data.base import DataModule
from src.runs.check_config import check_config, check_options
from src.utils.atomic import write_json
from src.utils.console import log, start_logging
from src.utils.errors import UserError
from src.utils.folders import remove_if_empty
from src.utils.paths import check_writable


def plan_run(cfg: DictConfig) -> None:
    """Print the estimated cost of a run of this config; train nothing and leave no files.

    Raises:
        UserError: for mistakes that training refuses, and if the length of the run is unknown.
    """
    warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
    start_logging(None)
    run = hydra_run()
    remove_if_empty(run.path)
    check_options(to_container(cfg), TrainOptions)
    check_config({"plan": to_container(cfg.plan)})
    plan: Plan = instantiate(cfg.plan)
    if plan.out is not None:
        check_writable("plan.out", Path(plan.out).parent)
        if Path(plan.out).is_dir():
            raise UserError(f"plan.out={plan.out} is a folder; name a file, such as {plan.out}/plan.json")
    cfg, _ = resolve_config(cfg, run)
    cfg.trainer.precision = plan.precision(cfg.trainer)
    auto_batch = take_auto(cfg)
    check_config(to_container(cfg))
    if auto_batch:
        cfg.data.batch_size = auto_batch_size(copy.deepcopy(cfg), plan)
        log.info(f"data.batch_size=auto: {cfg.data.batch_size:,} by this estimate")
    estimate = estimate_run(cfg, plan)
    log.info(report(cfg, estimate))
    if plan.out is not None:
        write_json(Path(plan.out), asdict(estimate))


def auto_batch_size(cfg: DictConfig, plan: Plan) -> int:
    """The global batch that data.batch_size=auto is estimated to find on the devices of a plan.

    Raises:
        UserError: if not even one sample fits.
    """
    here = local_device(cfg.trainer.accelerator) if plan.measured else None
    memory = with_device_info(plan, here).memory if here is not None else plan.memory
    samples, devices = plan.images or cfg.data.get("n"), plan.count(cfg.trainer)
    sharded = "FSDP2Strategy" in str(cfg.trainer.strategy)
    on_gpu = here is None or here.type != "cpu"
    found = planned_batch(cfg, memory, on_gpu, devices, samples, sharded)
    if not found:
        raise UserError("data.batch_size=auto: not even one sample fits in the memory; plan a smaller net")
    return found


def estimate_run(cfg: DictConfig, plan: Plan) -> CostEstimate:
    """The cost estimate of a config."""
    data: DataModule = instantiate(cfg.data)
    devices, precision = plan.count(cfg.trainer), cfg.trainer.precision
    data.check_batch_size(devices)
    sharded = "FSDP2Strategy" in str(cfg.trainer.strategy)
    layout = Layout(devices, data.batch_size // devices, sharded)
    length = length_of(cfg, plan, data)

    here = local_device(cfg.trainer.accelerator) if plan.name is None else None
    callbacks = [instantiate(c) for c in cfg.callbacks.values() if c]
    module = build_module(cfg, callbacks, fake=True)
    costs = profile_step(module, data.shape, layout.batch, precision, on_gpu=here is None or here.type != "cpu")
    sample_images = next((c for c in callbacks if isinstance(c, SampleImages) and not sharded), None)
    grid = grid_of(sample_images, module, data, length.steps)
    if here is None:
        speed = plan.speed(precision)
    else:

        def step(n: int) -> Callable[[], None]:
            return make_step(build_module(cfg, callbacks), data.shape, n, precision, here)

        plan = with_device_info(plan, here)
        speed = benchmark(plan, costs, layout.batch, precision, here, step)
        if here.type == "cpu":  # which all processes share
            speed = replace(speed, flops=speed.flops / (devices // cfg.trainer.num_nodes))
    return CostEstimate(
        plan,
        layout,
        length,
        costs,
        memory_of(costs, plan, layout),
        speed,
        time_of(costs, plan, layout, length, grid, speed),
        grid,
        costs.weights + costs.averages + costs.optimizer,
    )
