"""Run folders: where they are, what is in them, and how a model is rebuilt from one."""

import atexit
import inspect
import itertools
import json
import os
import shutil
import tempfile
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from src.utils.check_config import check_config
from src.utils.errors import UserError, blame, blame_file, not_finite
from src.utils.files import read_json, read_yaml
from src.utils.paths import check_writable
from src.utils.processes import is_follower
from src.utils.ranges import PositiveFloat
from src.utils.trust import refuse_foreign
from src.utils.whole_files import put_back, whole

CONFIG, RECORD, LOG = "config.yaml", "run.json", "train.log"
# What run.json says, as far as others rely on it.
TEXT = (str, type(None))
FACTS = {"overrides?": [str], "key?": str, "name?": TEXT, "data_warning?": TEXT, "failed?": TEXT, "finished?": bool,
         "classes?": (list, type(None)), "parameters?": int, "kind?": TEXT,
         "data_identity?": (dict, type(None)), "results?": {"steps": int, "seconds": float}}  # fmt: skip
# What config.yaml says, as far as others rely on it.
PART = {"_target_": str}
SETTINGS = {
    "name": str, "seed": int, "self_conditioning": (float, bool), "clusters?": int,
    "paths": {"run": str, "outputs": str, "data": str},
    "data": PART | {"channels": int, "size": [int], "batch_size": int, "num_classes": int},
    "net": PART | {"num_classes?": int}, "schedule": PART, "parameterization": PART, "variance": PART, "times": PART,
    "module": PART | {"conditional": bool}, "trainer": PART | {"max_steps": int}, "callbacks": dict,
    "loss?": PART, "ema?": PART, "optimizer?": PART, "lr_schedule?": PART, "logger?": (dict, type(None)),
    "sampler": PART, "grid": PART, "clip": PART, "guidance": dict,
}  # fmt: skip
# Parts that are rebuilt whatever is done with a run.
REBUILT = ("data", "net", "schedule", "parameterization", "variance", "times")
# The groups that say how to sample; those of the run itself unless the command line names others.
SAMPLING = ("sampler", "variance", "grid", "clip", "guidance")


class Run:
    """A run folder.

    config.yaml is the resolved config, run.json what happened, checkpoints/ holds best.ckpt and last.ckpt, and
    snapshots/ the averages along a run with ema=power.
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
        refuse_foreign(cfg, self.path / CONFIG)
        with blame_file(self.path / CONFIG):
            check_config({part: cfg[part] for part in REBUILT})
        return OmegaConf.create(moved(cfg, cfg["paths"]["run"], str(self.path.absolute())))

    def settings(self) -> dict[str, Any]:
        """The same as plain containers, with the paths of then."""
        return read_yaml(self.path / CONFIG, SETTINGS, "Take it from another run of the same settings")

    def checkpoint(self, which: str) -> Path:
        """The path of `last`, `best` or one that was kept, such as `step_1000`.

        Raises:
            UserError: where the run holds none of that name.
        """
        path = self.checkpoints / f"{which}.ckpt"
        put_back(path)
        if which == "best":
            from src.utils.checkpoint_io import best_checkpoint

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
        put_back(last)
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
            raise UserError(f"{self.path} holds no snapshots of its averages; train with ema=power for other widths")
        return there

    def overrides(self) -> list[str]:
        """The command line that the run was started with, as Hydra's overrides."""
        return self.facts().get("overrides", [])

    def facts(self) -> dict[str, Any]:
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
        facts = self.facts()
        return "results" in facts and facts.get("finished", True)

    def is_reported(self, step: int) -> bool:
        """Whether it came to its end at this step, and its results are here."""
        return self.finished and self.facts()["results"].get("steps") == step

    def start(self, cfg: dict[str, Any], overrides: list[str], **facts: Any) -> None:
        """Make the folder, write the config, the command line and other facts, and point outputs/latest here."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.record(overrides=overrides, **facts)
        with whole(self.path / CONFIG) as file:
            file.write_text(yaml.safe_dump(cfg, sort_keys=False))
        point_to(Path(cfg["paths"]["outputs"]) / "latest", self.path)

    def record(self, **facts: Any) -> None:
        """Add facts to run.json."""
        with whole(self.path / RECORD) as file:
            file.write_text(json.dumps(self.facts() | facts, indent=2, default=str) + "\n")


def moved(node: Any, old: str, new: str) -> Any:
    """Plain containers in which every path below `old` lies below `new`."""
    if isinstance(node, dict):
        return {key: moved(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [moved(value, old, new) for value in node]
    if isinstance(node, str) and (node == old or node.startswith(old + "/")):
        return new + node[len(old) :]
    return node


def point_to(link: Path, target: Path) -> None:
    """Make a relative symbolic link, replacing an older one in one move; where links are not allowed, do without."""
    partial = link.with_name(f".{link.name}.{os.getpid()}")
    try:
        partial.symlink_to(os.path.relpath(target.absolute(), link.absolute().parent), target_is_directory=True)
        partial.replace(link)
    except OSError:
        with suppress(OSError):  # of a folder that is none
            partial.unlink(missing_ok=True)


def run_folder(resume: str | None, parent: str) -> str:
    """The folder of the run to resume, or a new one under `parent` named after the time.

    Registered with Hydra as the resolver `run_folder`.
    """
    if is_follower():
        return waiting_room()
    return new_folder(parent) if resume is None else str(Run.find(str(resume)).path)


def sweep_folder(parent: str) -> str:
    """A new folder for a sweep. Registered with Hydra as the resolver `sweep_folder`."""
    return waiting_room() if is_follower() else new_folder(parent)


def new_folder(parent: str) -> str:
    """Make a folder under `parent` that was not there, named after the time; no two processes make the same."""
    check_writable("paths.outputs", parent)
    name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for count in itertools.count(1):
        folder = Path(parent) / (name if count == 1 else f"{name}_{count}")
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return str(folder)
    raise AssertionError("unreachable")


@cache
def waiting_room() -> str:
    """A folder for a process that will be told where the run is, since Hydra wants one first."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def clip_bound(data: str | None) -> float | None:
    """The largest absolute value of the samples of a data class: 1 of images, unknown of others.

    Registered with Hydra as the resolver `clip_bound`, which clip=auto uses.
    """
    try:
        return 1.0 if get_object(str(data)).kind == "images" else None
    except Exception:  # no such class, which the check of the config refuses with its reason
        return None


