"""`mnist_ddpm` against other libraries, each for as long on this machine, one after the other: `make race MINUTES=6`.

The peers are denoising-diffusion-pytorch and diffusers, set as a careful user would (tests/race/peers.py), in an
environment that is made beside the results. From each 1,000 samples are drawn in 50 evaluations and measured with the
same features. Then the speed of all three at as many parameters. It writes race.json, race.png and samples.png.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from src.features.base import Reference
from src.metrics.frechet import Moments, frechet, frechet_interval
from src.metrics.intervals import share_interval
from src.summary import git_commit
from src.utils.sample_files import read_samples

HERE = Path(__file__).parent
OURS, PEERS = "diffusion-lab", ["denoising-diffusion-pytorch", "diffusers"]
MOMENTS = [15, 20, 25, 30, 35, 40, 60, 120, 240]  # at which ours is looked at, in seconds
AT_FOUR_MILLION = ["net.width=80", "data.batch_size=128"]  # 4.1 million parameters
CONFIDENT = 0.9  # probability of its class from which a digit counts


@dataclass
class Race:
    """Where and how long.

    Attributes:
        out: folder of the results.
        data: overrides that say where the data are.
        seconds: of training, for each, counted from the start of its process.
        n: samples that are measured.
    """

    out: Path
    data: list[str]
    seconds: float
    n: int

    # ---- before ----

    def prepare(self) -> None:
        """Everything that is not part of the race: the peers' environment, the data, the features."""
        self.peers_python = make_environment(self.out / "peers", self.out / "peers.log")
        with initialize_config_dir(str(Path("conf").absolute()), version_base="1.3"):
            cfg = compose("evaluate", [])
            data = instantiate(compose("train", ["experiment=mnist_ddpm", *self.data]).data)
        data.prepare_data()
        data.setup("fit")
        self.source = data.source
        everything = data.train_set[0, torch.arange(len(data.train_set))]["x"]
        np.save(self.out / "images.npy", ((everything[:, 0] + 1) * 127.5).round().byte().numpy())
        self.reference = Reference(data, instantiate(cfg.features))
        print(f"features: {self.reference.features.name}")

    # ---- the race ----

    def ours(self) -> dict[str, Any]:
        """Trained by the command, for as many steps as fit into the time at the speed of a short run before."""
        trial = self.train("trial", ["trainer.max_steps=60"])
        spare = self.seconds - trial["first_step_s"]
        steps = int(0.88 * spare / trial["step_s"])  # a part of the time goes to validation and pictures
        run, limit = self.out / "ours", f"trainer.max_time='{timedelta_of(spare)}'"
        found = self.train("ours", [f"trainer.max_steps={steps}", limit], MOMENTS)
        draw = ["src.sample", f"run={run}", f"n={self.n}", "sampler.steps=50", f"out={run / 'drawn'}"]
        run_command([sys.executable, "-m", *draw], run / "sample.log")
        begin = time.perf_counter()
        grid = ["src.sample", f"run={run}", "n=64", "sampler=dpmpp_2m", "sampler.steps=10", f"out={run / 'grid'}"]
        run_command([sys.executable, "-m", *grid], run / "grid.log")
        found["grid_s"] = time.perf_counter() - begin
        found["grid"] = self.measure(self.draw(run, "best", "dpmpp_2m", 10))
        drawn = np.load(run / "drawn" / "samples.npz")
        found |= {"samples_per_s": self.n / float(drawn["seconds"]), "steps": steps}
        found |= self.measure(run / "drawn" / "samples.npz")
        for name, moment in found["kept"].items():
            moment |= self.measure(self.draw(run, name, "dpmpp_2m", 10))
        return found

    def train(self, name: str, overrides: list[str], moments: list[float] | None = None) -> dict[str, Any]:
        """A run of ours, and what was seen of it."""
        run, seen = self.out / name, self.out / name / "watch.json"
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir(parents=True)
        watch = {"_target_": "tests.race.watch.Watch", "file": seen, "began": time.time(), "moments": moments or []}
        words = [f"+callbacks.watch.{key}={value}".replace(" ", "") for key, value in watch.items()]
        command = ["src.train", "experiment=mnist_ddpm", *self.data, f"hydra.run.dir={run}", *overrides, *words]
        peak = run_command([sys.executable, "-m", *command], run / "command.log")
        return json.loads(seen.read_text()) | {"peak_mib": peak}

    def draw(self, run: Path, ckpt: str, sampler: str, steps: int) -> Path:
        out = run / f"drawn_{ckpt}_{steps}"
        words = [f"ckpt={ckpt}", f"n={self.n}", f"sampler={sampler}", f"sampler.steps={steps}", f"out={out}"]
        run_command([sys.executable, "-m", "src.sample", f"run={run}", *words], run / "sample.log")
        return out / "samples.npz"

    def peer(self, name: str, *options: str) -> dict[str, Any]:
        """A run of a peer, and what it says of itself."""
        out = self.out / name
        out.mkdir(exist_ok=True)
        options = options or (f"--seconds={self.seconds}", f"--samples={self.n}")
        files = [f"--images={self.out / 'images.npy'}", f"--out={out}", f"--began={time.time()}"]
        peak = run_command([self.peers_python, HERE / "peers.py", name, *files, *options], out / "command.log")
        found = json.loads((out / "result.json").read_text()) | {"peak_mib": peak}
        return found | (self.measure(out / "samples.npy") if (out / "samples.npy").exists() else {})

    # ---- what came out ----

    def measure(self, file: Path) -> dict[str, Any]:
        """The distance of samples to the test data, with its 95 % interval, and how many are surely a digit."""
        return measure(read_samples(file, 4), self.reference)

    def floor(self) -> dict[str, Any]:
        """The same of as many training images."""
        return measure(self.reference.train.some(self.n, "race")["x"] * 2 - 1, self.reference)

    def speeds(self, rounds: int, steps: int = 8) -> dict[str, dict[str, list[float]]]:
        """Training images a second at 4 million parameters and batches of 128, in turns."""
        rates: dict[str, dict[str, list[float]]] = {}
        for precision, ours in {"bf16": "bf16-mixed", "32": "32-true"}.items():
            rates[precision] = {name: [] for name in (OURS, *PEERS)}
            for _ in range(rounds):
                overrides = [f"trainer.max_steps={steps}", f"trainer.precision={ours}", *AT_FOUR_MILLION]
                found = self.train("speed", [*overrides, "callbacks.pictures=null"])
                rates[precision][OURS].append(128 / found["step_s"])
                for name in PEERS:
                    found = self.peer(name, f"--steps={steps}", f"--precision={precision}")
                    rates[precision][name].append(128 / found["step_s"])
        return rates


