"""Files that are there as a whole or not at all."""

from pathlib import Path

import numpy as np
import pytest

from src.utils.atomic import atomic_write, replace, restore_backup


def test_the_new_one_takes_the_place_of_the_old_one(tmp_path):
    file = tmp_path / "folder/x.npz"
    for value in (1, 2):
        with atomic_write(file) as partial:
            np.savez(partial, x=value)
    assert np.load(file)["x"] == 2 and [p.name for p in file.parent.iterdir()] == ["x.npz"]


def test_the_old_one_stays_where_writing_fails(tmp_path):
    file = tmp_path / "x.json"
    file.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(file) as partial:
        partial.write_text("half of it")
        raise KeyboardInterrupt
    assert file.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x.json"]


def make(path, kind, text):
    """A file, or a folder with one, that holds a text."""
    if kind == "folder":
        path.mkdir()
    (path / "part" if kind == "folder" else path).write_text(text)


@pytest.mark.parametrize("new", ["file", "folder"])
@pytest.mark.parametrize("old", ["file", "folder", None])
def test_one_takes_the_place_of_another(tmp_path, old, new):
    path, fresh = tmp_path / "c.ckpt", tmp_path / "new"
    if old:
        make(path, old, "old")
    make(fresh, new, "new")
    replace(fresh, path)
    assert (path / "part" if new == "folder" else path).read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["c.ckpt"]


@pytest.mark.parametrize("old", ["file", "folder"])
def test_a_kill_between_the_two_moves_loses_nothing(tmp_path, monkeypatch, old):
    path, fresh = tmp_path / "c.ckpt", tmp_path / "new"
    make(path, old, "old")
    make(fresh, "folder", "new")
    rename, moves = Path.rename, []

    def killed(self, target):
        moves.append(target)
        if len(moves) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            replace(fresh, path)
    assert not path.exists()
    restore_backup(path)
    assert (path / "part" if old == "folder" else path).read_text() == "old"
