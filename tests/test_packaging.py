"""The installed package is complete: every module, all of conf/, and the templates of the reports."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from setuptools import find_packages

SETTINGS = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_package_is_listed():
    assert sorted(SETTINGS["packages"]) == sorted([*find_packages(".", include=["src", "src.*"]), "src.conf"])


@pytest.mark.slow
def test_a_wheel_holds_all_files(tmp_path):
    """It is built from a copy, since building leaves files behind."""
    files = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True).stdout.split("\0")
    kept = [file for file in files if file.startswith(("src/", "conf/", "pyproject", "README", "LICENSE"))]
    for file in filter(Path.is_file, map(Path, kept)):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(file.read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "wheels", "."]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "wheels").iterdir()
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("src/")}
    assert packed == {
        f"src/{file}" if file.startswith("conf/") else file for file in kept if file[:3] in ("src", "con")
    }
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    code = "from src.utils.paths import CONF; from src.plots import report; print(CONF)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "installed", capture_output=True, text=True)
    assert Path(done.stdout.strip()) == (tmp_path / "installed/src/conf").resolve(), done.stderr
