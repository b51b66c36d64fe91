"""Keep a copy of the user's own code in the run folder, and import it from there where the command line allows that.

The copy is code of whoever made the folder: it is imported only with trust=true, and said each time.
"""

import importlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from src.runs.own_modules import find_spec, own_modules
from src.utils.atomic import atomic_write
from src.utils.console import log

CODE = "code"


def save_code(folder: Path, cfg: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Copy the user's own modules of a config to the folder `code` of a run.

    Args:
        folder: the run folder.
        cfg: the config as plain containers, whose parts are built.

    Returns:
        The entry of run.json, if there is any such code: `code`, the SHA-256 of each file by its path in `code`.
    """
    digests: dict[str, str] = {}
    for name, file in own_modules(cfg).items():
        parts = name.split(".") if file.stem == "__init__" else name.split(".")[:-1]
        path = Path(*parts, file.name)
        copy = folder / CODE / path
        content = file.read_bytes()
        digests[path.as_posix()] = sha256(content).hexdigest()
        if copy.is_file() and copy.read_bytes() == content:
            continue
        if copy.is_file():
            log.warning(f"WARNING: {file} has changed since the run began; {copy} is now the new one")
        with atomic_write(copy) as partial:
            shutil.copyfile(file, partial)
    return {"code": digests} if digests else {}


class Copy:
    """The copy of a user's own code in a run folder, which is imported while it is entered.

    Args:
        folder: the folder `code` of the run.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.files = {module_name(file.relative_to(folder)): file for file in sorted(folder.rglob("*.py"))}
        self.digests = {name: sha256(file.read_bytes()).hexdigest() for name, file in self.files.items()}
        self.loaded: dict[str, ModuleType] = {}
        self.replaced: dict[str, ModuleType] = {}

    def different_here(self) -> list[str]:
        """The modules that Python would import with other content from elsewhere."""
        specs = {name: find_spec(name) for name in self.files}
        return [
            name
            for name, spec in specs.items()
            if spec is not None
            and spec.origin is not None
            and sha256(Path(spec.origin).read_bytes()).hexdigest() != self.digests[name]
        ]

    def altered(self, recorded: dict[str, str]) -> list[str]:
        """The files whose content is not the recorded one."""
        names = {file: file.relative_to(self.folder).as_posix() for file in self.files.values()}
        return [
            names[file]
            for name, file in self.files.items()
            if recorded.get(names[file], self.digests[name]) != self.digests[name]
        ]

    def enter(self) -> None:
        """Import these modules from the folder from now on."""
        self.replaced = self.exchange(self.loaded)
        sys.path.insert(0, str(self.folder))
        importlib.invalidate_caches()

    def leave(self) -> None:
        """Import them from where they were imported before."""
        self.loaded = self.exchange(self.replaced)
        if str(self.folder) in sys.path:
            sys.path.remove(str(self.folder))
        importlib.invalidate_caches()

    def exchange(self, modules: dict[str, ModuleType]) -> dict[str, ModuleType]:
        """Replace the loaded modules of these names by others; returns those that were loaded."""
        packages = tuple(name + "." for name, file in self.files.items() if file.stem == "__init__")
        names = [name for name in sys.modules if name in self.files or name.startswith(packages)]
        before = {name: sys.modules.pop(name) for name in names}
        sys.modules.update(modules)
        for name in {*before, *modules}:  # Python finds a module in its package first
            package, _, leaf = name.rpartition(".")
            if package and package in sys.modules:
                vars(sys.modules[package]).pop(leaf, None)
                if name in modules:
                    setattr(sys.modules[package], leaf, modules[name])
        return before


def module_name(path: Path) -> str:
    """The name of the module in a file, whose path is relative to a folder of modules."""
    return ".".join(path.parent.parts if path.stem == "__init__" else (*path.parent.parts, path.stem))


_copies: dict[Path, Copy] = {}
_entered: list[Copy] = []  # the one in use, if any


def use_code(folder: Path | None, recorded: dict[str, str] | None = None) -> None:
    """Import the user's own modules from the copy in a run folder, and say so; None for those on Python's path.

    Args:
        folder: the run folder.
        recorded: the SHA-256 of each file in run.json.
    """
    code = None if folder is None else (folder / CODE).resolve()
    copy = None if code is None or not code.is_dir() else _copies.get(code)
    if code is not None and code.is_dir():
        fresh = Copy(code)
        if copy is None or copy.digests != fresh.digests:
            copy = fresh
    if _entered == [copy] or (copy is None and not _entered):
        return
    while _entered:
        _entered.pop().leave()
    if copy is None or code is None:
        return
    if code not in _copies or _copies[code] is not copy:
        announce(copy, recorded or {})
    _copies[code] = copy
    copy.enter()
    _entered.append(copy)


def announce(copy: Copy, recorded: dict[str, str]) -> None:
    """Say that code from a run folder runs."""
    others = copy.different_here()
    note = f"; {', '.join(others)} on Python's path differs and is not used" if others else ""
    log.warning(f"WARNING: trust=true: code from {copy.folder} runs ({', '.join(copy.files)}){note}")
    if altered := copy.altered(recorded):
        log.warning(f"WARNING: {', '.join(altered)} in {copy.folder} has changed since the run was trained")


@contextmanager
def same_code_after() -> Iterator[None]:
    """Import from the same copy after the block as before, whatever other runs are loaded in it."""
    before = list(_entered)
    try:
        yield
    finally:
        if _entered != before:
            while _entered:
                _entered.pop().leave()
            for copy in before:
                copy.enter()
                _entered.append(copy)
