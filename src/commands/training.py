"""One training run, from its config to its report."""

import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities import rank_zero_only

from src.callbacks.checkpoints import Checkpoints, Finishing, out_of_time
from src.callbacks.denoising import DenoisingTest
from src.callbacks.finetune import FineTune
from src.callbacks.progress import Progress
from src.callbacks.quality import Quality
from src.commands.cli import flat_keys, one_line_message
from src.commands.restoring import check_resumable, restoring
from src.commands.run_setup import RunSetup
from src.commands.summary import after_training, before_training
from src.data.base import DataModule
from src.diffusion.conditions import Condition, Labels
from src.loggers.metrics_csv import MetricsCSV
from src.module import DiffusionModule
from src.optim.ema import Power
from src.optim.lr_schedules import build_lr_schedule
from src.runs.data_identity import data_changes
from src.runs.loading import build_denoiser, load_weights, strip_prefix
from src.runs.run import LOG, RECORD, Run, git_commit
from src.utils.atomic import check_still_there
from src.utils.checkpoints import GO_ON, REST, AtomicCheckpointIO, load_checkpoint
from src.utils.console import log, start_logging, table
from src.utils.errors import UserError, config_errors
from src.utils.files import read_tensors
from src.utils.fsdp import FullyShard
from src.utils.hardware import compile_net, is_main_process, physical_memory
from src.utils.loop_counters import planned_steps
from src.utils.seeding import derive_seed
from src.utils.sharded import SHARDED, is_sharded

NEEDED = {"checkpoints": Checkpoints, "progress": Progress}
# What a search can look at, beside what callbacks measure.
RESULTS = ("best_val_loss", "best_step", "steps", "seconds", "samples_per_second", "parameters")


