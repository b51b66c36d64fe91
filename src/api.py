"""The Python API: compose a config, train, load the pipeline of a run, evaluate it.

Overrides are those of the command line: ``load("latest", "sampler=heun", "sampler.steps=20")``. Parts may be given as
objects instead of being named by the config. docs/python.md shows the use.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from src.commands.config import drop_incompatible_keys, resolve_length
from src.commands.python_session import hydra_session, without_hydra
from src.runs.folders import new_folder, placeholder_dir
from src.runs.given import giving, node_of
from src.runs.own_code import same_code_after
from src.runs.run import Run
from src.runs.trust import trust_configs
from src.utils.override_syntax import assignment, read

if TYPE_CHECKING:  # torch and Lightning take seconds to import
    from torch import nn

    from src.data.base import DataModule
    from src.diffusion import Condition, Loss, Schedule
    from src.samplers import Pipeline

__all__ = ["Parts", "Run", "compose", "evaluate", "load", "train"]


class Parts(TypedDict, total=False):
    """Parts that are given as objects, in place of those that the config names."""

    data: "DataModule"
    net: "nn.Module"
    loss: "Loss"
    condition: "Condition"
    schedule: "Schedule"


def compose(*overrides: str, conf: str | Path | None = None) -> DictConfig:
    """Compose the config of a training run, with which `train` is called; it may be changed before.

    Args:
        overrides: as on the command line of src.train, such as "experiment=digits_ddpm" or "resume=latest".
        conf: a folder of your own choices, as --config-dir names.

    Raises:
        UserError: for a choice or a key that does not exist.
    """
    folder = None if conf is None else str(Path(conf).absolute())
    with hydra_session("train", overrides, folder) as cfg:
        words = [str(word) for word in cfg.hydra.overrides.task]
        own = without_hydra(cfg)
        own.name = cfg.hydra.runtime.choices.experiment
        if own.resume is None:
            drop_incompatible_keys(own, words)
            resolve_length(own, words)
    vars(own)["composed_from"] = (tuple(overrides), words, folder)
    return own


def train(cfg: DictConfig, folder: str | Path | None = None, *, trust: bool = False, **parts: Unpack[Parts]) -> Run:
    """Train the model of a config, as src.train does; returns its run.

    Args:
        cfg: what `compose` returned.
        folder: the run folder; by default a new one below outputs/train.
        trust: True to resume a run whose config names code outside this project.
        parts: objects in place of parts of the config. Their run is loaded with objects too: `load(run, net=...)`.

    Raises:
        UserError: for every mistake that can be found before the training starts.
    """
    overrides, words, conf = vars(cfg).get("composed_from", ((), [], None))
    own = with_parts(cfg, parts)
    place = run_folder(own, folder)
    with session("train", overrides, conf, place, trust, parts) as composed:
        from src.commands.run_setup import setup_run
        from src.commands.training import Training

        with read_write(composed.hydra):  # the overrides are in the config already, and it may have changed since
            composed.hydra.overrides.task = words if own.resume is not None else []
        setup = setup_run(own)
        setup.overrides = setup.overrides or [word for word in words if read(word).key != "resume"]
        if not setup.finished:
            training = Training.prepare(setup)
            training.announce()
            training.fit()
            training.report()
        return setup.run


def load(run: Run | str | Path = "latest", *overrides: str, trust: bool = False, **parts: Unpack[Parts]) -> "Pipeline":
    """Load the pipeline of a run, which draws samples; tasks work with it.

    Args:
        run: the run, its folder, or latest.
        overrides: as on the command line of src.sample, such as "ckpt=last" or "sampler=heun"; without them the run's
            own sampler, guidance and averaged weights of best.ckpt.
        trust: True to run code that the run names outside this project, from its own folder.
        parts: the objects that the run was trained with, if it was trained with objects.

    Raises:
        UserError: if the run cannot be loaded.
    """
    words = [assignment("run", run_path(run)), *overrides]
    # Not within same_code_after: the model may import more of its own code when it is called.
    with trust_configs(trust), giving(dict(parts)), hydra_session("sample", words) as cfg:
        from src.commands.sampling import Sampling

        named = {read(word).key for word in words}
        pipeline = Sampling.prepare(without_hydra(cfg), named).pipeline
    if not {"label", "n"} & named and not any(key.startswith("condition") for key in named):
        pipeline.cond = None  # of n samples; others are drawn by the condition
    return pipeline


def evaluate(
    run: Run | str | Path = "latest", *overrides: str, trust: bool = False, **parts: Unpack[Parts]
) -> dict[str, float]:
    """Evaluate a run as src.evaluate does, with its report in the run folder; returns the metrics by name.

    Args:
        run, trust, parts: see `load`.
        overrides: as on the command line of src.evaluate, such as "n=2000" or "metrics=[distances]".

    Raises:
        UserError: for a metric that does not apply, and if the run cannot be loaded.
    """
    words = [assignment("run", run_path(run)), *overrides]
    with session("evaluate", words, None, ".", trust, parts) as cfg:
        from src.commands.evaluation import Evaluation

        evaluation = Evaluation.prepare(without_hydra(cfg), {read(word).key for word in words})
        context = evaluation.draw()
        sections = evaluation.compute_metrics(context)
        evaluation.write(context, sections)
    return {name: value.value for section in sections.values() for name, value in section.values.items()}


# ---- what they share ----


@contextmanager
def session(
    command: str, overrides: Sequence[str], conf: str | None, folder: str, trust: bool, parts: Parts
) -> Iterator[DictConfig]:
    """A job of a command in this process, with parts that are given as objects."""
    job = hydra_session(command, overrides, conf, folder)
    with trust_configs(trust), same_code_after(), giving(dict(parts)), job as cfg:
        yield cfg


def with_parts(cfg: DictConfig, parts: Parts) -> DictConfig:
    """A copy of a config with nodes for the parts that are given as objects."""
    own = OmegaConf.masked_copy(cfg, list(cfg))
    with open_dict(own):
        for part, value in parts.items():
            own[part] = node_of(part, value)
        if "data" in parts and OmegaConf.is_interpolation(own.clip, "bound"):
            own.clip.bound = parts["data"].units.clip_bound
    return own


def run_folder(cfg: DictConfig, folder: str | Path | None) -> str:
    """The folder of a run to train: that of the run to resume, the one given, or a new one."""
    if cfg.resume is not None:
        return str(Run.find(str(cfg.resume), cfg.paths.outputs).path)
    from src.utils.hardware import is_main_process

    if not is_main_process():
        return placeholder_dir()
    return new_folder(f"{cfg.paths.outputs}/train/{cfg.name}") if folder is None else str(Path(folder))


def run_path(run: Run | str | Path) -> str:
    """The path of a run, or latest."""
    return str(run.path if isinstance(run, Run) else run)
