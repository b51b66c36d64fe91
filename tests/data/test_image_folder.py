"""Image files of every format against known pixels, and trees of folders."""

import pickle
import re
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image
from torch._utils import ExceptionWrapper

from src.data.image_folder import ImageFolder
from src.data.images import Decoder, Unreadable
from src.data.scan import scan_folder, scan_zip
from src.utils.errors import UserError
from tests.data.image_trees import CLASSES, everything, images, pattern, refused, rgb, same, tree, zipped


def decode(image, ending="png", channels=3, size=None, resize="crop", **save):
    """Save the image, and decode it."""
    stored = BytesIO()
    image.save(stored, {"jpg": "jpeg"}.get(ending, ending), **save)

    class One:
        def open(self, i):
            return BytesIO(stored.getvalue())

    return Decoder(channels, size or image.size[::-1], resize)(One(), 0)


# ---- one image ----


@pytest.mark.parametrize(("ending", "save"), [("png", {}), ("bmp", {}), ("webp", {"lossless": True})])
def test_lossless_formats(ending, save):
    array = pattern()
    assert torch.equal(decode(Image.fromarray(array), ending, **save), rgb(array))


def test_jpeg():
    array = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    assert (decode(Image.fromarray(array), "jpg", quality=95).int() - rgb(array).int()).abs().max() <= 3


def test_gray_becomes_rgb_and_back():
    array = pattern(channels=1)
    assert torch.equal(decode(Image.fromarray(array)), torch.from_numpy(array).expand(3, -1, -1))
    assert torch.equal(decode(Image.fromarray(array), channels=1), torch.from_numpy(array)[None])
    colors = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert decode(Image.fromarray(colors), channels=1).flatten().tolist() == [76, 150, 29]  # ITU-R 601


def test_black_and_white():
    image = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert decode(image, channels=1).flatten().tolist() == [0, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_of_gray(channels):
    array = np.array([[0, 257, 32896, 65535]], np.uint16)
    assert decode(Image.fromarray(array), channels=channels)[-1].flatten().tolist() == [0, 1, 128, 255]


def test_transparency_lies_on_white():
    array = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    wanted = [[10, 20, 30], [255, 255, 255], [204, 204, 204]]
    assert decode(Image.fromarray(array))[:, 0].T.tolist() == wanted
    gray = Image.fromarray(np.array([[[0, 255], [0, 0]]], np.uint8), "LA")
    assert decode(gray, channels=1).flatten().tolist() == [0, 255]


@pytest.mark.parametrize("ending", ["png", "gif"])
def test_palette_with_transparency(ending):
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    assert decode(image, ending)[:, 0].T.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert decode(image, ending, transparency=1)[:, 0].T.tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]


def test_first_frame_of_a_gif():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    x = decode(frames[0], "gif", save_all=True, append_images=frames[1:])
    assert x.view(3, -1).T.unique(dim=0).tolist() == [[255, 0, 0]]


def test_cmyk():
    x = decode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "jpg", quality=95)
    assert (x[0] > 230).all() and (x[1:] < 25).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    array = pattern(4, 7)
    image = Image.fromarray(array)
    exif = image.getexif()
    exif[0x0112] = orientation
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, 1),
    }[orientation](array)
    x = decode(image, "png", size=upright.shape[:2], exif=exif)
    assert torch.equal(x, rgb(np.ascontiguousarray(upright)))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0MM\0*\0\0", b"\0\x08\0\x02\x01\x12", b"MM\0*" + bytes([0xFF] * 8), b"\0" * 40]
)
@pytest.mark.parametrize(("ending", "save"), [("png", {}), ("webp", {"lossless": True}), ("jpg", {"quality": 95})])
def test_exif_that_cannot_be_read_is_ignored(ending, save, exif):
    image = Image.fromarray(pattern(16, 16))
    assert torch.equal(decode(image, ending, exif=exif, **save), decode(image, ending, **save))