class Training:
    """The parts of a run.

    Attributes:
        settled: its settings and its folder; `cfg` is the whole config, resolved, and `run` the run folder.
        data, module, trainer: what they say.
        resume: the checkpoint to go on from, or None.
    """

    trainer: Any

    def __init__(
        self,
        setup: RunSetup,
        data: DataModule,
        module: DiffusionModule,
        trainer: pl.Trainer,
        resume: Path | None,
    ):
        self.setup, self.cfg, self.run = setup, setup.plain, setup.run
        self.data, self.module, self.trainer, self.resume = data, module, trainer, resume

    # ---- before ----

    @classmethod
    def prepare(cls, setup: RunSetup) -> "Training":
        """Build the parts.

        Raises:
            UserError: for every mistake that can be seen before the training starts.
        """
        if is_main_process():
            setup.lock_folder()
        try:
            return cls._prepare(setup)
        except BaseException:
            setup.discard_folder()
            raise

    @classmethod
    def _prepare(cls, setup: RunSetup) -> "Training":
        cfg, run = setup.cfg, setup.run
        resume = run.checkpoint("last") if setup.resumes else None
        start_logging(run.path / LOG if is_main_process() else None)

        data: DataModule = instantiate(cfg.data)
        check_size(cfg, physical_memory())
        torch.manual_seed(derive_seed(cfg.seed, "initial weights"))
        denoiser = build_denoiser(cfg)
        with config_errors("module"):
            module: DiffusionModule = instantiate(cfg.module)(denoiser=denoiser)
        with config_errors("sampler"):  # made anew for each grid, the first of which is minutes away
            instantiate(cfg.sampler)(schedule=denoiser.schedule).times()
        check_labels(denoiser.condition, data)
        source = resume or initial_checkpoint(cfg)
        trainer = build_trainer(cfg)
        apart = source is resume and isinstance(trainer.strategy, FullyShard)
        step = load_weights_into(module, source, apart) if source is not None else 0
        if resume is not None and not run.is_reported(step):
            trainer.fit_loop.__class__ = Finishing
        check_callbacks(trainer.callbacks, module, source)
        if cfg.compile:
            compile_net(denoiser.net, trainer.strategy.root_device)
        if isinstance(trainer.strategy, FullyShard):
            check_sharding(module, trainer.callbacks)
        check_objective(cfg.sweep.objective, trainer.callbacks)
        data.check_batch_size(trainer.world_size)
        if is_main_process():
            data.prepare_data()
            data.setup("fit")
            data.check_batch_size(trainer.world_size)
            data.check_samples()
            with config_errors("condition"):
                denoiser.condition.check_data(data.train_set[0, torch.arange(1)], len(data.train_set))
            check_batches(trainer, data)
            if getattr(module.loss, "bounded_data", False):
                with config_errors("loss"):
                    module.loss.check_data(data.val_set[0, torch.arange(min(64, len(data.val_set)))]["x"])
            planned = planned_steps(trainer, data.train_batches)
            with config_errors("optimizer"):
                spare = instantiate(cfg.optimizer)([torch.nn.Parameter(torch.zeros(1))])
            with config_errors("lr_schedule"):  # which may refuse that length
                schedule = build_lr_schedule(instantiate(cfg.lr_schedule), spare, planned)
            if resume is None:
                if run.exists:  # and was ended before its first checkpoint
                    rewind_loggers(trainer, 0)
                if not (run.exists and cfg.resume):
                    run.create(setup.plain, setup.overrides, key=setup.key)
            elif 0 < planned <= step and run.is_reported(step):
                raise UserError(
                    f"this run is finished, at step {step}; make it longer with trainer.max_steps={2 * step}"
                )
            else:
                check_resumable(resume, trainer, spare, schedule)
                check_data(run, data, cfg.resume_changed_data)
                rewind_loggers(trainer, step)
        return cls(setup, data, module, trainer, resume)

    @rank_zero_only
    def announce(self) -> None:
        """Say in a screenful what is about to happen, and keep it in the run's record."""
        cfg, parameters = self.cfg, sum(p.numel() for p in self.module.denoiser.net.parameters())
        log.info(f"\nTraining {cfg['name']}\n{table(before_training(self, parameters))}\n")
        if self.data.warning:
            log.warning(f"WARNING: {self.data.warning}\n")
        self.record(
            name=cfg["name"],
            data=self.data.source,
            data_warning=self.data.warning,
            data_identity=self.data.identity(),
            kind=self.data.kind,
            classes=getattr(self.data, "class_names", None),
            parameters=parameters,
            precision=self.trainer.precision,
            torch=torch.__version__,
            lightning=pl.__version__,
            python=platform.python_version(),
            commit=git_commit(),
            command=shlex.join(sys.argv),
            failed=None,
        )
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and self.resume is None:
                logger.experiment.add_text("config", f"```yaml\n{yaml.safe_dump(cfg, sort_keys=False)}```")

    def record(self, **facts: Any) -> None:
        """Add facts to the run's record.

        Raises:
            UserError: where that is gone, with its folder most likely.
        """
        check_still_there(self.run.path, RECORD)
        self.run.update_metadata(**facts)

    # ---- the run ----

    def fit(self) -> None:
        """Train; go on from the checkpoint where there is one."""
        try:
            with restoring(self.resume):
                self.trainer.fit(self.module, self.data, ckpt_path=self.resume, weights_only=True)
        except Exception as error:
            if getattr(error, "exit_code", 1) >= 128:
                raise
            message = one_line_message(error)
            if is_main_process():
                self.record(failed=message)
            if "DataLoader worker" in str(error):
                raise UserError(f"{message}. Go on with: python -m src.train resume={self.run.path}") from error
            raise
        finally:
            leave_process_group()
            self.setup.unlock_folder()

    # ---- after ----

    @rank_zero_only
    def report(self) -> None:
        """Say what came out, and what to do next."""
        checkpoints = next(c for c in self.trainer.checkpoint_callbacks if isinstance(c, Checkpoints))
        progress = next(c for c in self.trainer.callbacks if isinstance(c, Progress))
        metrics = {k: float(v) for k, v in self.trainer.callback_metrics.items()}
        results = {
            "best_val_loss": checkpoints.best,
            "best_step": checkpoints.best_step,
            "steps": self.trainer.global_step,
            "seconds": round(progress.elapsed, 1),
            "samples_per_second": round(progress.mean_rate, 1),
            **metrics,
        }
        results |= {k: v for c in self.trainer.callbacks for k, v in getattr(c, "results", {}).items()}
        note = [f"{name}: {text}" for c in self.trainer.callbacks for name, text in getattr(c, "report", [])]
        self.record(results=results, note=note, finished=not self.out_of_time)
        self.log_hyperparameters({k: v for k, v in results.items() if v is not None})
        log.info(f"\n{'Out of time' if self.out_of_time else 'Done'}\n{table(after_training(self, results))}")

    @property
    def out_of_time(self) -> bool:
        """Whether trainer.max_time has stopped the run before its last step."""
        return out_of_time(self.trainer) and self.trainer.global_step < self.module.planned_steps()

    def log_hyperparameters(self, metrics: dict[str, float]) -> None:
        """The settings beside the final metrics, for TensorBoard's table of runs."""
        flat = OmegaConf.create(self.cfg)
        settings = {k: OmegaConf.select(flat, k) for k in flat_keys(flat)}
        simple = {k: v if v is not None else "none" for k, v in settings.items() if not OmegaConf.is_config(v)}
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(simple, {f"final/{k.replace('/', '_')}": v for k, v in metrics.items()})
            logger.finalize("success")


