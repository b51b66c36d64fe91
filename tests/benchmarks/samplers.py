"""How good and how costly every sampler is on a trained MNIST run: `make bench-samplers RUN=outputs/train/...`.

Quality is the Fréchet distance in features of digits (see bench_digits.py) at a few numbers of network evaluations,
overhead what the sampling loop takes beside the network. Samplers are those in conf/sampler; grid, clipping and
variance are the run's own; there is no guidance, and a conditional network gets all labels in turn. All samplers start
from the same noise. Results are kept in outputs/bench after each cell, so that a bench that was stopped goes on.

    python -m tests.benchmarks.samplers RUN --only ddim,heun --grid uniform,karras
"""

import argparse
import copy
import os
import statistics
import sys
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from src.commands.cli import to_container, user_errors
from src.commands.sampling import Sampling
from src.commands.sampling_setup import (
    build_pipeline,
    inherit_run_config,
    own_sampler,
    resolve_device,
    samplers_for,
)
from src.runs.loading import load_denoiser
from src.runs.run import Run
from src.samplers.pipeline import Cost, Pipeline
from src.tasks.base import TaskInput
from src.tasks.generate import Generate
from src.utils.console import log, start_logging
from src.utils.errors import UserError
from src.utils.hardware import default_precision
from src.utils.paths import CONF
from tests.benchmarks.digits import real_baseline, reference, score
from tests.benchmarks.results import OVERHEAD_BATCH, REFERENCE, Results, markdown, replace, show

OUTPUTS = Path(os.environ.get("DIFFUSION_LAB_OUTPUTS", "outputs"))
OVERHEAD_AT = 20  # evaluations at which overhead is measured


@dataclass(frozen=True)
class Row:
    """A sampler and what is changed of its settings, as Hydra's overrides."""

    sampler: str
    changes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.sampler, *self.changes))

    def config(self, trained: DictConfig) -> DictConfig:
        """The config of `src.sample` with this sampler, in all else as the run itself samples, without guidance."""
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("sample", [f"sampler={self.sampler}", "guidance=none", *self.changes])
        named = {"sampler", "guidance", *(change.split("=")[0] for change in self.changes)}
        inherit_run_config(cfg, trained, named - own_sampler(cfg, trained))
        OmegaConf.resolve(cfg)
        return cfg


class TooMany(Exception):
    """The sampler evaluates the network more often than it may."""


class NoNet(nn.Module):
    """Stands in for a network: gives zeros, at most `limit` times."""

    def __init__(self, outputs: int, limit: float):
        super().__init__()
        self.outputs, self.left = outputs, limit
        self.register_parameter("device", nn.Parameter(torch.zeros(1)))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise TooMany
        return x.new_zeros(len(x), self.outputs, *x.shape[2:])


def evaluations(denoiser: Any, cfg: DictConfig, steps: int, limit: float = float("inf")) -> float:
    """How often a sampler evaluates the network in so many steps, counted without the network.

    Raises:
        TooMany: beyond the limit.
        ValueError: where the sampler refuses this number of steps.
    """
    sampler = instantiate(cfg.sampler)(schedule=denoiser.schedule, steps=steps)
    trivial = copy.deepcopy(denoiser).cpu()
    trivial.net = NoNet(trivial.variance.outputs, limit)
    pipeline = Pipeline(trivial, sampler, (1, 2, 2))
    with pipeline.count_nfe() as cost:
        pipeline.sample(1)
    return cost.evaluations


def choose_steps(denoiser: Any, cfg: DictConfig, budget: int) -> int:
    """The largest number of steps that take no more evaluations than the budget.

    Raises:
        UserError: where there is none; it says why.
    """
    refusal, fewest = "", 0
    for steps in range(budget + 1, 0, -1):
        try:
            evaluations(denoiser, cfg, steps, budget)
            return steps
        except TooMany:
            fewest = steps
        except ValueError as error:
            refusal = str(error)
    if fewest:
        refusal = f"steps={fewest}, the fewest, takes {evaluations(denoiser, cfg, fewest):g} evaluations"
    raise UserError(refusal)


