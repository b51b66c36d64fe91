"""Samples come back from files as they were, and what cannot be read gets one line."""

import numpy as np
import pytest
import torch
from PIL import Image

from src.utils.errors import UserError
from src.utils.sample_files import read_samples, write_pictures


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_come_back(tmp_path, channels, randn):
    x = (randn(3, channels, 5, 7).sigmoid() * 255).round().float() / 255
    write_pictures(x, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["00000.png", "00001.png", "00002.png"]
    torch.testing.assert_close(read_samples(tmp_path / "out", 4), 2 * x - 1, atol=1e-6, rtol=0)
    one = read_samples(tmp_path / "out/00001.png", 4)
    torch.testing.assert_close(one[0], 2 * x[1] - 1, atol=1e-6, rtol=0)


def test_kinds_of_pictures(tmp_path):
    grey, colour = pixels(6, 5), pixels(6, 5, 3)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(colour).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(np.dstack([colour, np.zeros((6, 5), np.uint8)])).save(tmp_path / "clear.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    expected = torch.from_numpy(grey).float() / 127.5 - 1
    for name in ("grey", "deep"):
        torch.testing.assert_close(read_samples(tmp_path / f"{name}.png", 4)[0, 0], expected, atol=1e-5, rtol=0)
    assert read_samples(tmp_path / "palette.png", 4).shape == (1, 3, 6, 5)
    assert (read_samples(tmp_path / "clear.png", 4) == 1).all(), "what is transparent is white"


def test_arrays(tmp_path, randn):
    x = randn(4, 1, 20).float()
    np.save(tmp_path / "many.npy", x)
    np.save(tmp_path / "line.npy", x[0, 0])
    np.save(tmp_path / "points.npy", x[:, 0, :2])
    np.savez(tmp_path / "some.npz", x=x)
    assert torch.equal(read_samples(tmp_path / "many.npy", 3), x)
    assert torch.equal(read_samples(tmp_path / "some.npz", 3), x)
    assert torch.equal(read_samples(tmp_path / "line.npy", 3), x[:1])
    assert torch.equal(read_samples(tmp_path / "points.npy", 2), x[:, 0, :2])
    image = pixels(2, 1, 4, 4)
    np.save(tmp_path / "bytes.npy", image)
    expected = torch.from_numpy(image).float() / 127.5 - 1
    torch.testing.assert_close(read_samples(tmp_path / "bytes.npy", 4), expected, atol=1e-6, rtol=0)


def damaged(folder):
    (folder / "text.png").write_text("no picture")
    (folder / "text.npz").write_text("no array")
    (folder / "empty").mkdir()
    (folder / "two").mkdir()
    for name, shape in (("a", (4, 4)), ("b", (4, 5))):
        Image.fromarray(pixels(*shape)).save(folder / f"two/{name}.png")
    np.savez(folder / "other.npz", y=np.zeros(3))
    np.save(folder / "words.npy", np.array(["a"]))
    np.save(folder / "deep.npy", np.zeros((1, 1, 1, 2, 2)))
    np.save(folder / "nan.npy", np.full((1, 1, 4, 4), np.nan))
    np.save(folder / "bytes_as_floats.npy", np.full((1, 1, 4, 4), 200.0))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere.png", "does not exist"),
        ("text.png", "no picture that can be read"),
        ("text.npz", "cannot be read"),
        ("empty", "holds no picture"),
        ("two", "b.png differs from a.png"),
        ("other.npz", "an array named x"),
        ("words.npy", "numbers"),
        ("deep.npy", "shape"),
        ("nan.npy", "not finite"),
        ("bytes_as_floats.npy", "images are [0, 1]"),
    ],
)
def test_mistakes(tmp_path, name, said):
    damaged(tmp_path)
    with pytest.raises(UserError) as error:
        read_samples(tmp_path / name, 4)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(f"input={tmp_path / name}")


def test_signals_are_no_pictures(tmp_path):
    Image.fromarray(pixels(4, 4)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"signals and points are read from \.npy"):
        read_samples(tmp_path / "a.png", 3)
