"""Samples come back from files as they were, and what cannot be read gets one line."""

import os
import struct
import zipfile
import zlib
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from src.data.image_folder import ImageFolder
from src.data.scan import find_images
from src.utils import sample_files
from src.utils.errors import UserError
from src.utils.sample_files import read_samples, write_pictures


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


GRAY, COLORS, SIGNAL, POINT = (1, 6, 5), (3, 6, 5), (1, 20), (2,)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_come_back(tmp_path, channels, randn):
    x = (randn(3, channels, 5, 7).sigmoid() * 255).round().float() / 255
    write_pictures(x, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["00000.png", "00001.png", "00002.png"]
    torch.testing.assert_close(read_samples(tmp_path / "out", x.shape[1:]), 2 * x - 1, atol=1e-6, rtol=0)
    one = read_samples(tmp_path / "out/00001.png", x.shape[1:])
    torch.testing.assert_close(one[0], 2 * x[1] - 1, atol=1e-6, rtol=0)


def kinds_of_pictures():
    gray, color = Image.fromarray(pixels(6, 5)), Image.fromarray(pixels(6, 5, 3))
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    clear = np.dstack([pixels(6, 5, 3), pixels(6, 5)])
    frames = [Image.fromarray(pixels(6, 5)), Image.fromarray(255 - pixels(6, 5))]
    return {
        "gray.png": (gray, {}),
        "gray_as_colors.png": (gray.convert("RGB"), {}),
        "colors.png": (color, {}),
        "turned.jpg": (Image.fromarray(pixels(5, 6, 3)), {"exif": turned}),
        "turned.png": (Image.fromarray(pixels(5, 6)), {"exif": turned}),
        "palette.png": (color.convert("P"), {}),
        "palette_clear.gif": (color.convert("P"), {"transparency": 3}),
        "cmyk.jpg": (color.convert("CMYK"), {}),
        "clear.png": (Image.fromarray(clear), {}),
        "clear.webp": (Image.fromarray(clear), {"lossless": True}),
        "gray_clear.png": (Image.fromarray(clear).convert("LA"), {}),
        "bits.png": (gray.convert("1"), {}),
        "deep.png": (Image.fromarray(pixels(6, 5).astype(np.uint16) * 200), {}),
        "moving.gif": (frames[0], {"save_all": True, "append_images": frames[1:]}),
    }


@pytest.mark.parametrize("shape", [GRAY, COLORS], ids=["gray", "colors"])
@pytest.mark.parametrize("name", kinds_of_pictures())
def test_a_picture_is_read_as_training_reads_it(tmp_path, name, shape):
    """Of any kind, for any run: turned upright, on white, at 8 bits, in as many channels as the data have."""
    image, options = kinds_of_pictures()[name]
    image.save(tmp_path / name, **options)
    data = ImageFolder(str(tmp_path), channels=shape[0], size=shape[1:])
    trained = data.decoder(find_images(str(tmp_path), "data.root", data.index), 0)
    read = read_samples(tmp_path / name, shape)
    assert torch.equal(read, 2 * (trained[None].float() / 255) - 1)


def test_pictures_in_folders_below(tmp_path):
    """As the commands write them for each class; what systems leave beside them is no picture."""
    names = ["1/00000.png", "0/00001.png", "0/00000.png"]
    for i, name in enumerate([*names, "__MACOSX/0/00000.png", "0/._00000.png", ".trash/a.png"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 5), i * 50, np.uint8)).save(tmp_path / name, "PNG")
    assert ((read_samples(tmp_path, GRAY)[:, 0, 0, 0] + 1) * 127.5).round().tolist() == [100, 50, 0]


def test_arrays(tmp_path, randn):
    x = randn(4, 1, 20).float()
    np.save(tmp_path / "many.npy", x)
    np.save(tmp_path / "line.npy", x[0, 0])
    np.save(tmp_path / "points.npy", x[:, 0, :2])
    np.save(tmp_path / "across.npy", np.asfortranarray(x).astype(">f8"))
    np.savez(tmp_path / "some.npz", y=np.zeros(3), x=x)
    np.savez_compressed(tmp_path / "packed.npz", x=x)
    for name in ("many.npy", "across.npy", "some.npz", "packed.npz"):
        assert torch.equal(read_samples(tmp_path / name, SIGNAL), x)
    assert torch.equal(read_samples(tmp_path / "line.npy", SIGNAL), x[:1])
    assert torch.equal(read_samples(tmp_path / "points.npy", POINT), x[:, 0, :2])
    image = pixels(2, 1, 4, 4)
    np.save(tmp_path / "bytes.npy", image)
    expected = torch.from_numpy(image).float() / 127.5 - 1
    torch.testing.assert_close(read_samples(tmp_path / "bytes.npy", GRAY), expected, atol=1e-6, rtol=0)


