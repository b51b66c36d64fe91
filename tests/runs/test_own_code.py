"""The user's own modules are found with all that they import, copied with their hashes, and imported from the copy."""

import importlib
import logging
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from src.runs.own_code import CODE, Copy, same_code_after, save_code, use_code
from src.runs.own_modules import find_spec, imported_names, own_modules

FILES = {
    "my_parts.py": "import torch, json\nfrom my_lab import nets\nimport src.nets\nclass Net(nets.Base): where = 1\n",
    "my_lab/__init__.py": "",
    "my_lab/nets/__init__.py": "from .base import Base\n",
    "my_lab/nets/base.py": "class Base:\n def act(self):\n  from my_lab.late import value\n  return value\n",
    "my_lab/late.py": "value = 3\n",
    "my_lab/unused.py": "",
    "spaces/deep/part.py": "class Other: pass\n",
    "stranger.py": "",
}  # fmt: skip
CFG = {
    "net": {"_target_": "my_parts.Net", "act": {"_target_": "torch.nn.ReLU"}},
    "loss": {"_target_": "src.diffusion.losses.MSE", "cell": {"_target_": "hydra.utils.get_class", "path": "x.Y"}},
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A folder on Python's path with modules that are forgotten after the test."""
    folder = write(tmp_path / "source", FILES)
    monkeypatch.syspath_prepend(str(folder))
    with same_code_after():
        yield folder
    for name in [n for n in sys.modules if n.split(".")[0] in ("my_parts", "my_lab", "spaces", "stranger")]:
        del sys.modules[name]


@pytest.fixture
def saved(source, tmp_path):
    """The folder of a run with a copy of that code, and what run.json says of it."""
    importlib.import_module("my_parts")
    return tmp_path / "run", save_code(tmp_path / "run", CFG)["code"]


def test_all_that_a_target_imports_is_found(source):
    importlib.import_module("my_parts")
    there = ["my_lab", "my_lab.late", "my_lab.nets", "my_lab.nets.base", "my_parts"]
    found = own_modules(CFG)
    assert list(found) == there
    assert found["my_lab"] == source / "my_lab/__init__.py" and found["my_parts"] == source / "my_parts.py"
    importlib.import_module("my_lab.unused")  # as a package does that searches its folder
    assert list(own_modules(CFG)) == sorted([*there, "my_lab.unused"])


def test_modules_in_folders_without_init(source):
    importlib.import_module("spaces.deep.part")
    assert list(own_modules({"x": [{"_target_": "spaces.deep.part.Other"}]})) == ["spaces.deep.part"]


def test_a_class_that_hydra_gets_by_its_path(source):
    importlib.import_module("my_lab.late")
    node = {"_target_": "hydra.utils.get_class", "path": "my_lab.late.value"}
    assert list(own_modules({"x": node})) == ["my_lab", "my_lab.late"]


@pytest.mark.parametrize("name", ["torch.nn.ReLU", "src.nets.mlp.MLP", "json.loads", "yaml.safe_load", "no.such", "x"])
def test_what_is_not_own(name):
    assert own_modules({"x": {"_target_": name}}) == {}


def test_nothing_is_saved_without_own_code(tmp_path):
    assert save_code(tmp_path, {"net": {"_target_": "src.nets.mlp.MLP"}}) == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "name", "imported"),
    [
        ("import a.b as c", "m", {"a", "a.b"}),
        ("from a import b", "m", {"a", "a.b"}),
        ("from . import b", "p.m", {"p", "p.b"}),
        ("from ..q import b", "p.s.m", {"p", "p.q", "p.q.b"}),
        ("def f():\n import z", "m", {"z"}),
    ],
)
def test_imports_of_a_module(tmp_path, text, name, imported):
    (tmp_path / "m.py").write_text(text)
    assert imported_names(tmp_path / "m.py", name) == imported


def test_relative_imports_of_a_package(tmp_path):
    (tmp_path / "__init__.py").write_text("from .b import c")
    assert imported_names(tmp_path / "__init__.py", "p") == {"p", "p.b", "p.b.c"}


