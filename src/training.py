"""One training run, from its config to its report."""

import platform
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from src.callbacks.checkpoints import Checkpoints
from src.callbacks.progress import Progress
from src.data.base import DataModule
from src.module import DiffusionModule, planned_steps
from src.runs import Run, build_denoiser, load_weights, submodule
from src.utils.check_config import check_config
from src.utils.checkpoint_io import AtomicCheckpointIO, load_checkpoint
from src.utils.cli import CONF, flat_keys, to_plain
from src.utils.console import log, start_logging, table
from src.utils.errors import UserError, blame
from src.utils.hardware import precision_for
from src.utils.metrics_csv import MetricsCSV
from src.utils.seeding import derive_seed


class Training:
    """The parts of a run.

    Attributes:
        cfg: the whole config, resolved.
        run: the run folder.
        data, module, trainer: what they say.
        resume: the checkpoint to go on from, or None.
    """

    trainer: Any

    def __init__(
        self,
        cfg: dict[str, Any],
        run: Run,
        data: DataModule,
        module: DiffusionModule,
        trainer: pl.Trainer,
        resume: Path | None,
    ):
        self.cfg, self.run, self.data, self.module, self.trainer, self.resume = cfg, run, data, module, trainer, resume

    # ---- before ----

    @classmethod
    def prepare(cls, cfg: DictConfig) -> "Training":
        """Complete and check the config, and build the parts.

        Raises:
            UserError: for every mistake that can be seen before the training starts.
        """
        run = Run(HydraConfig.get().runtime.output_dir)
        try:
            return cls._prepare(cfg, run)
        except BaseException:
            with suppress(OSError):
                run.path.rmdir()  # Hydra made it; it goes if nothing is in it
            raise

    @classmethod
    def _prepare(cls, cfg: DictConfig, run: Run) -> "Training":
        cfg, overrides = complete_config(cfg, run)
        plain = to_plain(cfg)
        check_config(plain)
        resume = run.checkpoint("last") if cfg.resume else None
        start_logging(run.path / "train.log" if is_main_process() else None)

        data: DataModule = instantiate(cfg.data)
        torch.manual_seed(derive_seed(cfg.seed, "initial weights"))
        denoiser = build_denoiser(cfg)
        with blame("module"):
            module: DiffusionModule = instantiate(cfg.module)(denoiser=denoiser)
        with blame("sampler"):  # made anew for each grid, the first of which is minutes away
            instantiate(cfg.sampler)(schedule=denoiser.schedule)
        source = resume or initial_checkpoint(cfg)
        if source is not None:
            state = load_checkpoint(source)["state_dict"]
            load_weights(module.denoiser, submodule(state, "denoiser."), source)
            load_weights(module.ema.model, submodule(state, "ema.model."), source)
        trainer = build_trainer(cfg)
        data.check_batch_size(trainer.world_size)
        if is_main_process():
            data.prepare_data()
            data.setup("fit")
            data.check_batch_size(trainer.world_size)
            spare = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
            instantiate(cfg.lr_schedule)(spare, planned_steps(trainer, data.train_batches))
            if resume is None:
                run.start(plain, overrides)
            else:
                rewind_loggers(trainer, load_checkpoint(resume)["global_step"])
        return cls(plain, run, data, module, trainer, resume)

    @rank_zero_only
    def announce(self) -> None:
        """Say in a screenful what is about to happen."""
        cfg, trainer, net = self.cfg, self.trainer, self.module.denoiser.net
        x = self.data.train_set[0, torch.arange(1)]["x"]
        parameters = sum(p.numel() for p in net.parameters())
        length = f"{trainer.max_steps:,} steps" if trainer.max_steps > 0 else f"{trainer.max_epochs} epochs"
        epochs = f"{length}, {self.data.train_batches:,} batches of {self.data.batch_size} an epoch"
        threads = f", {torch.get_num_threads()} threads" if trainer.strategy.root_device.type == "cpu" else ""
        rows = [
            ("data", self.data.source),
            (
                "sample",
                f"{' x '.join(map(str, x.shape[1:]))} in [{x.min():.2f}, {x.max():.2f}]"
                + (f", {self.data.num_classes} classes" if self.data.num_classes else ""),
            ),
            ("net", f"{type(net).__name__}, {parameters:,} parameters"),
            ("schedule", describe(cfg["schedule"])),
            ("predicts", f"{describe(cfg['parameterization'])}; loss {describe(cfg['loss'])}"),
            ("optimizer", f"{describe(cfg['optimizer'])}; {describe(cfg['lr_schedule'])}"),
            ("length", epochs),
            (
                "device",
                f"{trainer.num_devices * trainer.num_nodes} x {device_name(trainer)}{threads}, "
                f"precision {trainer.precision}",
            ),
            ("run folder", str(display(self.run.path))),
            ("watch", f"tensorboard --logdir {display(self.run.path)}"),
        ]
        if self.resume is not None:
            rows.append(("resumes", str(display(self.resume))))
        log.info(f"\nTraining {cfg['name']}\n{table(rows)}\n")
        if self.data.warning:
            log.warning(f"WARNING: {self.data.warning}\n")
        self.run.record(
            name=cfg["name"],
            data=self.data.source,
            data_warning=self.data.warning,
            parameters=parameters,
            precision=trainer.precision,
            torch=torch.__version__,
            lightning=pl.__version__,
            python=platform.python_version(),
            commit=git_commit(),
            command=" ".join(sys.argv),
        )
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and self.resume is None:
                logger.experiment.add_text("config", "```yaml\n" + (self.run.path / "config.yaml").read_text() + "```")

    # ---- the run ----

    def fit(self) -> None:
        """Train; go on from the checkpoint where there is one."""
        self.began = time.perf_counter()
        self.trainer.fit(self.module, self.data, ckpt_path=self.resume, weights_only=True)

    # ---- after ----

    def report(self) -> float | None:
        """Say what came out, and what to do next."""
        if self.trainer.global_rank != 0:
            return None
        checkpoints = next(c for c in self.trainer.checkpoint_callbacks if isinstance(c, Checkpoints))
        progress = next((c for c in self.trainer.callbacks if isinstance(c, Progress)), None)
        metrics = {k: float(v) for k, v in self.trainer.callback_metrics.items()}
        seconds = time.perf_counter() - self.began
        results = {
            "best_val_loss": checkpoints.best,
            "best_step": checkpoints.best_step,
            "steps": self.trainer.global_step,
            "seconds": round(seconds, 1),
            "samples_per_second": round(progress.mean_rate, 1) if progress else None,
            **metrics,
        }
        self.run.record(results=results)
        self.log_hyperparameters({k: v for k, v in results.items() if v is not None})
        folder = display(self.run.path)
        rows = [("trained", f"{self.trainer.global_step:,} steps in {seconds / 60:.1f} min")]
        if progress:
            rows.append(("speed", f"{progress.mean_rate:.0f} {progress.unit}/s"))
        if checkpoints.best is not None:
            rows.append(
                (
                    "validation",
                    f"best {checkpoints.best:.5f} (step {checkpoints.best_step}), last "
                    f"{metrics[checkpoints.monitor]:.5f} with averaged weights, "
                    f"{metrics['val/loss_raw']:.5f} with raw",
                )
            )
        more = f"trainer.max_steps={2 * self.trainer.global_step}"
        if self.trainer.max_steps <= 0 and self.trainer.max_epochs and self.trainer.max_epochs > 0:
            more = f"trainer.max_epochs={2 * self.trainer.max_epochs}"
        rows += [
            ("run folder", str(folder)),
            ("sample", f"python -m src.sample run={folder}"),
            ("watch", f"tensorboard --logdir {folder}"),
            ("go on", f"python -m src.train resume={folder} {more}"),
        ]
        log.info(f"\nDone\n{table(rows)}")
        return checkpoints.best

    def log_hyperparameters(self, metrics: dict[str, float]) -> None:
        """The settings beside the final metrics, for TensorBoard's table of runs."""
        flat = OmegaConf.create(self.cfg)
        settings = {k: OmegaConf.select(flat, k) for k in flat_keys(flat)}
        simple = {k: v if v is not None else "none" for k, v in settings.items() if not OmegaConf.is_config(v)}
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(simple, {f"final/{k.replace('/', '_')}": v for k, v in metrics.items()})
            logger.finalize("success")


