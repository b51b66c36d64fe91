"""Data sets of the library datasets: what is read of them, in which order, and mistakes in one line."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from src.data.huggingface import HuggingFace
from src.data.huggingface_files import choose_splits
from src.utils.errors import UserError
from tests.helpers.libraries import Library

datasets = Library("datasets")

N = 24
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 7, 9), dtype=np.uint8)
FIELDS = np.random.default_rng(1).normal(50, 20, (N, 2, 4, 6)).astype(np.float32)


def fields() -> dict:
    return {
        "label": ([i % 3 for i in range(N)], datasets.ClassLabel(names=["a", "b", "c", "never"])),
        "mass": ([0.5 * i for i in range(N)], datasets.Value("float32")),
        "caption": ([f"no {i}" for i in range(N)], datasets.Value("string")),
    }


def png(pixels) -> dict:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def table(x, feature, **more):
    columns = {"x": (x, feature), **fields(), **more}
    return datasets.Dataset.from_dict(
        {name: values for name, (values, _) in columns.items()},
        features=datasets.Features({name: kind for name, (_, kind) in columns.items()}),
    )


def pictures(pixels=PIXELS, **more):
    return table([png(each) for each in pixels], datasets.Image(), **more)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The same pictures in every form, and arrays."""
    folder = tmp_path_factory.mktemp("sets")
    cache, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, folder / "cache"
    datasets.disable_progress_bars()
    pictures().save_to_disk(folder / "saved")
    (folder / "parquet").mkdir()
    pictures().to_parquet(folder / "parquet/train-00000-of-00001.parquet")
    two = datasets.DatasetDict(train=pictures().select(range(16)), test=pictures().select(range(16, N)))
    two.save_to_disk(folder / "two")
    table(FIELDS.tolist(), datasets.Array3D((2, 4, 6), "float32")).save_to_disk(folder / "arrays")
    yield folder
    datasets.config.HF_DATASETS_CACHE = cache


def load(path, **settings) -> HuggingFace:
    """As a run has it: resolved once, and made from what was found."""
    found = HuggingFace.resolve({"path": str(path), "seed": 0, **settings})
    data = HuggingFace(**{"path": str(path), "seed": 0, **settings, **found})
    data.prepare_data()
    data.setup()
    data.check_samples()
    return data


def everything(data) -> dict:
    """The samples of all parts, sorted by their mass."""
    parts = [part[0, torch.arange(len(part))] for part in (data.train_set, data.val_set)]
    batch = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    order = batch["vector"][:, 0].argsort()
    return {name: value[order] for name, value in batch.items()}


@pytest.mark.parametrize("cache_gb", [1.0, 0.0], ids=["in memory", "on access"])
@pytest.mark.parametrize("form", ["saved", "parquet", "parquet/train-00000-of-00001.parquet"])
def test_pictures(sets, form, cache_gb):
    data = load(sets / form, vector="mass", text="caption", val_fraction=0.25, cache_gb=cache_gb)
    assert (data.kind, data.shape, data.num_classes, data.vector_size, data.text_length) == (
        "images",
        (1, 7, 9),
        4,
        1,
        5,
    )
    assert data.class_names == ["a", "b", "c", "never"] and (len(data.train_set), len(data.val_set)) == (18, 6)
    found = everything(data)
    assert torch.equal(data.to_units(found["x"]).mul(255).round().to(torch.uint8)[:, 0], torch.from_numpy(PIXELS))
    assert found["label"].tolist() == fields()["label"][0] and found["label"].dtype == torch.int64
    assert bytes(found["text"][7, :4].tolist()) == b"no 7" and found["text"][7, 4] == -1
    assert data.num_workers == 0 or cache_gb == 0


def test_arrays_are_normalized_and_keep_their_units(sets):
    data = load(sets / "arrays", vector=["mass"], kind="fields")
    assert (data.kind, data.shape) == ("fields", (2, 4, 6))
    x = data.train_set[0, torch.arange(len(data.train_set))]["x"]
    assert_close(x.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    assert_close(x.std((0, 2, 3), correction=0), torch.ones(2))
    assert_close(data.to_units(everything(data)["x"]), torch.from_numpy(FIELDS), atol=1e-4, rtol=0)
    volumes = load(sets / "arrays", kind="volumes")
    assert (volumes.kind, volumes.shape) == ("volumes", (1, 2, 4, 6))


def test_pictures_are_converted_and_flipped_in_training_only(sets):
    data = load(sets / "two", channels=3, size=[14, 18], flip=True, num_classes=0)
    assert data.shape == (3, 14, 18) and set(data.train_set[0, torch.arange(2)]) == {"x"}
    first, second = (data.train_set[epoch, torch.arange(15)]["x"] for epoch in (0, 1))
    moved = (first != second).flatten(1).any(1)
    assert moved.any() and not moved.all()
    assert torch.equal(torch.where(moved[:, None, None, None], first.flip(-1), first), second)
    assert torch.equal(*(data.test_set[epoch, torch.arange(8)]["x"] for epoch in (0, 1)))
    assert len(data.test_set) == 8 and len(data.train_set) + len(data.val_set) == 16


def test_a_folder_of_images_and_a_picture_as_condition(sets, tmp_path):
    for i, pixels in enumerate(PIXELS[:10]):
        place = tmp_path / "folder" / ("train" if i < 7 else "validation") / f"class_{i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i}.png")
    data = load(tmp_path / "folder")
    assert (data.class_names, len(data.train_set), len(data.val_set)) == (["class_0", "class_1"], 7, 3)
    small = [png(np.asarray(Image.fromarray(p).resize((3, 2)))) for p in PIXELS]
    pictures(small=(small, datasets.Image())).save_to_disk(tmp_path / "pairs")
    data = load(tmp_path / "pairs", x="x", image="small", vector="mass")
    found = everything(data)["image"]
    assert data.image_shape == [1, 2, 3] and found.dtype == torch.float32
    expected = np.stack([np.asarray(Image.open(io.BytesIO(each["bytes"]))) for each in small])[:, None] / 255
    assert_close(found, torch.from_numpy(expected).float())


