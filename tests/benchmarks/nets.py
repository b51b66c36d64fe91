"""How well and how fast every net learns: `python -m tests.benchmarks.nets`, or with `--data mnist` on digits.

On sine waves all nets train for the same number of steps of `experiment=sine_ddpm`, and of their samples is said how
far they are from the sine wave that fits them best. On MNIST all nets train for as long, at the rate that each of them
has, and the figure is the Fréchet distance in features of digits (see bench_digits.py). Runs are kept in
outputs/bench/nets and not repeated.

    python -m tests.benchmarks.nets --nets mlp --time-embeddings sinusoidal,fourier,learned
    python -m tests.benchmarks.nets --data mnist --data-root FOLDER --seconds 300
"""

import argparse
import json
import os
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from src.commands.cli import user_errors
from src.commands.config import drop_incompatible_keys
from src.plots.pictures import sample_grid
from src.runs.loading import build_denoiser, load_denoiser
from src.runs.run import Run
from src.samplers.base import SeededNoise
from src.statistics.sine_fit import fit_sines
from src.utils.console import log, start_logging
from src.utils.errors import UserError
from src.utils.hardware import default_precision
from src.utils.paths import CONF
from tests.benchmarks.digits import real_baseline, reference, score
from tests.benchmarks.results import align, replace
from tests.samplers.registry import sample as sample_from_noise

OUTPUTS = Path(os.environ.get("DIFFUSION_LAB_OUTPUTS", "outputs"))
NETS = {"sine": ["mlp", "cnn", "rnn", "unet", "dit"], "mnist": ["unet", "dit", "cnn", "mlp", "conv_autoencoder"]}
# What else a net wants. Dense layers find the data in noise, but not the noise in data, which v asks for near t = 0.
CLEAN = ["parameterization=x0", "weighting=uniform"]
WITH = {"mlp": CLEAN, "conv_autoencoder": CLEAN, "dit": ["optimizer.lr=4e-3"], "rnn": ["optimizer.lr=4e-3"]}
NO_OTHER_WORK = ["callbacks.sample_images=null", "trainer.limit_val_batches=1"]


class Job(NamedTuple):
    """A net, a time embedding, and other overrides."""

    net: str
    time_embedding: str
    words: list[str]

    @property
    def name(self) -> str:
        return self.net if self.time_embedding == "sinusoidal" else f"{self.net} {self.time_embedding}"

    def overrides(self, experiment: str) -> list[str]:
        """The command line."""
        choice = [f"experiment={experiment}", f"net={self.net}", f"time_embedding={self.time_embedding}"]
        return [*choice, *WITH.get(self.net, []), *NO_OTHER_WORK, "trainer=cpu", *self.words]


