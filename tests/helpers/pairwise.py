"""Which tests of three or more parameters say nothing that those before them did not."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import combinations

from pytest import Item


def without_a_new_pair(items: Iterable[Item]) -> list[Item]:
    """Those in which each pair of values was in an earlier one of the same test.

    Nearly all mistakes show in some pair (Kuhn et al. 2004, 10.1109/TSE.2004.24). Values that one decorator gives
    together count as one. Tests of one or two parameters are never among them.
    """
    seen: dict[str, set[tuple[tuple[str, str], ...]]] = defaultdict(set)
    found = []
    for item in items:
        if not hasattr(item, "callspec"):
            continue
        values = {name: repr(value) for name, value in sorted(item.callspec.params.items())}
        rows = [mark.args[0] for mark in item.iter_markers("parametrize")]
        rows = [row.replace(",", " ").split() if isinstance(row, str) else row for row in rows]
        # The values one by one are for tests of a fixture's only.
        rows += [*combinations(values, 1), *combinations(values, 2)]
        new = {tuple((name, values[name]) for name in row) for row in rows}
        known = seen[item.nodeid.partition("[")[0]]
        if new <= known:
            found.append(item)
        known |= new
    return found
