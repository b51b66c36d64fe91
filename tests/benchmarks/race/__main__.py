"""`mnist_ddpm` against other libraries, each for as long on this machine, one after the other: `make race MINUTES=6`.

`data=fashion_mnist`, `data=image_folder data.root=FOLDER` and the like hold it on other square images with labels, and
further words, such as `net.width=64`, change sizes of our recipe.

The peers are denoising-diffusion-pytorch and diffusers, set as a careful user would (peers.py beside this file), in an
environment that is made beside the results. From each 1,000 samples are drawn in 50 evaluations and measured with the
same features. Then the speed of all three at as many parameters. It writes race.json and two pictures; with `--write`
also docs/performance.md, of which other data have a part of their own (`--part race_fashion`).
"""

import argparse
import hashlib
import itertools
import json
import shutil
import time
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from src.commands.cli import user_errors
from src.commands.inputs import load_data
from src.data.base import DataModule
from src.metrics.class_accuracy import CONFIDENT
from src.metrics.features.base import Features, ReferenceData
from src.metrics.pixels import compare_pixels, grouped_means
from src.statistics.frechet import Moments, frechet, frechet_interval
from src.statistics.neighbors import prdc
from src.statistics.significance import wilson_interval
from src.utils.errors import UserError
from src.utils.hardware import cpu_has_bf16
from src.utils.sample_files import read_samples
from src.utils.seeding import generator
from tests.benchmarks.loop.commands import OUTPUTS, run, sample
from tests.benchmarks.loop.page import PAGE, about, write_between
from tests.benchmarks.race.drawing import curves, grids
from tests.benchmarks.race.report import SIGNED, report
from tests.benchmarks.results import replace

HERE = Path(__file__).parent
OURS, PEERS = "diffusion-lab", ["denoising-diffusion-pytorch", "diffusers"]
MOMENTS = [15, 20, 30, 40, 60, 120, 240]  # at which ours is looked at, in seconds
AT_FOUR_MILLION = ["net.width=88", "data.batch_size=128"]  # 3.8 million parameters
# What the peers call a precision, and what the trainer does; the first is that of the race. Without units for it bf16
# is many times slower than float32.
PRECISIONS = ({"bf16": "bf16-mixed"} if cpu_has_bf16() else {}) | {"32": "32-true"}
IN_10_EVALUATIONS = ["sampler=dpmpp_2m", "sampler.steps=10", "guidance=none"]


