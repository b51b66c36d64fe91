"""The code keeps its own rules: format, types, and imports that point down."""

import ast
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

# What each part of src/ may import of src/; plain torch below, Lightning in the middle, commands on top.
FLOORS = {
    "utils": {"utils"},
    "diffusion": {"diffusion", "utils"},
    "nets": {"nets", "utils"},
    "data": {"data", "utils"},
    "metrics": {"metrics", "utils"},
    "samplers": {"samplers", "diffusion", "utils"},
    "plots": {"plots", "diffusion", "utils"},
    "features": {"features", "data", "utils"},
    "measures": {"measures", "features", "runs", "tasks", "diffusion", "data", "metrics", "plots", "utils"},
    "tasks": {"tasks", "samplers", "diffusion", "utils"},
    "module": {"diffusion", "metrics", "utils"},
    "callbacks": {
        "callbacks",
        "module",
        "tasks",
        "samplers",
        "diffusion",
        "data",
        "features",
        "plots",
        "metrics",
        "utils",
    },
}
NOT_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
}  # fmt: skip
PLAIN = ("diffusion", "samplers", "nets")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


FILES = sorted(Path("src").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_down(path):
    part = path.parts[1].removesuffix(".py")
    ours = {name for name in imports(path) if name.startswith("src.")}
    if part in FLOORS:
        assert {name.split(".")[1] for name in ours} <= FLOORS[part]
    if part in PLAIN:
        assert not {name.split(".")[0] for name in imports(path)} & {
            "pytorch_lightning",
            "hydra",
            "omegaconf",
            "pathlib",
        }
    if part != "data":
        assert not {name for name in ours if name.startswith("src.data.")} - {"src.data.base"}
    if part != "nets":
        assert not {name for name in ours if name.startswith("src.nets.")}, "only configs name networks"


def lines_of_code(path: Path) -> int:
    """Lines that are neither blank nor comments nor docstrings."""
    code = {
        line
        for token in tokenize.generate_tokens(path.open().readline)
        if token.type not in NOT_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            code -= {*range(node.lineno, node.value.end_lineno + 1)}
    return len(code)


def test_the_core_stays_small():
    files = [path for folder in ("diffusion", "samplers") for path in Path("src", folder).glob("*.py")]
    assert all(len(path.read_text().splitlines()) < 300 for path in files)
    assert 1000 < sum(map(lines_of_code, files)) < 2000


def test_the_core_needs_torch_alone():
    """Beside it only shapes and ranges in signatures, and a solver for likelihoods."""
    names = {
        name.split(".")[0] for f in FILES if f.parts[1] in ("diffusion", "samplers") for name in imports(f)
    } - sys.stdlib_module_names
    assert names <= {"torch", "jaxtyping", "torchdiffeq", "annotated_types", "src"}


@pytest.mark.parametrize("check", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(check):
    done = subprocess.run([sys.executable, "-m", "ruff", *check, "src", "tests"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_types():
    done = subprocess.run([sys.executable, "-m", "mypy"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
