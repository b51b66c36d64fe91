"""A training run: build it, announce it, train, and report its results."""

import copy
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
from pytorch_lightning.utilities import rank_zero_only

from src.callbacks.checkpoint import BestLastCheckpoint, Finishing, out_of_time
from src.callbacks.progress import Progress
from src.commands.acceleration import set_tf32, use_channels_last
from src.commands.cli import flat_keys, is_killed_loader, one_line_message
from src.commands.dry_pass import check_parts
from src.commands.restoring import check_resumable, restoring
from src.commands.run_setup import RunSetup
from src.commands.sources import record_sources
from src.commands.summary import after_training, before_training
from src.commands.trainer import (
    build_trainer,
    destroy_process_group,
    initial_checkpoint,
    load_pretrained,
    load_weights_into,
    rewind_loggers,
)
from src.commands.training_checks import (
    check_batches,
    check_callbacks,
    check_data_range,
    check_data_unchanged,
    check_labels,
    check_net_size,
    check_objective,
    check_sharding,
)
from src.data.base import DataModule
from src.module import DiffusionModule
from src.optim.lr_schedules import build_lr_schedule
from src.runs.git_state import git_commit
from src.runs.loading import build_denoiser
from src.runs.run import LOG, RECORD
from src.utils.atomic import require_exists
from src.utils.console import key_value_table, log, start_logging
from src.utils.errors import UserError, config_errors, is_out_of_memory
from src.utils.fsdp import FSDP2Strategy
from src.utils.hardware import CUDA_GRAPHS, autocast_dtype, compile_net, is_main_process, physical_memory
from src.utils.loop_counters import total_steps
from src.utils.seeding import derive_seed


