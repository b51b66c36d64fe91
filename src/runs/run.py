"""Run folders: the config, the checkpoints and the metadata of a run."""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from src import __version__
from src.runs.check_config import check_config
from src.runs.data_identity import data_id, identifying_settings
from src.runs.own_code import use_code
from src.runs.registry import Registry, is_champion
from src.runs.trust import check_trusted_config
from src.utils.atomic import restore_backup, write_json, write_text
from src.utils.errors import UserError, file_errors
from src.utils.files import Damaged, check, read_json, read_yaml, reading
from src.utils.targets import untrusted_targets

CONFIG, RECORD, LOG = "config.yaml", "run.json", "train.log"
CONFIG_ADVICE = "Copy it from a run with the same settings"
OLDEST = (0, 2)  # the first version whose runs can be loaded
# The entries of run.json that other code relies on.
TEXT = (str, type(None))
FACTS = {"overrides?": [str], "key?": str, "name?": TEXT, "data_warning?": TEXT, "failed?": TEXT, "finished?": bool,
         "classes?": (list, type(None)), "vector_names?": (list, type(None)), "parameters?": int, "kind?": TEXT,
         "units?": dict,
         "data_identity?": (dict, type(None)), "code?": {"*": str},
         "results?": {"steps": int, "seconds": float}}  # fmt: skip
# The entries of config.yaml that other code relies on.
PART = {"_target_": str}
SETTINGS = {
    "name": str, "seed": int, "self_conditioning_prob": (float, bool), "flow_map?": bool,
    "paths": {"run": str, "outputs": str, "data": str},
    "data": PART | {"channels": int, "size": [int], "batch_size": int, "num_classes?": int},
    "net": PART, "condition": PART, "schedule": PART, "parameterization": PART, "variance": PART, "time_sampler": PART,
    "module": PART, "trainer": PART | {"max_steps": int}, "callbacks": dict,
    "loss?": PART, "ema?": PART, "optimizer?": PART, "lr_schedule?": PART, "logger?": (dict, type(None)),
    "sampler": PART, "time_grid": PART, "clip": PART, "guidance": dict,
}  # fmt: skip
# The parts that every command builds from the config of a run.
REBUILT = ("data", "net", "condition", "schedule", "parameterization", "variance", "time_sampler")
# The groups for sampling, inherited from the run unless the command line overrides them.
SAMPLING_GROUPS = ("sampler", "variance", "time_grid", "clip", "guidance")


class OtherVersion(UserError):
    """A run of an earlier version of this project."""