def test_a_tiff_is_turned_once_and_read_whatever_its_exif():
    array, exif = pattern(4, 7), Image.Exif()
    exif[0x0112] = 6
    x = decode(Image.fromarray(array), "tiff", size=(7, 4), exif=exif)
    assert torch.equal(x, rgb(np.rot90(array, -1).copy()))
    stored = BytesIO()
    exif.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    Image.fromarray(array).save(stored, "tiff", exif=exif.tobytes())
    content = bytearray(stored.getvalue())
    entry = content.index((0x8769).to_bytes(2, "little"))
    content[entry + 8 : entry + 12] = (1 << 30).to_bytes(4, "little")  # its own part of the EXIF data lies nowhere
    assert torch.equal(Decoder(3, (7, 4), "crop")(SimpleNamespace(open=lambda i: BytesIO(content)), 0), x)


# ---- its shape ----


def bands(height, width, axis):
    """Red, green, red: the middle third of the axis is green."""
    array = np.zeros((height, width, 3), np.uint8)
    length = array.shape[axis]
    where = (np.arange(length) >= length // 4) & (np.arange(length) < length * 3 // 4)
    green = where[:, None] if axis == 0 else where[None]
    array[..., 0], array[..., 1] = 255 * ~green, 255 * green
    return Image.fromarray(array)


@pytest.mark.parametrize(("height", "width", "axis"), [(40, 80, 1), (80, 40, 0)])
def test_crop_keeps_the_middle_and_stretch_keeps_all(height, width, axis):
    image = bands(height, width, axis)
    cropped = decode(image, size=(20, 20), resize="crop")
    assert (cropped[1, 2:-2, 2:-2] >= 254).all() and (cropped[0, 2:-2, 2:-2] <= 1).all()  # the middle half is green
    stretched = decode(image, size=(20, 20), resize="stretch").movedim(axis + 1, -1)
    assert (stretched[0, :, [1, -2]] >= 254).all() and (stretched[1, :, 8:12] >= 254).all()
    assert (stretched[1].float().mean() - 127.5).abs() < 2


def test_crop_without_scaling_takes_exact_pixels():
    array = pattern(8, 12)
    assert torch.equal(decode(Image.fromarray(array), size=(8, 6)), rgb(array[:, 3:9]))
    assert torch.equal(decode(Image.fromarray(array), size=(8, 12)), rgb(array))


def test_size_is_height_and_width():
    image = bands(30, 60, 1)
    assert decode(image, size=(10, 20)).shape == (3, 10, 20)
    assert decode(image, size=(20, 10), resize="stretch").shape == (3, 20, 10)
    assert decode(image, channels=1, size=(7, 3)).shape == (1, 7, 3)


def test_shrinking_is_antialiased():
    checkers = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    x = decode(checkers, channels=1, size=(8, 8)).int()
    assert ((x - 127).abs() <= 3).all()


def test_large_jpeg_matches_full_decoding():
    ramp = np.linspace(0, 255, 512)[None, :, None].repeat(512, 0).repeat(3, 2).astype(np.uint8)
    x = decode(Image.fromarray(ramp), "jpg", size=(16, 16), quality=95)
    wanted = np.asarray(Image.fromarray(ramp).resize((16, 16), Image.Resampling.LANCZOS))
    assert (x.int() - rgb(wanted.copy()).int()).abs().max() <= 2


# ---- trees ----


def test_labels_are_the_sorted_class_folders(tmp_path):
    data = images(tree(tmp_path / "pets", CLASSES), num_classes=3, val_fraction=0.2, flip=False)
    assert data.class_names == ["cat", "dog", "eel"] and (len(data.train_set), len(data.val_set)) == (7, 2)
    assert data.source.startswith("7 train / 2 validation images from ") and "3 classes, in memory" in data.source
    for dataset in (data.train_set, data.val_set):
        batch = everything(dataset)
        assert batch["x"].shape[1:] == (3, 6, 5) and batch["x"].dtype == torch.float32
        for x, label in zip(batch["x"], batch["label"], strict=True):
            number = next(i for i in range(9) if (x - (rgb(pattern(seed=i)) / 127.5 - 1)).abs().max() < 1e-6)
            assert number // 3 == label


def test_images_without_labels(tmp_path):
    data = images(tree(tmp_path, ["a.png", "b.png", "deep/er/c.png"]))
    assert (len(data.train_set), len(data.val_set)) == (2, 1) and "label" not in everything(data.train_set)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "test"])