@dataclass
class Race:
    """Where and how long.

    Attributes:
        out: folder of the results.
        words: overrides that say what the data are, and where, and sizes of our recipe.
        seconds: of training, for each, counted from the start of its process.
        n: samples that are measured.
    """

    out: Path
    words: list[str]
    seconds: float
    n: int

    # ---- before ----

    def prepare(self) -> None:
        """Everything that is not part of the race: the data, the peers' environment, the features."""
        with initialize_config_dir(str(Path("conf").absolute()), version_base="1.3"):
            spaces = [instantiate(compose("evaluate", words).features) for words in ([], ["features=random"])]
            data = load_data(compose("train", ["experiment=mnist_ddpm", *self.words]).data)
        check_fit(data)
        self.source = data.source
        print(f"data: {self.source}", flush=True)
        self.peers_python = make_environment(self.out / "peers")
        parts = (data.train_set[0, rows]["x"] for rows in torch.arange(len(data.train_set)).split(5000))
        np.save(self.out / "images.npy", torch.cat([((x + 1) * 127.5).round().byte() for x in parts]).numpy())
        self.reference = ReferenceData(data, spaces[0])
        self.other = self.reference.in_space(spaces[1])
        print(f"features: {self.reference.features.name}; {self.other.name}")

    # ---- the race ----

    def ours(self) -> dict[str, Any]:
        """Trained by the command, for as many steps as fit into the time at the speed of a short run before."""
        trial = self.train("trial", ["trainer.max_steps=60"])
        spare = self.seconds - trial["first_step_s"]
        steps = int(0.88 * spare / trial["step_s"])  # a part of the time goes to validation and pictures
        folder, limit = self.out / "ours", f"trainer.max_time='{timedelta_of(spare)}'"
        found = self.train("ours", [f"trainer.max_steps={steps}", limit], MOMENTS)
        sample(folder, f"n={self.n}", f"out={folder / 'drawn'}")
        found["grid_s"] = sample(folder, "n=64", *IN_10_EVALUATIONS, f"out={folder / 'grid'}").seconds
        found["grid"] = self.measure(self.draw(folder, "best", *IN_10_EVALUATIONS))
        drawn = np.load(folder / "drawn" / "samples.npz")
        found |= {"samples_per_s": self.n / float(drawn["seconds"]), "steps": steps}
        found |= self.measure(folder / "drawn" / "samples.npz")
        for name, moment in found["kept"].items():
            moment |= self.measure(self.draw(folder, name, *IN_10_EVALUATIONS))
        return found

    def train(self, name: str, overrides: list[str], moments: list[float] | None = None) -> dict[str, Any]:
        """A run of ours, and what was seen of it."""
        folder, seen = self.out / name, self.out / name / "watch.json"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        watch = {
            "_target_": "tests.benchmarks.race.watch.Watch",
            "file": seen,
            "began": time.time(),
            "moments": moments or [],
        }
        words = [f"+callbacks.watch.{key}={value}".replace(" ", "") for key, value in watch.items()]
        command = ["src.train", "experiment=mnist_ddpm", *self.words, f"hydra.run.dir={folder}", *overrides, *words]
        return {"peak_mib": run(["-m", *command]).mib} | json.loads(seen.read_text())

    def draw(self, folder: Path, ckpt: str, *words: str) -> Path:
        out = folder / f"drawn_{ckpt}_{len(list(folder.glob('drawn_*')))}"
        sample(folder, f"ckpt={ckpt}", f"n={self.n}", f"out={out}", *words)
        return out / "samples.npz"

    def peer(self, name: str, *options: str) -> dict[str, Any]:
        """A run of a peer, and what it says of itself."""
        out = self.out / name
        out.mkdir(exist_ok=True)
        race = (f"--seconds={self.seconds}", f"--samples={self.n}", f"--precision={next(iter(PRECISIONS))}")
        files = [f"--images={self.out / 'images.npy'}", f"--out={out}", f"--began={time.time()}"]
        run([HERE / "peers.py", name, *files, *(options or race)], python=self.peers_python)
        found = json.loads((out / "result.json").read_text())
        return found if options else found | self.measure(out / "samples.npy")

    # ---- what came out ----

    def measure(self, file: Path) -> dict[str, Any]:
        """The distance of samples to the test data, with its 95 % interval, and how many are surely of a class."""
        return measure(self.read(file), self.reference, self.other)

    def read(self, file: Path) -> Tensor:
        """Samples (N, C, H, W) in [-1, 1]."""
        return read_samples(file, self.reference.data.shape)

    def real_baseline(self) -> dict[str, Any]:
        """The same of as many training images."""
        x = self.reference.train.some(self.n, "race")["x"] * 2 - 1
        return measure(x, self.reference, self.other)

    def speeds(self, rounds: int, steps: int = 8) -> dict[str, dict[str, list[float]]]:
        """Training images a second at 4 million parameters and batches of 128, in turns and in each precision."""
        rates: dict[str, dict[str, list[float]]] = {}
        for precision, ours in PRECISIONS.items() if rounds else ():
            rates[precision] = {name: [] for name in (OURS, *PEERS)}
            for _ in range(rounds):
                overrides = [f"trainer.max_steps={steps}", f"trainer.precision={ours}", *AT_FOUR_MILLION]
                found = self.train("speed", [*overrides, "callbacks.sample_images=null"])
                rates[precision][OURS].append(128 / found["step_s"])
                for name in PEERS:
                    found = self.peer(name, f"--steps={steps}", f"--precision={precision}")
                    rates[precision][name].append(128 / found["step_s"])
        return rates


def check_fit(data: DataModule) -> None:
    """Refuse data that not all contenders can be trained on, or not be measured on.

    Raises:
        UserError: if they are no square images with labels, in the size that two halvings need.
    """
    height, width = data.size[:2] if data.kind == "images" else (0, 1)
    if height != width or height % 4 or data.num_classes < 2:
        what = " × ".join(map(str, (*data.size, f"{data.num_classes} classes")))
        raise UserError(
            f"the race needs square images with sides divisible by 4 and two or more classes (data.num_classes=N), got "
            f"{data.kind} of {what}"
        )


