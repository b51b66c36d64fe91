"""Arrays from files of every format: their shapes, units, fields and parts; and what is refused."""

import pickle

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from torch.testing import assert_close

from src.data.array import ArrayData
from src.data.array_files import read_hdf5
from src.data.array_parts import forget_parts
from src.utils.errors import UserError

N = 40


def draw(*shape):
    return np.random.default_rng(0).normal(1000, 5, shape)


def saved(x):
    return lambda path: np.save(path / "x.npy", x)


def table(text):
    return lambda path: (path / "x.csv").write_text(text)


def hdf5(path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path / "x.h5", "w") as file:
        file["run/signals"], file["run/y"], file["name"] = draw(N, 2, 30), np.arange(N) % 2, ["é"] * N


def parquet(path):
    pyarrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"wave": [row.tolist() for row in draw(N, 12)], "mass": draw(N)}
    writer.write_table(pyarrow.table(columns), path / "x.parquet")


def recordings(path):
    for i in range(6):
        (path / f"x/{i % 2}").mkdir(parents=True, exist_ok=True)
        wavfile.write(path / f"x/{i % 2}/{i}.wav", 8000, draw(100 + i).astype(np.int16))


def folders(path):
    for name, shape in {"x": (2, 8, 12), "small": (1, 4, 6)}.items():
        (path / name).mkdir()
        for i in range(6):
            np.save(path / name / f"{i}.npy", draw(*shape) + i)


LONG = "id,u,v,age\n" + "".join(f"p{i},{i + t},{t * t},{20 + i}\n" for i in range(9) for t in range(7))
ROWS = "a,b,who,kind,note\n" + "".join(f"{i},{i * i},{i // 4},{'xyz'[i % 3]},nö {i % 7}\n" for i in range(N))
LABEL: dict[str, tuple[int, ...]] = {"label": ()}
# What is written, the settings, the shape, the kind, and the fields with their shapes.
FILES = {
    "scalars": (saved(draw(N)), {}, (1,), "points", {}),
    "points": (saved(draw(N, 3)), {}, (3,), "points", {}),
    "signals of one channel": (saved(draw(N, 30)), {"kind": "signals"}, (1, 30), "signals", {}),
    "signals": (saved(draw(N, 2, 30)), {}, (2, 30), "signals", {}),
    "channels last": (saved(draw(N, 30, 2)), {}, (2, 30), "signals", {}),
    "fields without channels": (saved(draw(N, 8, 12)), {}, (1, 8, 12), "fields", {}),
    "square fields": (saved(draw(N, 3, 8, 8)), {}, (3, 8, 8), "fields", {}),
    "said to be last": (saved(draw(N, 8, 8, 9)), {"layout": "channels_last"}, (9, 8, 8), "fields", {}),
    "volumes": (saved(draw(N, 6, 6, 6)), {}, (1, 6, 6, 6), "volumes", {}),
    "volumes with channels": (saved(draw(N, 2, 8, 8, 8)), {}, (2, 8, 8, 8), "volumes", {}),
    "images": (saved((draw(N, 8, 8) % 256).astype("u1")), {"kind": "images"}, (1, 8, 8), "images", {}),
    "npz": (
        lambda p: np.savez(p / "x.npz", x=draw(N, 1, 16), label=np.arange(N) % 4, mass=draw(N), at=draw(N, 2)),
        {"vector": ["mass", "at"]}, (1, 16), "signals", {"label": (), "vector": (3,)},
    ),
    "pt": (lambda p: torch.save((torch.randn(N, 5), torch.arange(N) % 2), p / "x.pt"), {}, (5,), "points", LABEL),
    "hdf5": (hdf5, {"text": "name"}, (2, 30), "signals", {"label": (), "text": (2,)}),
    "parquet": (parquet, {"key": "wave", "kind": "signals", "vector": "mass"}, (1, 12), "signals", {"vector": (1,)}),
    "csv": (
        table(ROWS), {"label": "kind", "text": "note", "group": "who"}, (2,), "points", {"label": (), "text": (5,)},
    ),
    "long csv": (table(LONG), {"id": "id", "vector": "age"}, (2, 7), "signals", {"vector": (1,)}),
    "windows of long csv": (table(LONG), {"id": "id", "window": 3, "stride": 2, "key": ["v"]}, (1, 3), "signals", {}),
    "wav": (recordings, {"window": 32, "label": "folder"}, (1, 32), "signals", {"label": ()}),
    "one recording": (saved(draw(300, 3)), {"window": 16, "stride": 4}, (3, 16), "signals", {}),
    "folder": (folders, {"image": "small"}, (2, 8, 12), "fields", {"image": (1, 4, 6)}),
}  # fmt: skip


