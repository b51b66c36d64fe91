"""Modules of a net as files beside each other, which import one another and nothing of this project."""

import ast
import re
from pathlib import Path

from src.runs.own_modules import PROJECT, own_file
from src.utils.errors import UserError


def bundle(names: list[str], folder: Path) -> tuple[dict[str, str], list[str]]:
    """Copy modules, and those that they import, to flat files with relative imports.

    Args:
        names: dotted names of their classes and functions.
        folder: where the files are written.

    Returns:
        The module of each of these names in the bundle, and all modules of the bundle.

    Raises:
        UserError: if a module cannot be copied, such as one that imports a package as a whole.
    """
    modules = {name: name.rpartition(".")[0] for name in names if source(name.rpartition(".")[0]) is not None}
    todo, done = [*modules.values()], set()
    while todo:
        module = todo.pop()
        file = source(module)
        if module in done or file is None:
            continue
        done.add(module)
        text = file.read_text("utf-8")
        for imported in imports(text):
            if source(imported) is None:
                continue
            if source(imported).name == "__init__.py":  # type: ignore[union-attr]
                raise UserError(f"format=diffusers: {module} imports the package {imported}; import its modules")
            text = re.sub(
                rf"^(\s*)from {re.escape(imported)} import", rf"\1from .{flat(imported)} import", text, flags=re.M
            )
            todo.append(imported)
        (folder / f"{flat(module)}.py").write_text(text, "utf-8")
    return {name: flat(module) for name, module in modules.items()}, sorted(map(flat, done))


def source(module: str) -> Path | None:
    """The file of a module of this project or of the user's own; None for libraries."""
    if module == "src" or module.startswith("src."):
        path = PROJECT.joinpath(*module.split(".")[1:])
        return path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    return own_file(module)


def imports(text: str) -> list[str]:
    """The modules that a text imports names from."""
    return [node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom) and node.module]


def flat(module: str) -> str:
    """The name of a module in the bundle."""
    return module.replace(".", "_")
