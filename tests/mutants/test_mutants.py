"""The tool that changes the code and sees whether the tests notice."""

from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray", reason="make mutants installs it")

from cosmic_ray.mutating import mutate_code

from tests.mutants import __main__ as command
from tests.mutants.drawing import COMPROMISES, Mutant, cases_of, draw, find, group_files, positions
from tests.mutants.line_map import LineMap
from tests.mutants.operators import OWN
from tests.mutants.scope import files_of_tests, mutated_files

CODE = '''
"""Text - text."""

LIMIT: "int | None" = 3


def f(x: int = 2, *, y: float | None = None) -> int:
    """Doc - string."""
    if x < 0:
        raise ValueError(f"got {x - 1}")
    log.info("%d", x + 5)
    return g(x - 1)
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "code.py"
    path.write_text(CODE)
    return str(path)


@pytest.mark.parametrize("operator", OWN)
def test_examples(operator):
    for example in operator.examples():
        changed = mutate_code(example.pre_mutation_code, operator(), example.occurrence)
        assert changed == example.post_mutation_code


def test_only_what_matters_is_changed(file):
    """Neither annotations nor texts; and each place once."""
    found = draw([file], 0, seed=1)
    lines = [mutant.before for mutant in found]
    assert {line.split()[0] for line in lines} == {"LIMIT:", "def", "if", "raise", "return"}
    assert lines.count("return g(x - 1)") == 2 and len({mutant.key for mutant in found}) == len(found)
    raised = [mutant for mutant in found if mutant.before.startswith("raise")]
    assert [mutant.after for mutant in raised] == ["pass"]
    assert all(mutant.function == ("" if mutant.before.startswith("LIMIT") else "f") for mutant in found)


@pytest.mark.parametrize(
    ("left", "same"), [("x % 3", True), ("len(x)", True), ("x.ndim", True), ("x", False), ("x - len(x)", False)]
)
def test_what_is_never_negative_is_not_asked_if_it_is(tmp_path, left, same):
    """x % 3 == 0 and x % 3 <= 0 are one."""
    path = tmp_path / "code.py"
    path.write_text(f"def f(x):\n    return {left} == 0\n")
    found = {type(operator).__name__ for places in positions(str(path)).values() for operator, *_ in places}
    assert "ReplaceComparisonOperator_Eq_GtE" in found
    assert ("ReplaceComparisonOperator_Eq_LtE" in found) is not same


def test_the_seed_chooses(file):
    chosen = [[mutant.key for mutant in draw([file], 4, seed)] for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_a_mutant_is_found_again_after_its_line_has_moved(file):
    (mutant,) = draw([file], 1, seed=0)
    Path(file).write_text("import os\n\n" + CODE)
    (again,) = find({mutant.key})
    assert (again.line, again.key) == (mutant.line + 2, mutant.key)


def test_lines_in_which_a_change_shows(file):
    """The statement; of what an import executes, the function or the file."""
    shown = {m.before.split()[0]: m.lines for m in draw([file], 0, seed=0)}
    end = len(CODE.splitlines())
    assert shown["return"] == (end,) and shown["if"] == (9,)
    assert shown["def"][:2] == (7, 8) and end in shown["LIMIT:"]


def test_cases_come_by_functions_then_by_cost():
    cases = {"a.py::f[1]": 0.1, "a.py::f[2]": 0.2, "b.py::g": 0.05, "b.py::h": 5.0}
    part = {"seconds": cases, "lines": {"code.py": {"3": [0, 1, 2, 3], "4": [4]}}}
    known = LineMap({"a.py": part})
    mutant = Mutant("code.py", "", "", "x", "y", 3, (3, 4), False, "")
    order = ["b.py::g", "a.py::f[1]", "a.py::f[2]", "b.py::h"]
    assert cases_of(mutant, known, 60) == [order]
    assert cases_of(mutant, known, 0.3) == [order[:2]]


def test_the_nearest_files_of_tests_come_first():
    cost = {"tests/optim/test_ema.py": 9.0, "tests/optim/test_muon.py": 1.0, "tests/test_module.py": 0.5}
    assert list(group_files("src/optim/ema.py", cost).values()) == [0, 1, 2]
    assert list(group_files("src/optim/adam.py", cost).values()) == [0, 0, 2]


@pytest.mark.slow
def test_what_is_listed_as_equivalent_is_still_there():
    listed = command.equivalents()
    assert all(reason.strip() for reason in listed.values())
    assert listed.keys() == {mutant.key for mutant in find(set(listed))}


def test_the_compromises_exist():
    """Each in a line of its own."""
    lines = [line.strip() for file in mutated_files([]) for line in Path(file).read_text().splitlines()]
    assert all(any(line.startswith(f"{name} =") for line in lines) for name in COMPROMISES)


def test_the_scope_exists():
    assert len(mutated_files([])) > 40 and all(Path(file).exists() for file in mutated_files([]) + files_of_tests())
    assert mutated_files(["src/optim/ema.py"]) == ["src/optim/ema.py"]


def test_a_path_without_files_of_the_scope_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.parse(["src/optim", "src/nets"])
    assert "src/nets holds no file that is mutated" in capsys.readouterr().err
