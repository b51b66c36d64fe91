"""How well a trained MNIST run restores test digits: `python -m tests.benchmarks.restore RUN --data FOLDER`.

The judges are a classifier of digits (see bench_digits.py), PSNR and SSIM. The run samples as it does by itself, and
every method is as in conf/inverse_solver. The baselines need no model: bicubic interpolation, the mean of the training
digits, and the input itself.

    python -m tests.benchmarks.restore RUN --data FOLDER --only super_resolution --methods pigdm,ddnm --n 1000
    python -m tests.benchmarks.restore RUN --data FOLDER --set inverse_solver.scale=2 --train   to choose settings by
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import functional as F

from src.commands.cli import user_errors
from src.commands.sampling_setup import build_pipeline
from src.diffusion.operators import LinearOperator, Mask
from src.metrics.features.base import Features, RealData, ReferenceData
from src.plots.task_results import task_results
from src.runs.loading import load_denoiser
from src.runs.run import Run
from src.samplers.pipeline import Pipeline
from src.statistics.image_quality import image_quality
from src.statistics.significance import wilson_interval
from src.tasks.base import TaskInput
from src.utils.console import start_logging
from src.utils.hardware import default_precision
from src.utils.paths import CONF
from tests.benchmarks.digits import reference

# The config of a method, and settings of it.
METHODS = {
    "pigdm": ["pigdm"],
    "dps": ["dps"],
    "ddnm": ["ddnm"],
    "pigdm sample": ["pigdm", "inverse_solver.sample=true"],
    "dps sample": ["dps", "inverse_solver.sample=true"],
    "ddnm sample": ["ddnm", "inverse_solver.sample=true"],
    "repaint": ["repaint"],
}
# name: (task and its settings, the least accuracy that a method should reach)
CASES: dict[str, tuple[list[str], float]] = {
    "super-resolution x2": (["super_resolution", "task.factor=2"], 0.9),
    "super-resolution x4": (["super_resolution", "task.factor=4"], 0.9),
    "inpaint, center": (["inpaint", "task.box=[0.36,0.36,0.64,0.64]"], 0.9),
    "inpaint, half": (["inpaint"], 0.75),
    "deblur": (["deblur"], 0.9),
}


class Digits(NamedTuple):
    """Digits in [-1, 1] (n, 1, 28, 28), what they are (n,), and the mean of the training digits (1, 1, 28, 28)."""

    x: Tensor
    label: Tensor
    mean: Tensor


@dataclass
class Row:
    """What was measured of n restored digits: how many the classifier takes for the true class, and how close they are.

    nfe: evaluations of the network for each.
    """

    name: str
    n: int
    right: int
    psnr: float
    ssim: float
    nfe: float
    seconds: float

    @property
    def accuracy(self) -> float:
        return self.right / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """That of the accuracy, 95 %."""
        return wilson_interval(self.right, self.n)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"| {self.name} | {self.accuracy:.1%} [{low:.1%}, {high:.1%}] | {self.psnr:.2f} | {self.ssim:.3f} "
            f"| {self.nfe:g} | {self.seconds:.0f} |"
        )


def digits(real: ReferenceData, n: int, validation: bool = False) -> Digits:
    """The first n test digits, or those for validation."""
    chosen = (RealData(real.data.val_set, real.data.to_units) if validation else real.test)[:n]
    mean = real.train[:]["x"].mean(0, keepdim=True)
    return Digits(2 * chosen["x"] - 1, chosen["label"], 2 * mean - 1)


def load_model(run: str, batch_size: int = 100) -> Pipeline:
    """The model of a run that samples as the run itself does."""
    cfg = Run.find(run).config()
    settings = OmegaConf.create({"sampler": cfg.sampler, "guidance": cfg.guidance, "seed": 0, "batch_size": batch_size})
    return build_pipeline(settings, load_denoiser(run).requires_grad_(False), (cfg.data.channels, *cfg.data.size))


def make_task(task: str, solver: str, words: Sequence[str] = ()) -> Any:
    """The task of these config files with some settings changed, as task.factor=2 or inverse_solver.scale=2."""
    files = {
        "task": CONF / "task" / f"{task}.yaml",
        "inverse_solver": CONF / "inverse_solver" / f"{solver}.yaml",
    }
    known = OmegaConf.create({key: OmegaConf.load(file) for key, file in files.items()})
    return instantiate(OmegaConf.merge(known, OmegaConf.from_dotlist(list(words))).task)


def judge(name: str, x: Tensor, truth: Digits, judges: Features, nfe: float = 0.0, seconds: float = 0.0) -> Row:
    """x in [-1, 1], against the truth."""
    units = ((x + 1) / 2).clamp(0, 1)
    logits = judges.logits(judges(units))
    assert logits is not None
    right = int((logits.argmax(1) == truth.label).sum())
    close = image_quality(units, (truth.x + 1) / 2)
    return Row(name, len(x), right, close["psnr"], close["ssim"], nfe, seconds)


def restore(pipeline: Pipeline, task: Any, truth: Digits) -> tuple[Tensor, Tensor, float, float]:
    """The restored digits, the input, evaluations of the network for each, and seconds."""
    fast = default_precision(pipeline.device.type).startswith("bf16")
    with torch.autocast(pipeline.device.type, torch.bfloat16, enabled=fast), pipeline.count_nfe() as cost:
        result = task(pipeline, TaskInput(truth=truth.x))
    return result.x, result.comparison["input"], cost.evaluations / len(truth.x), cost.seconds


def without_a_model(measurement: LinearOperator, given: Tensor, mean: Tensor) -> tuple[str, Tensor]:
    """What can be done without: its name, and the digits."""
    y = measurement(given)
    if y.shape != given.shape:  # given is the small picture enlarged, block by block
        return "bicubic", F.interpolate(y, given.shape[2:], mode="bicubic")
    if isinstance(measurement, Mask):
        return "mean of the training digits", given + mean - measurement(mean)
    return "inverse filter", measurement.pinv(given)


def bench(pipeline: Pipeline, truth: Digits, judges: Features, case: str, methods: Sequence[str],
          words: Sequence[str] = (), pictures: Path | None = None) -> list[Row]:  # fmt: skip
    """The rows of one case, printed as they come."""
    (task, *settings), _ = CASES[case]
    rows: list[Row] = []
    shown: dict[str, Tensor] = {}
    for name in methods:
        if name == "repaint" and task != "inpaint":
            continue
        method, *of_method = METHODS[name]
        made = make_task(task, method, [*settings, *of_method, *words])
        x, given, nfe, seconds = restore(pipeline, made, truth)
        if not rows:
            other, simple = without_a_model(made.operator(pipeline.shape), given, truth.mean)
            rows = [judge("input", given, truth, judges), judge(other, simple, truth, judges)]
            print(*rows, sep="\n", flush=True)
            shown = {"input": given, other: simple}
        rows.append(judge(name, x, truth, judges, nfe, seconds))
        print(rows[-1], flush=True)
        shown[name] = x
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        every = {name: ((x + 1) / 2).clamp(0, 1) for name, x in (shown | {"truth": truth.x}).items()}
        task_results(every).save(pictures / f"{case.replace(',', '').replace(' ', '_')}.png")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="How well a trained MNIST run restores test digits.")
    parser.add_argument("run", help="a run folder, or latest")
    parser.add_argument("--data", required=True, help="folder of MNIST")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--only", default="", help="cases whose names begin so")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--set", nargs="*", default=[], help="settings, such as inverse_solver.scale=2")
    parser.add_argument("--steps", type=int, help="of the sampler")
    parser.add_argument("--train", action="store_true", help="digits for validation, to choose settings by")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the first digits")
    args = parser.parse_args()
    start_logging(None)
    real = reference(Run.find(args.run).config(), args.data)
    judges, truth = real.features, digits(real, args.n, args.train)
    model = load_model(args.run)
    if args.steps:
        model.sampler.steps = args.steps
    right = judge("", truth.x, truth, judges).accuracy
    print(f"{len(truth.x)} digits; the classifier takes {right:.1%} of them for theirs")
    for case in CASES:
        if case.startswith(args.only):
            print(f"\n{case}\n\n| | right | PSNR | SSIM | evaluations | seconds |\n|---|---|---|---|---|---|")
            bench(model, truth, judges, case, args.methods.split(","), args.set, args.pictures)


if __name__ == "__main__":
    with user_errors("sample"):
        main()
