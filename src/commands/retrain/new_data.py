"""The new data of src.retrain: their config, and whether they fit the run."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.commands.cli import suggest
from src.data.array import ArrayData
from src.data.base import DataModule
from src.data.image_folder import ImageFolder
from src.data.joined import Joined
from src.data.samples import BatchDataset
from src.diffusion.conditions import Condition
from src.runs.loading import kind_and_units
from src.runs.run import Run
from src.tasks.base import by_size
from src.utils.errors import UserError, config_errors
from src.utils.images import is_image
from src.utils.paths import CONF
from src.utils.units import Kind, Units

ARCHIVES = (".zip", ".tar")
HELD_OUT = 0.2  # of new data that do not say which part is for validation; half of it is tested on
SOME = 500  # samples whose range is looked at
FACTOR = 10.0  # by which the range of the new data may be wider or narrower
LEAST = 8  # new test samples, for an interval


def joined_config(cfg: DictConfig, run: Run, trained: DictConfig) -> dict[str, Any]:
    """The config of the data of a run and new data together.

    Args:
        cfg: the settings of the command.
        run: the run of the champion.
        trained: its config.

    Raises:
        UserError: if the new data have another shape, classes that the run does not know, or cannot be read.
    """
    old: Any = OmegaConf.to_container(trained.data, resolve=True)
    shape, classes = (old["channels"], *old["size"]), old.get("num_classes", 0)
    kind, units = kind_and_units(run, shape)
    new, found = new_config(cfg, old, kind, units)
    known = run.metadata().get("classes") or [*map(str, range(classes))]
    is_conditioned = "label" in instantiate(trained.condition).members
    if not is_conditioned and not set(found) <= set(known):
        found = []
    if is_conditioned and not found:
        raise UserError(
            f"new={cfg.new} has no classes, which this run is conditioned on; give a folder per class, or "
            "new_data.label=ARRAY"
        )
    if unknown := [name for name in found if name not in known]:
        raise UserError(
            f"new={cfg.new} has the class {unknown[0]}, which this run does not know; its classes are "
            f"{', '.join(known[:20])}"
        )
    new["num_classes"] = len(found)
    return {
        "_target_": "src.data.joined.Joined", "old": old, "new": new, "kind": kind, "units": units.as_dict(),
        "channels": shape[0], "size": [*shape[1:]], "num_classes": classes if found else 0, "share": cfg.share,
        "batch_size": old["batch_size"], "num_workers": old.get("num_workers", 0), "seed": old.get("seed", 0),
    }  # fmt: skip


def new_config(cfg: DictConfig, old: dict[str, Any], kind: Kind, units: Units) -> tuple[dict[str, Any], list[str]]:
    """The config of new data, and the names of their classes if those of the run are used."""
    path = Path(str(cfg.new)).absolute()
    if not path.exists():
        raise UserError(f"new={cfg.new} does not exist; name a folder of pictures or an array")
    pictures = holds_pictures(path)
    if pictures and kind != "images":
        raise UserError(f"new={cfg.new} holds pictures, but the data of this run are {kind}; give an array")
    file = CONF / "data" / f"{'image_folder' if pictures else 'array'}.yaml"
    node: Any = OmegaConf.to_container(OmegaConf.load(file))
    given: Any = OmegaConf.to_container(cfg.new_data)
    for key in given:
        if key not in node:
            raise UserError(f"new_data.{key}: there is no such option.{suggest(key, list(node))}")
    node |= {"root": str(path), "batch_size": old["batch_size"], "seed": old.get("seed", 0), "val_fraction": HELD_OUT}
    if pictures:
        node |= {"channels": old["channels"], "size": old["size"], "flip": first_data(old).get("flip", False)}
        node |= {"num_classes": 0, "index": f"{cfg.paths.data}/index", **given}
    else:
        node |= {"kind": kind, **given}
    with of_new_data():
        if pictures:
            return node, ImageFolder(**arguments(node)).find_classes() if old.get("num_classes") else []
        data = ArrayData(**arguments(node))
        found = data.found()
    here, there = ([d["channels"], *d["size"]] for d in (old, found))
    if here != there:
        raise UserError(
            f"new={cfg.new} holds samples of shape {by_size(there)}, but those of this run are {by_size(here)}"
        )
    node |= found | {"units": units.as_dict()}
    return node, data.parts().files[0].class_names if old.get("num_classes") else []


def holds_pictures(path: Path) -> bool:
    """True for pictures, and archives of them."""
    if path.is_dir():
        return any(is_image(file.name) for file in path.rglob("*"))
    return is_image(path.name) or path.suffix.lower() in ARCHIVES


@contextmanager
def of_new_data() -> Iterator[None]:
    """Name settings in errors as src.retrain does."""
    try:
        with config_errors("new_data"):
            yield
    except UserError as error:
        raise UserError(re.sub(r"\bdata\.(?=\w+\b)", "new_data.", str(error))) from error


def arguments(node: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the class of a config."""
    return {key: value for key, value in node.items() if not key.startswith("_")}


def first_data(node: dict[str, Any]) -> dict[str, Any]:
    """The config of the data that the first run of all was trained on."""
    return first_data(node["old"]) if isinstance(node.get("old"), dict) else node


# ---- checks ----


def load_joined(node: dict[str, Any], trained: DictConfig) -> Joined:
    """Load old and new data, and check that they belong together.

    Raises:
        UserError: if they differ in range, classes or fields that the condition of the run needs.
    """
    data: Joined = instantiate(OmegaConf.create(node))
    data.prepare_data()
    with of_new_data():
        data.setup()
    data.new.check_samples()
    if len(data.new.test_set) < LEAST:
        n, m = len(data.new.train_set) + len(data.new.val_set) + len(data.new.test_set), len(data.new.test_set)
        raise UserError(f"the new data must hold at least {LEAST} samples to test on, got {m} of {n}; add samples")
    check_range(data.old, data.new)
    with config_errors("condition"):
        condition: Condition = instantiate(trained.condition)
        condition.check_data(data.train_set[0, torch.arange(1)], len(data.train_set))
    return data


def check_range(old: DataModule, new: DataModule) -> None:
    """Refuse new data whose values are of another order than those of the old ones, as in other units.

    Raises:
        UserError: naming both ranges.
    """
    (low, high), (new_low, new_high) = (range_of(part.train_set, old) for part in (old, new))
    middle, width = (low + high) / 2, max(high - low, 1e-12)
    outside = max(abs(new_low - middle), abs(new_high - middle)) > FACTOR * width / 2
    if outside or not width / FACTOR < new_high - new_low:
        raise UserError(
            f"the new data have values from {new_low:.3g} to {new_high:.3g}, those of this run are from {low:.3g} to "
            f"{high:.3g}; convert them to the same units"
        )


def range_of(data: BatchDataset, units: DataModule) -> tuple[float, float]:
    """The lowest and the highest value of some samples, in the units of the data."""
    rows = torch.linspace(0, len(data) - 1, min(SOME, len(data))).long()
    x = units.to_units(data[0, rows]["x"], clip=False)
    return x.min().item(), x.max().item()
