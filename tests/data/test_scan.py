"""Scans for images: links, pipes, names of the parts of the data, and archives of various origins."""

import os
import zlib
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import pytest

from src.data.names import part_of, part_of_shard, tidy
from src.data.scan import scan_folder, scan_zip
from src.utils import budget
from tests.data.image_trees import CLASSES, everything, images, refused, tree


def found(root):
    files = (scan_folder if root.is_dir() else scan_zip)(root, "data.root")
    return [files.name(i) for i in range(len(files))]


def pack(path, members, compression=ZIP_STORED):
    """Write a zip file of (name, content)."""
    with ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def packed_tree(root):
    """Pack the tree in a zip file, without the folder itself."""
    return pack(root.with_suffix(".zip"), [(str(p.relative_to(root)), p.read_bytes()) for p in root.rglob("*.*")])


# ---- links, pipes and what is no image ----


def test_each_folder_is_looked_through_once(tmp_path):
    root = tree(tmp_path / "a/pets", ["cat/0.png", "dog/0.png"])
    tree(tmp_path / "a/other", ["deep/0.png"])
    for name, to in {
        "cat/up": root, "cat/self": root / "cat/self", "above": tmp_path, "zoo": root / "cat",
        "link2": tmp_path / "a/other", "link1": tmp_path / "a/other", "x/within": tmp_path / "a/other/deep",
    }.items():  # fmt: skip
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).symlink_to(to)
    assert found(root) == ["cat/0.png", "dog/0.png", "link1/deep/0.png"]
    (root / "self").symlink_to("self")
    data = images(root)
    assert "passed over in" in data.warning and "5 links to folders that are seen anyway" in data.warning


def test_links_to_images_are_followed_and_broken_ones_are_damaged_images(tmp_path):
    root = tree(tmp_path / "pets", CLASSES)
    (root / "1.png").symlink_to(root / CLASSES[0])
    (root / "2.png").symlink_to(root / "nowhere")
    (root / "3.png").symlink_to(root / "3.png")
    told = refused(root)
    assert told.startswith("2 of 12 images cannot be read: ") and "2.png (" in told and "3.png (" in told


def test_a_pipe_is_never_opened(tmp_path):
    root = tree(tmp_path / "pets", CLASSES)
    os.mkfifo(tmp_path / "pipe"), os.mkfifo(root / "cat/pipe.png")
    (root / "cat/link.png").symlink_to(tmp_path / "pipe")
    (root / "dog/zero.png").symlink_to("/dev/zero")
    assert "3 pipes, sockets or devices" in images(root).warning
    for name in ("pipe.zip", "pipe.tar", "pipe"):
        (tmp_path / "pipe").rename(tmp_path / name)
        assert f"got a pipe, socket or device, {tmp_path / name}" in refused(tmp_path / name)
        (tmp_path / name).rename(tmp_path / "pipe")


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_passed_over_is_said(tmp_path, packed):
    root = tree(tmp_path / "pets", CLASSES)
    names = [*(f"{i}.HEIC" for i in range(3)), "cat/raw.nef", "0001", "README", "license.txt", "cat/0.txt", ".hidden"]
    for name in names:
        (root / name).write_bytes(b"x")
    where = packed_tree(root) if packed else root
    beside = "3 .heic, 1 .nef" if packed else "3 .heic, 1 "
    assert f"passed over in {where}: {beside}" in images(where).warning
    for name in CLASSES:
        (root / name).unlink()
    assert "holds no image, but 3 .heic" in refused(root)


@pytest.mark.parametrize("ending", ["tif", "TIFF", "avif", "jfif", "jp2", "ppm", "tga"])
def test_kinds_that_pillow_reads(tmp_path, ending):
    data = images(tree(tmp_path, [f"{i}.{ending}" for i in range(4)]))
    assert data.warning is None and len(data.train_set) == 3


