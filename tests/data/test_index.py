"""Cached file lists: reused, rebuilt after changes, and safe with several processes."""

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
import torch

from src.data import image_folder, scan
from tests.data.image_trees import CLASSES, everything, images, same, tree, zipped


def settle(root, seconds=10):
    """Make all files older, so that they count as settled; younger where the seconds are negative."""
    for path in [Path(root), *Path(root).rglob("*")]:
        time = path.stat().st_mtime_ns - seconds * 1_000_000_000
        os.utime(path, ns=(time, time))
    return root


def load(root, index, **settings):
    return images(root, cache_gb=0.0, num_workers=1, num_classes=3, index=str(index), **settings)


def names(data):
    parts = data.train_set.x.part, data.val_set.x.part
    return {part.files.name(i) for part in parts for i in part.indices.tolist()}


@pytest.fixture
def looks(monkeypatch):
    """A list of the file lists whose images are checked."""
    done, look = [], image_folder.find_unreadable
    monkeypatch.setattr(image_folder, "find_unreadable", lambda files: done.append(files) or look(files))
    return done


@pytest.mark.parametrize("pack", [lambda root: root, zipped], ids=["folder", "zip"])
def test_a_second_start_looks_at_nothing(tmp_path, looks, monkeypatch, pack):
    root = tree(tmp_path / "pets", CLASSES)
    (root / "cat/0.png").write_bytes(b"no image")
    root = settle(pack(root))
    first = load(root, tmp_path / "index", max_unreadable=0.2)
    for part in ("scan_folder", "scan_zip", "scan_shards", "find_shards"):
        monkeypatch.setattr(scan, part, None)
    again = load(root, tmp_path / "index", max_unreadable=0.2)
    assert len(looks) == 1 and len(list((tmp_path / "index").iterdir())) == 1
    assert first.warning == again.warning and "cat/0.png (not an image" in again.warning
    assert first.source == again.source and first.class_names == again.class_names
    for part in ("train_set", "val_set"):
        assert same(everything(getattr(first, part), 3), everything(getattr(again, part), 3))


def add(root):
    shutil.copy(root / "cat/0.png", root / "cat/new.png")


def remove(root):
    (root / "cat/0.png").unlink()


def rename(root):
    (root / "cat/0.png").rename(root / "cat/new.png")


def add_folder(root):
    shutil.copytree(root / "cat/deep", root / "cat/deep/er")


def add_deep(root):
    shutil.copy(root / "cat/0.png", root / "cat/deep/new.png")


@pytest.mark.parametrize("change", [add, remove, rename, add_folder, add_deep], ids=lambda change: change.__name__)
def test_changes_of_a_folder_are_seen(tmp_path, looks, change):
    root = settle(tree(tmp_path / "pets", [*CLASSES, "cat/deep/x.png"]))
    before = names(load(root, tmp_path / "index"))
    change(root)
    after = names(load(root, tmp_path / "index"))
    found = {str(p.relative_to(root)) for p in root.rglob("*.*")}
    assert after == found != before and len(looks) == 2


def test_a_changed_archive_is_seen(tmp_path):
    root = tree(tmp_path / "pets", CLASSES)
    archive = settle(zipped(root))
    assert len(names(load(archive, tmp_path / "index"))) == 9
    remove(root)
    assert len(names(load(zipped(root), tmp_path / "index"))) == 8


@pytest.mark.parametrize("pattern", ["", "*.tar"])
def test_a_shard_more_is_seen(tmp_path, pattern):
    pytest.importorskip("webdataset")
    shards = tmp_path / "shards"
    shards.mkdir()
    root = tree(tmp_path / "pets", CLASSES)
    for name in "ab":
        assert not shutil.make_archive(str(shards / name), "tar", root, ".").endswith("gz")
        assert len(names(load(settle(shards) / pattern, tmp_path / "index"))) == {"a": 9, "b": 18}[name]


def test_what_is_overwritten_in_place_is_seen_only_by_a_rescan(tmp_path):
    root = settle(tree(tmp_path / "pets", CLASSES))
    load(root, tmp_path / "index")
    (root / "cat/0.png").write_bytes(b"no image")
    assert load(root, tmp_path / "index").warning is None
    assert "cat/0.png" in load(root, tmp_path / "index", rescan=True, max_unreadable=0.2).warning
    assert "cat/0.png" in load(root, tmp_path / "index", max_unreadable=0.2).warning


def test_nothing_is_kept_of_small_data_nor_of_a_folder_that_is_being_filled(tmp_path):
    root = settle(tree(tmp_path / "pets", CLASSES), -3600)
    load(root, tmp_path / "index")
    images(settle(root, 3600 + 10), index=str(tmp_path / "index"))
    assert not (tmp_path / "index").exists()
    load(root, tmp_path / "index")
    assert (tmp_path / "index").exists()


def test_a_broken_list_or_no_place_for_one_does_no_harm(tmp_path, looks):
    root = settle(tree(tmp_path / "pets", CLASSES))
    load(root, tmp_path / "index")
    (kept,) = (tmp_path / "index").iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    assert len(names(load(root, tmp_path / "index"))) == 9 and len(looks) == 2
    (tmp_path / "file").write_text("where the folder should be")
    assert len(names(load(root, tmp_path / "file"))) == 9


def test_several_processes_may_start_at_once(tmp_path):
    root = settle(tree(tmp_path / "pets", CLASSES))
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.starmap(_names, [(root, tmp_path / "index")] * 12)
    assert found == [set(CLASSES)] * 12
    assert len(list((tmp_path / "index").iterdir())) == 1 and torch.load(next((tmp_path / "index").iterdir()))


def _names(root, index):
    torch.set_num_threads(1)
    return names(load(root, index))
