"""Run folders: where they are, what is in them, and how a model is rebuilt from one."""

import os
import re
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from src import __version__
from src.runs.check_config import check_config
from src.runs.data_identity import data_id, identifying_settings
from src.runs.trust import check_trusted_config
from src.utils.atomic import restore_backup, write_json, write_text
from src.utils.errors import UserError, file_errors
from src.utils.files import Damaged, check, read_json, read_yaml, reading

CONFIG, RECORD, LOG = "config.yaml", "run.json", "train.log"
CONFIG_ADVICE = "Take it from another run of the same settings"
OLDEST = (0, 2)  # the first version whose runs can be loaded
# What run.json says, as far as others rely on it.
TEXT = (str, type(None))
FACTS = {"overrides?": [str], "key?": str, "name?": TEXT, "data_warning?": TEXT, "failed?": TEXT, "finished?": bool,
         "classes?": (list, type(None)), "parameters?": int, "kind?": TEXT,
         "data_identity?": (dict, type(None)), "results?": {"steps": int, "seconds": float}}  # fmt: skip
# What config.yaml says, as far as others rely on it.
PART = {"_target_": str}
SETTINGS = {
    "name": str, "seed": int, "self_conditioning_prob": (float, bool),
    "paths": {"run": str, "outputs": str, "data": str},
    "data": PART | {"channels": int, "size": [int], "batch_size": int, "num_classes": int},
    "net": PART, "condition": PART, "schedule": PART, "parameterization": PART, "variance": PART, "time_sampler": PART,
    "module": PART, "trainer": PART | {"max_steps": int}, "callbacks": dict,
    "loss?": PART, "ema?": PART, "optimizer?": PART, "lr_schedule?": PART, "logger?": (dict, type(None)),
    "sampler": PART, "time_grid": PART, "clip": PART, "guidance": dict,
}  # fmt: skip
# Parts that are rebuilt whatever is done with a run.
REBUILT = ("data", "net", "condition", "schedule", "parameterization", "variance", "time_sampler")
# The groups that say how to sample; those of the run itself unless the command line names others.
SAMPLING_GROUPS = ("sampler", "variance", "time_grid", "clip", "guidance")


class OtherVersion(UserError):
    """A run of an earlier version of this project."""


