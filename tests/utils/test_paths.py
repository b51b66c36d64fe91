"""Names of files and folders: empty ones are refused, ~ is the home, and what cannot be written to is found out."""

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from src.utils import paths
from src.utils.errors import UserError
from src.utils.paths import check_writable, resolve_environment, resolve_strings


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "my home"))
    return tmp_path / "my home"


def test_a_tilde_is_the_home(home, monkeypatch):
    monkeypatch.setenv("DATA", "~/d")
    cfg = OmegaConf.create(
        {
            "data": {"root": "~/x", "other": "${.root}", "env": "${oc.env:DATA}/y", "middle": "a/~/b", "none": None},
            "runs": ["~", "~/a", {"b": "~/c"}],
            "needed": "???",
            "n": 3,
        }
    )
    OmegaConf.set_struct(cfg, True)
    resolve_strings(cfg)
    data = cfg.data
    assert [data.root, data.other, data.env] == [f"{home}/x", f"{home}/x", f"{home}/d/y"]
    assert (data.middle, data.none, cfg.n) == ("a/~/b", None, 3) and OmegaConf.is_missing(cfg, "needed")
    assert list(cfg.runs) == [str(home), f"{home}/a", {"b": f"{home}/c"}]


@pytest.mark.parametrize(
    ("cfg", "key"),
    [
        ({"out": ""}, "out"),
        ({"data": {"root": "  "}}, "data.root"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"data": {"_target_": "src.data.image_folder.ImageFolder", "root": ""}}, "data.root"),
        ({"data": {"root": "${oc.env:UNSET_BY_MISTAKE}"}}, "data.root"),
        ({"data": {"root": "${oc.env:NOWHERE_SET,''}"}}, "data.root"),
    ],
)
def test_an_empty_string_is_refused(monkeypatch, cfg, key):
    monkeypatch.setenv("UNSET_BY_MISTAKE", "")
    with pytest.raises(UserError) as error:
        resolve_strings(OmegaConf.create(cfg))
    assert str(error.value).startswith(f"{key}= is empty")


def test_empty_strings_of_parts_of_others_are_theirs():
    resolve_strings(
        OmegaConf.create({"logger": {"_target_": "pytorch_lightning.loggers.TensorBoardLogger", "name": ""}})
    )


def test_the_environment_is_read_like_a_setting(home, monkeypatch):
    monkeypatch.setenv(paths.OUTPUTS, "~/outputs")
    resolve_environment()
    assert os.environ[paths.OUTPUTS] == f"{home}/outputs"
    monkeypatch.setenv(paths.OUTPUTS, "")
    with pytest.raises(UserError, match=r"^DIFFUSION_LAB_OUTPUTS= is empty"):
        resolve_environment()


def test_a_folder_to_write_to_is_tried_without_a_trace(tmp_path):
    (tmp_path / "there").mkdir()
    for folder in (tmp_path / "there", tmp_path / "new/er/est"):
        assert check_writable("out", folder) == folder
    assert [p.name for p in tmp_path.iterdir()] == ["there"] and not list((tmp_path / "there").iterdir())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("file", "Not a directory"),
        ("file/below", "Not a directory"),
        ("file/far/below", "Not a directory"),
        ("dangling", ""),
        ("loop/x", "Too many levels"),
        ("x" * 300, "File name too long"),
        ("new/" + "x" * 300, "File name too long"),
        ("nu\0ll", "null byte"),
        ("/proc/x", "No such file"),
        ("/proc", ""),
        ("/dev/null/x", "Not a directory"),
    ],
)
def test_what_cannot_be_written_to(tmp_path, name, why):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "dangling").symlink_to("nowhere/at/all")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError) as error:
        check_writable("out", tmp_path / name, "give another out=FOLDER")
    message = str(error.value)
    assert message.startswith(f"out={tmp_path / name} cannot be written to (") and why in message
    assert message.endswith("; give another out=FOLDER")
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "file").read_text() == "kept"


def test_a_folder_without_permission(tmp_path, monkeypatch):
    """Which a superuser has nevertheless."""

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(paths.tempfile, "TemporaryFile", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        check_writable("out", tmp_path / "new")


def test_a_relative_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("", ".", "a", "a/b", "../x"):
        assert check_writable("out", folder) == Path(folder)
    assert not list(tmp_path.iterdir())
