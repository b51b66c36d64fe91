"""How the cost grows, beside the arithmetic: `python -m tests.benchmarks.growth`, eight minutes on two quiet cores.

Time and peak memory of a training step of `mnist_ddpm` against batch size, resolution, width and number of processes on
the same cores; of drawing samples against the evaluations of the net; and of the start of `data=image_folder` against
the number of images. Every point is a process of its own. It writes growth.json and growth.png; `--write` also puts
picture and table into docs/performance.md. With `--only` the other curves stay as they were measured before.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from src.commands.cli import user_errors
from src.commands.plan.counting import count_flops
from src.commands.plan.profile import build_module, fake_batch, loss_of
from src.data.workers import cpus
from src.utils.console import start_logging
from tests.benchmarks.loop.commands import OUTPUTS, composed, run, sample, train
from tests.benchmarks.loop.curves import Curve, picture_of, table_of
from tests.benchmarks.loop.loops import SKIP
from tests.benchmarks.loop.page import PAGE, about, caption, write_between, write_json
from tests.benchmarks.loop.turns import draw_pngs

POINTS = {
    "batch": [16, 32, 64, 128, 256],
    "side": [28, 56, 112, 224, 256],
    "width": [24, 32, 48, 64, 96, 128],
    "sampling": [1, 3, 10, 30, 100],
    "images": [100, 1000, 10_000, 30_000],
    "processes": [1, 2, 4],
}
TINY = {
    "batch": [8, 16],
    "side": [16, 32],
    "width": [8, 16],
    "sampling": [1, 2],
    "images": [100, 200],
    "processes": [1, 2],
}
FLOP = 4e11  # of a point, in a few seconds; at least four steps


class Growth:
    """The measurements, one method for each quantity that grows.

    Args:
        folder: for the runs and pictures, which are not kept.
        quick: use few points and a tiny net.
    """

    def __init__(self, folder: Path, quick: bool):
        self.folder, self.points = folder, TINY if quick else POINTS
        pictures = draw_pngs(folder / "pictures", 1200)
        data = ["data=image_folder", f"data.root={pictures}", "data.channels=1", "data.size=[28,28]"]
        self.words = ["experiment=mnist_ddpm", *data, *(["net.width=8"] if quick else [])]

    def batch(self) -> list[Curve]:
        curve = Curve("a training step", "images in a batch")
        for n in self.points["batch"]:
            self.step(curve, n, f"data.batch_size={n}")
        return [curve]

    def side(self) -> list[Curve]:
        curve = Curve("a step of 8 images", "pixels a side")
        for side in self.points["side"]:
            self.step(curve, side, f"data.size=[{side},{side}]", "data.batch_size=8")
        return [curve]

    def width(self) -> list[Curve]:
        curve = Curve("a step of 64 images", "channels (net.width)")
        for width in self.points["width"]:
            self.step(curve, width, f"net.width={width}")
        return [curve]

    def processes(self) -> list[Curve]:
        """The same global batch on the same cores, so that the arithmetic stays as it is."""
        curve = Curve("a step of 64 images, shared", "processes")
        for n in self.points["processes"]:
            self.step(curve, n, f"trainer.devices={n}", trainer="ddp_cpu", threads=max(1, cpus() // n))
        return [curve]

    def step(self, curve: Curve, x: int, *words: str, trainer: str = "cpu", threads: int | None = None) -> None:
        """Add a point: the training command's own steps."""
        words = (*self.words, f"trainer={trainer}", *words)
        work = training_flop(composed(words, self.folder))
        steps = SKIP + 1 + min(40, max(4, round(FLOP / work)))
        folder = self.folder / f"{curve.panel} {x}".replace(" ", "_").replace(",", "")
        trained = train(folder, words, steps, threads)
        curve.add(x, trained.step, trained.mib, work)

    def sampling(self) -> list[Curve]:
        """64 digits, as `src.sample` draws them."""
        curve, trained = Curve("64 samples", "evaluations (ddim)"), self.folder / "trained"
        train(trained, [*self.words, "trainer=cpu"], SKIP + 2)
        for n in self.points["sampling"]:
            out = self.folder / f"samples_{n}"
            words = ["sampler=ddim", f"sampler.steps={n}", "n=64", "guidance=none", f"out={out}"]
            usage = sample(trained, *words)
            with np.load(out / "samples.npz") as drawn:
                curve.add(n, float(drawn["seconds"]), usage.mib, float(drawn["nfe"]))
        return [curve]

    def images(self) -> list[Curve]:
        """Until a folder is ready: all images decoded; or a list of them made, or found as it was made before."""
        curves = [Curve("start of a folder", "images", name) for name in ("decoded", "list made", "list kept")]
        for n in self.points["images"]:
            pictures = draw_pngs(self.folder / f"pictures_{n}", n, different=100)
            os.utime(pictures, (time.time() - 60,) * 2)  # no list is kept of a folder that has just changed
            for curve, gigabytes in zip(curves, (2, 0, 0), strict=True):
                index = self.folder / f"index_{n}"
                usage = run(["-m", "tests.benchmarks.loop.start", pictures, index, gigabytes])
                curve.add(n, float(usage.said.split()[-1]), usage.mib, n)
        return curves


def training_flop(cfg: DictConfig) -> float:
    """FLOP of a training step of the whole batch, counted without doing it."""
    module, shape = build_module(cfg, fake=True), (cfg.data.channels, *cfg.data.size)
    batch = fake_batch(module, shape, cfg.data.batch_size, cfg.trainer.precision)
    with count_flops() as flop:
        loss_of(module, batch, cfg.trainer.precision).backward()
    return flop.get_total_flops()


def measured_before(file: Path, chosen: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The curves of the file, by what grows, but for those that are to be measured."""
    kept = json.loads(file.read_text())["curves"] if file.exists() else {}
    return {name: curves for name, curves in kept.items() if name not in chosen}


def parse(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(POINTS), default=list(POINTS), help="what grows")
    parser.add_argument("--quick", action="store_true", help="two points each of a tiny net, to try the bench itself")
    parser.add_argument("--write", action="store_true", help=f"also update {PAGE} and its picture")
    parser.add_argument("--out", type=Path, default=OUTPUTS / "growth")
    return parser.parse_args(words)


def main() -> None:
    args = parse(sys.argv[1:])
    warnings.filterwarnings("ignore")  # of tensors without numbers
    start_logging(None)
    file, here = args.out / "growth.json", about()
    found = {name: [Curve(**c) for c in curves] for name, curves in measured_before(file, args.only).items()}
    with user_errors("train"), tempfile.TemporaryDirectory() as folder:
        growth = Growth(Path(folder), args.quick)
        for name in args.only:
            found[name] = getattr(growth, name)()
            print(table_of(found[name]), flush=True)
            write_json(file, here, curves=found)
        curves = [curve for name in POINTS for curve in found.get(name, [])]
        picture, table = picture_of(curves), table_of(curves)
        picture.save(args.out / "growth.png")
        if args.write:
            picture.save(PAGE.with_name("growth.png"))
            write_between(PAGE, "growth", f"![How the cost grows](growth.png)\n\n{caption(here)}\n\n{table}")
    print(f"\n{table}\n\nwritten: {args.out}: growth.json, growth.png{f'; {PAGE}' if args.write else ''}")


if __name__ == "__main__":
    main()