class Run:
    """A run folder.

    config.yaml is the resolved config, run.json what happened, checkpoints/ holds best.ckpt and last.ckpt, and
    snapshots/ the averages along a run with ema=power_function.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def exists(self) -> bool:
        """Whether a run has begun here."""
        return (self.path / CONFIG).is_file()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @classmethod
    def find(cls, name: str, outputs: str | None = None) -> "Run":
        """The run in the folder `name`; `latest` is the newest one.

        Raises:
            UserError: where there is no such folder, or it is not one of a run.
        """
        outputs = outputs or os.environ.get("DIFFUSION_LAB_OUTPUTS", "outputs")
        path = Path(outputs) / "latest" if name == "latest" else Path(name)
        if not path.is_dir():
            there = sorted(Path(outputs).glob(f"*/**/{CONFIG}"), key=lambda p: p.stat().st_mtime)
            hint = f"the newest is {there[-1].parent}" if there else "train one with python -m src.train"
            raise UserError(f"there is no run folder {path}; {hint}")
        if not (path / CONFIG).is_file():
            raise UserError(f"{path} is not a run folder: it holds no {CONFIG}")
        return cls(path.resolve() if name == "latest" else path)

    def config(self) -> DictConfig:
        """The resolved config that the run was started with; its paths follow the folder when it is moved.

        Raises:
            UserError: where it is damaged, or names what is no part and the command line does not say trust=true.
        """
        cfg = self.settings()
        check_trusted_config(cfg, self.path / CONFIG)
        with file_errors(self.path / CONFIG):
            check_config({part: cfg[part] for part in REBUILT})
        return OmegaConf.create(relocate_paths(cfg, cfg["paths"]["run"], str(self.path.absolute())))

    def settings(self) -> dict[str, Any]:
        """The config as plain containers, with the paths that the run was started with.

        Raises:
            UserError: if it is damaged, or of an earlier version of this project.
        """
        saved = self._read_config()
        with reading(self.path / CONFIG, CONFIG_ADVICE):
            check(saved, SETTINGS)
        return saved

    def check_version(self) -> None:
        """Refuse a run of an earlier version of this project.

        Raises:
            UserError: naming the version.
        """
        self._read_config()

    def _read_config(self) -> dict[str, Any]:
        saved = read_yaml(self.path / CONFIG, dict, CONFIG_ADVICE)
        version = saved.pop("version", "0.1")
        if not isinstance(version, str) or not re.fullmatch(r"\d+(\.\d+)*", version):
            raise Damaged(f"{self.path / CONFIG} is damaged: version must be such as {__version__}, got {version!r}")
        if tuple(map(int, version.split("."))) < OLDEST:
            raise OtherVersion(
                f"{self.path} is a run of version {version}, which version {__version__} cannot load; "
                "use the version it was trained with, or train it again"
            )
        return saved

    @property
    def data_id(self) -> str:
        """A hash of what the run was trained on: the same for runs whose data differ in DATA_LOADING_KEYS alone."""
        return self.data_id_of((self.metadata().get("data_identity") or {}).get("files"))

    def data_id_of(self, files: str | None) -> str:
        """The same with the hash of the files of the data as they are now, if they are files."""
        return data_id(identifying_settings(self.portable_settings()["data"], files))

    def portable_settings(self) -> dict[str, Any]:
        """The config as plain containers, with RUN and OUTPUTS in place of the run's own folders."""
        return portable(self.settings())

    def checkpoint(self, which: str) -> Path:
        """The path of `last`, `best` or one that was kept, such as `step_1000`.

        Raises:
            UserError: where the run holds none of that name.
        """
        path = self.checkpoints / f"{which}.ckpt"
        restore_backup(path)
        if which == "best":
            from src.utils.checkpoints import best_checkpoint

            path = best_checkpoint(self.checkpoints)
        if not path.exists():
            there = sorted((p.stem for p in self.checkpoints.glob("*.ckpt")), key=lambda name: (len(name), name))
            hint = f"it has {', '.join(there)}" if there else "it was stopped before the first one was written"
            raise UserError(f"{self.path} holds no checkpoint {which}.ckpt; {hint}")
        return path

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is one to go on from."""
        last = self.checkpoints / "last.ckpt"
        restore_backup(last)
        return last.exists()

    @property
    def is_blank(self) -> bool:
        """Whether it was ended before its first checkpoint, so that there is nothing to lose by beginning anew."""
        return not (self.has_checkpoint or self.finished or any(self.checkpoints.glob("*.ckpt")))

    def snapshots(self) -> list[Path]:
        """The paths of all snapshots of the averages.

        Raises:
            UserError: where there are none.
        """
        there = sorted((self.path / "snapshots").glob("step_*.pt"))
        if not there:
            raise UserError(
                f"{self.path} holds no snapshots of its averages; train with ema=power_function for other widths"
            )
        return there

    def overrides(self) -> list[str]:
        """The command line that the run was started with, as Hydra's overrides."""
        return self.metadata().get("overrides", [])

    def metadata(self) -> dict[str, Any]:
        """What run.json holds.

        Raises:
            UserError: where it is damaged.
        """
        path = self.path / RECORD
        advice = "Delete it: the run goes on without its command line and results"
        return read_json(path, FACTS, advice) if path.exists() else {}

    @property
    def finished(self) -> bool:
        """Whether it came to its end; not where trainer.max_time stopped it before."""
        facts = self.metadata()
        return "results" in facts and facts.get("finished", True)

    def is_reported(self, step: int) -> bool:
        """Whether it came to its end at this step, and its results are here."""
        return self.finished and self.metadata()["results"].get("steps") == step

    def create(self, cfg: dict[str, Any], overrides: list[str], **facts: Any) -> None:
        """Make the folder, write the config, the command line and other facts, and point outputs/latest here."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.update_metadata(overrides=overrides, **facts)
        write_text(self.path / CONFIG, yaml.safe_dump({"version": __version__} | cfg, sort_keys=False))
        symlink_latest(Path(cfg["paths"]["outputs"]) / "latest", self.path)

    def update_metadata(self, **facts: Any) -> None:
        """Add facts to run.json."""
        write_json(self.path / RECORD, self.metadata() | facts)


def portable(cfg: dict[str, Any]) -> dict[str, Any]:
    """A config with RUN and OUTPUTS in place of its run and output folders, wherever these lie."""
    paths = cfg["paths"]
    return relocate_paths(relocate_paths(cfg, paths["run"], "RUN"), paths["outputs"], "OUTPUTS")


def relocate_paths(node: Any, old: str, new: str) -> Any:
    """Plain containers in which every path below `old` lies below `new`."""
    if isinstance(node, dict):
        return {key: relocate_paths(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [relocate_paths(value, old, new) for value in node]
    if isinstance(node, str) and (node == old or node.startswith(old + "/")):
        return new + node[len(old) :]
    return node


def symlink_latest(link: Path, target: Path) -> None:
    """Make a relative symbolic link, replacing an older one in one move; where links are not allowed, do without."""
    partial = link.with_name(f".{link.name}.{os.getpid()}")
    try:
        partial.symlink_to(os.path.relpath(target.absolute(), link.absolute().parent), target_is_directory=True)
        partial.replace(link)
    except OSError:
        with suppress(OSError):  # of a folder that is none
            partial.unlink(missing_ok=True)


def git_commit() -> str | None:
    """The commit of the working tree, or None."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True, timeout=5
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
