"""Libraries that take long to import, which only the process imports that runs their tests."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest


class Library:
    """A library that is imported on first use; where it is missing, the file of tests that names it is skipped."""

    def __init__(self, name: str):
        self.__dict__["_name"] = name
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed", allow_module_level=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._name), name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise TypeError(f"a patch would be of the name here alone; patch '{self._name}.{name}', as a string")
