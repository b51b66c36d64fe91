"""Fewer cases are run, but of no value and no pair of values none."""

from itertools import combinations, product
from pathlib import Path

import pytest

from tests.helpers.covering import covering

pytest_plugins = "pytester"


@pytest.mark.parametrize("strength", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(4,), (3, 5), (3, 3, 3, 3), (2, 7, 4, 3)])
@pytest.mark.parametrize("seed", [0, 1])
def test_each_combination_is_kept_in_few_rows(strength, sizes, seed):
    rows = list(product(*map(range, sizes)))
    kept = [rows[i] for i in covering(rows, strength, seed)]
    for columns in combinations(range(len(sizes)), min(strength, len(sizes))):
        assert {tuple(row[c] for c in columns) for row in kept} == set(product(*(range(sizes[c]) for c in columns)))
    fewest = 1
    for size in sorted(sizes)[-strength:]:
        fewest *= size
    assert fewest <= len(kept) <= 2.1 * fewest
    if strength == 1 or strength >= len(sizes):
        assert len(kept) == fewest


def test_combinations_that_no_row_has_are_none():
    rows = [(i, j) for i in range(4) for j in range(4) if i <= j]
    assert {v for i in covering(rows, 1) for v in rows[i]} == set(range(4))
    assert sorted(covering(rows, 2)) == list(range(len(rows)))
    assert covering([], 1) == []


def test_the_seed_chooses_the_array():
    rows = list(product(range(5), range(5)))
    assert covering(rows, 1, 3) == covering(rows, 1, 3)
    assert len(set().union(*(covering(rows, 1, seed) for seed in range(40)))) == 25


TESTS = """
import pytest

pytestmark = pytest.mark.strength(1)


@pytest.fixture(params=range(4))
def number(request):
    return request.param


@pytest.fixture(params=[(i, j) for i in range(4) for j in range(4) if i != j])
def pair(request):
    return request.param


@pytest.mark.parametrize("letter", "abc")
def test_each(letter, number):
    pass


@pytest.mark.most(2)
@pytest.mark.parametrize("letter", "abc")
def test_few(letter, number):
    pass


@pytest.mark.strength(2)
@pytest.mark.parametrize("letter", "abc")
def test_pairs(letter, number):
    pass


@pytest.mark.parametrize("a, b", [(i, j) for i in range(3) for j in range(3)])
def test_together(a, b):
    pass


@pytest.mark.strength(1, "a", "b")
@pytest.mark.parametrize(["a", "b"], [(i, j) for i in range(3) for j in range(3)])
def test_apart(a, b):
    pass


@pytest.mark.strength(1, "pair")
def test_tuples(pair):
    pass


@pytest.mark.parametrize("letter", ["a", pytest.param("b", marks=pytest.mark.slow)])
def test_slow(letter, number):
    pass


class TestAll:
    def test_plain(self):
        pass
"""


@pytest.mark.parametrize(("options", "expected"), [
    ((), {"each": 4, "few": 2, "pairs": 12, "together": 9, "apart": 3, "tuples": 4, "slow": 4, "plain": 1}),
    (("--most=3",), {"each": 3, "few": 2, "pairs": 3, "together": 3, "apart": 3, "tuples": 3, "slow": 3, "plain": 1}),
    (("-m", ""), {"each": 12, "few": 12, "pairs": 12, "together": 9, "apart": 9, "tuples": 12, "slow": 8, "plain": 1}),
    (("-m", "slow"), {"each": 8, "few": 10, "apart": 6, "tuples": 8, "slow": 4}),
    (tuple(f"test_what_pytest_runs.py::test_each[{n}-{letter}]" for n in range(4) for letter in "abc"), {"each": 12}),
])  # fmt: skip
def test_what_pytest_runs(options, expected, pytester):
    pytester.makeconftest("from tests.helpers.covering import pytest_addoption, pytest_generate_tests")
    pytester.makeini("[pytest]\naddopts = -m 'not slow'\nmarkers =\n  slow\n  strength\n  most")
    pytester.syspathinsert(Path(__file__).parents[2])
    pytester.makepyfile(TESTS)
    (call,) = pytester.inline_run("--collect-only", *options).getcalls("pytest_collection_finish")
    found = [item.originalname.removeprefix("test_") for item in call.session.items]
    assert {name: found.count(name) for name in found} == expected