def test_names_that_are_not_text_are_escaped_where_they_are_shown(tmp_path):
    cat, dog = (os.fsdecode(name) for name in (b"c\xe9t", b"d\nog"))
    root = tree(
        tmp_path, [f"{name}/{i}{os.fsdecode(end)}.png" for name in (cat, dog) for i, end in enumerate((b"\xff", b"\n"))]
    )
    (root / dog / "bad\n.png").write_bytes(b"no image")
    data = images(root, num_classes=2, max_unreadable=0.5)
    assert data.class_names == [r"c\xe9t", r"d\nog"] and len(data.train_set) == 3
    assert r"cannot be read: d\nog/bad\n.png (not an image of a known format)" in data.warning


# ---- parts of the data ----


@pytest.mark.parametrize(
    ("part", "names"),
    {
        "train": ["train", "Train", "TRAINING", "Training Set", "train2017", "seg_train", "train_images", "trainA"],
        "val": ["VAL", "valid", "Validation", "val-set", "val2017"],
        "test": ["Test", "testing", "test_set", "flowers_test", "test_data_2"],
        None: ["cat", "trains", "retrain", "attest", "value", "Testudo", "", "trainer"],
    }.items(),
)
def test_names_of_parts(part, names):
    assert {name: part_of(name) for name in names} == dict.fromkeys(names, part)


def test_names_of_shards():
    names = ["train-000.tar", "imagenet-val-0001.tar", "TESTING_3.tar", "pets-00.tar", "trains-1.tar"]
    assert [part_of_shard(name) for name in names] == ["train", "val", "test", None, None]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("train", "val"),
    [("Train", "Test"), ("Training", "Testing"), ("train", "validation"), ("TRAIN", "VAL"), ("a_train", "a_test")],
)
def test_parts_by_any_name(tmp_path, train, val, packed):
    root = tree(tmp_path / "x", [f"{train}/{name}" for name in CLASSES] + [f"{val}/dog/{i}.png" for i in range(4)])
    if packed:
        root = packed_tree(root)
    data = images(root, num_classes=3)
    assert (len(data.train_set), len(data.val_set), data.class_names) == (9, 4, ["cat", "dog", "eel"])
    assert everything(data.val_set)["label"].unique().tolist() == [1] and data.warning is None


def test_the_test_images_of_three_parts_are_not_used(tmp_path):
    names = [*CLASSES, *(f"{i}.png" for i in range(3)), "deep/x.png"]
    parts = {"Train": CLASSES, "valid": names[:4], "TEST": names, "extra": ["1.png"]}
    root = tree(tmp_path, [f"{part}/{name}" for part, inside in parts.items() for name in inside])
    data = images(root)
    assert (len(data.train_set), len(data.val_set)) == (9, 4)
    assert data.source.endswith("; not used: TEST (13 images), extra (1 images)")


def test_two_folders_for_one_part_are_refused(tmp_path):
    root = tree(tmp_path, [f"{part}/{name}" for part in ("train", "Train", "test") for name in CLASSES])
    assert "must have one folder for train, got 2, Train and train; set data.root" in refused(root)


def test_what_looks_held_out_and_is_trained_on_is_said(tmp_path):
    root = tree(tmp_path, [f"{kind}/{part}/{i}.png" for kind in "ab" for part in ("train", "test") for i in range(3)])
    assert "training images include a/test/ and 1 more folders, whose name suggests" in images(root).warning


def test_classes_that_differ_in_case_are_said(tmp_path):
    data = images(tree(tmp_path, ["Cat/0.png", "cat/0.png", "dog/0.png"]), num_classes=3)
    assert "classes differ only in case: Cat, cat" in data.warning


# ---- zip files ----


@pytest.mark.parametrize(
    ("name", "inner"),
    {
        "a\\b\\x.png": "a/b/x.png", ".\\a\\x.png": "a/x.png", "./a/./x.png": "a/x.png", "/abs/x.png": "abs/x.png",
        "../../up/x.png": "up/x.png", "a/../b//x.png": "b/x.png", "a/x..png": "a/x..png",
        "a/.hidden/x.png": "a/.hidden/x.png", "..x.png": "..x.png",
    }.items(),
)  # fmt: skip
def test_names_in_archives(name, inner):
    assert tidy(name) == inner