def composed(words: list[str]) -> DictConfig:
    """The config of a command line, but for what only a running command has."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*words, "name=bench", "paths.run=nowhere"])
        drop_incompatible_keys(cfg, words)
    return cfg


def rate(words: list[str], seconds: float = 4.0) -> float:
    """Samples that a training step handles in a second of all of this process's threads.

    In processor time, since others may share the machine.
    """
    cfg = composed(words)
    denoiser, loss, times = build_denoiser(cfg), instantiate(cfg.loss), instantiate(cfg.time_sampler)
    optimizer = instantiate(cfg.optimizer)(denoiser.parameters())
    x = torch.rand(cfg.data.batch_size, cfg.data.channels, *cfg.data.size) * 2 - 1
    low = default_precision("cpu").startswith("bf16")
    steps, began = -3, 0.0  # the first three warm up
    while steps < 1 or time.process_time() - began < seconds * torch.get_num_threads():
        if steps == 0:
            began = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            t = times(len(x), torch.Generator(), denoiser.schedule)
            value = loss(denoiser, x, t, torch.randn_like(x)).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        steps += 1
    return steps * len(x) * torch.get_num_threads() / (time.process_time() - began)


def folder(args: argparse.Namespace, job: Job, words: list[str], length: int) -> Path:
    """Where a run is kept: another one for other words or another length."""
    key = sha256(" ".join([*words, str(length)]).encode()).hexdigest()[:8]
    return args.out / f"{args.data}_{job.name.replace(' ', '_')}_{key}"


def train(words: list[str], folder: Path) -> Run:
    """The run in a folder, trained by the command unless it is there.

    Raises:
        UserError: where the command fails.
    """
    run = Run(folder.absolute())
    if not (run.exists and "results" in json.loads((run.path / "run.json").read_text())):
        command = [sys.executable, "-m", "src.train", *words, f"hydra.run.dir={run.path}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout[-500:]}")
    return run


def sample(run: Run, n: int) -> Tensor:
    """n samples of the averaged weights at the end, drawn as the run itself does; also a picture of some."""
    cfg, denoiser = run.config(), load_denoiser(str(run.path), "last")
    sampler = instantiate(cfg.sampler)(schedule=denoiser.schedule)
    shape = (cfg.data.channels, *cfg.data.size)
    low = default_precision("cpu").startswith("bf16")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=low):
        rows = torch.arange(n).split(256)
        x = torch.cat(
            [
                sample_from_noise(sampler, denoiser, SeededNoise(row.tolist()), torch.empty(len(row), *shape))
                for row in rows
            ]
        )
    sample_grid(((x + 1) / 2).clamp(0, 1)[:100] if len(shape) == 3 else x[:16]).save(run.path / "grid.png")
    return x


def cost(run: Run, samples_per_second: float) -> list[str]:
    """The first cells of a row."""
    record: dict[str, Any] = json.loads((run.path / "run.json").read_text())
    return [f"{record['parameters']:,}", f"{samples_per_second:,.0f}", f"{record['results']['steps']:,}"]


def sine_row(x: Tensor) -> list[str]:
    """What is said of signals (N, 1, L)."""
    fit = fit_sines(x[:, 0])
    error = fit.residual / fit.amplitude
    inside = (fit.frequency > 0.9) & (fit.frequency < 3.1) & (fit.amplitude > 0.45) & (fit.amplitude < 1.05)
    median, most = error.median(), error.quantile(0.9)
    return [f"{median:.2%}", f"{most:.2%}", f"{fit.unexplained.mean():.3%}", f"{inside.double().mean():.0%}"]


def bench_sine(args: argparse.Namespace, jobs: list[Job]) -> list[list[str]]:
    """The table of sine waves."""
    data = instantiate(composed(["experiment=sine_ddpm"]).data)
    data.load()
    truth = sine_row(data.train_set[0, torch.arange(args.n)]["x"])
    table = [["net", "parameters", "samples/s", "steps", "error, median", "90 %", "power outside", "within the law"]]
    table.append(["the data", "", "", "", *truth])
    for job in jobs:
        words = [*job.overrides("sine_ddpm"), f"trainer.max_steps={args.steps}", f"seed={args.seed}"]
        run = train(words, folder(args, job, words, args.steps))
        table.append([job.name, *cost(run, rate(words)), *sine_row(sample(run, args.n))])
        log.info("  ".join(table[-1]))
    return table


def bench_mnist(args: argparse.Namespace, jobs: list[Job]) -> list[list[str]]:
    """The table of digits: every net for as long, with a schedule of the learning rate of the steps that it can do."""
    if not args.data_root:
        raise UserError("--data-root=FOLDER is needed: the folder of MNIST")
    digits = reference(composed(["experiment=mnist_ddpm"]), args.data_root)
    table = [["net", "parameters", "images/s", "steps", "distance", "95 % interval", "confidence"]]
    real = real_baseline(digits.features, args.n)
    table.append(["the data", "", "", "", f"{real.distance:.2f}", f"{real.low:.2f} to {real.high:.2f}", ""])
    for job in jobs:
        words = [*job.overrides("mnist_ddpm"), f"data.root={Path(args.data_root).absolute()}", f"seed={args.seed}"]
        place, fast = folder(args, job, words, args.seconds), rate(words)
        steps = max(1, int(args.seconds * fast / composed(words).data.batch_size))
        words += [f"trainer.max_steps={steps}", f"trainer.val_check_interval={steps}"]
        run = train(words, place)
        found = score(digits.features, digits.features(digits.data.to_units(sample(run, args.n))))
        interval = f"{found.low:.2f} to {found.high:.2f}"
        table.append([job.name, *cost(run, fast), f"{found.distance:.2f}", interval, f"{found.confidence:.3f}"])
        log.info("  ".join(table[-1]))
    return table


def parse(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(NETS), default="sine")
    parser.add_argument("--nets", default="", help="separated by commas")
    parser.add_argument("--time-embeddings", default="sinusoidal", help="separated by commas")
    parser.add_argument("--steps", type=int, default=1200, help="of training, on sine waves")
    parser.add_argument("--seconds", type=int, default=300, help="of training, on MNIST")
    parser.add_argument("--n", type=int, default=256, help="samples of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="Hydra overrides for all runs")
    parser.add_argument("--data-root", help="folder of MNIST")
    parser.add_argument("--out", type=Path, default=OUTPUTS / "bench" / "nets", help="folder of the runs")
    return parser.parse_args(words)


def main() -> None:
    args = parse(sys.argv[1:])
    start_logging(None)
    with user_errors("train"):
        names, embeddings = args.nets.split(",") if args.nets else NETS[args.data], args.time_embeddings.split(",")
        jobs = [Job(net, embedding, args.set) for net in names for embedding in embeddings]
        page = align((bench_sine if args.data == "sine" else bench_mnist)(args, jobs))
        replace(args.out / f"{args.data}.md", page + "\n")
        log.info(f"\n{page}\nwritten: {args.out}/{args.data}.md")


if __name__ == "__main__":
    main()
