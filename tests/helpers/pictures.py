"""Pictures drawn in half the time, for tests of other things."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from matplotlib.figure import Figure


@contextmanager
def without_layout() -> Iterator[None]:
    """Draw all figures, but leave out where labels would overlap, which takes as long again; tests/plots has that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "get_layout_engine", lambda self: None)
        yield
