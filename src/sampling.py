"""Sampling from a run, from its folder to the files that are written."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from src.diffusion.denoiser import Denoiser
from src.plots.pictures import image_grid, sample_grid
from src.runs import Run, build_denoiser, load_weights, submodule
from src.tasks.generate import Samples, generate
from src.utils.check_config import check_config
from src.utils.checkpoint_io import load_checkpoint
from src.utils.cli import to_plain
from src.utils.console import log, progress_bar, start_logging, table
from src.utils.errors import UserError, blame
from src.utils.hardware import precision_for


class Sampling:
    """What is sampled, and how.

    Attributes:
        cfg: the settings of this command.
        run: the run folder.
        denoiser: rebuilt from it.
        shape: (C, *S) of a sample.
        label: (n,) int64, or None where the net takes none.
    """

    def __init__(self, cfg: DictConfig, run: Run, denoiser: Denoiser, shape: tuple[int, ...], label: Any):
        self.cfg, self.run, self.denoiser, self.shape, self.label = cfg, run, denoiser, shape, label

    @classmethod
    def prepare(cls, cfg: DictConfig) -> "Sampling":
        """Check the settings and rebuild the model.

        Raises:
            UserError: for every mistake in them.
        """
        start_logging(None)
        if not cfg.run:
            raise UserError("run=RUN is needed: a run folder, or run=latest")
        if cfg.n < 1 or cfg.batch_size < 1:
            raise UserError(f"n and batch_size are at least 1, not {cfg.n} and {cfg.batch_size}")
        for key, choices in {"weights": ("ema", "raw"), "precision": ("auto", "32", "bf16")}.items():
            if str(cfg[key]) not in choices:
                raise UserError(f"{key}={cfg[key]} is none of {', '.join(choices)}")
        run = Run.find(cfg.run, cfg.paths.outputs)
        trained = run.config()
        take_from_run(cfg, trained, {word.split("=")[0] for word in HydraConfig.get().overrides.task})
        check_config(to_plain(cfg))
        label = labels(cfg.label, cfg.n, trained.net.num_classes)
        path = run.checkpoint(cfg.ckpt)
        denoiser = build_denoiser(trained)
        prefix = "ema.model." if cfg.weights == "ema" else "denoiser."
        load_weights(denoiser, submodule(load_checkpoint(path)["state_dict"], prefix), path)
        shape = (trained.data.channels, *trained.data.size)
        return cls(cfg, run, denoiser.to(pick_device(cfg.device)).eval(), shape, label)

    def draw(self) -> Samples:
        """Sample, with a progress bar."""
        cfg, device = self.cfg, next(self.denoiser.parameters()).device
        with blame("sampler"):
            sampler = instantiate(cfg.sampler)(schedule=self.denoiser.schedule)
        precision = precision_for(device.type) if cfg.precision == "auto" else str(cfg.precision)
        bar = progress_bar(cfg.n * sampler.steps, "sampling", unit="step", leave=False, delay=2, unit_scale=True)
        with bar, torch.autocast(device.type, torch.bfloat16, enabled=precision.startswith("bf16")):
            return generate(
                self.denoiser,
                sampler,
                cfg.n,
                self.shape,
                cfg.seed,
                self.label,
                instantiate(cfg.guidance),
                cfg.batch_size,
                keep=min(cfg.n, 64) if cfg.gif else 0,
                on_step=bar.update,
            )

    def write(self, samples: Samples) -> None:
        """Write samples.npz, grid.png and on request trajectory.gif, and say so."""
        cfg = self.cfg
        out = Path(cfg.out) if cfg.out else self.run.path / "samples" / f"{cfg.ckpt}_{cfg.n}_seed_{cfg.seed}"
        out.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {"x": self.to_units(samples.x).numpy().astype(np.float32)}
        arrays |= {"nfe": samples.nfe, "seconds": samples.seconds}
        if self.label is not None:
            arrays["label"] = self.label.numpy()
        np.savez(out / "samples.npz", **arrays)
        shown = self.to_units(samples.x[:100])
        sample_grid(shown if shown.ndim == 4 else shown[:16]).save(out / "grid.png")
        if samples.trajectory is not None:
            write_gif(
                self.to_units(samples.trajectory.flatten(0, 1)).unflatten(0, samples.trajectory.shape[:2]),
                out / "trajectory.gif",
            )
        files = "samples.npz, grid.png" + (", trajectory.gif" if cfg.gif else "")
        log.info(
            table(
                [
                    (
                        "samples",
                        f"{cfg.n} of {' x '.join(map(str, self.shape))} from {self.run.path} ({cfg.ckpt}.ckpt)",
                    ),
                    (
                        "cost",
                        f"{samples.nfe:g} evaluations each, {samples.seconds:.1f} s, "
                        f"{cfg.n / samples.seconds:.1f} samples/s",
                    ),
                    ("written", f"{out}: {files}"),
                ]
            )
        )

    def to_units(self, x: torch.Tensor) -> torch.Tensor:
        """Images to [0, 1]; signals as they are."""
        return x if len(self.shape) == 2 else ((x + 1) / 2).clamp(0, 1)


def take_from_run(cfg: DictConfig, trained: DictConfig, named: set[str]) -> None:
    """Sample as the run itself does, where the command line names no other sampler or guidance.

    Single settings of the sampler, such as sampler.steps, then change the run's own.
    """
    with open_dict(cfg):
        if "guidance" not in named:
            cfg.guidance = trained.guidance
        if "sampler" not in named:
            changes = {key: OmegaConf.select(cfg, key) for key in named if key.startswith("sampler.")}
            cfg.sampler = trained.sampler
            for key, value in changes.items():
                OmegaConf.update(cfg, key, value)


def labels(label: Any, n: int, num_classes: int) -> torch.Tensor | None:
    """The label of each sample: the given one or ones, all classes in turn by default; None for a net without.

    Raises:
        UserError: for a label that the run does not have.
    """
    if num_classes == 0:
        if label is not None:
            raise UserError(f"label={label}: this run was trained without labels; leave label= out")
        return None
    if label is None:
        return torch.arange(n) % num_classes
    chosen = list(label) if OmegaConf.is_list(label) else [label]
    for value in chosen:
        if not isinstance(value, int) or not 0 <= value < num_classes:
            raise UserError(f"label={value}: this run has the labels 0 to {num_classes - 1}")
    return torch.tensor(chosen)[torch.arange(n) % len(chosen)]


def pick_device(name: str) -> torch.device:
    """The named device; `auto` is the GPU where there is one.

    Raises:
        UserError: where there is no such device.
    """
    if name == "auto":
        return (
            torch.accelerator.current_accelerator() or torch.device("cpu")
            if torch.accelerator.is_available()
            else (torch.device("cpu"))
        )
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name} cannot be used here; try device=cpu") from error


def write_gif(path: torch.Tensor, file: Path, frames: int = 40) -> None:
    """An animation of a trajectory (T, k, C, *S) in the data's own units, resting on its last frame."""
    chosen = torch.linspace(0, len(path) - 1, min(frames, len(path))).round().long()
    draw = image_grid if path.ndim == 5 else lambda x, **_: sample_grid(x[:16])
    pictures = [draw(path[i], least=420) for i in chosen]
    durations = [60] * (len(pictures) - 1) + [1500]
    pictures[0].save(file, save_all=True, append_images=pictures[1:], duration=durations, loop=0)