def make(path, **settings):
    settings = {"batch_size": 4, "val_fraction": 0.25, **settings}
    root = str(next(path.glob("x*")))
    return ArrayData(root, **settings | ArrayData.resolve({"root": root, **settings}))


@pytest.fixture(autouse=True)
def _forget():
    yield
    forget_parts()


@pytest.mark.parametrize("name", FILES)
def test_a_file(tmp_path, name):
    """Shape, kind and fields; unit variance in the model and the file's values outside; equal in memory and on disk."""
    write, settings, shape, kind, fields = FILES[name]
    write(tmp_path)
    data = make(tmp_path, **settings)
    assert (data.shape, data.kind) == (shape, kind)
    data.load()
    data.check_samples()
    assert f"{data.shape[0]}" in data.source and data.warning is None
    rows = torch.arange(len(data.train_set))
    batch = data.train_set[0, rows]
    assert {key: tuple(value.shape[1:]) for key, value in batch.items() if key != "x"} == fields
    if kind == "images":
        white = data.to_units(batch["x"]) * 255
        assert_close(white, white.round(), atol=1e-3, rtol=0)
    else:
        assert_close(
            batch["x"].transpose(0, 1).flatten(1).std(1, correction=0), torch.ones(shape[0]), atol=1e-3, rtol=0
        )
        low, high = (torch.tensor(end) for end in (data.units.low, data.units.high))
        back = data.to_units(batch["x"]).transpose(0, 1).flatten(1)
        assert (back.amin(1) > low).all() and (back.amax(1) < high).all()
    assert_close(data.to_model(data.to_units(batch["x"])), batch["x"], atol=1e-3, rtol=0)
    on_disk = make(tmp_path, **settings, cache_gb=0.0)
    on_disk.load()
    some = rows.flip(0)[:5]
    for key, value in on_disk.train_set[0, some].items():
        assert torch.equal(value, batch[key][some])
    assert on_disk.identity() == data.identity()


def test_values_are_those_of_the_file(tmp_path):
    """Each training and validation sample is a row of the file, with what belongs to it."""
    x = draw(N, 3)
    np.savez(tmp_path / "x.npz", x=x, mass=2 * x[:, 0], y=np.arange(N))
    data = make(tmp_path, vector="mass", num_classes=0, normalize="minmax")
    data.load()
    parts = [part[0, torch.arange(len(part))] for part in (data.train_set, data.val_set)]
    found = torch.cat([data.to_units(part["x"]) for part in parts]).double().numpy()
    assert_close(found[found[:, 0].argsort()], x[x[:, 0].argsort()].astype("f4").astype("f8"), atol=1e-3, rtol=0)
    assert all(torch.allclose(part["vector"][:, 0], 2 * data.to_units(part["x"])[:, 0], atol=1e-3) for part in parts)
    assert len(parts[1]["x"]) == N // 4 and "label" not in parts[0] and data.num_classes == 0
    train = parts[0]["x"]
    assert_close(train.amin(0), -torch.ones(3)) and assert_close(train.amax(0), torch.ones(3))


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("normalize", ["standard", "minmax", "robust", "none"])
def test_normalization(tmp_path, normalize, per_channel):
    x = np.random.default_rng(0).normal([0, 10], [1e-3, 100], (4000, 2))
    np.save(tmp_path / "x.npy", x)
    data = make(tmp_path, normalize=normalize, per_channel=per_channel)
    data.load()
    train = data.train_set[0, torch.arange(len(data.train_set))]["x"].double()
    columns = train.T if per_channel else train.reshape(1, -1)
    one = torch.ones(len(columns), dtype=torch.float64)
    if normalize == "standard":
        assert_close(columns.mean(1), 0 * one, atol=1e-5, rtol=0) or assert_close(
            columns.std(1), one, atol=1e-3, rtol=0
        )
    elif normalize == "minmax":
        assert_close(columns.aminmax(dim=1), torch.return_types.aminmax((-one, one)))
    elif normalize == "robust":
        quartiles = columns.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), 1)
        assert_close(quartiles[1], 0 * one, atol=1e-2, rtol=0)
        assert_close(quartiles[2] - quartiles[0], 1.349 * one, atol=1e-2, rtol=0)
    else:
        assert data.units.is_identity
    (low, high), found = data.units.clip_bound, columns
    margin = 0.05 * (found.amax(1) - found.amin(1))
    assert_close(torch.tensor(low, dtype=torch.float64), found.amin(1) - margin, atol=1e-4, rtol=1e-3)
    assert_close(torch.tensor(high, dtype=torch.float64), found.amax(1) + margin, atol=1e-4, rtol=1e-3)