def timedelta_of(seconds: float) -> str:
    """As trainer.max_time wants it, DD:HH:MM:SS."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 1440:02}:{minutes // 60 % 24:02}:{minutes % 60:02}:{seconds:02}"


def measure(x: Tensor, reference: Reference) -> dict[str, Any]:
    features, real = reference.features((x + 1) / 2), Moments.of(reference.features.test)
    logits = reference.features.logits(features)
    assert logits is not None
    sure = int((logits.softmax(1).amax(1) >= CONFIDENT).sum())
    return {
        "frechet": frechet(real, Moments.of(features)),
        "frechet_interval": frechet_interval(real, features, 200),
        "confident": sure / len(x),
        "confident_interval": share_interval(sure, len(x)),
    }


def run_command(command: list[Any], log: Path) -> float:
    """Run it; its peak memory in MiB."""
    with log.open("w") as file:
        process = subprocess.Popen([str(c) for c in command], stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"error: {' '.join(map(str, command))} failed; its output is {log}")
    return usage.ru_maxrss / 2**10


def make_environment(folder: Path, log: Path) -> Path:
    """The Python of an environment with the peers, made where it is missing or what they need has changed."""
    requirements = HERE / "requirements.txt"
    stamp, python = folder / "made_of", folder / "bin" / "python"
    made_of = hashlib.sha256(requirements.read_bytes() + Path("constraints.txt").read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != made_of:
        print(f"making an environment for the peers in {folder}")
        venv.create(folder, clear=True, with_pip=True)
        pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        run_command([*pip, "-c", "constraints.txt", "-r", requirements], log)
        # It asks for torchvision, which beside a CPU build of torch cannot be imported, and is not used in a race.
        run_command([*pip, "--no-deps", "denoising-diffusion-pytorch==2.3.4"], log)
        stamp.write_text(made_of)
    return python


def report(found: dict[str, Any]) -> str:
    """The table of the race, with what each is to ours."""
    ours = found["contenders"][OURS]
    rows = [f"| | {' | '.join(found['contenders'])} |", "|---|" + "---|" * len(found["contenders"])]

    def row(title: str, form: str, key: str, scale: float = 1.0) -> None:
        cells = []
        for name, one in found["contenders"].items():
            ratio = f" ({one[key] / ours[key]:.2f})" if name != OURS else ""
            cells.append(form.format(one[key] * scale, *one.get(f"{key}_interval", ())) + ratio)
        rows.append(f"| {title} | {' | '.join(cells)} |")

    row("parameters, million", "{:.2f}", "parameters", 1e-6)
    row("images/s in training", "{:.0f}", "images_per_s")
    row("images seen", "{:.0f}", "images")
    row("Fréchet distance", "{:.2f} [{:.2f}, {:.2f}]", "frechet")
    row("confident digits, %", "{:.1f}", "confident", 100)
    row("samples/s, 50 evaluations", "{:.1f}", "samples_per_s")
    row("peak memory, MiB", "{:.0f}", "peak_mib")
    row("seconds to the first step", "{:.1f}", "first_step_s")
    for precision, rates in found["speeds"].items():
        title = f"images/s at 4 million parameters, {'bf16' if precision == 'bf16' else 'float32'}"
        mine = np.median(rates[OURS])
        cells = [
            f"{np.median(r):.0f}" + (f" ({np.median(r) / mine:.2f})" if n != OURS else "") for n, r in rates.items()
        ]
        rows.append(f"| {title} | {' | '.join(cells)} |")
    best = min(found["contenders"][name]["frechet"] for name in PEERS)
    reached = [m["seconds"] for m in ours["kept"].values() if m["frechet"] <= best]
    when = f"after {min(reached):.0f} s" if reached else "not reached at the moments looked at"
    return "\n".join(
        [
            *rows,
            "",
            f"In brackets what it is to ours. The distance of as many real digits is {found['floor']['frechet']:.2f}.",
            f"Ours reaches the better peer's distance {when}.",
            f"A grid of 64 digits in 10 evaluations, imports included, takes {ours['grid_s']:.1f} s; "
            f"distance of {found['samples']} drawn so {ours['grid']['frechet']:.2f}.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", help="where the data are, such as data.root=FOLDER")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2, help="of the measurement of the speed")
    parser.add_argument("--out", type=Path, default=Path("outputs/race"))
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    race = Race(args.out.absolute(), args.data, 60 * args.minutes, args.samples)
    race.prepare()
    contenders = {}
    for name in (OURS, *PEERS):
        print(f"{name}: {args.minutes:g} minutes of training, then samples", flush=True)
        contenders[name] = race.ours() if name == OURS else race.peer(name)
        one = contenders[name]
        one["images_per_s"] = one["images"] / (one.get("train_s", race.seconds) - one["first_step_s"])
        print(f"  distance {one['frechet']:.2f}, {one['images']} images", flush=True)
    print("speed at as many parameters", flush=True)
    found = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "date": date.today().isoformat(),
        "commit": git_commit(),
        "data": race.source,
        "minutes": args.minutes,
        "samples": args.samples,
        "floor": race.floor(),
        "contenders": contenders,
        "speeds": race.speeds(args.rounds),
    }
    (args.out / "race.json").write_text(json.dumps(found, indent=2) + "\n")
    from tests.race.drawing import curves, grids

    files = {OURS: race.out / "ours" / "drawn" / "samples.npz"} | {n: race.out / n / "samples.npy" for n in PEERS}
    curves(found, OURS).save(args.out / "race.png")
    grids({name: (read_samples(file, 4)[:64] + 1) / 2 for name, file in files.items()}).save(args.out / "samples.png")
    print(f"\n{report(found)}\n\nwritten: {args.out}: race.json, race.png, samples.png")


if __name__ == "__main__":
    main()
