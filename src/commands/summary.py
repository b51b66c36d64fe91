"""The summaries that a training run prints before and after."""

import shlex
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from src.data.base import DataModule
from src.diffusion.conditions import Condition, NoCondition
from src.diffusion.denoiser import Denoiser
from src.utils.console import describe
from src.utils.override_syntax import assignment, command
from src.utils.targets import untrusted_targets

Rows = list[tuple[str, str]]


def before_training(
    cfg: dict[str, Any], data: DataModule, denoiser: Denoiser, trainer: Any, run: Path, resume: Path | None
) -> Rows:
    """The data, the model, the length and device of the training, and where to watch it.

    Args:
        cfg: the resolved config.
        data, denoiser, trainer: the parts of the run.
        run: its folder.
        resume: the checkpoint that it resumes from.
    """
    x = data.train_set[0, torch.arange(1)]["x"]
    classes = f", {data.num_classes} classes" if data.num_classes else ""
    net, condition = denoiser.net, denoiser.condition
    parameters = sum(p.numel() for p in net.parameters())
    length = f"{trainer.max_steps:,} steps" if trainer.max_steps > 0 else f"{trainer.max_epochs} epochs"
    if trainer.max_steps <= 0 and trainer.max_epochs < 0:
        length = f"until {cfg['trainer']['max_time'] or 'it is stopped'}"
    threads = f", {torch.get_num_threads()} threads" if trainer.strategy.root_device.type == "cpu" else ""
    devices = f"{trainer.num_devices * trainer.num_nodes} x {device_name(trainer)}{threads}"
    folder = display(run)
    rows = [
        ("data", data.source),
        ("sample", f"{' x '.join(map(str, x.shape[1:]))} in [{x.min():.2f}, {x.max():.2f}]{classes}"),
        ("net", f"{type(net).__name__}, {parameters:,} parameters"),
        *condition_row(condition),
        ("schedule", describe(cfg["schedule"])),
        ("predicts", f"{describe(cfg['parameterization'])}; loss {describe(cfg['loss'])}"),
        ("draws", f"times {describe(cfg['time_sampler'])}; noise {describe(cfg.get('noise_sampler') or 'Gaussian')}"),
        ("optimizer", f"{describe(cfg['optimizer'])}; {describe(cfg['lr_schedule'])}"),
        ("average", describe(cfg["ema"])),
        ("samples with", sampling_text(cfg)),
        ("length", f"{length}; {data.train_batches:,} batches of {data.batch_size} an epoch"),
        ("device", f"{devices}, precision {trainer.precision}"),
        ("run folder", str(folder)),
        ("watch", shlex.join(["tensorboard", "--logdir", str(folder)])),
    ]
    return [*rows, ("resumes", str(display(resume)))] if resume else rows


def condition_row(condition: Condition) -> Rows:
    """The kind of condition, its classes and its dropout; nothing without a condition."""
    if isinstance(condition, NoCondition):
        return []
    name = type(condition).__name__
    kind = f"{condition.num_classes} {name.lower()}" if condition.num_classes else name
    return [("condition", f"{kind}, dropped with probability {condition.dropout:g}")]


def sampling_text(cfg: dict[str, Any]) -> str:
    """The sampler, its steps, and the guidance, in the words of the config."""
    sampler, guidance = cfg["sampler"], describe(cfg["guidance"])
    own = {key: value for key, value in sampler.items() if key in ("_target_", "steps", "time_grid")}
    return f"{describe(own)}; {'no guidance' if guidance == 'NoGuidance' else guidance}"


def after_training(cfg: dict[str, Any], trainer: Any, run: Path, results: dict[str, Any], out_of_time: bool) -> Rows:
    """The results, and the commands to run next.

    Args:
        cfg: the resolved config.
        trainer: the trainer, after the training.
        run: the run folder.
        results: the results that the run's metadata hold.
        out_of_time: True if trainer.max_time stopped the run.
    """
    folder, unit = display(run), cfg["callbacks"]["progress"]["unit"]
    rows = [
        ("trained", f"{results['steps']:,} steps in {results['seconds'] / 60:.1f} min"),
        ("speed", f"{results['samples_per_second']:.0f} {unit}/s"),
    ]
    if "val/loss_ema" in results:
        best = f"best {results['best_val_loss']:.5g} at step {results['best_step']:,}"
        last = f"last {results['val/loss_ema']:.5g} with averaged weights, {results['val/loss_raw']:.5g} with raw"
        rows.append(("validation", f"{best}; {last}"))
    rows += [row for callback in trainer.callbacks for row in getattr(callback, "report", [])]
    more = [] if out_of_time else [f"trainer.max_steps={2 * results['steps']}"]
    if trainer.max_steps <= 0 and trainer.max_epochs > 0:
        more = [f"trainer.max_epochs={2 * trainer.max_epochs}"]
    trust = ["trust=true"] if untrusted_targets(cfg) else []  # it has code of the user's own
    return [
        *rows,
        ("run folder", str(folder)),
        ("sample", command("sample", assignment("run", folder), *trust)),
        ("evaluate", command("evaluate", assignment("run", folder), "n=2000", *trust)),
        ("watch", shlex.join(["tensorboard", "--logdir", str(folder)])),
        ("resume", command("train", assignment("resume", folder), *more, *trust)),
    ]


def device_name(trainer: pl.Trainer) -> str:
    """The name of the trainer's device, such as NVIDIA H100 or cpu."""
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def display(path: Path) -> Path:
    """The path relative to the working directory, if it is below it."""
    try:
        return path.absolute().relative_to(Path.cwd())
    except ValueError:
        return path
