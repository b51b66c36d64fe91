"""How often src.monitor finds drift that there is, and drift that there is not: python -m tests.benchmarks.monitor RUN

Draws of N=200 digits are compared with the data of an MNIST run, DRAWS=100 times of each kind: equal ones, of the test
file, of the validation and of the training part of the training file, with labels and without; and others: blurred,
inverted, and printed in fonts of matplotlib. The digits are not among those that they are compared with.
Usage: python -m tests.benchmarks.monitor RUN [DRAWS] [N] [KIND]...
"""

import sys
import time
from functools import cache, partial
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import conv2d

from src.commands.inputs import load_data
from src.data.samples import Batch, BatchDataset
from src.metrics.drift import Drift
from src.metrics.features.auto import auto
from src.metrics.features.base import ReferenceData
from src.runs.run import Run
from src.statistics.significance import wilson_interval
from src.utils.seeding import generator

FONTS = ("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSansMono-Bold", "DejaVuSerif", "DejaVuSerif-Italic", "STIXGeneral")


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Digits (N, 1, H, W) after a Gaussian of that width in pixels."""
    line = torch.exp(-((torch.arange(9) - 4.0) ** 2) / (2 * sigma**2))
    line = line / line.sum()
    return conv2d(conv2d(x, line.view(1, 1, 1, 9), padding=(0, 4)), line.view(1, 1, 9, 1), padding=(4, 0))


def printed(n: int, g: torch.Generator) -> Tensor:
    """Printed digits (n, 1, 28, 28), 20 pixels high at most and centered like those of MNIST."""
    digits, fonts = torch.randint(10, (n,), generator=g).tolist(), torch.randint(len(FONTS), (n,), generator=g).tolist()
    return torch.stack([glyph(str(digit), FONTS[font]) for digit, font in zip(digits, fonts, strict=True)])


@cache
def glyph(digit: str, font: str) -> Tensor:
    picture = Image.new("L", (112, 112))
    ttf = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")
    ImageDraw.Draw(picture).text((56, 56), digit, 255, ImageFont.truetype(str(ttf), 96), anchor="mm")
    small = picture.resize((28, 28), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(small, np.float32))[None] / 255


def digits(data: BatchDataset, without: Tensor, n: int, g: torch.Generator, labeled: bool = False) -> Batch:
    """Digits that are not `without`, in [0, 1]."""
    rows = torch.randperm(len(data), generator=g)
    batch = data[0, rows[~torch.isin(rows, without)][:n]]
    found = {"x": (batch["x"] + 1) / 2}
    return found | {"label": batch["label"]} if labeled else found


def compared(n: int, total: int, most: int) -> Tensor:
    """The rows that the tests compare with, of a part of n data, of which `most` are read at most."""
    rows = torch.arange(n)
    if n > most:
        rows = torch.randperm(n, generator=generator("real data"))[:most].sort().values
    return rows[torch.randperm(len(rows), generator=generator("some", "drift"))[:total]]


def main(run: str, draws: int = 100, n: int = 200, *kinds: str) -> None:
    found = Run.find(run)
    data = load_data(found.config().data, found)
    cache_folder = str(Path(found.config().paths.outputs) / "cache")
    reference, drift = ReferenceData(data, partial(auto, cache=cache_folder)), Drift()
    print(reference.features.name)
    of_train = compared(len(data.train_set), drift.max_samples, 60_000)
    of_test = compared(len(data.test_set), drift.max_samples, 10_000)
    test = partial(digits, data.test_set, of_test, n)
    every = {
        "equal: test file": test,
        "equal: test file, with labels": partial(test, labeled=True),
        "equal: validation part": partial(digits, data.val_set, of_train[:0], n),
        "equal: training part": partial(digits, data.train_set, of_train, n),
        "blurred by 1 pixel": lambda g: {"x": blurred(test(g)["x"], 1.0)},
        "blurred by 0.5 pixels": lambda g: {"x": blurred(test(g)["x"], 0.5)},
        "inverted": lambda g: {"x": 1 - test(g)["x"]},
        "printed": lambda g: {"x": printed(n, g)},
        "a tenth printed": lambda g: {"x": torch.cat([test(g)["x"][n // 10 :], printed(n // 10, g)])},
    }
    for name, draw in every.items():
        if kinds and not any(kind in name for kind in kinds):
            continue
        hits, began = 0, time.monotonic()
        for i in range(draws):
            tests = drift(draw(generator("draw", name, i)), reference, i)
            hits += any(map(drift.differs, tests))
        low, high = wilson_interval(hits, draws)
        each = (time.monotonic() - began) / draws
        print(f"{name:32} {hits:4} of {draws} [{low:.3f}, {high:.3f}], {len(tests)} tests, {each:.1f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:4]), *sys.argv[4:])
