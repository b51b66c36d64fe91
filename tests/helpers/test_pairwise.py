"""Fewer tests are run, but of no value and no pair of values none."""

from itertools import combinations, product
from types import SimpleNamespace

import pytest

from tests.helpers.pairwise import without_a_new_pair


def items(parameters, marks):
    """Tests of every combination of the values, as pytest makes them of fixtures and of decorators."""
    return [
        SimpleNamespace(
            nodeid=f"test_it[{i}]",
            callspec=SimpleNamespace(params=dict(zip(parameters, values, strict=True))),
            iter_markers=lambda name: [SimpleNamespace(args=[row]) for row in marks],
        )
        for i, values in enumerate(product(*parameters.values()))
    ]


@pytest.mark.parametrize("decorated", [True, False])
@pytest.mark.parametrize("names", ["a", "ab"])
def test_of_one_or_two_parameters_all_are_run(names, decorated):
    assert not without_a_new_pair(items({name: range(4) for name in names}, names if decorated else []))


@pytest.mark.parametrize("decorated", [True, False])
def test_of_more_every_pair_is_run(decorated):
    every = items({name: range(3) for name in "abcd"}, "abcd" if decorated else [])
    left_out = without_a_new_pair(every)
    run = [item.callspec.params for item in every if item not in left_out]
    for (a, b), x, y in product(combinations("abcd", 2), range(3), range(3)):
        assert any(params[a] == x and params[b] == y for params in run)
    assert len(run) < 0.5 * len(every)


def test_values_given_together_are_all_run():
    """Even where each pair of them was seen."""
    triples = [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0)]
    every = {tuple(item.callspec.params.values()): item for item in items({n: range(2) for n in "abc"}, ["a, b, c"])}
    assert not without_a_new_pair([every[triple] for triple in triples])


def test_others_are_left_alone():
    assert not without_a_new_pair([SimpleNamespace(nodeid="test_it")] * 2)
