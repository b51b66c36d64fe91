"""New data are read as those of the run are, with labels where these are known."""

import gzip
import struct
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from src.commands.monitor.new_data import read_new
from src.data.array import ArrayData
from src.data.digits import Digits
from src.data.image_folder import ImageFolder
from src.data.mnist import MNIST
from src.utils.errors import UserError


def write_pictures(folder, names, size=8, seed=0):
    """Random gray pictures; returns them, (N, size, size) uint8."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(names), size, size), np.uint8)
    for name, picture in zip(names, pixels, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / name)
    return pixels


@pytest.fixture(scope="module")
def digits():
    data = Digits()
    data.setup()
    return data


def test_an_array_with_labels(digits, tmp_path):
    x = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    np.savez(tmp_path / "a.npz", x=x, label=np.arange(5), other=np.zeros(3))
    new = read_new(tmp_path / "a.npz", digits, [])
    assert set(new) == {"x", "label"}
    assert np.abs(new["x"].numpy() - x).max() < 1e-6 and new["label"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("folders", [["0", "7"], ["left", "right"]], ids=str)
def test_pictures_in_folders(digits, tmp_path, folders):
    names = [f"{folder}/{i}.png" for folder in folders for i in range(2)]
    pixels = write_pictures(tmp_path, names)
    new = read_new(tmp_path, digits, [*map(str, range(10))])
    assert np.abs(new["x"][:, 0].numpy() - pixels / 255).max() < 1e-6
    assert ("label" in new) == (folders == ["0", "7"])
    if "label" in new:
        assert new["label"].tolist() == [0, 0, 7, 7]


@pytest.fixture
def photos(tmp_path):
    """An image folder of 12 pixels, read at 8, with two classes."""
    write_pictures(tmp_path / "old", [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(6)], 12)
    data = ImageFolder(str(tmp_path / "old"), size=(8, 8), channels=1, num_classes=2)
    data.setup()
    return data


@pytest.mark.parametrize(("names", "label"), [(["dog/a.png", "dog/b.png"], [1, 1]), (["a.png", "fox/b.png"], None)])
def test_pictures_as_the_data_of_an_image_folder(photos, tmp_path, names, label):
    """Resized like these; the classes are those of the run, though only one of them is there."""
    write_pictures(tmp_path / "new", names, 16)
    new = read_new(tmp_path / "new", photos, ["cat", "dog"])
    assert new["x"].shape == (2, 1, 8, 8)
    expected = np.asarray(Image.open(tmp_path / "new" / names[0]).resize((8, 8), Image.Resampling.BOX)) / 255
    assert np.abs(new["x"][0, 0].numpy() - expected).max() < 0.2
    assert (new["label"].tolist() if "label" in new else None) == label


def test_an_archive_and_an_array_for_an_image_folder(photos, tmp_path):
    write_pictures(tmp_path / "new", ["cat/a.png"])
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        archive.write(tmp_path / "new/cat/a.png", "cat/a.png")
    assert read_new(tmp_path / "new.zip", photos, [])["label"].tolist() == [0]
    np.save(tmp_path / "x.npy", np.zeros((2, 1, 8, 8)))
    assert read_new(tmp_path / "x.npy", photos, [])["x"].shape == (2, 1, 8, 8)


@pytest.mark.parametrize("ending", ["npz", "csv"])
def test_files_in_the_units_of_an_array(tmp_path, ending):
    rng = np.random.default_rng(0)
    for name, n in (("old", 40), ("new", 6)):
        x, label = 100 + 20 * rng.normal(size=(n, 2)), np.array(["b", "a"])[np.arange(n) % 2]
        if ending == "npz":
            np.savez(tmp_path / f"{name}.npz", x=x, label=label)
        else:
            rows = [f"{a},{b},{c}" for (a, b), c in zip(x, label, strict=True)]
            (tmp_path / f"{name}.csv").write_text("\n".join(["u,v,label", *rows]))
    data = ArrayData(str(tmp_path / f"old.{ending}"))
    data.setup()
    new = read_new(tmp_path / f"new.{ending}", data, [])
    assert np.abs(new["x"].numpy() - x).max() < 1e-3
    assert new["label"].tolist() == [1, 0] * 3


def test_idx_files(tmp_path, tiny_mnist):
    files = {f"{part}_{what}": f"{name}-{what}-idx{axes}-ubyte" for part, name in (("train", "train"), ("test", "t10k"))
             for what, axes in (("images", 3), ("labels", 1))}  # fmt: skip
    data = MNIST(str(tiny_mnist), [], files, val_size=4)
    data.setup()
    x = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    images = tmp_path / "new-images-idx3-ubyte.gz"
    images.write_bytes(gzip.compress(struct.pack(">4I", 0x803, 3, 28, 28) + x.tobytes()))
    new = read_new(images, data, [])
    assert np.abs(new["x"][:, 0].numpy() - x / 255).max() < 1e-6 and "label" not in new
    (tmp_path / "new-labels-idx1-ubyte.gz").write_bytes(gzip.compress(struct.pack(">2I", 0x801, 3) + bytes([3, 1, 4])))
    assert read_new(images, data, [])["label"].tolist() == [3, 1, 4]


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"x": np.zeros((3, 1, 9, 9))}, "must hold samples of shape 1 x 8 x 8, as the data of this run, got 1 x 9 x 9"),
        ({"x": np.zeros((3, 1, 8, 8)), "label": np.arange(4)}, "label must have the shape 3, got (4,)"),
        (
            {"x": np.zeros((3, 1, 8, 8)), "label": np.ones(3) / 2},
            "label must be torch.int64, as in the data",
        ),
        ({"y": np.zeros(3)}, "must hold an array named x"),
    ],
    ids=["shape", "count", "kind", "name"],
)
def test_mistakes(digits, tmp_path, arrays, reason):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=reason.replace("(", r"\(").replace(")", r"\)")):
        read_new(tmp_path / "a.npz", digits, [])


def test_a_mistake_names_the_setting(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"^new=\S+empty holds no image"):
        read_new(tmp_path / "empty", photos, [])
    with pytest.raises(UserError, match="does not exist"):
        read_new(tmp_path / "nowhere", photos, [])


def test_values_beyond_the_range_are_kept(digits, tmp_path):
    np.save(tmp_path / "x.npy", np.full((1, 1, 8, 8), 1.5))
    assert torch.equal(read_new(tmp_path / "x.npy", digits, [])["x"], torch.full((1, 1, 8, 8), 1.5))
