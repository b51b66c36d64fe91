"""A missing library is named with what to install."""

import pytest

from src.utils.errors import UserError
from src.utils.imports import need


def test_a_library_that_is_there():
    need("torch", "for everything")


def test_a_missing_library():
    with pytest.raises(UserError, match=r"no-such-thing is needed for format=x; .*'diffusion-lab\[onnx\]'"):
        need("no_such_thing", "for format=x", "onnx")