@pytest.mark.parametrize("wrapper", ["", "one/two/"])
def test_given_parts(tmp_path, val, wrapper):
    tree(tmp_path, [f"{wrapper}train/{name}" for name in CLASSES] + [f"{wrapper}{val}/eel/x.png"])
    data = images(tmp_path, num_classes=3)
    assert (len(data.train_set), len(data.val_set), data.class_names) == (9, 1, ["cat", "dog", "eel"])
    assert everything(data.val_set)["label"].tolist() == [2]


@pytest.mark.parametrize("wrapper", ["", "more/"])
def test_val_root(tmp_path, wrapper):
    tree(tmp_path / "a", CLASSES), tree(tmp_path / "b", [f"{wrapper}dog/x.png", f"{wrapper}dog/y.png"])
    data = images(tmp_path / "a", val_root=str(tmp_path / "b"), num_classes=3)
    assert (len(data.train_set), len(data.val_set)) == (9, 2) and str(tmp_path / "b") in data.source
    assert everything(data.val_set)["label"].tolist() == [1, 1]


@pytest.mark.parametrize("cache_gb", [1.0, 0.0])
def test_a_zip_file_equals_its_folder(tmp_path, cache_gb):
    root = tree(tmp_path / "pets", CLASSES)
    (root / "cat/._0.png").write_bytes(b"")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX/0.png").write_bytes(b"")
    folder, archive = (images(where, num_classes=3, cache_gb=cache_gb) for where in (root, zipped(root)))
    assert len(folder.train_set) == 8 and folder.class_names == archive.class_names
    assert same(everything(folder.train_set, 3), everything(archive.train_set, 3))
    assert same(everything(folder.val_set), everything(archive.val_set))


@pytest.mark.parametrize("packed", [False, True])
def test_decoded_by_workers_equals_in_memory(tmp_path, packed):
    root = tree(tmp_path / "pets", CLASSES, size=(9, 7))
    root = zipped(root) if packed else root
    cached = images(root, num_classes=3, seed=4)
    lazy = images(root, num_classes=3, seed=4, cache_gb=0.0, num_workers=2)
    assert "in memory" in cached.source and "decoded by 2 workers" in lazy.source
    for loader in ("train_dataloader", "val_dataloader"):
        batches = [list(getattr(data, loader)()) for data in (cached, lazy)]
        beside = [[batch.pop("train", {}) for batch in part] for part in batches]  # training samples of the validation
        assert all(map(bool, beside[0])) == (loader == "val_dataloader") and len(batches[0]) > 0
        for parts in (batches, beside):
            assert all(same(*pair) for pair in zip(*parts, strict=True))


def test_workers_by_themselves_where_images_are_not_in_memory(tmp_path):
    root = tree(tmp_path, CLASSES)
    assert images(root).num_workers == 0 and 1 <= images(root, cache_gb=0.0).num_workers <= 8
    # 9 images of 3 × 6 × 5 bytes are 810 bytes
    assert "in memory" in images(root, cache_gb=811e-9).source and "workers" in images(root, cache_gb=809e-9).source


def test_many_images_are_read_by_processes(tmp_path):
    root = tree(tmp_path, [f"{i:04}.bmp" for i in range(1001)], size=(2, 2))
    (root / "0500.bmp").write_bytes(b"no image")
    state = torch.get_rng_state()
    data = images(root, size=[2, 2], val_fraction=0.001, flip=False)
    assert torch.equal(state, torch.get_rng_state())
    assert (len(data.train_set), len(data.val_set)) == (999, 1) and "0500.bmp" in data.warning
    found = {x.numpy().tobytes() for x in torch.cat([data.train_set.x, data.val_set.x])}
    assert found == {rgb(pattern(2, 2, seed=i)).numpy().tobytes() for i in range(1001) if i != 500}