def timedelta_of(seconds: float) -> str:
    """As trainer.max_time wants it, DD:HH:MM:SS."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 1440:02}:{minutes // 60 % 24:02}:{minutes % 60:02}:{seconds:02}"


def measure(x: Tensor, reference: ReferenceData, other: Features) -> dict[str, Any]:
    """Of samples x (N, C, H, W) in [-1, 1]: their distances to the test data, biases, and the share that is sure."""
    features, real = reference.features((x + 1) / 2), Moments.of(reference.features.test)
    logits = reference.features.logits(features)
    assert logits is not None
    pixels = compare_pixels(grouped_means((x + 1) / 2, reference).means, reference)
    n = min(len(features), len(reference.features.test))
    shares = prdc(reference.features.test[:n], features[:n])
    sure = int((logits.softmax(1).amax(1) >= CONFIDENT).sum())
    return {
        "frechet": frechet(real, Moments.of(features)),
        "frechet_interval": frechet_interval(real, features, 200, generator("bootstrap")),
        "frechet_random": frechet(Moments.of(other.test), Moments.of(other((x + 1) / 2))),
        "recall": shares.recall.mean().item(),
        "coverage": shares.coverage.mean().item(),
        "precision": shares.precision.mean().item(),
        **{key: pixels[key] for key in SIGNED},
        "confident": sure / len(x),
        "confident_interval": wilson_interval(sure, len(x)),
    }


def make_environment(folder: Path) -> Path:
    """The Python of an environment with the peers, made where it is missing or what they need has changed."""
    requirements = HERE / "requirements.txt"
    stamp, python = folder / "made_of", folder / "bin" / "python"
    made_of = hashlib.sha256(requirements.read_bytes() + Path("constraints.txt").read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != made_of:
        print(f"making an environment for the peers in {folder}")
        venv.create(folder, clear=True, with_pip=True)
        pip = ["-m", "pip", "install", "-q", "--disable-pip-version-check"]
        run([*pip, "-c", "constraints.txt", "-r", requirements], python=python)
        # It asks for torchvision, which beside a CPU build of torch cannot be imported, and is not used in a race.
        run([*pip, "--no-deps", "denoising-diffusion-pytorch==2.3.4"], python=python)
        stamp.write_text(made_of)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="such as data.root=FOLDER, data=fashion_mnist or net.width=64")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2, help="of the measurement of the speed; 0: none")
    parser.add_argument("--write", action="store_true", help=f"also update {PAGE} and its pictures")
    parser.add_argument("--part", default="race", help="of that page, and the name of the pictures; race is of MNIST")
    parser.add_argument("--out", type=Path, default=OUTPUTS / "race")
    args = parser.parse_args()
    if args.minutes < 0.5 or args.samples < 2 or args.rounds < 0:
        parser.error("--minutes is at least 0.5, --samples at least 2 and --rounds no less than 0")
    if args.write and args.part == "race" and any(word.startswith("data=") for word in args.words):
        parser.error(f"the part race of {PAGE} is about MNIST; with data= name another by --part, or leave out --write")
    with user_errors("train"):
        hold(args)


def hold(args: argparse.Namespace) -> None:
    """The race, and all that is written of it."""
    args.out = args.out.absolute()
    args.out.mkdir(parents=True, exist_ok=True)
    race = Race(args.out, args.words, 60 * args.minutes, args.samples)
    race.prepare()
    contenders = {}
    for name in (OURS, *PEERS):
        print(f"{name}: {args.minutes:g} minutes of training, then samples", flush=True)
        contenders[name] = race.ours() if name == OURS else race.peer(name)
        one = contenders[name]
        one["images_per_s"] = one["images"] / (one.get("train_s", race.seconds) - one["first_step_s"])
        print(f"  distance {one['frechet']:.2f}, {one['images']} images", flush=True)
    found = {
        "about": about(),
        "data": race.source,
        "minutes": args.minutes,
        "precision": next(iter(PRECISIONS)),
        "samples": args.samples,
        "real_baseline": race.real_baseline(),
        "contenders": contenders,
        "speeds": race.speeds(args.rounds),
    }
    replace(args.out / "race.json", json.dumps(found, indent=1) + "\n")
    files = {OURS: race.out / "ours" / "drawn" / "samples.npz"} | {n: race.out / n / "samples.npy" for n in PEERS}
    pictures = {
        args.part: curves(found, OURS),
        f"{args.part}_samples": grids({name: (race.read(file)[:64] + 1) / 2 for name, file in files.items()}),
    }
    folders = [args.out, PAGE.parent] if args.write else [args.out]
    for folder, (name, picture) in itertools.product(folders, pictures.items()):
        picture.save(folder / f"{name}.png")
    text = report(found, OURS, args.part)
    if args.write:
        write_between(PAGE, args.part, text)
    names = ", ".join(["race.json", *(f"{name}.png" for name in pictures)])
    print(f"\n{text}\n\nwritten: {args.out}: {names}{f'; {PAGE}' if args.write else ''}")


if __name__ == "__main__":
    main()
