"""The class of a part is found from its word on the command line: `sampler=dpmpp_2m` is `DPMpp2M` of `src.samplers`."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

CONF = Path("conf")
# Files that hold several parts, or settings of a part that another group names.
SEVERAL = {"callbacks", "debug", "experiment", "framework", "hydra", "plan", "sweep", "trainer"}
# A file that is another one of its group with other settings.
PRESETS = {
    "clip/auto": "static",
    "condition/blurred": "measured",
    "condition/edges": "measured",
    "condition/gray": "measured",
    "condition/known_part": "measured",
    "condition/low_resolution": "measured",
    "condition/pretrained_text": "text",
    "data/fashion_mnist": "mnist",
    "data/image_shards": "image_folder",
    "guidance/rescale": "cfg",
    "metrics/distances_random": "distances",
    "time_sampler/logit_normal_wide": "logit_normal",
}
# Loggers are told apart from those of other libraries by more than their word.
OTHER_NAMES = {
    "logger/csv": "MetricsCSV",
    "logger/mlflow": "RunFolderMLFlowLogger",
    "logger/wandb": "RunFolderWandbLogger",
}


def targets(node) -> list[str]:
    """Every `_target_` of a config, the outermost first."""
    if isinstance(node, dict):
        own = [node["_target_"]] if "_target_" in node else []
        return own + [t for value in node.values() for t in targets(value)]
    return [t for value in node for t in targets(value)] if isinstance(node, list) else []


def own_targets(file: Path) -> list[str]:
    return [t for t in targets(yaml.safe_load(file.read_text())) if t.startswith("src.")]


def names_of(word: str, group: str) -> set[str]:
    """Names, lower case without underscores, that a part may have: its word, or that and words of its group."""
    if word == "none":
        return {"no" + group.replace("_", "")}
    parts, word = group.split("_"), word.replace("_", "")
    runs = {"".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)}
    return {word} | {word + run for run in runs}


PARTS = [
    file for file in sorted(CONF.glob("*/*.yaml"))
    if file.parent.name not in SEVERAL and own_targets(file)
]  # fmt: skip


@pytest.mark.parametrize("file", PARTS, ids=lambda file: f"{file.parent.name}={file.stem}")
def test_a_part_has_the_name_of_its_file(file):
    key, group = f"{file.parent.name}/{file.stem}", file.parent.name
    word, found = PRESETS.get(key, file.stem), own_targets(file)
    names = {OTHER_NAMES[key].lower()} if key in OTHER_NAMES else names_of(word, group)
    named = [t for t in found if t.rpartition(".")[2].replace("_", "").lower() in names]
    assert named, f"{file} makes {found[0]}, which should have the name of the file"
    module, _, name = named[0].rpartition(".")
    room = module.split(".")[1]
    assert hasattr(import_module(module), name)
    assert hasattr(import_module(f"src.{room}"), name), f"src/{room}/__init__.py should export {name}"


@pytest.mark.parametrize("room", ["diffusion", "metrics", "nets", "samplers"])
def test_a_package_exports_what_it_says(room):
    package = import_module(f"src.{room}")
    assert sorted(package.__all__) == sorted(set(package.__all__))
    assert all(hasattr(package, name) for name in package.__all__)
    assert not [name for name in package.__all__ if re.match("_|check_", name)]
