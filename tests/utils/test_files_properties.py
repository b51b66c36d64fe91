"""What was written comes back; a file that breaks off or has a flipped bit is refused in a line, or read as it was."""

import gzip
import io
import json
import math
import tarfile
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from src.data.idx import read_idx
from src.data.index import FileIndex
from src.data.scan import find_images
from src.loggers.metrics_csv import read_metrics, write_metrics
from src.runs.run import CONFIG, Run
from src.utils.atomic import save_tensors, write_json
from src.utils.checkpoints import load_checkpoint
from src.utils.errors import UserError
from src.utils.files import read_arrays, read_json
from src.utils.sample_files import read_samples, write_pictures
from tests.helpers.properties import examples

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
plain = st.recursive(
    st.none() | st.booleans() | numbers | names,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(names, inside, max_size=3),
    max_leaves=10,
)
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool])
shapes = st.lists(st.integers(0, 4), max_size=3)
tensors = st.builds(lambda dtype, shape: torch.linspace(0, 100, math.prod(shape)).view(shape).to(dtype), dtypes, shapes)


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


# ---- kinds of files: how random content is written, and how it is read; both give the content ----


def checkpoint(draw, file):
    content = {"global_step": draw(st.integers(0, 9)), "state_dict": draw(st.dictionaries(names, tensors, max_size=3))}
    content["callbacks"] = draw(plain)
    save_tensors(content, file, "the checkpoint")
    return content


def arrays(draw, file):
    shape = [draw(st.integers(1, 3)) for _ in range(3)]
    x = torch.rand(shape).numpy()
    np.savez(file, x=x)
    return x


def picture(draw, file):
    channels = draw(st.sampled_from([1, 3]))
    pixels = torch.randint(0, 256, (1, channels, draw(st.integers(1, 5)), draw(st.integers(1, 5))))
    write_pictures(pixels / 255, file.parent)
    (file.parent / "00000.png").rename(file)
    return channels, pixels[0].float()


def metrics(draw, file):
    name = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), min_size=1, max_size=5)
    columns = list(dict.fromkeys(["step", *draw(st.lists(name, max_size=4))]))
    some = st.dictionaries(st.sampled_from(columns[1:] or ["step"]), st.floats(allow_nan=False))
    rows = [{**row, "step": i} for i, row in enumerate(draw(st.lists(some, max_size=5)))]
    rows = [{k: int(v) if k == "epoch" and math.isfinite(v) else v for k, v in row.items()} for row in rows]
    write_metrics(file, rows, columns)
    return rows


def record(draw, file):
    content = draw(st.dictionaries(names, plain, max_size=3))
    write_json(file, content)
    return content


def idx(draw, file):
    n = draw(st.integers(0, 20))
    content = bytes([0, 0, 8, 1]) + n.to_bytes(4, "big") + bytes(range(n))
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    return torch.arange(n, dtype=torch.uint8)


def pictures_in(draw, file):
    """An archive of pictures, without compression, as most are."""
    buffer = io.BytesIO()
    Image.new("L", (2, 2)).save(buffer, "png")
    inside = sorted(draw(st.sets(st.sampled_from(["a/1.png", "a/2.png", "b/1.png", "Ä/3.png"]), min_size=1)))
    if file.suffix == ".zip":
        with ZipFile(file, "w") as archive:
            for name in inside:
                archive.writestr(name, buffer.getvalue())
    else:
        with tarfile.open(file, "w") as tar:
            for name in inside:
                member = tarfile.TarInfo(name)
                member.size = len(buffer.getvalue())
                tar.addfile(member, io.BytesIO(buffer.getvalue()))
    return inside


def listed(file, _):
    files = find_images(str(file), "data.root", FileIndex(None, False))
    for i in range(len(files)):
        files.open(i).read()
    return sorted(files.name(i) for i in range(len(files)))


def read_picture(file, content):
    x = read_samples(file, (content[0], 1, 1))
    return content[0], ((x[0] + 1) / 2 * 255).round()


KINDS = {
    "last.ckpt": (checkpoint, lambda file, _: load_checkpoint(file)),
    "mapped.ckpt": (checkpoint, lambda file, _: load_checkpoint(file, mmap=True)),
    "arrays.npz": (arrays, lambda file, _: read_arrays(file, {"x": "f"}, "Delete it")["x"]),
    "samples.npz": (arrays, lambda file, _: read_samples(file, (1, 1)).numpy()),
    "picture.png": (picture, read_picture),
    "metrics.csv": (metrics, lambda file, _: read_metrics(file)),
    "run.json": (record, lambda file, _: read_json(file, dict, "Delete it")),
    "labels-idx1-ubyte": (idx, lambda file, _: read_idx(file, 1)),
    "labels-idx1-ubyte.gz": (idx, lambda file, _: read_idx(file, 1)),
    "images.zip": (pictures_in, listed),
    "images.tar": (pictures_in, listed),
}
# Formats without a checksum, in which a flipped bit may be another value; Pillow does not compare that of pixels.
UNCHECKED = ("picture.png", "metrics.csv", "run.json", "labels-idx1-ubyte", "images.zip", "images.tar")


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_content_comes_back_or_is_refused(tmp_path_factory, kind, data):
    file = tmp_path_factory.mktemp("files") / kind
    write, read = KINDS[kind]
    torch.manual_seed(data.draw(st.integers(0, 99), "seed"))
    content = write(data.draw, file)
    whole = file.read_bytes()
    assert same_or_part(kind, read(file, content), content, whole=True)
    for place in data.draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=5), "places"):
        byte, bit = int(place * len(whole)), data.draw(st.none() | st.integers(0, 7), "bit")
        altered = whole[:byte] if bit is None else whole[:byte] + bytes([whole[byte] ^ 1 << bit]) + whole[byte + 1 :]
        file.write_bytes(altered)
        try:
            found = read(file, content)
        except UserError as error:
            assert "\n" not in str(error) and str(file.name) in str(error)
        else:
            unseen = bit is not None and kind in UNCHECKED
            assert unseen or same_or_part(kind, found, content), f"{kind} altered at byte {byte}, bit {bit}"


def same_or_part(kind, found, content, whole=False) -> bool:
    """A file of rows that breaks off holds the rows before; others hold all or nothing."""
    if kind == "metrics.csv" and not whole:
        return same(found, content[: len(found)])
    if isinstance(content, tuple):
        return all(map(same, found, content))
    return same(found, content)


@given(cfg=st.dictionaries(names, plain, max_size=3), place=st.floats(0, 1, exclude_max=True))
@examples(2)
def test_a_config_that_breaks_off_is_refused(tmp_path_factory, cfg, place):
    """Although every part of YAML is YAML; but for what a file has after its last mark."""
    folder = tmp_path_factory.mktemp("run")
    cfg = json.loads(json.dumps(cfg)) | {"paths": {"outputs": str(folder)}}
    run = Run(folder / "run")
    run.create(cfg, [])
    assert same(run._read_config(), cfg)
    whole = (run.path / CONFIG).read_bytes()
    (run.path / CONFIG).write_bytes(whole[: int(place * len(whole))])
    with pytest.raises(UserError, match=r"config\.yaml .*(truncated|damaged)") as caught:
        run._read_config()
    assert "\n" not in str(caught.value)
