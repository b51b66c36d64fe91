"""Keep in the run folder what a run is made of: the user's own code and choices, and the state of the git tree."""

import shutil
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from src.runs.git_state import save_changes
from src.runs.own_code import save_code
from src.utils.atomic import atomic_write
from src.utils.override_syntax import assignment, read
from src.utils.paths import CONF

FOLDER = "conf"
SEARCHPATH = "hydra.searchpath"
MAX_FILES = 200  # of one folder


def record_sources(run: Path, cfg: dict[str, Any]) -> dict[str, Any]:
    """Copy the user's own modules and choices of a run to its folder; returns the entries of run.json.

    Args:
        run: the run folder.
        cfg: the config as plain containers, whose parts are built.
    """
    changes = save_changes(run)
    save_choices(run, changes.get("untracked", {}))
    return save_code(run, cfg) | changes


def save_choices(run: Path, untracked: dict[str, Any]) -> None:
    """Copy the YAML files of own folders of choices, and those in conf/ that git does not know.

    Args:
        run: the run folder.
        untracked: files that git does not know, by their path in the project.
    """
    for folder in [*own_folders(), CONF]:
        files = sorted(folder.rglob("*.yaml"))[:MAX_FILES]
        if folder == CONF:
            files = [CONF.parent / name for name in untracked if name.startswith("conf/") and name.endswith(".yaml")]
        for file in files:
            copy = run / FOLDER / file.relative_to(folder)
            if file != copy:
                with atomic_write(copy) as partial:
                    shutil.copyfile(file, partial)


def own_folders() -> list[Path]:
    """The folders of choices that the command line names, by --config-dir or hydra.searchpath."""
    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    found = [Path(source.path) for source in sources if source.schema == "file"]
    return [folder.absolute() for folder in found if folder.is_dir() and folder.resolve() != CONF]


def saved_choices(run: Path, overrides: list[str]) -> list[str]:
    """The override that makes Hydra find the choices in a run folder, if there are any.

    Args:
        run: the run folder.
        overrides: those of the command line.
    """
    folder = (run / FOLDER).absolute()
    if not folder.is_dir() or any(read(word).key == SEARCHPATH for word in overrides):
        return []
    return [assignment(SEARCHPATH, [f"file://{folder}"])]
