"""The code keeps its own rules: format, types, and imports that point down."""

import ast
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

# The house: every import points to a floor below, or stays in its own room.
FLOORS = (
    {"train", "sample", "evaluate", "compare", "export", "serve", "monitor", "retrain", "api"},
    {"commands"},
    {"callbacks", "tasks", "metrics", "formats", "service"},
    {"samplers", "module", "runs", "loggers", "data", "plots", "pretrained"},
    {"diffusion", "optim", "statistics", "utils"},
)
HEIGHT = {room: -i for i, floor in enumerate(FLOORS) for room in floor}
HEIGHT["nets"] = HEIGHT["samplers"]  # apart: only configs name networks
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
    room = path.parts[1].removesuffix(".py")
    rooms = {name.split(".")[1] for name in imports(path) if name.startswith("src.")} - {room}
    assert not {other for other in rooms if HEIGHT[other] >= HEIGHT[room]}
    assert "nets" not in rooms, "only configs name networks"
    if room in PLAIN:
        assert not {name.split(".")[0] for name in imports(path)} & {
            "pytorch_lightning",
            "hydra",
            "omegaconf",
            "pathlib",
        }


def test_the_help_waits_for_no_torch():
    commands = ", ".join(f"src.{name}" for name in sorted(FLOORS[0]))
    code = f"import {commands}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


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
    files = [path for folder in ("diffusion", "samplers") for path in Path("src", folder).glob("[!_]*.py")]
    assert all(len(path.read_text().splitlines()) < 300 for path in files)
    assert 1000 < sum(map(lines_of_code, files)) < 2950


def test_the_core_needs_torch_alone():
    """Beside it only shapes and ranges in signatures, and solvers: of ODEs for likelihoods, of assignments."""
    names = {
        name.split(".")[0] for f in FILES if f.parts[1] in ("diffusion", "samplers") for name in imports(f)
    } - sys.stdlib_module_names
    assert names <= {"torch", "jaxtyping", "torchdiffeq", "annotated_types", "scipy", "src"}


@pytest.mark.parametrize("check", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(check):
    done = subprocess.run([sys.executable, "-m", "ruff", *check, "src", "tests"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_types():
    done = subprocess.run([sys.executable, "-m", "mypy"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
