"""Is it good: how soon samples of digits come close to real ones, and how quality grows with time on images."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from src.loggers.metrics_csv import read_metrics
from src.utils.override_syntax import assignment
from tests.gpu.bench import LONGEST_PROCESS, Bench
from tests.gpu.results import Outcome

SHARE = 0.17
TIMES_THE_FLOOR = 2.0
SPARE = 25.0  # seconds for the start, the features and the end of a run
LEAST = 45.0  # seconds that a run of images is worth
SHAPES = ("ellipse", "rectangle", "triangle", "cross", "ring")
COLORS = ((220, 60, 60), (60, 90, 220))
CLASSES = 10
DISTANCE, FLOOR = "quality/frechet_distance", "quality/real_baseline"


def mnist_ddpm(bench: Bench, found: Outcome) -> None:
    """Seconds of training until the distance to the test digits is twice that of as many real digits."""
    bench.jobs.wait()
    every = 2 if bench.tiny else 250
    words = ["experiment=mnist_ddpm", *bench.digits]
    tiny = ["net.width=8", "trainer.max_steps=4", "sampler.steps=2", "callbacks.quality.steps=2"]
    run = train(bench, found, "mnist_ddpm", words, tiny, n=1000, every=every)
    points = curve(run, found, "mnist_ddpm")
    floor = points[-1]["floor"]
    found.add("distance of real digits, the floor", floor)
    near = [p for p in points if p["distance"] <= TIMES_THE_FLOOR * floor]
    if near:
        found.add("training until twice the floor", near[0]["seconds"], "s")
    last = points[-1]["distance"] / floor
    found.add("distance at the end, times the floor", last, at_most=TIMES_THE_FLOOR, goal=True)


def cifar_conditional(bench: Bench, found: Outcome) -> None:
    """Quality over time, for as long as there is time left."""
    bench.jobs.wait()
    if bench.left < LEAST and not bench.tiny:
        found.skipped = f"{bench.left:.0f} s left, {LEAST:.0f} are needed"
        return
    root, classes = bench.images, CLASSES
    if root is None:
        root = draw_images(bench.scratch / "images", 4 if bench.tiny else 200)
        found.note("drawn shapes in two colors, since no folder of images was given (--images)")
    else:
        classes = sum(path.is_dir() for path in (root / "train").iterdir())
    words = ["experiment=cifar_conditional", assignment("data.root", root), f"data.num_classes={classes}"]
    tiny = [
        "data.batch_size=8", "net.width=8", "net.channel_mults=[1,1]", "net.attention_levels=[]", "trainer.max_steps=2",
        "sampler.steps=2", "callbacks.quality.steps=2",
    ]  # fmt: skip
    run = train(bench, found, "cifar_conditional", words, tiny, n=500, every=2 if bench.tiny else 250)
    points = curve(run, found, "cifar_conditional")
    found.add("distance at the end, times the floor", points[-1]["distance"] / points[-1]["floor"])


def train(bench: Bench, found: Outcome, name: str, words: list[str], tiny: list[str], n: int, every: int) -> Path:
    """Train with quality measured now and then, until the end of the run or of the time; keep the grid of samples."""
    seconds = int(min(bench.left, LONGEST_PROCESS) - SPARE) if bench.left < float("inf") else 60
    measured = ["callbacks=quality", f"callbacks.quality.n={70 if bench.tiny else n}"]
    measured += [f"callbacks.quality.every_n_steps={every}", f"trainer.val_check_interval={every}"]
    minutes, seconds = divmod(max(10, seconds), 60)
    length = ["trainer.limit_val_batches=1", f"trainer.max_time=00:00:{minutes:02}:{seconds:02}"]
    pictures = ["callbacks.sample_images.every_n_steps=1000000", "logger=csv"]
    all_words = [*words, *bench.device.trainer, *measured, *length, *pictures, *(tiny if bench.tiny else [])]
    run = bench.train(bench.scratch / "good" / name, all_words, environment={})
    if grids := sorted(run.glob("samples/step_*_ema.png")):
        bench.out.mkdir(parents=True, exist_ok=True)
        shutil.copy(grids[-1], bench.out / f"{name}.png")
        found.note(f"samples: {bench.out / name}.png")
    return run


def curve(run: Path, found: Outcome, name: str) -> list[dict[str, float]]:
    """The distances that a run logged, each with its step and the seconds of training until then.

    Raises:
        RuntimeError: if there are none.
    """
    points, seconds = [], 0.0
    for row in read_metrics(run / "metrics.csv"):
        seconds = float(row.get("train/seconds", seconds))
        if DISTANCE in row:
            points.append({"step": row["step"], "seconds": seconds, "distance": row[DISTANCE], "floor": row[FLOOR]})
            cells: dict[str, Any] = {"quality of": name, "steps": int(row["step"]), "seconds": seconds}
            found.row(**cells, **{"Fréchet distance": float(row[DISTANCE]), "floor": float(row[FLOOR])})
    if not points:
        raise RuntimeError("the run measured no distance: its time was over before")
    return points


def draw_images(folder: Path, each: int) -> Path:
    """A folder with train/CLASS/ and test/CLASS/ of images of 32×32, a class for each shape in each color."""
    draws = torch.Generator().manual_seed(0)
    for part, n in (("train", each), ("test", max(8, each // 4))):
        for k in range(CLASSES):
            place = folder / part / f"{SHAPES[k % len(SHAPES)]}_{k // len(SHAPES)}"
            place.mkdir(parents=True)
            for i in range(n):
                draw_shape(k, draws).save(place / f"{i:04}.png")
    return folder


def draw_shape(k: int, draws: torch.Generator) -> Image.Image:
    """A shape of class k somewhere on a gray ground."""
    x, y, r, shade = (torch.rand(4, generator=draws) * torch.tensor([12, 12, 5, 60])).tolist()
    left, top, right, bottom = 3 + x, 3 + y, 11 + x + r, 11 + y + r
    picture = Image.new("RGB", (32, 32), (int(110 + shade),) * 3)
    pen, color, kind = ImageDraw.Draw(picture), COLORS[k // len(SHAPES)], SHAPES[k % len(SHAPES)]
    if kind in ("ellipse", "ring"):
        pen.ellipse((left, top, right, bottom), fill=color if kind == "ellipse" else None, outline=color, width=3)
    elif kind == "rectangle":
        pen.rectangle((left, top, right, bottom), fill=color)
    elif kind == "triangle":
        pen.polygon(((left, bottom), (right, bottom), ((left + right) / 2, top)), fill=color)
    else:
        pen.line((left, top, right, bottom), fill=color, width=3)
        pen.line((left, bottom, right, top), fill=color, width=3)
    return picture


CHECKS: dict[str, Callable[[Bench, Outcome], None]] = {"mnist_ddpm": mnist_ddpm, "cifar_conditional": cifar_conditional}
