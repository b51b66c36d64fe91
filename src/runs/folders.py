"""Folders of new runs and sweeps, and the OmegaConf resolvers that conf/ uses."""

import atexit
import itertools
import shutil
import tempfile
import textwrap
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import ListConfig, OmegaConf

from src.runs.check_config import muted
from src.runs.run import Run
from src.utils.paths import CONF, check_writable
from src.utils.processes import is_worker_rank


def run_folder(resume: str | None, parent: str) -> str:
    """The folder of the run to resume, or a new folder below `parent` named after the time.

    Registered with Hydra as the resolver `run_folder`.
    """
    if is_worker_rank():
        return placeholder_dir()
    return new_folder(parent) if resume is None else str(Run.find(str(resume)).path)


def sweep_folder(parent: str) -> str:
    """A new folder for a sweep. Registered with Hydra as the resolver `sweep_folder`."""
    return placeholder_dir() if is_worker_rank() else new_folder(parent)


def new_folder(parent: str) -> str:
    """Make a new folder below `parent`, named after the time; no two processes get the same one."""
    check_writable("paths.outputs", parent)
    name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for count in itertools.count(1):
        folder = Path(parent) / (name if count == 1 else f"{name}_{count}")
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return str(folder)
    raise AssertionError("unreachable")


@cache
def placeholder_dir() -> str:
    """A temporary folder for a worker process, which gets the run folder from rank 0 after Hydra needs one."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def clip_bound(data: str | None, units: Any = None) -> float | ListConfig | None:
    """The range of the samples in the units of the model, as `StaticClip` takes it.

    Registered with Hydra as the resolver `clip_bound`, which clip=auto uses.

    Args:
        data: the data class, of which images are in [-1, 1].
        units: the units of data that know their range.
    """
    if units is not None:
        from src.utils.units import Units  # imports torch, which --help does not need

        bound = Units.read(units).clip_bound
        return None if bound is None else OmegaConf.create(bound)
    try:
        with muted("hydra.utils"):  # it also logs what it raises
            return 1.0 if get_object(str(data)).kind == "images" else None
    except Exception:  # no such class: check_config reports the reason
        return None


def trains_flow_map(loss: str | None) -> bool:
    """True for the class of a loss that trains a flow map. Registered with Hydra as the resolver `trains_flow_map`."""
    try:
        with muted("hydra.utils"):  # it also logs what it raises
            return getattr(get_object(str(loss)), "trains_flow_map", False)
    except Exception:  # no such class: check_config reports the reason
        return False


def format_choices(group: str) -> str:
    """The names of a config group in lines of a help text, such as `clip: auto, none, static, dynamic`.

    Registered with Hydra as the resolver `choices`.
    """
    names = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
    return textwrap.fill(f"{group}: {names}", 112, subsequent_indent=" " * (len(group) + 2))


OmegaConf.register_new_resolver("choices", format_choices, use_cache=True, replace=True)
OmegaConf.register_new_resolver("clip_bound", clip_bound, replace=True)
OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True, replace=True)
OmegaConf.register_new_resolver("sweep_folder", sweep_folder, use_cache=True, replace=True)
OmegaConf.register_new_resolver("trains_flow_map", trains_flow_map, replace=True)
