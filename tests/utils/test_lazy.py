"""Packages whose exports are imported on first use list them, and refuse other names."""

import importlib
import subprocess
import sys

import pytest

PACKAGES = ["src.callbacks", "src.data", "src.loggers", "src.metrics", "src.tasks"]


@pytest.mark.parametrize("name", PACKAGES)
def test_all_exports_are_there_and_listed(name):
    package = importlib.import_module(name)
    assert dir(package) == sorted(package.__all__) and len(package.__all__) > 1
    assert all(getattr(package, export).__name__ == export for export in package.__all__)
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'Missing'"):
        _ = package.Missing


def test_nothing_is_imported_before_its_use():
    code = f"import sys, {', '.join(PACKAGES)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