def test_the_split_is_a_function_of_the_seed(tmp_path):
    root = tree(tmp_path, CLASSES)
    first, again, other = (images(root, seed=seed, val_fraction=0.3).val_set.x for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_only_training_images_are_flipped(tmp_path):
    data = images(tree(tmp_path, CLASSES))
    assert data.train_set.flip and not data.val_set.flip and not images(tmp_path, flip=False).train_set.flip


def test_files_can_be_sent_to_other_processes(tmp_path):
    root = tree(tmp_path / "pets", CLASSES)
    for files in (scan_folder(root, "data.root"), scan_zip(Path(zipped(root)), "data.root")):
        copy = pickle.loads(pickle.dumps(files))
        with copy.open(4) as a, files.open(4) as b:
            assert a.read() == b.read() == (root / CLASSES[4]).read_bytes() and files.name(4).endswith(CLASSES[4])


# ---- what is refused ----


@pytest.mark.parametrize("cache_gb", [1.0, 0.0])
def test_damaged_images_are_left_out_and_named(tmp_path, cache_gb):
    root = tree(tmp_path, CLASSES)
    for name in CLASSES[:2]:
        (root / name).write_bytes(b"no image")
    told = refused(root, cache_gb=cache_gb)
    assert told.startswith("2 of 9 images cannot be read: ") and "cat/0.png (" in told and "cat/1.bmp (" in told
    data = images(root, cache_gb=cache_gb, max_unreadable=0.5, num_classes=3)
    assert len(data.train_set) + len(data.val_set) == 7 and "they are left out" in data.warning
    labels = torch.cat([everything(part)["label"] for part in (data.train_set, data.val_set)])
    assert labels.bincount().tolist() == [1, 3, 3]


def test_only_the_first_five_damaged_images_are_named(tmp_path):
    for name in tree(tmp_path, CLASSES).rglob("*.*"):
        name.write_bytes(b"")
    told = refused(tmp_path)
    assert told.startswith("9 of 9") and told.count("not an image of a known format") == 5 and ", ...;" in told


def test_an_image_that_breaks_off_is_named_in_one_line(tmp_path):
    root = tree(tmp_path, CLASSES, size=(64, 64))
    for path in root.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:3000])
    data = images(root, cache_gb=0.0)
    try:
        everything(data.train_set)
    except Unreadable:
        handed_on = ExceptionWrapper(where="in DataLoader worker process 0")  # as a worker does, which ends slowly
    with pytest.raises(Unreadable) as caught:
        handed_on.reraise()
    assert ".png (" in str(caught.value) and "repair or remove this image" in str(caught.value)
    assert "\n" not in str(caught.value) and str(caught.value).split("/")[0] in ("cat", "dog", "eel")


def test_refuses_places_without_images(tmp_path):
    with pytest.raises(UserError, match=r"data\.root is not set; set data\.root=FOLDER"):
        ImageFolder(root=None).setup()
    assert "does not exist; set data.root=FOLDER" in refused(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no image")
    told = refused(tmp_path)
    assert "holds no image; add files that end in .png, .jpg, .jpeg, .webp, .bmp, .gif" in told
    assert "data.root must be a folder, or a zip or tar file, got" in refused(tmp_path / "notes.txt")
    with ZipFile(tmp_path / "empty.zip", "w"):
        pass
    assert "holds no image" in refused(tmp_path / "empty.zip")
    tree(tmp_path / "some", CLASSES)
    assert "data.val_root=" in refused(tmp_path / "some", val_root=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (CLASSES, {"num_classes": 2}, "(cat, dog, eel), or 0 to ignore them, got 2"),
        (["a.png", "b.png"], {"num_classes": 2}, "data.num_classes must be 0, the number of classes in"),
        ([*CLASSES, "stray.png"], {"num_classes": 3}, "stray.png must be in one of the class folders"),
        ([f"train/{name}" for name in CLASSES] + ["val/fox/1.png"], {"num_classes": 3}, "val/fox/1.png must be in one"),
        (["a.png"], {}, "must have at least 2 samples"),
        (CLASSES, {"channels": 4}, "data.channels must be 1 (grayscale) or 3 (RGB), got 4"),
        (CLASSES, {"size": [32]}, "got [32]"),
        (CLASSES, {"size": [0, 32]}, "got [0, 32]"),
        (CLASSES, {"resize": "squash"}, "data.resize must be crop or stretch, got squash"),
        (CLASSES, {"val_fraction": 0.0}, "data.val_fraction must be in (0, 1), got 0.0"),
        (CLASSES, {"shuffle_window": -1}, "data.shuffle_window must be >= 0, got -1"),
    ],
)
def test_refuses_settings(tmp_path, names, settings, message):
    assert message in refused(tree(tmp_path, names), **settings)


