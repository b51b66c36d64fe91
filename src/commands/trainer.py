"""The Lightning trainer of a run, and the state that it starts from."""

from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.plugins.environments import SLURMEnvironment

from src.callbacks.sample_images import SampleImages
from src.loggers.metrics_csv import MetricsCSV
from src.module import DiffusionModule
from src.runs.loading import load_weights, strip_prefix
from src.runs.run import Run
from src.utils.checkpoints import GO_ON, REST, AtomicCheckpointIO, load_checkpoint
from src.utils.console import tolerating
from src.utils.files import read_tensors
from src.utils.fsdp import FSDP2Strategy
from src.utils.sharded import SHARDED, is_sharded

SECOND_TIME = "net.condition_embedding.step."


def build_trainer(cfg: DictConfig) -> Any:
    """Build the trainer with its callbacks, its loggers and atomic checkpoints."""
    callbacks = [instantiate(c) for c in cfg.callbacks.values() if c]
    loggers = [tolerant(instantiate(c)) for c in (cfg.logger or {}).values() if c]
    strategy = instantiate(cfg.trainer.strategy) if OmegaConf.is_config(cfg.trainer.strategy) else cfg.trainer.strategy
    plugins: list[Any] = [] if isinstance(strategy, FSDP2Strategy) else [AtomicCheckpointIO()]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # GracefulStop requeues, at the end of a step
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers, plugins=plugins, strategy=strategy)
    # Pictures after the checkpoint, which Lightning puts last: one that hangs or is killed then loses no training.
    trainer.callbacks.sort(key=lambda callback: isinstance(callback, SampleImages))
    return trainer


def tolerant(logger: Logger) -> Logger:
    """A logger whose failures, of a network or of a disk, do not end the run; only metrics.csv is needed by others."""
    if not isinstance(logger, MetricsCSV):
        for name in ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize"):
            setattr(logger, name, tolerating(f"logger {type(logger).__name__}")(getattr(logger, name)))
    return logger


def initial_checkpoint(cfg: DictConfig) -> Path | None:
    """The checkpoint of `init_from=`, whose weights a new run starts from; None without it."""
    if cfg.init_from is None:
        return None
    if cfg.get("pretrained") is not None:
        return Path(str(cfg.pretrained.path))
    named = Path(str(cfg.init_from))
    if named.suffix == ".ckpt":
        return Run.find(str(named.parent.parent)).checkpoint(named.stem)
    return Run.find(str(cfg.init_from), cfg.paths.outputs).checkpoint("last")


def load_weights_into(module: DiffusionModule, source: Path, sharded: bool = False) -> int:
    """Load the raw and the averaged weights of a checkpoint; returns its step.

    Args:
        module: the module to load them into.
        source: the checkpoint.
        sharded: True if the strategy itself loads sharded checkpoints later; then only the step is read.
    """
    if sharded and is_sharded(source):
        return read_tensors(source / SHARDED, REST, GO_ON)["global_step"]
    checkpoint = load_checkpoint(source)
    for model, prefix in ((module.denoiser, "denoiser."), (module.ema.model, "ema.model.")):
        weights = strip_prefix(checkpoint["state_dict"], prefix)
        load_weights(model, initial_second_time(model, weights) | weights, source)
    return checkpoint["global_step"]


def initial_second_time(model: Any, weights: dict[str, Any]) -> dict[str, Any]:
    """The weights of the second time of a flow map, which those of a denoiser lack: they begin as they are."""
    added = {key: value for key, value in model.state_dict().items() if key.startswith(SECOND_TIME)}
    return {} if added.keys() & weights.keys() else added


def load_pretrained(module: DiffusionModule, pretrained: DictConfig) -> None:
    """Load the network of a pretrained model as the raw and the averaged weights."""
    source = instantiate(pretrained)
    weights = {f"net.{key}": value for key, value in source.weights().items()}
    for model in (module.denoiser, module.ema.model):
        others = {key: value for key, value in model.state_dict().items() if not key.startswith("net.")}
        load_weights(model, others | weights, source.path)


def rewind_loggers(trainer: Any, step: int) -> None:
    """Remove what was logged after `step`, the checkpoint that a killed run resumes from."""
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV):
            logger.rewind(step)
        elif isinstance(logger, TensorBoardLogger):
            logger._kwargs["purge_step"] = step + 1 if step else 0


def destroy_process_group() -> None:
    """End the process group that Lightning started, so that the next job of a sweep can start its own."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
