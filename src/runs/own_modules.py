"""Find the modules of a user's own code: those that targets of a config come from, and those that they import."""

import ast
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

import src
from src.utils.targets import GIVEN, instantiable_nodes

PROJECT = Path(src.__file__).resolve().parent
INSTALLED = {"site-packages", "dist-packages"}
STANDARD = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]
# Libraries that some develop in a folder of their own.
LIBRARIES = {"torch", "pytorch_lightning", "lightning", "lightning_fabric", "torchmetrics", "hydra", "omegaconf"}


def own_modules(cfg: dict[str, Any]) -> dict[str, Path]:
    """The modules that the targets of a config come from, and those that they import, with their files.

    Modules of this project, of Python and of installed packages are left out. Of a package, all modules that are
    loaded belong to it.

    Args:
        cfg: a config as plain containers, whose parts are built.
    """
    found: dict[str, Path] = {}
    todo = [name for target in target_names(cfg) for name in prefixes(target)]
    while todo:
        name = todo.pop()
        file = None if name in found else own_file(name)
        if file is None:
            continue
        found[name] = file
        todo += [*prefixes(name), *imported_names(file, name)]
        if file.name == "__init__.py":
            todo += [other for other in list(sys.modules) if other.startswith(name + ".")]
    return dict(sorted(found.items()))


def target_names(cfg: dict[str, Any]) -> Iterator[str]:
    """The targets of a config, what Hydra's getters name, and the classes of parts that are given as objects."""
    for _, node in instantiable_nodes(cfg):
        yield str(node["_target_"])
        if str(node["_target_"]).startswith("hydra.utils.get_"):
            yield str(node.get("path"))
        if node["_target_"] == GIVEN:
            yield str(node.get("type"))


def prefixes(name: str) -> list[str]:
    """A dotted name and its parents, the longest first."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(len(parts), 0, -1)]


def own_file(name: str) -> Path | None:
    """The file of a module of the user's own; None for any other name."""
    if name.split(".")[0] in {"src", *LIBRARIES, *sys.stdlib_module_names}:
        return None
    module = sys.modules.get(name)
    spec = find_spec(name) if module is None else None
    file = spec.origin if spec is not None and spec.has_location else getattr(module, "__file__", None)
    if file is None:
        return None
    path = Path(file).resolve()
    installed = INSTALLED & set(path.parts) or any(path.is_relative_to(folder) for folder in (PROJECT, *STANDARD))
    return None if installed or not path.is_file() else path


def find_spec(name: str, folders: Sequence[str] | None = None) -> ModuleSpec | None:
    """Where Python would import a module from, found without importing its parents.

    Args:
        name: the module.
        folders: those to search; by default `sys.path`.
    """
    spec, there = None, folders
    for part in reversed(prefixes(name)):
        # By its last name: a folder without __init__.py asks for the parent of a dotted name, which is not loaded.
        spec = PathFinder.find_spec(part.rpartition(".")[2], there)
        if spec is None:
            return None
        if part != name and spec.submodule_search_locations is None:
            return None
        there = list(spec.submodule_search_locations or ())
    return spec


def imported_names(file: Path, name: str) -> set[str]:
    """The names that a module imports, also within its functions: modules, and what may be modules in packages."""
    if file.suffix != ".py":
        return set()
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(source, package) if node.level else source
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return {part for full in found for part in prefixes(full)}