def test_a_module_is_found_without_importing_its_parents(source):
    spec = find_spec("my_lab.nets.base")
    assert spec is not None and spec.origin == str(source / "my_lab/nets/base.py") and "my_lab" not in sys.modules
    assert find_spec("my_lab.no") is find_spec("no.no") is find_spec("my_parts.no") is None


def test_a_module_is_found_in_folders_that_are_no_packages(tmp_path, monkeypatch):
    file = tmp_path / "outer_lab/inner/parts.py"
    file.parent.mkdir(parents=True)
    file.write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    spec = find_spec("outer_lab.inner.parts")
    assert spec is not None and spec.origin == str(file) and "outer_lab" not in sys.modules


def test_the_copy_has_the_files_and_their_hashes(source, saved):
    run, digests = saved
    files = {p.relative_to(run / CODE).as_posix(): p for p in (run / CODE).rglob("*") if p.is_file()}
    assert files.keys() == digests.keys() and "my_lab/nets/__init__.py" in files
    for name, file in files.items():
        assert file.read_text() == FILES[name] and digests[name] == sha256(FILES[name].encode()).hexdigest()


def test_a_changed_module_replaces_the_copy_and_is_said(source, saved, caplog):
    run, digests = saved
    (source / "my_parts.py").write_text("class Net: where = 2\n")
    assert save_code(run, CFG)["code"]["my_parts.py"] != digests["my_parts.py"]
    assert "where = 2" in (run / CODE / "my_parts.py").read_text()
    assert ["my_parts.py has changed since" in r.message for r in caplog.records] == [True]


def test_the_copy_is_imported_while_it_is_used(source, saved, caplog):
    """Also if another module of the same name was imported before, which is back afterwards."""
    run, digests = saved
    (source / "my_parts.py").write_text("class Net: where = 2\n")
    here = importlib.reload(sys.modules["my_parts"])
    use_code(run, digests)
    copy = importlib.import_module("my_parts")
    assert copy.Net.where == 1 and Path(copy.__file__).parent == run / CODE
    assert Path(importlib.import_module("my_lab.nets.base").__file__).is_relative_to(run / CODE)
    assert copy.Net().act() == 3 and Path(sys.modules["my_lab.late"].__file__).is_relative_to(run / CODE)
    use_code(None)
    assert importlib.import_module("my_parts") is here and str(run / CODE) not in sys.path
    use_code(run, digests)
    assert importlib.import_module("my_parts") is copy
    (said,) = [r.message for r in caplog.records]
    assert str(run / CODE) in said and "; my_parts on Python's path differs and is not used" in said


def test_two_runs_have_code_of_their_own(source, saved, tmp_path):
    run, _ = saved
    write(tmp_path / "other" / CODE, {"my_parts.py": "class Net: where = 2\n"})
    for folder, where in ((run, 1), (tmp_path / "other", 2), (run, 1)):
        use_code(folder)
        assert importlib.import_module("my_parts").Net.where == where
    with same_code_after():
        use_code(tmp_path / "other")
        assert importlib.import_module("my_parts").Net.where == 2
    assert importlib.import_module("my_parts").Net.where == 1


def test_a_module_in_a_package_of_which_the_copy_has_no_init(source, tmp_path):
    """The attribute of the package is exchanged too, by which Hydra finds it."""
    here = importlib.import_module("spaces.deep.part")
    write(tmp_path / "run" / CODE, {"spaces/deep/part.py": "class Other: copied = True\n"})
    use_code(tmp_path / "run")
    assert importlib.import_module("spaces.deep.part").Other.copied
    assert sys.modules["spaces.deep"].part is sys.modules["spaces.deep.part"] is not here
    use_code(None)
    assert sys.modules["spaces.deep"].part is here


def test_an_altered_copy_is_said(saved, caplog):
    run, digests = saved
    (run / CODE / "my_lab/late.py").write_text("value = 4\n")
    use_code(run, digests)
    assert any("my_lab/late.py in " in r.message and "has changed since" in r.message for r in caplog.records)
    assert Copy(run / CODE).altered({}) == []


def test_a_run_without_a_copy_uses_what_python_finds(source, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    use_code(tmp_path)
    assert Path(importlib.import_module("my_parts").__file__).parent == source and not caplog.records