def complete_config(cfg: DictConfig, run: Run) -> tuple[DictConfig, list[str]]:
    """The config with all that is left to us filled in, and the overrides that are this command line's own.

    Raises:
        UserError: where the run folder is already another run's.
    """
    hydra_cfg = HydraConfig.get()
    one_job_per_relaunch(hydra_cfg)
    overrides = list(hydra_cfg.overrides.task)
    drop_foreign_keys(cfg, overrides)
    if cfg.resume:
        overrides = overrides[len(run.overrides()) :]
        cfg = resumed_config(run.config(), cfg, overrides)
    elif run.exists and is_main_process():
        raise UserError(f"{run.path} already holds a run; go on with it by resume={run.path}, or name another folder")
    settle_length(cfg, overrides)
    if cfg.trainer.precision == "auto":
        cfg.trainer.precision = precision_for(cfg.trainer.accelerator)
    return cfg, overrides


def one_job_per_relaunch(hydra_cfg: Any) -> None:
    """In a sweep, let processes that Lightning starts by repeating the command line run this one job, not the sweep."""
    if hydra_cfg.mode == RunMode.MULTIRUN:
        sys.argv = [sys.argv[0], *hydra_cfg.overrides.task]


def resumed_config(saved: DictConfig, cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """The config that a run was started with, with what this command line changes."""
    saved.resume = cfg.resume
    for override in overrides:
        key = override.lstrip("+~").split("=")[0].split("@")[0]
        if key in ("experiment", "debug"):
            raise UserError(f"{key}= cannot be given with resume=, which goes on with the run's own config")
        if key != "resume":
            with open_dict(saved):
                OmegaConf.update(saved, key, OmegaConf.select(cfg, key), merge=False)
    return saved


def drop_foreign_keys(cfg: DictConfig, overrides: list[str]) -> None:
    """Where the command line exchanges a part, forget what the experiment says of it that the new one does not know.

    `experiment=mnist_ddpm net=mlp` must not fail because the experiment sets net.mults of its U-Net.
    """
    named = {o.lstrip("+~").split("=")[0]: o.split("=")[-1] for o in overrides}
    chosen = {k: v for k, v in named.items() if k in cfg and (CONF / k).is_dir()}
    alone = compose("train", ["~experiment", *(f"{group}={choice}" for group, choice in chosen.items())])
    for group in chosen:
        own = alone[group] if OmegaConf.is_dict(alone.get(group)) else {}
        for key in [k for k in cfg[group] or {} if k not in own]:
            if not any(name.startswith(f"{group}.{key}") for name in named):
                with open_dict(cfg):
                    del cfg[group][key]


def settle_length(cfg: DictConfig, overrides: list[str]) -> None:
    """Let the length given on the command line, in epochs or in steps, replace the one of the experiment."""
    given = {o.split("=")[0].lstrip("+") for o in overrides}
    if "trainer.max_epochs" in given and "trainer.max_steps" not in given:
        cfg.trainer.max_steps = -1
    if "trainer.max_steps" in given and "trainer.max_epochs" not in given:
        cfg.trainer.max_epochs = -1


def initial_checkpoint(cfg: DictConfig) -> Path | None:
    """The checkpoint whose weights a new run begins with."""
    return Run.find(cfg.init_from, cfg.paths.outputs).checkpoint("last") if cfg.init_from else None


def build_trainer(cfg: DictConfig) -> Any:
    """The trainer with its callbacks, loggers and our way of writing checkpoints."""
    callbacks = [instantiate(c) for c in cfg.callbacks.values() if c]
    loggers = [instantiate(c) for c in (cfg.logger or {}).values() if c]
    sharded = "FSDP" in str(cfg.trainer.strategy) or "fsdp" in str(cfg.trainer.strategy)
    plugins = None if sharded else [AtomicCheckpointIO()]
    return instantiate(cfg.trainer, callbacks=callbacks, logger=loggers, plugins=plugins)


def rewind_loggers(trainer: Any, step: int) -> None:
    """Forget what was logged after the checkpoint that a run goes on from, up to the kill."""
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV):
            logger.rewind(step)
        elif isinstance(logger, TensorBoardLogger):
            logger._kwargs["purge_step"] = step + 1


def describe(node: dict[str, Any]) -> str:
    """`Name(argument=value, ...)` of a node of the config, without what the code adds."""
    arguments = ", ".join(
        f"{k}={describe(v) if isinstance(v, dict) and '_target_' in v else v}" for k, v in node.items() if k[0] != "_"
    )
    name = node["_target_"].split(".")[-1]
    return f"{name}({arguments})" if arguments else name


def device_name(trainer: pl.Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def display(path: Path) -> Path:
    """A path as one would type it from here."""
    try:
        return path.absolute().relative_to(Path.cwd())
    except ValueError:
        return path


def is_main_process() -> bool:
    """Whether this process is the one that writes; known from the launcher's variables before there is a trainer."""
    return getattr(rank_zero_only, "rank", 0) == 0


def git_commit() -> str | None:
    """The commit of the working tree, or None."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True, timeout=5
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
