"""Whether a folder of `task=augment` helps a classifier: `python -m tests.benchmarks.augment FOLDER --data-root MNIST`.

A classifier of digits is trained on some real ones, on these and the folder's, and on the folder's alone, each for as
many steps, and tested on all real test digits.
"""

import argparse
from copy import copy
from pathlib import Path

import torch
from torch import Tensor

from src.metrics.features.base import ReferenceData
from src.metrics.features.classifier import Classifier
from src.metrics.features.trained import load_images
from src.utils.console import key_value_table, log, start_logging
from src.utils.sample_files import read_samples
from tests.benchmarks.digits import reference
from tests.benchmarks.nets import composed


def read_folder(folder: Path) -> tuple[Tensor, Tensor]:
    """Digits (N, 1, 28, 28) uint8 and labels (N,) of a folder with a folder for each digit."""
    parts = [read_samples(folder / str(digit), (1, 28, 28)) for digit in range(10)]
    label = torch.cat([torch.full((len(part),), digit) for digit, part in enumerate(parts)])
    return ((torch.cat(parts) + 1) * 127.5).round().to(torch.uint8), label


def accuracy(real: ReferenceData, x: Tensor, y: Tensor, n: int, seed: int) -> float:
    """Percent of the test digits that a classifier is right of that saw n digits an epoch, the given over and over."""
    classifier, order = copy(real.features), torch.arange(n) % len(x)
    assert isinstance(classifier, Classifier)
    torch.manual_seed(seed)
    classifier.net = classifier.build()
    classifier.fit(x[order], y[order])
    classifier.net.eval()
    return 100 * classifier.evaluate(*load_images(real.test))["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-root", required=True, help="folder of MNIST")
    parser.add_argument("--real", type=int, default=1000, help="real digits")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    start_logging(None)
    real = reference(composed(["experiment=mnist_ddpm"]), args.data_root)
    x, y = (part[: args.real] for part in load_images(real.train))
    new_x, new_y = read_folder(args.folder)
    both = torch.cat([x, new_x]), torch.cat([y, new_y])
    rows = []
    for name, (some_x, some_y) in {"real": (x, y), "real and new": both, "new": (new_x, new_y)}.items():
        found = torch.tensor([accuracy(real, some_x, some_y, len(both[0]), seed) for seed in range(args.seeds)])
        each = ", ".join(f"{value:.2f}" for value in found)
        rows.append((name, f"{len(some_x):,} digits: {found.mean():.2f} % of the test digits right ({each})"))
    log.info(key_value_table(rows))


if __name__ == "__main__":
    main()