def test_names_of_every_system_in_a_zip(tmp_path):
    names = [
        "Train\\cat\\0.png",
        "./Train/dog/0.png",
        "/Train/dog/1.png",
        "..\\Test\\cat\\0.png",
        "__MACOSX\\Train\\0.png",
    ]
    contents = [path.read_bytes() for path in tree(tmp_path / "x", [f"{i}.png" for i in range(5)]).iterdir()]
    data = images(pack(tmp_path / "x.zip", zip(names, contents, strict=True)), num_classes=2)
    assert (len(data.train_set), len(data.val_set), data.class_names) == (3, 1, ["cat", "dog"])


def test_the_last_of_one_name_counts(tmp_path):
    files = [path.read_bytes() for path in sorted(tree(tmp_path / "x", ["0.png", "1.png", "2.png"]).iterdir())]
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = pack(tmp_path / "x.zip", [("a.png", files[0]), ("A.png", files[1]), ("a.png", files[2])])
    assert found(path) == ["A.png", "a.png"] and scan_zip(path, "data.root").open(1).read() == files[2]
    assert "1 older images of the same name" in images(path).warning


def test_folders_in_folders_without_end(tmp_path):
    content = next(tree(tmp_path / "x", ["0.png"]).iterdir()).read_bytes()
    path = pack(tmp_path / "x.zip", [(f"{'d/' * 20_000}{i}.png", content) for i in range(2)])
    assert len(images(path).train_set) == 1


def test_zip_bombs_are_refused(tmp_path, monkeypatch):
    bomb = pack(tmp_path / "a.zip", [(f"{i}.png", bytes(1 << 20)) for i in range(4)], ZIP_DEFLATED)
    assert refused(bomb).startswith("4 of 4 images cannot be read")  # which costs little
    monkeypatch.setattr(budget, "FREE", 1 << 20)
    told = refused(bomb)
    assert f"data.root={bomb} unpacks from " in told and " to 4,194,304 bytes; more than 100 times its size" in told


def test_no_more_is_unpacked_than_the_list_of_the_zip_says(tmp_path):
    bomb = bytearray(pack(tmp_path / "a.zip", [("0.png", bytes(1 << 22))], ZIP_DEFLATED).read_bytes())
    entry = bomb.index(b"PK\1\2")
    bomb[entry + 24 : entry + 28] = (100).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(bomb)
    assert scan_zip(tmp_path / "a.zip", "data.root").open(0).read() == bytes(100)


def test_parts_of_a_zip_that_overlap_or_lie_outside_are_refused(tmp_path):
    path = pack(tmp_path / "a.zip", [("0.png", bytes(1000)), ("1.png", bytes(1000))])
    whole = path.read_bytes()
    first = whole.index(b"PK\1\2")
    second = whole.index(b"PK\1\2", first + 4)
    for at, length, value in ((second + 42, 4, 0), (first + 20, 4, 1 << 30), (first + 42, 4, 1 << 30)):
        path.write_bytes(whole[:at] + value.to_bytes(length, "little") + whole[at + length :])
        assert f"data.root={path} is damaged (" in refused(path)


def test_damaged_zips_are_refused_in_one_line(tmp_path):
    path = pack(tmp_path / "a.zip", [(f"ä{i}.png", zlib.compress(bytes(50))) for i in range(3)])
    whole = path.read_bytes()
    directory = whole.index(b"PK\1\2")
    for at in range(directory, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        assert refused(path)


def test_an_image_file_of_any_length_is_not_read(tmp_path):
    root = tree(tmp_path, CLASSES)
    with (root / "cat/huge.png").open("wb") as file:
        file.truncate(1 << 40)  # bytes, none of which are stored
    assert "images cannot be read: cat/huge.png (1,099,511,627,776 bytes, more than 536,870,912)" in refused(root)
