"""What the framework costs beside plain torch, and what a busy program costs: `make bench`, in twenty minutes.

Every figure stands beside a reference that is measured in the same run, in turns with it. What is slow on this machine
is slow for both, so that the ratios of today compare with those of last month. `--write` updates docs/performance.md.

    python -m tests.benchmarks.loop data.root=FOLDER_OF_MNIST
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from src.commands.cli import user_errors
from src.utils.console import start_logging
from tests.benchmarks.loop.commands import DIGITS, OUTPUTS, composed, run, sample, train
from tests.benchmarks.loop.few_steps import few_steps
from tests.benchmarks.loop.page import PAGE, Figure, about, caption, table_of, write_between, write_json
from tests.benchmarks.loop.sharing import sharing
from tests.benchmarks.loop.turns import draw_pngs, loading, sampling, training

STEPS = 12  # of the runs that are started as commands
PARTS = {
    "overhead": "bench",
    "sharing": "sharing",
    "few_steps": "few_steps",
}  # and the names of their files and places on the page


class Guard:
    """The figures that matter.

    Args:
        args: the command line.
        folder: for the runs and pictures, which are not kept.
    """

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.rounds, self.seconds, self.folder = args.rounds, args.seconds, folder
        small = ["data.batch_size=8", "net.width=8"] if args.quick else []
        digits, pictures = [*DIGITS, *args.data], [f"data.root={draw_pngs(folder / 'pictures', 600)}"]
        data = {"mnist_ddpm": digits, "mnist_conditional": digits, "sine_ddpm": [], "folder_ddpm": pictures}
        self.words = {name: [f"experiment={name}", "trainer=cpu", *small, *own] for name, own in data.items()}

    def overhead(self) -> Iterator[Figure]:
        """Of the framework, over plain torch."""
        for name in self.words:
            yield training(name, self.config(name), self.rounds, self.seconds)
        for sampler in ("ddim", "dpmpp_2m"):
            yield sampling(self.config("mnist_ddpm"), sampler, 2 * self.rounds)
        yield from loading(self.config("folder_ddpm"), self.rounds, batches=8)
        yield from self.starts()

    def sharing(self) -> Iterator[Figure]:
        """Of the cores, with a busy program."""
        file = self.folder / "sharing.yaml"
        OmegaConf.save(self.config("mnist_ddpm"), file)
        yield from sharing([str(file)], "training step, `mnist_ddpm`", 2 * self.rounds, self.seconds / 3)
        yield from sharing([], "forward and backward, small convolutions", 2 * self.rounds, self.seconds / 6)

    def few_steps(self) -> Iterator[Figure]:
        """Of the losses of a flow map, over the denoising loss."""
        yield from few_steps(lambda loss: self.config("mnist_ddpm", f"loss={loss}"), self.rounds, self.seconds / 2)

    def config(self, name: str, *words: str) -> DictConfig:
        """Of an experiment."""
        return composed([*self.words[name], *words], self.folder / name)

    def starts(self) -> list[Figure]:
        """The commands, as processes: how long until they work, and what memory they take."""
        found: dict[str, list[float]] = {name: [] for name in ("torch", "help", "first step", "sample")}
        peaks, plain_peaks = [], []
        for turn in range(self.rounds):
            found["torch"].append(run(["-c", "import torch"]).seconds)
            found["help"].append(run(["-m", "src.train", "--help"]).seconds)
            folder = self.folder / f"run_{turn}"
            trained = train(folder, self.words["mnist_ddpm"], STEPS)
            found["first step"].append(trained.began)
            peaks.append(trained.mib)
            plain_peaks.append(run(["-m", "tests.benchmarks.loop.loops", folder / "config.yaml", STEPS]).mib)
            words = ["n=64", "sampler=dpmpp_2m", "sampler.steps=10", "guidance=none"]
            found["sample"].append(sample(folder, *words).seconds)
        titles = {
            "help": "`python -m src.train --help`",
            "first step": "`python -m src.train experiment=mnist_ddpm` until the first step is done",
            "sample": "`python -m src.sample n=64 sampler=dpmpp_2m sampler.steps=10 guidance=none`",
        }
        starts = [Figure(t, "`import torch`", "s", found[name], found["torch"]) for name, t in titles.items()]
        return [*starts, Figure("peak memory, training `mnist_ddpm`", "plain loop", "MiB", peaks, plain_peaks)]


def parse(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", help="overrides of the data of the MNIST experiments, data.root=FOLDER")
    parser.add_argument("--only", choices=PARTS, action="append", help="what to measure; default: all")
    parser.add_argument("--rounds", type=int, default=3, help="turns of ours and the reference")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each loop in a turn")
    parser.add_argument("--quick", action="store_true", help="tiny nets and one short turn, to try the bench itself")
    parser.add_argument("--write", action="store_true", help=f"also update {PAGE}")
    parser.add_argument("--out", type=Path, default=OUTPUTS / "bench")
    args = parser.parse_args(words)
    if args.quick:
        args.rounds, args.seconds = 1, 0.0
    return args


def main() -> None:
    args = parse(sys.argv[1:])
    warnings.filterwarnings("ignore")  # of Lightning, on what is left out here
    start_logging(None)
    here = about()
    with user_errors("train"), tempfile.TemporaryDirectory() as folder:
        guard = Guard(args, Path(folder))
        for part, file in PARTS.items():
            if args.only and part not in args.only:
                continue
            figures = []
            for figure in getattr(guard, part)():
                figures.append(figure)
                print("  ".join(figure.row()[:1] + figure.row()[3:]), flush=True)
            page = f"{caption(here)}\n\n{table_of(figures)}"
            write_json(args.out / f"{file}.json", here, figures=figures)
            if args.write:
                write_between(PAGE, file, page)
            print(f"\n{page}\n\nwritten: {args.out}/{file}.json{f', {PAGE}' if args.write else ''}")


if __name__ == "__main__":
    main()