# ---- partners ----


def test_partners_come_with_their_images(tmp_path):
    """By path and name, whatever the ending; in memory and on access alike, and mirrored together."""
    root, other = tmp_path / "a", tmp_path / "b"
    for i in range(8):
        for folder, shift in ((root, 0), (other, 100)):
            path = folder / ("cat", "dog")[i % 2] / (f"{i}.bmp" if shift else f"{i}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            array = np.full((6, 5, 3), 10 * i, np.uint8)
            array[:, 0] = 10 * i + shift + 5
            Image.fromarray(array).save(path)
    held, read = (
        images(root, image=str(other), num_classes=2, cache_gb=gb, num_workers=1, index=str(tmp_path / "index"))
        for gb in (1.0, 0.0)
    )
    assert held.image_shape == [3, 6, 5]
    for epoch in (0, 1):
        batch = everything(held.train_set, epoch)
        assert same(batch, everything(read.train_set, epoch))
        x, image = 127.5 * (batch["x"] + 1), 255 * batch["image"]
        torch.testing.assert_close(image - x, 100.0 * (image - x > 50), atol=1e-3, rtol=0)  # the marked side is one
        marked = (image - x > 50).any(1).any(1)  # (B, W)
        assert (marked.sum(1) == 1).all() and (marked[:, 0] | marked[:, -1]).all()
    assert marked[:, 0].any() and marked[:, -1].any()
    assert held.identity() != images(root, num_classes=2).identity()


def test_partners_of_another_shape(tmp_path):
    tree(tmp_path / "a/train", ["1.png", "2.png"]), tree(tmp_path / "a/val", ["1.png"])
    tree(tmp_path / "b/train", ["1.webp", "2.webp", "3.webp"], (12, 10)), tree(tmp_path / "b/val", ["1.webp"], (12, 10))
    data = images(tmp_path / "a", image=str(tmp_path / "b"), image_shape=[1, 12, 10], flip=False)
    assert everything(data.train_set)["image"].shape == (2, 1, 12, 10)
    gray = Image.open(tmp_path / "b/val/1.webp").convert("L")
    torch.testing.assert_close(everything(data.val_set)["image"][0, 0], torch.from_numpy(np.array(gray)).float() / 255)
    apart = images(
        tmp_path / "a/train", val_root=str(tmp_path / "a/val"), image=str(tmp_path / "b/train"),
        val_image=str(tmp_path / "b/val"), image_shape=[1, 12, 10], flip=False,
    )  # fmt: skip
    assert same(everything(apart.val_set), everything(data.val_set))


def test_a_partner_that_cannot_be_read_is_left_out_with_its_image(tmp_path):
    tree(tmp_path / "a", [f"{i}.png" for i in range(6)]), tree(tmp_path / "b", [f"{i}.png" for i in range(6)])
    (tmp_path / "b/3.png").write_bytes(b"no image")
    for gb in (1.0, 0.0):
        data = images(
            tmp_path / "a", image=str(tmp_path / "b"), max_unreadable=0.2, num_workers=1, cache_gb=gb, flip=False
        )
        assert "3.png" in data.warning and len(data.train_set) + len(data.val_set) == 5
        for part in (data.train_set, data.val_set):
            batch = everything(part)
            torch.testing.assert_close(2 * batch["image"] - 1, batch["x"])


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (["a/1.png"], {}, r"\d of 2 images of .* have no partner of the same name, such as b/\d.*; add them"),
        (["a/1.png", "b/1.png", "b/2.png", "b/2.bmp"], {}, "holds several images named b/2; remove all but one"),
        (["a/1.png"], {"image_shape": [2, 6, 5]}, r"data.image_shape must be channels \(1 or 3\), height and width"),
        (["a/1.png"], {"val_root": "elsewhere"}, "data.val_root needs data.val_image beside it"),
    ],
)
def test_mistakes_with_partners(tmp_path, names, settings, message):
    tree(tmp_path / "x", ["a/1.png", "b/1.png", "b/2.png"]), tree(tmp_path / "y", names)
    assert re.search(message, refused(tmp_path / "x", image=str(tmp_path / "y"), **settings))
