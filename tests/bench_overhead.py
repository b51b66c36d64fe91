"""What the training command costs beside a plain loop over the same net, loss and optimizer: `make bench`.

Both run in turns in one process, so that a machine that slows down slows both. The plain loop has no data loading, no
average of the weights, no clipping, no logging and no hooks; the difference is what all of those cost together.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import open_dict

import src.runs
from src.utils.hardware import precision_for


class Watch(pl.Callback):
    """Takes the time of every step after the first ones."""

    def __init__(self, skip: int):
        self.skip, self.times, self.last = skip, [], 0.0

    def on_train_batch_start(self, trainer, *_):
        now = time.perf_counter()
        if trainer.global_step > self.skip:
            self.times.append(now - self.last)
        self.last = now


def plain_loop(cfg, batches, steps: int, skip: int, autocast: bool) -> list[float]:
    """Seconds of each step of a loop that does the arithmetic alone."""
    denoiser = src.runs.build_denoiser(cfg)
    loss, times = instantiate(cfg.loss), instantiate(cfg.times)
    optimizer = instantiate(cfg.optimizer)(denoiser.parameters())
    generator, seconds = torch.Generator().manual_seed(0), []
    for step in range(steps):
        begin = time.perf_counter()
        x = batches[step % len(batches)]
        t = times(len(x), generator, denoiser.schedule)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = loss(denoiser, x, t, torch.randn_like(x)).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if step > skip:
            seconds.append(time.perf_counter() - begin)
    return seconds


def command_loop(cfg, data, steps: int, skip: int) -> list[float]:
    """Seconds of each step of the training command's own trainer, with all of its callbacks and loggers."""
    from src.training import build_trainer

    module = instantiate(cfg.module)(denoiser=src.runs.build_denoiser(cfg))
    trainer, watch = build_trainer(cfg), Watch(skip)
    trainer.callbacks.append(watch)
    trainer.fit(module, data)
    return watch.times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", default=["experiment=mnist_ddpm"])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    folder = tempfile.mkdtemp()
    with initialize_config_dir(str(Path("conf").absolute()), version_base="1.3"):
        cfg = compose("train", [*args.overrides, "trainer=cpu", f"trainer.max_steps={args.steps}", "name=bench"])
    with open_dict(cfg):
        cfg.paths.run = folder
        cfg.trainer.val_check_interval = 10**9
        cfg.trainer.limit_val_batches = 0
        cfg.trainer.precision = precision_for("cpu")
    data = instantiate(cfg.data)
    data.prepare_data()
    data.setup("fit")
    batches = [data.train_set[0, torch.arange(i, i + cfg.data.batch_size)]["x"] for i in range(0, 512, 64)]
    sys.stderr = open("/dev/null", "w")  # noqa: SIM115, PTH123 - the bars
    ratios = []
    for turn in range(args.rounds):
        plain = statistics.median(plain_loop(cfg, batches, args.steps, 5, cfg.trainer.precision == "bf16-mixed"))
        whole = statistics.median(command_loop(cfg, data, args.steps, 5))
        ratios.append(whole / plain)
        n = cfg.data.batch_size
        print(
            f"turn {turn + 1}: plain loop {n / plain:.0f} samples/s, command {n / whole:.0f} samples/s, "
            f"ratio {whole / plain:.3f}",
            flush=True,
        )
    print(f"a step of the command takes {statistics.median(ratios):.3f} times that of the plain loop (median)")


if __name__ == "__main__":
    main()