class Training:
    """A run that is built and ready to train.

    Attributes:
        setup: its config and its folder; `cfg` is the resolved config as plain containers, and `run` the folder.
        data, module, trainer: its parts.
        resume: the checkpoint to resume from, or None.
    """

    trainer: Any

    def __init__(
        self, setup: RunSetup, data: DataModule, module: DiffusionModule, trainer: pl.Trainer, resume: Path | None
    ):
        self.setup, self.cfg, self.run = setup, setup.plain, setup.run
        self.data, self.module, self.trainer, self.resume = data, module, trainer, resume
        self.acceleration: dict[str, bool] = {}

    # ---- before ----

    @classmethod
    def prepare(cls, setup: RunSetup) -> "Training":
        """Lock the folder, build the parts, check that they fit together, and write the config.

        Raises:
            UserError: for every mistake that can be found before the training starts.
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
        if setup.auto_batch:
            from src.commands.batch_size import find_batch_size  # with torch's fake tensors, which take a while

            tried = copy.deepcopy(cfg)  # instantiating resolves for good what refers to the batch size
            setup.set_batch_size(find_batch_size(tried, run, setup.resumes, data, build_trainer(tried)))
            data.batch_size = cfg.data.batch_size
        module = build_initial_module(cfg)
        check_labels(module.denoiser.condition, data)
        source = resume or initial_checkpoint(cfg)
        training = cls(setup, data, module, build_trainer(cfg), resume)
        step = training._load(source)
        training._check(source)
        if is_main_process():
            training._prepare_folder(step)
        return training

    def _load(self, source: Path | None) -> int:
        """Load the weights of a checkpoint, if any; returns its step."""
        if source is not self.resume and self.setup.cfg.get("pretrained") is not None:
            load_pretrained(self.module, self.setup.cfg.pretrained)
            if self.trainer.max_steps == 0:  # it is validated and saved as it is
                self.trainer.fit_loop.__class__ = Finishing
            return 0
        sharded = source is self.resume and isinstance(self.trainer.strategy, FSDP2Strategy)
        step = load_weights_into(self.module, source, sharded) if source is not None else 0
        if self.resume is not None and not self.run.is_reported(step):
            self.trainer.fit_loop.__class__ = Finishing
        return step

    def _check(self, source: Path | None) -> None:
        """Check the parts against each other, and make the net ready for the device."""
        cfg, trainer = self.setup.cfg, self.trainer
        check_callbacks(trainer.callbacks, self.module, source)
        self._accelerate()
        if isinstance(trainer.strategy, FSDP2Strategy):
            check_sharding(self.module, trainer.callbacks)
        check_objective(cfg.sweep.objective, trainer.callbacks)
        self.data.check_batch_size(trainer.world_size)

    def _accelerate(self) -> None:
        """Set TF32 and channels_last, and compile the net, as the config says.

        Raises:
            UserError: for settings that exclude each other.
        """
        cfg, trainer, device = self.setup.cfg, self.trainer, self.trainer.strategy.root_device
        layout = cfg.channels_last
        if isinstance(trainer.strategy, FSDP2Strategy):
            if layout is True:
                raise UserError("channels_last=true cannot be used with trainer=fsdp, which needs contiguous weights")
            layout = False
        half = autocast_dtype(str(trainer.precision)) is not None
        self.acceleration = {
            "tf32": set_tf32(cfg.tf32, device),
            "channels_last": use_channels_last(layout, self.module, device, half),
        }
        if device.type == "cuda" and cfg.compile in CUDA_GRAPHS and trainer.accumulate_grad_batches > 1:
            raise UserError(
                f"compile={cfg.compile} uses CUDA graphs, which overwrite accumulated gradients; set compile=true or "
                "trainer.accumulate_grad_batches=1"
            )
        if cfg.compile:
            compile_net(self.module.denoiser.net, device, cfg.compile)

    def _prepare_folder(self, step: int) -> None:
        """Load the data, check that the run can start or resume from `step`, and write its config."""
        setup, cfg, run, data, trainer = self.setup, self.setup.cfg, self.run, self.data, self.trainer
        data.prepare_data()
        data.setup("fit")
        data.check_batch_size(trainer.world_size)
        data.check_samples()
        with config_errors("condition"):
            self.module.denoiser.condition.check_data(data.train_set[0, torch.arange(1)], len(data.train_set))
        check_batches(trainer, data)
        check_data_range(self.module, data)
        planned = total_steps(trainer, data.train_batches)
        with config_errors("optimizer"):
            spare = instantiate(cfg.optimizer)([torch.nn.Parameter(torch.zeros(1))])
        with config_errors("lr_schedule"):  # which may refuse that number of steps
            schedule = build_lr_schedule(instantiate(cfg.lr_schedule), spare, planned)
        check_parts(cfg, self.module, data, trainer)
        if self.resume is None:
            if run.exists:  # it was stopped before its first checkpoint
                rewind_loggers(trainer, 0)
            if not (run.exists and cfg.resume):
                run.create(setup.plain, setup.overrides, key=setup.key)
        elif 0 < planned <= step and run.is_reported(step):
            raise UserError(f"this run is finished, at step {step}; make it longer with trainer.max_steps={2 * step}")
        else:
            check_resumable(self.resume, trainer, spare, schedule)
            check_data_unchanged(run, data, cfg.resume_changed_data)
            rewind_loggers(trainer, step)

    @rank_zero_only
    def announce(self) -> None:
        """Print a summary of the run, and write it to its metadata."""
        cfg, denoiser = self.cfg, self.module.denoiser
        rows = before_training(cfg, self.data, denoiser, self.trainer, self.run.path, self.resume)
        if facts := self.setup.batch_facts:
            from src.commands.batch_size import announcement

            rows.insert(-2, ("batch", announcement(facts, cfg["optimizer"].get("lr"))))
            self.update_metadata(**({"batch_size": facts} if "device" in facts else {}))
        log.info(f"\nTraining {cfg['name']}\n{key_value_table(rows)}\n")
        if self.data.warning:
            log.warning(f"WARNING: {self.data.warning}\n")
        for override in self.setup.unused:
            log.warning(f"WARNING: {override} has no effect here: no other part of this run takes it\n")
        self.update_metadata(
            name=cfg["name"],
            data=self.data.source,
            data_warning=self.data.warning,
            data_identity=self.data.identity(),
            kind=self.data.kind,
            units=self.data.units.as_dict(),
            classes=getattr(self.data, "class_names", None),
            vector_names=getattr(self.data, "vector_names", None),
            parameters=sum(p.numel() for p in denoiser.net.parameters()),
            precision=self.trainer.precision,
            **self.acceleration,
            torch=torch.__version__,
            lightning=pl.__version__,
            python=platform.python_version(),
            commit=git_commit(),
            **record_sources(self.run.path, cfg),
            command=shlex.join(sys.argv),
            failed=None,
        )
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and self.resume is None:
                logger.experiment.add_text("config", f"```yaml\n{yaml.safe_dump(cfg, sort_keys=False)}```")

    def update_metadata(self, **metadata: Any) -> None:
        """Add to the run's metadata.

        Raises:
            UserError: if its file is gone, probably with its folder.
        """
        require_exists(self.run.path, RECORD)
        self.run.update_metadata(**metadata)

    # ---- the run ----

    def fit(self) -> None:
        """Train, from the checkpoint to resume from if there is one."""
        try:
            with restoring(self.resume):
                self.trainer.fit(self.module, self.data, ckpt_path=self.resume)
        except Exception as error:
            if getattr(error, "exit_code", 1) >= 128:
                raise
            message = self.message_of(error)
            if is_main_process():
                self.update_metadata(failed=message)
            if is_out_of_memory(error):
                raise UserError(message) from error
            if is_killed_loader(error):
                raise UserError(f"{message}. Resume it with: python -m src.train resume={self.run.path}") from error
            raise
        finally:
            destroy_process_group()
            self.setup.unlock_folder()

    def message_of(self, error: Exception) -> str:
        """The one line about an error that ended the training."""
        if not is_out_of_memory(error):
            return one_line_message(error)
        from src.commands.out_of_memory import training_message

        return training_message(error, self.setup.cfg, self.run, self.setup.overrides, self.trainer)

    # ---- after ----

    @rank_zero_only
    def report(self) -> None:
        """Write the results to the run's metadata, and print them with the commands to run next."""
        checkpoints = next(c for c in self.trainer.checkpoint_callbacks if isinstance(c, BestLastCheckpoint))
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
        self.update_metadata(results=results, note=note, finished=not self.out_of_time)
        self.log_hyperparameters({k: v for k, v in results.items() if v is not None})
        rows = after_training(self.cfg, self.trainer, self.run.path, results, self.out_of_time)
        log.info(f"\n{'Out of time' if self.out_of_time else 'Done'}\n{key_value_table(rows)}")

    @property
    def out_of_time(self) -> bool:
        """True if trainer.max_time stopped the run before its last step."""
        return out_of_time(self.trainer) and self.trainer.global_step < self.module.total_steps()

    def log_hyperparameters(self, metrics: dict[str, float]) -> None:
        """Log the settings with the final metrics, for TensorBoard's table of runs."""
        flat = OmegaConf.create(self.cfg)
        settings = {k: OmegaConf.select(flat, k) for k in flat_keys(flat)}
        simple = {k: v if v is not None else "none" for k, v in settings.items() if not OmegaConf.is_config(v)}
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(simple, {f"final/{k.replace('/', '_')}": v for k, v in metrics.items()})
            logger.finalize("success")


def build_initial_module(cfg: DictConfig) -> DiffusionModule:
    """Build the module, with initial weights from the seed.

    Raises:
        UserError: for a net that does not fit in memory, and for parts that do not go together.
    """
    check_net_size(cfg, physical_memory())
    torch.manual_seed(derive_seed(cfg.seed, "initial weights"))
    denoiser = build_denoiser(cfg)
    with config_errors("module"):
        module: DiffusionModule = instantiate(cfg.module)(denoiser=denoiser)
    with config_errors("sampler"):  # it is built again for each grid of samples, the first of which is minutes away
        instantiate(cfg.sampler)(schedule=denoiser.schedule).times()
    return module