class Run:
    """A run folder.

    config.yaml is the resolved config, run.json the metadata, checkpoints/ holds best.ckpt and last.ckpt, and
    snapshots/ the averages of a run with ema=power_function, and code/ a copy of the user's own modules.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def exists(self) -> bool:
        """True if a run was started in the folder."""
        return (self.path / CONFIG).is_file()

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @classmethod
    def find(cls, name: str, outputs: str | None = None) -> "Run":
        """The run in the folder `name`; `latest` is the newest run, `champion` or `champion:NAME` that of a registry.

        Raises:
            UserError: if there is no such folder, or it is not a run folder.
        """
        outputs = outputs or os.environ.get("DIFFUSION_LAB_OUTPUTS", "outputs")
        if is_champion(name):
            path = Registry.find(outputs, name).champion_folder
        else:
            path = Path(outputs) / "latest" if name == "latest" else Path(name)
        if not path.is_dir():
            there = sorted(Path(outputs).glob(f"*/**/{CONFIG}"), key=lambda p: p.stat().st_mtime)
            hint = f"the newest is {there[-1].parent}" if there else "train one with python -m src.train"
            raise UserError(f"there is no run folder {path}; {hint}")
        if not (path / CONFIG).is_file():
            raise UserError(f"{path} is not a run folder: it holds no {CONFIG}")
        return cls(path.resolve() if name == "latest" else path)

    def config(self) -> DictConfig:
        """The resolved config of the run; its paths are adapted if the folder was moved.

        Raises:
            UserError: if it is damaged, of an earlier version, or names targets that need trust=true.
        """
        cfg = self.settings()
        check_trusted_config(cfg, self.path / CONFIG)
        use_code(self.path if untrusted_targets(cfg) else None, self.metadata().get("code"))
        with file_errors(self.path / CONFIG):
            check_config({part: cfg[part] for part in REBUILT})
        return OmegaConf.create(relocate_paths(cfg, cfg["paths"]["run"], str(self.path.absolute())))

    def settings(self) -> dict[str, Any]:
        """The config of the run as plain containers, with its original paths.

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
            raise Damaged(f"{self.path / CONFIG} is damaged: version must look like {__version__}, got {version!r}")
        if tuple(map(int, version.split("."))) < OLDEST:
            raise OtherVersion(
                f"{self.path} is a run of version {version}, which version {__version__} cannot load; "
                "use the version it was trained with, or train it again"
            )
        return saved

    @property
    def data_id(self) -> str:
        """A hash of the training data; equal for runs whose data settings differ only in DATA_LOADING_KEYS."""
        return self.data_id_of((self.metadata().get("data_identity") or {}).get("files"))

    def data_id_of(self, files: str | None) -> str:
        """The data id with another hash of the data files; None for data without files."""
        return data_id(identifying_settings(self.portable_settings()["data"], files))

    def portable_settings(self) -> dict[str, Any]:
        """The config as plain containers, with RUN and OUTPUTS in place of the run's own folders."""
        return portable(self.settings())

    def checkpoint(self, which: str) -> Path:
        """The path of the checkpoint `last`, `best` or a kept one, such as `step_1000`.

        Raises:
            UserError: if the run holds no checkpoint of that name.
        """
        path = self.checkpoints / f"{which}.ckpt"
        restore_backup(path)
        if which == "best":
            from src.utils.checkpoints import best_checkpoint

            path = best_checkpoint(self.checkpoints)
        if not path.exists():
            there = sorted((p.stem for p in self.checkpoints.glob("*.ckpt")), key=lambda name: (len(name), name))
            hint = f"it has {', '.join(there)}" if there else "it was stopped before its first checkpoint"
            raise UserError(f"{self.path} holds no checkpoint {which}.ckpt; {hint}")
        return path

    @property
    def has_checkpoint(self) -> bool:
        """True if there is a checkpoint to resume from."""
        last = self.checkpoints / "last.ckpt"
        restore_backup(last)
        return last.exists()

    @property
    def is_blank(self) -> bool:
        """True if the run ended before its first checkpoint, so that nothing is lost by starting it again."""
        return not (self.has_checkpoint or self.finished or any(self.checkpoints.glob("*.ckpt")))

    def snapshots(self) -> list[Path]:
        """The paths of all snapshots of the averages.

        Raises:
            UserError: if there are none.
        """
        there = sorted((self.path / "snapshots").glob("step_*.pt"))
        if not there:
            raise UserError(
                f"{self.path} holds no snapshots of its averages; train with ema=power_function for other widths"
            )
        return there

    def overrides(self) -> list[str]:
        """The overrides that the run was started with."""
        return self.metadata().get("overrides", [])

    def metadata(self) -> dict[str, Any]:
        """The content of run.json; empty if there is no such file.

        Raises:
            UserError: if it is damaged.
        """
        path = self.path / RECORD
        advice = "Delete it; the run resumes without its command line and results"
        return read_json(path, FACTS, advice) if path.exists() else {}

    @property
    def finished(self) -> bool:
        """True if the run reached its last step; False if trainer.max_time stopped it."""
        metadata = self.metadata()
        return "results" in metadata and metadata.get("finished", True)

    def is_reported(self, step: int) -> bool:
        """True if the run finished at this step, and its results are in the metadata."""
        return self.finished and self.metadata()["results"].get("steps") == step

    def create(self, cfg: dict[str, Any], overrides: list[str], latest: bool = True, **metadata: Any) -> None:
        """Write the config, the overrides and other metadata of a new run, and link outputs/latest to its folder.

        Args:
            cfg: the resolved config.
            overrides: those that it was started with.
            latest: False to leave the link.
            metadata: further entries of run.json.
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.update_metadata(overrides=overrides, **metadata)
        text = yaml.safe_dump({"version": __version__} | cfg, sort_keys=False, explicit_start=True, explicit_end=True)
        write_text(self.path / CONFIG, text)
        if latest:
            symlink_latest(Path(cfg["paths"]["outputs"]) / "latest", self.path)

    def update_metadata(self, **metadata: Any) -> None:
        """Add entries to run.json."""
        write_json(self.path / RECORD, self.metadata() | metadata)


def portable(cfg: dict[str, Any]) -> dict[str, Any]:
    """A config with RUN and OUTPUTS in place of its run and output folders, wherever these lie."""
    paths = cfg["paths"]
    return relocate_paths(relocate_paths(cfg, paths["run"], "RUN"), paths["outputs"], "OUTPUTS")


def relocate_paths(node: Any, old: str, new: str) -> Any:
    """Plain containers with every path below `old` moved below `new`."""
    if isinstance(node, dict):
        return {key: relocate_paths(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [relocate_paths(value, old, new) for value in node]
    if isinstance(node, str) and (node == old or node.startswith(old + "/")):
        return new + node[len(old) :]
    return node


def symlink_latest(link: Path, target: Path) -> None:
    """Make a relative symbolic link, which atomically replaces an older one; do nothing if links are not allowed."""
    partial = link.with_name(f".{link.name}.{os.getpid()}")
    try:
        partial.symlink_to(os.path.relpath(target.absolute(), link.absolute().parent), target_is_directory=True)
        partial.replace(link)
    except OSError:
        with suppress(OSError):  # it may not be a folder
            partial.unlink(missing_ok=True)