def initial_checkpoint(cfg: DictConfig) -> Path | None:
    """The checkpoint whose weights a new run begins with."""
    if cfg.init_from is None:
        return None
    return Run.find(str(cfg.init_from), cfg.paths.outputs).checkpoint("last")


def check_data(run: Run, data: DataModule, allowed: bool) -> None:
    """Refuse to go on with other data than the run was trained on, or warn of it where it is allowed.

    Raises:
        UserError: saying what has changed.
    """
    changed = data_changes(run.metadata().get("data_identity"), data.identity())
    if changed and not allowed:
        raise UserError(
            f"{changed}. Bring them back, or go on with what is there by resume_changed_data=true; samples that were "
            "trained on may then be validated on"
        )
    if changed:
        data.warn(changed)


def check_objective(names: Any, callbacks: list[pl.Callback]) -> None:
    """Refuse to train for a result that there will not be.

    Raises:
        UserError: naming it.
    """
    for name in [names] if isinstance(names, str) else names:
        if "/" not in name and name not in RESULTS:
            there = ", ".join(RESULTS)
            raise UserError(
                f"sweep.objective={name} is no result of a run. Choices: {there}, quality/frechet and so on"
            )
        if name.startswith("quality/") and not any(isinstance(c, Quality) for c in callbacks):
            raise UserError(f"sweep.objective={name} is measured by callbacks=quality only; add it")


def check_size(cfg: DictConfig, memory: float | None) -> None:
    """Refuse a net that cannot be held, seen on tensors without contents, since to make it would take the machine down.

    Args:
        cfg: the settings.
        memory: bytes that there are; None where that is not known.

    Raises:
        UserError: naming the number of parameters.
    """
    number = 0
    try:
        number = sum(p.numel() for p in build_denoiser(cfg, torch.device("meta")).parameters())
    except Exception as error:  # what else is wrong with the parts is said where they are made
        if "overflow" in str(error):
            raise UserError("net: a tensor of it has more than 2^63 bytes; use a smaller net") from error
    if memory is not None and 8 * number > memory:  # float32, and an average of it
        raise UserError(
            f"net: {number:,} parameters and their average take {8 * number / 2**30:,.0f} GiB, but this machine has "
            f"{memory / 2**30:,.0f}; use a smaller net"
        )


def check_callbacks(callbacks: list[pl.Callback], module: DiffusionModule, source: Path | None) -> None:
    """Refuse callbacks of which one is missing, or that want weights where there are none from before.

    Raises:
        UserError: naming it.
    """
    for name, kind in NEEDED.items():
        if not any(isinstance(callback, kind) for callback in callbacks):
            raise UserError(f"callbacks.{name} is needed: a run is kept and reported by it; leave it in")
    for callback in callbacks:
        if isinstance(callback, FineTune):
            callback.check(module)
            if source is None:
                raise UserError("callbacks=finetune trains what was trained before; name it by init_from=RUN")


