"""How OpenMP's threads wait is set before torch is loaded, unless the user has set it."""

import os
import subprocess
import sys
from importlib import reload

import pytest

import src


def test_openmp_waits_as_the_project_says():
    """The runtime shows what it has read, which is too late once torch is loaded."""
    environment = {k: v for k, v in os.environ.items() if k not in src.THREAD_WAIT} | {"OMP_DISPLAY_ENV": "verbose"}
    command = [sys.executable, "-c", "import src.utils.errors, torch"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr
    if "GOMP_" not in said:
        pytest.skip("this torch has another OpenMP than GNU's")
    assert "GOMP_SPINCOUNT = '5000'" in said


@pytest.mark.parametrize("own", [{}, *({name: "1"} for name in src.THREAD_WAIT)], ids=str)
def test_what_the_user_has_set_stays(own, monkeypatch):
    for name in src.THREAD_WAIT:
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    reload(src)
    found = {name: os.environ[name] for name in src.THREAD_WAIT if name in os.environ}
    assert found == (own or {"GOMP_SPINCOUNT": "5000"})