def test_groups_and_recordings_are_not_divided(tmp_path):
    (tmp_path / "x.csv").write_text(ROWS)
    data = make(tmp_path, group="who", key=["a", "who"])
    data.load()
    who = [
        set(data.to_units(p[0, torch.arange(len(p))]["x"])[:, 1].round().tolist())
        for p in (data.train_set, data.val_set)
    ]
    assert not who[0] & who[1] and len(who[0] | who[1]) == N // 4 and len(data.val_set) == 12
    (tmp_path / "x.csv").unlink()
    np.save(tmp_path / "x.npy", np.arange(200.0)[:, None])
    data = make(tmp_path, window=10, stride=1)
    data.load()
    seen = [data.to_units(p[0, torch.arange(len(p))]["x"]) for p in (data.train_set, data.val_set)]
    assert seen[0].max() < 150.01 and seen[1].min() > 149.99  # the end of the one recording
    assert_close(seen[0].diff(dim=2), torch.ones_like(seen[0][..., 1:]), atol=1e-3, rtol=0)


def test_the_file_or_another_says_the_parts(tmp_path):
    part = np.array(["training"] * 20 + ["valid"] * 12 + ["test"] * 8)
    np.savez(tmp_path / "x.npz", x=np.arange(N) * 1.0, part=part)
    data = make(tmp_path, split="part")
    data.load()
    assert [len(p) for p in (data.train_set, data.val_set, data.test_set)] == [20, 12, 8]
    assert data.to_units(data.test_set[0, torch.arange(8)]["x"]).min() > 31.9
    np.save(tmp_path / "other.npy", draw(7))
    data = make(tmp_path, val_root=str(tmp_path / "other.npy"))
    data.load()
    assert len(data.train_set) == N and len(data.val_set) == len(data.test_set) == 7


def test_a_constant_channel_and_an_outlier_are_said(tmp_path):
    x = draw(N, 3)
    x[:, 1], x[3, 0] = 7, 1e12
    np.save(tmp_path / "x.npy", x)
    data = make(tmp_path, seed=1)
    data.load()
    assert (
        "1 of 3 channels are constant" in data.warning
        and "times that of the validation samples in channel 0" in data.warning
    )
    assert (data.train_set[0, torch.arange(9)]["x"][:, 1] == 0).all()
    assert (data.to_units(torch.zeros(1, 3))[:, 1] == 7).all()


def test_other_values_are_other_data(tmp_path):
    x = draw(N, 3)
    identities = []
    for factor in (1, 1.001):
        np.save(tmp_path / "x.npy", factor * x)
        data = make(tmp_path)
        data.load()
        identities.append(data.identity())
    assert identities[0] != identities[1]


def paired_but_one(path):
    folders(path)
    (path / "small/3.npy").unlink()


def other_shape(path):
    folders(path)
    np.save(path / "x/9.npy", np.zeros((2, 8, 13)))


def latin(path):
    (path / "x.csv").write_bytes("a,b\n1,caf\xe9\n2,y\n".encode("latin1"))


def hole(path):
    x = draw(N, 2)
    x[7, 1] = np.nan
    np.save(path / "x.npy", x)