def check_labels(condition: Condition, data: DataModule) -> None:
    """Refuse another number of labels than the data have.

    Raises:
        UserError: naming both numbers.
    """
    if isinstance(condition, Labels) and condition.num_classes != data.num_classes:
        raise UserError(
            f"condition.num_classes must be data.num_classes={data.num_classes}, got {condition.num_classes}; leave it "
            "out"
        )


def check_batches(trainer: Any, data: DataModule) -> None:
    """Refuse shares of an epoch that come to no batch, and a validation that an epoch is too short for.

    Raises:
        UserError: naming the setting, and the number of batches.
    """
    epoch = data.train_batches
    for name in ("limit_train_batches", "limit_val_batches", "val_check_interval"):
        share = getattr(trainer, name)
        batches = -(-len(data.val_set) // data.batch_size) if name == "limit_val_batches" else epoch
        if isinstance(share, float) and int(share * batches) < 1:
            raise UserError(f"trainer.{name}={share} of {batches} batches is none; use at least {1 / batches:.2g}")
    every = trainer.val_check_interval
    if trainer.check_val_every_n_epoch is not None and isinstance(every, int) and every > epoch:
        raise UserError(
            f"trainer.val_check_interval={every} is more than the {epoch} batches of an epoch; "
            "use trainer.check_val_every_n_epoch=null to count batches over epochs"
        )


def check_sharding(module: DiffusionModule, callbacks: list[pl.Callback]) -> None:
    """Refuse what one process does alone with weights that are split among several.

    Raises:
        UserError: naming it.
    """
    alone = [type(c).__name__ for c in callbacks if isinstance(c, Quality | DenoisingTest | FineTune)]
    if isinstance(module.ema, Power):
        alone.append("ema=power, whose snapshots one process writes")
    if any(True for _ in module.denoiser.schedule.parameters()):
        alone.append("schedule=learned, which all processes read between two steps")
    if alone:
        raise UserError(f"trainer=fsdp splits the weights, but all of them are needed by {alone[0]}; use trainer=ddp")


def leave_process_group() -> None:
    """End what Lightning started for several processes, so that the next job of a sweep can start its own."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def load_weights_into(module: DiffusionModule, source: Path, apart: bool = False) -> int:
    """Load raw and averaged weights from a checkpoint; returns the step that it was written at.

    Args:
        module: to load them into.
        source: the checkpoint.
        apart: whether the strategy reads each process its part of a sharded one, later; then only its step is read.
    """
    if apart and is_sharded(source):
        return read_tensors(source / SHARDED, REST, GO_ON)["global_step"]
    checkpoint = load_checkpoint(source)
    load_weights(module.denoiser, strip_prefix(checkpoint["state_dict"], "denoiser."), source)
    load_weights(module.ema.model, strip_prefix(checkpoint["state_dict"], "ema.model."), source)
    return checkpoint["global_step"]


def build_trainer(cfg: DictConfig) -> Any:
    """The trainer with its callbacks, loggers and our way of writing checkpoints."""
    callbacks = [instantiate(c) for c in cfg.callbacks.values() if c]
    loggers = [instantiate(c) for c in (cfg.logger or {}).values() if c]
    strategy = instantiate(cfg.trainer.strategy) if OmegaConf.is_config(cfg.trainer.strategy) else cfg.trainer.strategy
    plugins: list[Any] = [] if isinstance(strategy, FullyShard) else [AtomicCheckpointIO()]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # GracefulStop does it, at the end of a step
    return instantiate(cfg.trainer, callbacks=callbacks, logger=loggers, plugins=plugins, strategy=strategy)


def rewind_loggers(trainer: Any, step: int) -> None:
    """Forget what was logged after the checkpoint that a run goes on from, up to the kill."""
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV):
            logger.rewind(step)
        elif isinstance(logger, TensorBoardLogger):
            logger._kwargs["purge_step"] = step + 1 if step else 0
