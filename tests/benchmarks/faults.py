"""Which measure sees which fault: real digits with one planted fault each, against real digits without.

    python -m tests.benchmarks.faults data.root=FOLDER [--n 2000] [--draws 8]

A number says by how many standard deviations of the value of real digits the fault moves the measure.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor
from torch.nn import functional as F

from src.commands.cli import user_errors
from src.commands.inputs import load_data
from src.metrics.features.base import Features, ReferenceData
from src.metrics.pixels import compare_pixels, grouped_means
from src.statistics.frechet import Moments, frechet
from src.statistics.neighbors import prdc
from src.utils.seeding import generator
from tests.benchmarks.results import align

SPACES = {
    "classifier": ["features=auto"],
    "autoencoder": ["features=autoencoder"],
    "random": ["features=random", "features.white=false"],
    "random, white": ["features=random"],
}


def missing_class(x: Tensor, label: Tensor) -> Tensor:
    kept = x[label != 4]
    return torch.cat([kept, kept])[: len(x)]


def weights_off(x: Tensor, label: Tensor) -> Tensor:
    """The classes 0 to 4 a tenth more frequent, 5 to 9 a tenth less."""
    kept = torch.rand(len(x), generator=generator("weights")) < torch.where(label < 5, 1, 0.9 / 1.1)
    return x[kept]


FAULTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none": lambda x, _: x,
    "class 4 missing": missing_class,
    "class weights off by 10 %": weights_off,
    "bold strokes": lambda x, _: x + 0.25 * (F.max_pool2d(x, 3, 1, 1) - x),
    "noise of 0.03": lambda x, _: (x + 0.03 * torch.randn(x.shape, generator=generator("noise"))).clamp(0, 1),
    "blur": lambda x, _: x + 0.3 * (F.avg_pool2d(x, 3, 1, 1) - x),
    "four copies of each": lambda x, _: x[: len(x) // 8].repeat(4, 1, 1, 1),
}
PIXELS = {
    "mean_bias_percent": "brightness",
    "contrast_bias_percent": "contrast",
    "low_percent": "pixels black",
    "histogram_distance": "histogram",
    "element_mean_percent": "mean of each pixel",
    "element_spread_percent": "spread of each pixel",
    "radial_spectrum_db": "spectrum",
    "fine_detail_db": "fine detail",
}


def in_space(features: Features, x: Tensor) -> dict[str, float]:
    """The measures of samples x in a feature space."""
    fake, test = features(x), features.test
    n = min(len(fake), len(test))
    found = {"Fréchet distance": frechet(Moments.of(test), Moments.of(fake))}
    shares = prdc(test[:n], fake[:n])
    found |= {name: getattr(shares, name).mean().item() for name in shares._fields}
    logits = features.logits(fake)
    if logits is not None:
        of_test, of_fake = (features.logits(f).argmax(1).bincount(minlength=10) / len(f) for f in (test, fake))
        found["class histogram"] = (of_test - of_fake).abs().sum().item() / 2
        found["confidence"] = logits.softmax(1).amax(1).mean().item()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="such as data.root=FOLDER and paths.outputs=FOLDER")
    parser.add_argument("--n", type=int, default=2000, help="samples")
    parser.add_argument("--draws", type=int, default=8, help="draws of real digits")
    args = parser.parse_args()
    with user_errors("evaluate"), initialize_config_dir(str(Path("conf").absolute()), version_base="1.3"):
        outputs = [word for word in args.overrides if word.startswith("paths.")]
        data = load_data(compose("train", ["experiment=mnist_ddpm", *args.overrides]).data)
        reference = ReferenceData(data, lambda _: None)  # type: ignore[arg-type, return-value]
        spaces = {
            name: instantiate(compose("evaluate", [*words, *outputs]).features)(reference)
            for name, words in SPACES.items()
        }
        print(table(reference, spaces, args.n, args.draws))


def table(reference: ReferenceData, spaces: dict[str, Features], n: int, draws: int) -> str:
    """In Markdown: a row for each measure, a column for each fault."""
    found: dict[str, list[dict[str, float]]] = {}
    for draw in range(draws):
        batch = reference.train.some(2 * n, "faults", draw)
        for fault, damage in FAULTS.items():
            x = damage(batch["x"], batch["label"])[:n]
            pixels = compare_pixels(grouped_means(x, reference).means, reference)
            values = {title: pixels[key] for key, title in PIXELS.items()}
            for space, features in spaces.items():
                values |= {f"{space}: {name}": value for name, value in in_space(features, x).items()}
            found.setdefault(fault, []).append(values)
        if draw:
            print(f"{draw + 1} draws\n\n{in_deviations(found)}\n", flush=True)
    return in_deviations(found)


def in_deviations(found: dict[str, list[dict[str, float]]]) -> str:
    """The table, from the values of each draw of each fault."""
    rows = [["measure", *list(FAULTS)[1:]]]
    for measure in found["none"][0]:
        real = torch.tensor([v[measure] for v in found["none"]])
        cells = []
        for fault in rows[0][1:]:
            moved = torch.tensor([v[measure] for v in found[fault]]).mean() - real.mean()
            z = (moved / real.std()).item()
            cells.append(f"**{z:+.0f}**" if abs(z) >= 4 else f"{z:+.1f}")
        rows.append([measure, *cells])
    return align(rows)


if __name__ == "__main__":
    main()