@pytest.mark.parametrize(
    ("write", "settings", "message"),
    [
        (saved(np.array([{}, 1])), {}, "Python objects, which are never loaded"),
        (lambda p: np.savez(p / "x.npz", x=np.array([{}, 1])), {}, "Python objects, which are never loaded"),
        (lambda p: torch.save({"x": torch.nn.Linear(1, 1)}, p / "x.pt"), {}, "Python objects, which are never loaded"),
        (lambda p: torch.save({"x": 3}, p / "x.pt"), {}, "holds no tensors"),
        (lambda p: (p / "x.npy").write_bytes(b"abc"), {}, "is no .npy file"),
        (lambda p: (p / "x.txt").write_text("abc"), {}, r"must be a file of arrays, \.npy"),
        (lambda p: (p / "x").mkdir(), {}, r"must hold files of one kind, \.npy or \.wav, got none"),
        (saved(draw(N, 2).astype("c8")), {}, "must hold numbers, got complex64"),
        (saved(draw(N, 2, 3, 4, 5, 6)), {}, "at most 3 axes"),
        (saved(draw(N, 8, 8)), {"kind": "images"}, r"images must be in \[0, 1\] or uint8"),
        (saved(draw(N, 8)), {"kind": "volumes"}, "data.kind=volumes: each sample must have 3 axes"),
        (saved(draw(N, 8)), {"channels": 3}, r"data.channels is 8 in .*, got 3; leave it out"),
        (saved(draw(N, 8)), {"window": 99}, "data.window must be at most the length of a recording, 40, got 99"),
        (saved(draw(1, 8)), {}, "at least 2 samples"),
        (hole, {}, "sample 7 holds NaN or infinity"),
        (other_shape, {}, r"must hold arrays of one shape, got \(2, 8, 13\) in 9.npy"),
        (paired_but_one, {"image": "small"}, "1 files of .* have no partner, such as 3"),
        (latin, {"text": "b"}, "column b that is not UTF-8; convert it, as with iconv"),
        (table(ROWS), {"label": "knd"}, "data.label=knd: .* has no such column. It has: a, b, who, kind, note"),
        (table(ROWS), {"vector": "kind"}, "kind must hold numbers"),
        (table(ROWS), {"text": "a"}, "data.text=a must hold one text for each sample"),
        (table(ROWS), {"split": "kind"}, "must name train, val or test for each sample, got 'x'"),
        (table(LONG + "p9,1,1,1\n"), {"id": "id"}, "the recordings have 1 to 7 rows"),
        (lambda p: np.savez(p / "x.npz", a=draw(3), b=draw(3)), {}, "holds a, b; name the samples by data.key=NAME"),
        (lambda p: np.savez(p / "x.npz", x=draw(N), m=draw(3)), {"vector": "m"}, "for each of the 40 samples, got 3"),
        (lambda p: np.savez(p / "x.npz", x=draw(4), m=draw(4)[:2].repeat(2) * np.nan), {"vector": "m"}, "m holds NaN"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used(tmp_path, monkeypatch, write, settings, message):
    write(tmp_path)
    with pytest.raises(UserError, match=message):
        make(tmp_path, **settings)


def test_without_a_file():
    with pytest.raises(UserError, match=r"data\.root is not set"):
        ArrayData.resolve({"root": None})
    with pytest.raises(UserError, match="does not exist"):
        ArrayData.resolve({"root": "nowhere.npy"})


def test_an_hdf5_file_is_opened_by_each_process(tmp_path):
    """Its batches are the same with workers, which a file shared open would not promise, and it can be sent to them."""
    h5py = pytest.importorskip("h5py")
    x = np.random.default_rng(0).normal(size=(40, 2, 8)).astype(np.float32)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"], file["y"] = x, np.arange(40) % 3
    array = read_hdf5(tmp_path / "x.h5").arrays["x"]
    sent = pickle.loads(pickle.dumps(array))
    assert sent.shape == x.shape and np.array_equal(sent[3:9], x[3:9]) and np.array_equal(np.asarray(sent), x)
    found = []
    for workers in (0, 2):
        data = make(tmp_path, cache_gb=0, num_workers=workers)
        data.setup()
        found.append([batch["x"] for batch in data.train_dataloader()])
    assert len(found[0]) == 7 and all(map(torch.equal, *found))