def header(shape, dtype="<f4"):
    """Of a .npy file that promises more than it holds."""
    file = BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def png(width, height):
    """A picture that promises more than it holds."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def packed(name, content):
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def saved(array, save=np.save):
    file = BytesIO()
    save(file, array) if save is np.save else save(file, x=array)
    return file.getvalue()


IMAGES = pixels(40, 1, 6, 5)
PICTURE = BytesIO()
Image.fromarray(pixels(60, 50)).save(PICTURE, "PNG")


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :]


DAMAGED = {
    "text.png": (b"no picture", "not an image of a known format"),
    "cut.png": (PICTURE.getvalue()[:1000], "truncated"),
    "broken.png": (flipped(PICTURE.getvalue(), 1000), "cannot be read as a picture"),
    "empty.png": (b"", "not an image of a known format"),
    "bomb.png": (png(20000, 20000), "decompression bomb"),
    "text.npz": (b"no array", "File is not a zip file"),
    "text.npy": (b"no array", "magic string"),
    "empty.npy": (b"", "cannot be read"),
    "empty.npz": (b"", "not a zip file"),
    "cut.npz": (saved(IMAGES, np.savez)[:800], "not a zip file"),
    "flipped.npz": (flipped(saved(IMAGES, np.savez), 400), "CRC"),
    "flipped_packed.npz": (flipped(saved(IMAGES, np.savez_compressed), 400), "cannot be read"),
    "cut.npy": (saved(IMAGES)[:800], "truncated"),
    "longer.npy": (saved(IMAGES) + b"more", "truncated or damaged"),
    "flipped_header.npy": (flipped(saved(IMAGES), 12), "cannot be read"),
    "huge.npy": (header((10**12, 1, 6, 5)), "truncated"),
    "huge.npz": (packed("x.npy", header((10**12, 1, 6, 5))), "truncated"),
    "objects.npy": (saved(np.array([{}])), "object"),
    "objects.npz": (saved(np.array([{}]), np.savez), "object"),
    "other.npz": (packed("y.npy", saved(IMAGES)), "must hold an array named x, got y"),
    "nothing.npz": (packed("x.txt", ""), "must hold an array named x, got x.txt"),
    "words.npy": (saved(np.array(["a"])), "numbers"),
    "complex.npy": (saved(np.zeros((1, 1, 6, 5), complex)), "numbers"),
    "records.npy": (saved(np.zeros(3, [("a", float)])), "numbers"),
    "number.npy": (saved(np.array(1.0)), "shape ()"),
    "none.npy": (saved(np.zeros((0, 1, 6, 5))), "shape (0, 1, 6, 5)"),
    "deep.npy": (saved(np.zeros((1, 1, 1, 2, 2))), "shape"),
    "nan.npy": (saved(np.full((1, 1, 4, 4), np.nan)), "not finite"),
    "infinite.npz": (saved(np.full((1, 1, 4, 4), np.inf), np.savez), "not finite"),
    "too_large.npy": (saved(np.full((1, 1, 4, 4), 1e300)), "not finite"),
    "bytes_as_floats.npy": (saved(np.full((1, 1, 4, 4), 200.0)), "images must be in [0, 1]"),
}


def refusal(path, shape=GRAY, key="input"):
    with pytest.raises(UserError) as error:
        read_samples(path, shape, key)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file(tmp_path, name):
    content, said = DAMAGED[name]
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name, key="truth")
    assert said in message and message.startswith(f"truth={tmp_path / name}")


def test_an_array_that_unpacks_to_far_more_than_its_size_is_not_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((600, 3, 200, 200), np.uint8))
    with pytest.raises(UserError, match=r"a\.npz holds an x that unpacks from 7\d,\d{3} to 72,000,128 bytes"):
        read_samples(tmp_path / "a.npz", COLORS)


def test_a_pipe_among_pictures_is_not_opened(tmp_path):
    Image.fromarray(pixels(6, 5, 3)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    assert len(read_samples(tmp_path, COLORS)) == 1


def test_more_than_the_memory_is_not_read(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", IMAGES)
    monkeypatch.setattr(sample_files, "memory", lambda: 5 * IMAGES.size - 1)
    assert "must fit in the memory of this machine" in refusal(tmp_path / "x.npy")
    monkeypatch.setattr(sample_files, "memory", lambda: 5 * IMAGES.size)
    assert len(read_samples(tmp_path / "x.npy", GRAY)) == 40


def test_what_is_no_file_of_samples(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "arrays.npy").mkdir()
    (tmp_path / "two").mkdir()
    for name, shape in (("a", (4, 4)), ("b", (4, 5))):
        Image.fromarray(pixels(*shape)).save(tmp_path / f"two/{name}.png")
    os.mkfifo(tmp_path / "pipe.npy")
    for name, said in (
        ("nowhere.png", "does not exist"),
        ("empty", "must hold pictures"),
        ("arrays.npy", "cannot be read"),
        ("two", "got 4 x 5 for b.png and 4 x 4 for a.png"),
        ("pipe.npy", "must be a file or a folder"),
    ):
        message = refusal(tmp_path / name)
        assert said in message and message.startswith(f"input={tmp_path / name}")
    assert "must be a .npy or .npz file, since the samples have 2 channels" in refusal(tmp_path / "two", (2, 4, 4))


def test_signals_are_no_pictures(tmp_path):
    Image.fromarray(pixels(4, 4)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"must be a \.npy or \.npz file, since the samples are not images"):
        read_samples(tmp_path / "a.png", SIGNAL)
