"""Wilson's interval by its formula."""

import pytest

from src.statistics.significance import wilson_interval


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (5, 10), (10, 10), (480, 1000)])
def test_it_is_wilsons(hits, n):
    p, z2 = hits / n, 1.959964**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    margin = (z2 * (p * (1 - p) / n + z2 / (4 * n**2))) ** 0.5 / (1 + z2 / n)
    low, high = wilson_interval(hits, n)
    assert (low, high) == pytest.approx((middle - margin, middle + margin), abs=1e-6)