class Bench:
    """A trained run, and what is measured of it."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.run = Run.find(args.run)
        self.trained = self.run.config()
        if not self.trained.data._target_.endswith(".MNIST"):
            raise UserError(f"{self.run.path} was trained on {self.trained.data._target_}; this needs a run on MNIST")
        self.digits = reference(self.trained, args.data_root)
        self.device = resolve_device("auto")
        self.denoiser = load_denoiser(str(self.run.path), args.ckpt).to(self.device).eval()
        self.shape = (self.trained.data.channels, *self.trained.data.size)
        self.results = Results(args.out, self.about())

    def about(self) -> dict[str, Any]:
        """What tells the cells of one bench from those of another."""
        checkpoint = self.run.checkpoint(self.args.ckpt)
        return {
            "run": str(self.run.path.resolve()),
            "checkpoint": f"{self.args.ckpt} {sha256(checkpoint.read_bytes()).hexdigest()[:12]}",
            "n": self.args.n,
            "seed": self.args.seed,
            "precision": default_precision(self.device.type),
            "features": self.digits.features.name,
        }

    def draw(self, cfg: DictConfig, n: int, steps: int) -> tuple[Tensor, Cost]:
        """Sample as the command does."""
        cfg = OmegaConf.merge(cfg, {"n": n, "seed": self.args.seed, "sampler": {"steps": steps}})
        model = build_pipeline(cfg, self.denoiser, self.shape)
        sampling = Sampling(cfg, self.run, model, Generate(n), TaskInput())
        return sampling.draw().x, sampling.cost

    def quality(self, cfg: DictConfig, budget: int) -> dict[str, Any]:
        """The cell of a sampler and a number of evaluations."""
        steps = choose_steps(self.denoiser, cfg, budget)
        x, cost = self.draw(cfg, self.args.n, steps)
        finite = x.isfinite().flatten(1).all(1)
        if not finite.all():
            raise UserError(f"{(~finite).sum()} of {self.args.n} samples are not finite at steps={steps}")
        features = self.digits.features
        found = score(features, features(self.digits.data.to_units(x)))
        return found._asdict() | {"steps": steps, "nfe": cost.evaluations / len(x), "seconds": cost.seconds}

    def overhead(self, cfg: DictConfig, budget: int) -> dict[str, Any]:
        """Time outside of the network over time in it, several times over; the first time warms up."""
        try:
            steps = choose_steps(self.denoiser, cfg, budget)
        except UserError:
            steps = 1
        ratios, each = [], []
        for _ in range(self.args.rounds + 1):
            with NetTime(self.denoiser.net) as watch:
                x, cost = self.draw(cfg, OVERHEAD_BATCH, steps)
            nfe = cost.evaluations / len(x)
            ratios.append(cost.seconds / watch.seconds - 1)
            each.append(watch.seconds / nfe)
        return {
            "overhead": statistics.median(ratios[1:]),
            "range": [min(ratios[1:]), max(ratios[1:])],
            "net_ms": 1000 * statistics.median(each[1:]),
            "steps": steps,
            "nfe": nfe,
        }

    def cell(self, row: Row, kind: str, budget: int) -> None:
        """Measure a cell unless it is there, and keep it; a sampler that fails leaves the reason instead."""
        cfg, key = row.config(self.trained), f"{row}@{kind if kind == 'overhead' else budget}"
        settings = to_container(cfg.sampler)
        if not self.args.fresh and self.results.holds(key, settings):
            return
        began = time.perf_counter()
        try:
            cell = self.overhead(cfg, budget) if kind == "overhead" else self.quality(cfg, budget)
        except (UserError, ValueError) as error:
            cell = {"reason": str(error)}
        except Exception as error:  # one broken sampler must not cost hours of the others
            cell = {"reason": f"{type(error).__name__}: {error}", "crashed": True}
        cell = {"row": str(row), "budget": budget, "kind": kind, "sampler": settings} | cell
        self.results.put(key, cell)
        log.info(f"{key:<32} {show(cell):<24} {time.perf_counter() - began:.0f} s  {cell.get('reason', '')}")

    def real_baseline(self) -> None:
        """The row of real digits."""
        if self.args.fresh or "real_baseline" not in self.results.cells:
            found = real_baseline(self.digits.features, self.args.n, self.args.seed)
            cell = {"row": "real_baseline", "budget": 0, "kind": "real_baseline", "sampler": None}
            self.results.put("real_baseline", cell | found._asdict())


class NetTime:
    """Seconds spent in a network, within a `with`."""

    def __init__(self, net: nn.Module):
        self.net, self.seconds = net, 0.0

    def __enter__(self) -> "NetTime":
        # Prepended and appended, so that the hooks of others count as the loop's own time.
        self.hooks = [
            self.net.register_forward_pre_hook(self.begin),
            self.net.register_forward_hook(self.end, prepend=True),
        ]
        return self

    def __exit__(self, *_: Any) -> None:
        for hook in self.hooks:
            hook.remove()

    def begin(self, *_: Any) -> None:
        self.seconds -= self.now()

    def end(self, *_: Any) -> None:
        self.seconds += self.now()

    def now(self) -> float:
        """After all that an accelerator still has to do."""
        if next(self.net.parameters()).device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()


def rows(args: argparse.Namespace, trained: DictConfig) -> list[Row]:
    """Every sampler that is asked for, on every grid; a sampler without a grid once.

    Raises:
        UserError: for one that is not there.
    """
    grids = [()] if not args.grid else [(f"time_grid={name}",) for name in chosen("time_grid", args.grid)]
    found: list[Row] = []
    for sampler in chosen("sampler", args.only) if args.only else samplers_for(trained):
        seen: list[Any] = []
        for grid in grids:
            row = Row(sampler, (*grid, *args.set))
            if (settings := row.config(trained).sampler) not in seen:
                seen.append(settings)
                found.append(row)
    return found


def chosen(group: str, names: str) -> list[str]:
    """The choices of a group of configs, those named, separated by commas, or all.

    Raises:
        UserError: for one that is not there.
    """
    there = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    wanted = names.split(",") if names else there
    for name in wanted:
        if name not in there:
            raise UserError(f"{group} {name}: there is no such choice; choices: {', '.join(there)}")
    return wanted


def bench(args: argparse.Namespace) -> None:
    """Measure what is asked for and not there yet, cheap cells first, and print the page."""
    job = Bench(args)
    there = rows(args, job.trained)
    job.real_baseline()
    for row in there if args.what != "quality" else ():
        job.cell(row, "overhead", OVERHEAD_AT)
    if args.what != "overhead":
        for budget in sorted(args.budgets):
            for row in there:
                job.cell(row, "quality", budget)
        if args.reference:
            job.cell(Row(REFERENCE[0]), "quality", REFERENCE[1])
    page = markdown(job.results.about, job.results.cells)
    replace(job.results.folder / "samplers.md", page)
    log.info(f"\n{page}\nwritten: {args.out}/samplers.md, samplers.json")


def parse(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", default="latest")
    parser.add_argument("--data-root", help="folder of MNIST; by default that of the run")
    parser.add_argument("--n", type=int, default=1000, help="samples a cell")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budgets", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50], help="network evaluations")
    parser.add_argument("--only", default="", help="samplers, separated by commas")
    parser.add_argument("--grid", default="", help="grids, separated by commas; by default the run's own")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="Hydra overrides for all samplers")
    parser.add_argument("--what", choices=["all", "quality", "overhead"], default="all")
    parser.add_argument("--reference", action="store_true", help="also ddpm at 1000 evaluations, which takes long")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions when timing")
    parser.add_argument("--ckpt", default="best")
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured")
    parser.add_argument("--out", type=Path, default=OUTPUTS / "bench")
    return parser.parse_args(words)


def main() -> None:
    args = parse(sys.argv[1:])
    start_logging(None)
    with user_errors("sample"):
        bench(args)


if __name__ == "__main__":
    main()
