"""The names and signatures of the public API in tests/api.txt: `python -m tests.api_snapshot --write` renews it."""

import argparse
import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, is_typeddict

from src.utils.signatures import parameters

FILE = Path("tests/api.txt")
PACKAGES = [
    "api",
    "callbacks",
    "data",
    "diffusion",
    "formats",
    "loggers",
    "metrics",
    "nets",
    "optim",
    "samplers",
    "tasks",
]
# Classes that users call or derive from, whose methods are listed too.
CONTRACTS = {
    "Condition", "DataModule", "Denoiser", "Loss", "Metric", "Net", "Parameterization", "Pipeline", "Run", "Sampler",
    "Schedule", "Task",
}  # fmt: skip
PLAIN = (int, float, str, bool, type(None))


def snapshot() -> str:
    """A line for each name of the public API."""
    return "".join(f"{line}\n" for package in PACKAGES for line in lines(package))


def lines(package: str) -> Iterator[str]:
    """The lines of a package."""
    module = import_module(f"src.{package}")
    for name in sorted(module.__all__):
        value = getattr(module, name)
        yield f"src.{package}.{name}{signature(value) if callable(value) else ''}"
        if inspect.isclass(value) and name in CONTRACTS:
            for method, function in sorted(methods(value).items()):
                yield f"src.{package}.{name}.{method}{signature(function)}"


def methods(kind: type) -> dict[str, Callable]:
    """The public methods that this project defines for a class."""
    own = [base for base in kind.__mro__ if base.__module__.startswith("src.")]
    names = {name for base in own for name in vars(base) if name[0] != "_" or name == "__call__"}
    return {name: value for name in names if inspect.isroutine(value := getattr(kind, name, None))}


def signature(target: Any) -> str:
    """The parameters of a callable with their defaults, without annotations."""
    if is_typeddict(target):
        return f"({', '.join(target.__annotations__)})"
    try:
        found = parameters(target)
    except NameError:  # annotated with names that only type checkers import
        found = dict(inspect.signature(target).parameters)
    return f"({', '.join(map(written, found.values()))})"


def written(p: inspect.Parameter) -> str:
    """A parameter as in a signature; a default other than a plain value is `...`."""
    stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
    if p.default is p.empty:
        return f"{stars}{p.name}"
    return f"{stars}{p.name}={repr(p.default) if isinstance(p.default, PLAIN) else '...'}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="rewrite the file; otherwise only print the lines")
    if parser.parse_args().write:
        FILE.write_text(snapshot())
    else:
        print(snapshot(), end="")
