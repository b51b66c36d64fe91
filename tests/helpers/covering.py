"""Which combinations of a test's parameters are run: a covering array of the product, smaller than the product."""

import heapq
import random
import zlib
from collections.abc import Hashable, Iterator, Sequence
from itertools import combinations

import pytest
from pytest import Metafunc, Parser


def covering(rows: Sequence[Sequence[Hashable]], strength: int, seed: int = 0) -> list[int]:
    """The places of few rows that hold each combination of `strength` columns' values that is in any row.

    Greedy: the row with the most new combinations comes next, of equally good ones any, by the seed.
    """
    held = [set(combinations(enumerate(row), min(strength, len(row)))) for row in rows]
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    heap = [(-len(held[i]), place, i) for place, i in enumerate(order)]
    heapq.heapify(heap)
    kept: list[int] = []
    known: set = set()
    while heap:
        gain, place, i = heapq.heappop(heap)
        new = len(held[i] - known)
        if new == -gain and new:
            kept.append(i)
            known |= held[i]
        elif new:
            heapq.heappush(heap, (-new, place, i))
    return kept


def factors(metafunc: Metafunc, apart: Sequence[str]) -> Iterator[list[Hashable]]:
    """For each case of a test its values, one a factor.

    Values that one decorator gives together are one; but the parameters named in `apart` are each one of their own,
    and each of several where they are tuples.
    """
    rows = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    rows = [row.replace(",", " ").split() if isinstance(row, str) else list(row) for row in rows]
    groups = [[name for name in row if name not in apart] for row in rows]
    together = {name for row in rows for name in row} | set(apart)
    for call in metafunc._calls:
        split = [call.params[name] for name in apart]
        values = [v for value in split for v in (value if isinstance(value, tuple) else (value,))]
        indices = [call.indices[group[0]] for group in groups if group]
        yield [*map(repr, values), *indices, *(i for name, i in call.indices.items() if name not in together)]


def pytest_addoption(parser: Parser) -> None:
    parser.addoption("--most", type=int, help="at most this many cases of each test, of different values")


@pytest.hookimpl(wrapper=True)
def pytest_generate_tests(metafunc: Metafunc) -> Iterator[None]:
    """Mark the cases of a test that a covering array does without as slow; forget them where slow ones are not run.

    The array is of strength 2: each pair of values is run, in which nearly all mistakes show (Kuhn et al. 2004,
    10.1109/TSE.2004.24). `@pytest.mark.strength(1)` asks for each value only, where the code takes the factors one
    after the other; further arguments are the names of parameters that are factors of their own, see `factors`. Which
    of the arrays it is differs from test to test, so that many tests of one product run most of it.
    `@pytest.mark.most(n)` runs n cases of an array: of tests which found no mutant that others do not (`make mutants`).
    A case that the command line asks for by its id is run.
    """
    yield
    if any("[" in arg for arg in metafunc.config.args):
        return
    mark = metafunc.definition.get_closest_marker("strength")
    strength, *apart = mark.args if mark else (2,)
    usual = [i for i, call in enumerate(metafunc._calls) if all(m.name != "slow" for m in call.marks)]
    rows = list(factors(metafunc, [name for name in apart if name in metafunc.fixturenames]))
    kept = covering([rows[i] for i in usual], strength, zlib.crc32(metafunc.definition.nodeid.encode()))
    limits = [mark.args[0] for mark in metafunc.definition.iter_markers("most")]
    limits += [n for n in [metafunc.config.getoption("most")] if n is not None]
    left_out = set(usual) - {usual[i] for i in kept[: min(limits, default=None)]}
    if metafunc.config.getoption("markexpr") == "not slow":
        metafunc._calls = [call for i, call in enumerate(metafunc._calls) if i not in left_out]
    else:
        for i in left_out:
            metafunc._calls[i].marks.append(pytest.mark.slow.mark)