OmegaConf.register_new_resolver("clip_bound", clip_bound, use_cache=True, replace=True)
OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True, replace=True)
OmegaConf.register_new_resolver("sweep_folder", sweep_folder, use_cache=True, replace=True)


def build_denoiser(cfg: DictConfig | dict[str, Any], context: AbstractContextManager | None = None) -> Any:
    """The denoiser that a config describes: network, schedule, parameterization and variance.

    Args:
        cfg: the config of a run.
        context: in which the network is made.
    """
    from src.diffusion.clusters import Clusters
    from src.diffusion.denoiser import Denoiser

    parts = {}
    for part in ("schedule", "parameterization", "variance"):
        with blame(part):
            parts[part] = instantiate(cfg[part])
    share = cfg["self_conditioning"]
    clusters = cfg.get("clusters", 0)
    # What the network is given and gives follows from the other parts, so that nobody has to say it twice.
    sizes = {"inputs": 2 if share else 1, "outputs": parts["variance"].outputs, "num_classes": clusters}
    wanted = {key: n for key, n in sizes.items() if n > 1}
    why = {"inputs": "self_conditioning", "outputs": "this variance", "num_classes": "clusters"}
    takes = inspect.signature(get_object(cfg["net"]["_target_"])).parameters
    for key in wanted:
        if key not in takes:
            raise UserError(
                f"net: {cfg['net']['_target_']} has no argument `{key}`, which {why[key]} needs; use net=unet"
            )
    with context or nullcontext():
        net = instantiate(cfg["net"], **wanted)
    shape = (cfg["data"]["channels"], *cfg["data"]["size"]) if clusters else ()
    with blame("denoiser"):
        return Denoiser(net, **parts, self_conditioning=share, clusters=Clusters(clusters, shape) if clusters else None)


def load_denoiser(run: str | None, ckpt: str = "best", weights: str | PositiveFloat = "ema") -> Any:
    """The denoiser of a run with the weights of one of its checkpoints; a part of other configs.

    Raises:
        UserError: where there is no such run or checkpoint.
    """
    if not run:
        raise UserError("guidance.guide.run=RUN is needed: the run whose weaker checkpoint guides")
    found = Run.find(run)
    denoiser = build_denoiser(found.config())
    load_weights(denoiser, *read_weights(found, ckpt, weights))
    return denoiser.eval()


def read_weights(run: Run, ckpt: str, weights: str | float) -> tuple[dict[str, Any], Path]:
    """The state dict of a denoiser that `weights=` names, and the file or folder that it is from.

    Args:
        run: the run.
        ckpt: the name of a checkpoint; without meaning for a width.
        weights: `ema` or `raw`, or the relative width of an average to rebuild from the run's snapshots.

    Raises:
        UserError: where the run does not hold them.
    """
    from src.diffusion.ema import rebuild
    from src.utils.checkpoint_io import load_checkpoint
    from src.utils.files import read_tensors

    prefixes = {"ema": "ema.model.", "raw": "denoiser."}
    if weights in prefixes:
        path = run.checkpoint(ckpt)
        return submodule(load_checkpoint(path)["state_dict"], prefixes[weights]), path
    if isinstance(weights, bool | str):
        raise UserError(f"weights={weights} is none of ema, raw, or a relative width such as 0.07")
    instead = "Delete it; the others may do"
    wanted = {"step": int, "sigma_rel": [float], "weights": [dict], "buffers": dict}
    snapshots = [read_tensors(path, wanted, instead, mmap=True) for path in run.snapshots()]
    with blame(f"weights={weights}"):
        return rebuild(snapshots, weights), run.path / "snapshots"


def load_weights(model: Any, weights: dict[str, Any], source: Path) -> None:
    """Load a state dict, and refuse one of another architecture in one line."""
    expected = model.state_dict()
    if odd := [k for k, value in weights.items() if not hasattr(value, "isfinite")]:
        raise UserError(f"{source} is damaged: {odd[0]} is no tensor. Use another checkpoint")
    missing = [k for k in expected if k not in weights]
    foreign = [k for k in weights if k not in expected]
    shapes = [k for k in expected if k in weights and expected[k].shape != weights[k].shape]
    if missing or foreign or shapes:
        key = (shapes or missing or foreign)[0]
        found = f"has shape {tuple(weights[key].shape)}" if key in weights else "is missing"
        wanted = f"shape {tuple(expected[key].shape)} is wanted" if key in expected else "is not wanted"
        raise UserError(
            f"{source} is of another architecture ({len(shapes)} shapes differ, {len(missing)} tensors are missing, "
            f"{len(foreign)} are not known; for example {key} {found} there, but {wanted}). "
            "Use the net and data settings that it was trained with"
        )
    bad = [k for k, value in weights.items() if expected[k].isfinite().all() and not value.isfinite().all()]
    if bad:
        raise not_finite(source, bad[0])
    model.load_state_dict(weights)


def submodule(state_dict: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The part of a state dict under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
