"""Sampling from a run, from its folder to the files that are written."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from PIL import Image

from src.diffusion.denoiser import Denoiser
from src.plots.pictures import READABLE, sample_grid, trajectory_frames
from src.runs import SAMPLING, Run, build_denoiser, load_weights, read_weights
from src.tasks.generate import Samples, generate
from src.utils.check_config import check_config, targets
from src.utils.cli import to_plain
from src.utils.console import log, progress_bar, start_logging, table
from src.utils.errors import UserError, blame
from src.utils.hardware import precision_for

# The most samples in grid.png, by the shape of one: of points (C,) all, of signals (C, L) and images (C, H, W) fewer.
IN_GRID = {1: None, 2: 16, 3: 100}


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
        if not all(isinstance(number, int) and number >= 1 for number in (cfg.n, cfg.batch_size)):
            raise UserError(f"n and batch_size are whole numbers from 1, not {cfg.n} and {cfg.batch_size}")
        if str(cfg.precision) not in ("auto", "32", "bf16"):
            raise UserError(f"precision={cfg.precision} is none of auto, 32, bf16")
        named = {word.split("=")[0].lstrip("+") for word in HydraConfig.get().overrides.task}
        if not isinstance(cfg.weights, str) and "ckpt" in named:
            raise UserError(f"weights={cfg.weights} is rebuilt from snapshots of the whole run; leave ckpt= out")
        run = Run.find(cfg.run, cfg.paths.outputs)
        cfg.run = str(run.path)  # for the guide of autoguidance, which is from the same run
        trained = run.config()
        take_from_run(cfg, trained, named)
        check_config(to_plain(cfg))
        known = trained.data.num_classes if takes_label(to_plain(cfg.guidance)) else trained.net.num_classes
        label = labels(cfg.label, cfg.n, known)
        if label is None and "guidance" in named:
            refuse_without_labels(to_plain(cfg.guidance))
        weights, source = read_weights(run, cfg.ckpt, cfg.weights)
        denoiser = build_denoiser(trained)
        load_weights(denoiser, weights, source)
        shape = (trained.data.channels, *trained.data.size)
        return cls(cfg, run, denoiser.to(pick_device(cfg.device)).eval(), shape, label)

    def draw(self) -> Samples:
        """Sample, with a progress bar."""
        cfg, device = self.cfg, next(self.denoiser.parameters()).device
        with blame("sampler"):
            sampler = instantiate(cfg.sampler)(schedule=self.denoiser.schedule)
            steps = len(sampler.times()) - 1
        check_variance(sampler, self.denoiser)
        precision = precision_for(device.type) if cfg.precision == "auto" else str(cfg.precision)
        bar = progress_bar(cfg.n * steps, "sampling", unit="step", leave=False, delay=2, unit_scale=True)
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
                keep=min(cfg.n, READABLE[1 + len(self.shape)]) if cfg.gif else 0,
                on_step=bar.update,
            )

    def write(self, samples: Samples) -> None:
        """Write samples.npz, grid.png and on request trajectory.gif, and say so."""
        cfg = self.cfg
        out = Path(cfg.out) if cfg.out else self.run.path / "samples" / f"{self.source}_{cfg.n}_seed_{cfg.seed}"
        out.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {"x": self.to_units(samples.x).numpy().astype(np.float32)}
        arrays |= {"nfe": samples.nfe, "seconds": samples.seconds}
        if self.label is not None:
            arrays["label"] = self.label.numpy()
        np.savez(out / "samples.npz", **arrays)
        shown = self.to_units(samples.x[: IN_GRID[len(self.shape)]])
        sample_grid(shown, label=self.label).save(out / "grid.png")
        if samples.trajectory is not None:
            write_gif(trajectory_frames(self.to_units(samples.trajectory), self.label), out / "trajectory.gif")
        files = "samples.npz, grid.png" + (", trajectory.gif" if cfg.gif else "")
        log.info(
            table(
                [
                    (
                        "samples",
                        f"{cfg.n} of shape {' x '.join(map(str, self.shape))} from {self.run.path} ({self.source})",
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

    @property
    def source(self) -> str:
        """What the weights are from: a checkpoint, or the width of a rebuilt average."""
        return self.cfg.ckpt if isinstance(self.cfg.weights, str) else f"width_{self.cfg.weights:g}"

    def to_units(self, x: torch.Tensor) -> torch.Tensor:
        """Images to [0, 1]; signals and points as they are."""
        return ((x + 1) / 2).clamp(0, 1) if len(self.shape) == 3 else x


def take_from_run(cfg: DictConfig, trained: DictConfig, named: set[str]) -> None:
    """Sample as the run itself does, where the command line names no other sampler, grid, clip or guidance.

    Single settings of these, such as sampler.steps, then change the run's own.
    """
    changes = {key: OmegaConf.select(cfg, key) for key in named if key.split(".")[0] in SAMPLING and "." in key}
    with open_dict(cfg):
        for part in SAMPLING:
            if part not in named:
                cfg[part] = trained[part]
        for key, value in changes.items():
            OmegaConf.update(cfg, key, value)
        if "sampler" not in named:
            for part in ("variance", "grid", "clip"):  # written out in the run's config
                if part in cfg.sampler and OmegaConf.is_config(cfg.sampler[part]):
                    cfg.sampler[part] = cfg[part]


def takes_label(guidance: Any) -> bool:
    """Whether a guidance, or one inside it, wants a label even where the net takes none."""
    return any(getattr(get_object(node["_target_"]), "takes_label", False) for _, node in targets(guidance))


def refuse_without_labels(guidance: Any) -> None:
    """Refuse a guidance that would do nothing, since it pushes towards a label and there is none."""
    for _, node in targets(guidance):
        if getattr(get_object(node["_target_"]), "pushes_to_label", False):
            name = node["_target_"].rpartition(".")[2]
            raise UserError(f"guidance: {name} pushes towards a label, but this run has none; use guidance=none")


def check_variance(sampler: Any, denoiser: Denoiser) -> None:
    """Refuse to read a variance from a network that did not learn it."""
    wanted = getattr(sampler, "variance", None)
    if wanted is not None and wanted.outputs > 1 and type(wanted) is not type(denoiser.variance):
        raise UserError(
            f"variance: the net of this run did not learn {type(wanted).__name__}; leave variance= out, or use "
            "variance=fixed_small or fixed_large"
        )


def labels(label: Any, n: int, num_classes: int) -> torch.Tensor | None:
    """The label of each sample: the given one or ones, all classes in turn by default; None where there are none.

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


def write_gif(pictures: list[Image.Image], file: Path) -> None:
    """An animation that rests on its last picture."""
    durations = [60] * (len(pictures) - 1) + [1500]
    pictures[0].save(file, save_all=True, append_images=pictures[1:], duration=durations, loop=0)