def test_damaged_pictures_are_left_out_or_refused(sets, tmp_path):
    broken = [png(each) for each in PIXELS]
    broken[5]["bytes"] = broken[5]["bytes"][:60]
    broken[9]["bytes"] = b"no picture"
    table(broken, datasets.Image()).save_to_disk(tmp_path / "broken")
    data = load(tmp_path / "broken", max_unreadable=0.1, vector="mass")
    kept = [i for i in range(N) if i not in (5, 9)]
    assert everything(data)["vector"][:, 0].mul(2).tolist() == kept and everything(data)["label"].tolist() == [
        i % 3 for i in kept
    ]
    assert "2 of 24 pictures cannot be read: row" in data.warning and "left out" in data.warning
    with pytest.raises(UserError, match=r"2 of 24 pictures cannot be read: .*; repair or remove them, or raise"):
        load(tmp_path / "broken")
    with pytest.raises(UserError, match=r"1 of 24 pictures cannot be read: row 9 \(not an image"):
        load(tmp_path / "broken", cache_gb=0.0)


def test_identity_is_that_of_the_contents(sets, tmp_path):
    pictures().save_to_disk(tmp_path / "elsewhere")
    changed = PIXELS.copy()
    changed[3, 0, 0] ^= 1
    pictures(changed).save_to_disk(tmp_path / "changed")
    places = (sets / "saved", tmp_path / "elsewhere", sets / "parquet", tmp_path / "changed")
    first, same, parquet, other = (load(path).identity() for path in places)
    assert first == same == parquet and first != other


@pytest.mark.parametrize(
    ("splits", "named", "expected"),
    [
        (["train", "test"], (None,) * 3, ["train", None, "test"]),
        (["train", "validation", "test"], (None,) * 3, ["train", "validation", "test"]),
        (["all"], (None,) * 3, ["all", None, None]),
        (["train", "extra", "test"], ("extra", "train", None), ["extra", "train", "test"]),
    ],
)
def test_splits(splits, named, expected):
    assert list(choose_splits({name: range(3) for name in splits}, *named).values()) == expected


@pytest.mark.parametrize(
    ("path", "settings", "message"),
    [
        (None, {}, r"data\.path is not set"),
        ("nowhere", {}, r"data\.path=.*nowhere: Couldn't find any data file"),
        ("saved", {"streaming": True}, r"data\.streaming=true is not supported: .* resume bit for bit"),
        ("saved", {"x": "img"}, r"data\.x=img must be one of the columns x, label, mass, caption"),
        ("saved", {"label": "class"}, r"data\.label=class must be one of the columns"),
        ("saved", {"vector": "caption"}, r"data\.vector=caption must hold arrays of numbers"),
        ("saved", {"text": "label"}, r"data\.text=label must hold one text for each sample"),
        ("saved", {"split": "dev"}, r"data\.split=dev must be one of the splits train \(24\)"),
        ("saved", {"kind": "volumes"}, r"data\.kind must be images for a column of pictures, got volumes"),
        ("saved", {"channels": 2}, r"data\.channels must be 1 \(grayscale\) or 3 \(RGB\) for pictures, got 2"),
        ("saved", {"num_classes": 3}, r"data\.num_classes is 4 in .*, got 3; leave it out"),
        ("arrays", {"channels": 3}, r"data\.channels is 1 in .*, got 3; leave it out"),
        ("arrays", {"x": "caption"}, r"data\.x=caption must hold arrays of numbers"),
    ],
)
def test_refuses(sets, path, settings, message):
    with pytest.raises(UserError, match=message) as refusal:
        load(sets / path, **settings) if path else HuggingFace.resolve({"path": None})
    assert "\n" not in str(refusal.value)


def test_what_cannot_be_stacked_is_refused(sets, tmp_path):
    ragged = [[0.0] * (1 + i % 2) for i in range(N)]
    table(ragged, datasets.List(datasets.Value("float32"))).save_to_disk(tmp_path / "ragged")
    with pytest.raises(UserError, match=r"data\.x=x must hold arrays of numbers, all of one shape"):
        load(tmp_path / "ragged")
    sizes = [png(PIXELS[i, : 4 + i % 2]) for i in range(N)]
    table(sizes, datasets.Image()).save_to_disk(tmp_path / "sizes")
    with pytest.raises(UserError, match=r"data\.size must be given, since the pictures differ in size, .*\[4, 9\]"):
        load(tmp_path / "sizes")
    assert load(tmp_path / "sizes", size=[4, 4]).shape == (1, 4, 4)


def test_no_network_is_one_line(sets, monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'some/set' on the Hub (LocalEntryNotFoundError)")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(UserError, match=r"data\.path=some/set: it is in no cache here, and the hub cannot be reached"):
        load("some/set")
