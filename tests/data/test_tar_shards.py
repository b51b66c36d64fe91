"""Tar shards: samples as webdataset reads them, in an exact order, divided among ranks and workers."""

import sys
import tarfile
from io import BytesIO
from types import SimpleNamespace

import pytest
import torch

from src.data.tar_shards import scan_shards
from tests.data.image_trees import CLASSES, everything, images, refused, same, tree, zipped
from tests.end_to_end.running import assert_same_run, kill_at, started

webdataset = pytest.importorskip("webdataset")


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """48 images of three classes: a folder, a zip file and one tar file of it, and eight shards with `cls` files."""
    folder = tmp_path_factory.mktemp("tars")
    root = tree(folder / "pets", [f"{('cat', 'dog', 'eel')[i % 3]}/{i:02}.png" for i in range(48)])
    zipped(root)
    with tarfile.open(folder / "pets.tar", "w") as tar:
        for path in sorted(root.rglob("*.png")):
            tar.add(path, path.relative_to(folder))
    (folder / "shards").mkdir()
    for shard in range(8):
        with webdataset.TarWriter(str(folder / f"shards/pets-{shard:02}.tar")) as writer:
            for i in range(6 * shard, 6 * shard + 6):
                (path,) = root.glob(f"*/{i:02}.png")
                writer.write({"__key__": f"{i:02}", "png": path.read_bytes(), "cls": str(i % 3)})
    return folder


def lazy(root, **settings):
    return images(root, **{"cache_gb": 0.0, "num_workers": 1, "num_classes": 3, "val_fraction": 0.2} | settings)


def write(path, files, **settings):
    """Write a tar file of the contents by name."""
    with tarfile.open(path, "w", **settings) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    return path


@pytest.fixture(scope="module")
def png(pets):
    return (pets / "pets/cat/00.png").read_bytes()


# ---- what is read ----


def test_the_library_reads_the_same(pets):
    """Bytes, labels and order."""
    shards = sorted((pets / "shards").iterdir())
    files = scan_shards(shards, pets / "shards", "data.root")
    theirs = list(webdataset.WebDataset([str(path) for path in shards], shardshuffle=False))
    assert len(files) == len(theirs) == 48
    for i, sample in enumerate(theirs):
        assert files.open(i).read() == sample["png"] and int(files.label[i]) == int(sample["cls"])
        assert files.name(i) == f"pets-{i // 6:02}.tar/{sample['__key__']}.png"


@pytest.mark.parametrize("cache_gb", [0.0, 1.0])
def test_a_tar_file_equals_its_folder(pets, cache_gb):
    folder, archive = (lazy(pets / name, cache_gb=cache_gb) for name in ("pets", "pets.tar"))
    assert folder.class_names == archive.class_names == ["cat", "dog", "eel"]
    for part in ("train_set", "val_set"):
        assert same(everything(getattr(folder, part), 2), everything(getattr(archive, part), 2))


def test_shards_by_their_folder_or_by_a_pattern(pets):
    whole = lazy(pets / "shards")
    assert whole.class_names == ["0", "1", "2"]
    for pattern in ("pets-{00..07}.tar", "pets-*.tar", "pets-0{0,1,2,3,4,5,6,7}.tar"):
        assert same(everything(whole.train_set), everything(lazy(pets / "shards" / pattern).train_set))
    assert len(lazy(pets / "shards/pets-{00..01}.tar").train_set) == 10
    others = lazy(pets / "shards/pets-{00..05}.tar", val_root=str(pets / "shards/pets-{06..07}.tar"))
    assert (len(others.train_set), len(others.val_set)) == (36, 12)


@pytest.mark.parametrize("names", [("train-0", "train-1", "val-0"), ("Training_0", "x-train-1", "x-TEST-0")])
def test_shards_of_parts_of_the_data(tmp_path, pets, names):
    for i, name in enumerate(names):
        (tmp_path / f"{name}.tar").symlink_to(pets / f"shards/pets-0{i}.tar")
    data = lazy(tmp_path)
    assert (len(data.train_set), len(data.val_set)) == (12, 6)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_formats_names_and_what_is_passed_over(tmp_path, png, format):
    long = "x" * 90 + "/" + "y" * 90
    files = {
        "./cat/1.png": png,
        f"cat/{long}.PNG": png,
        "cat/1.txt": b"a cat",
        "cat/._1.png": b"",
        "cat/1.mask.png": b"",
    }
    files |= {"dog/2.json": b"{}", "dog/2.png": png}
    data = lazy(write(tmp_path / "a.tar", files, format=format), num_classes=2)
    part = data.train_set.x.part
    found = {part.files.name(i) for i in range(3)}
    assert len(part.files) == 3 and found == {"cat/1.png", f"cat/{long}.PNG", "dog/2.png"}


def test_images_beside_a_tar_file_come_first(tmp_path, pets):
    tree(tmp_path, CLASSES)
    (tmp_path / "download.tar").symlink_to(pets / "pets.tar")
    assert lazy(tmp_path).class_names == ["cat", "dog", "eel"] and "7 train / 2" in lazy(tmp_path).source


def test_names_with_dots(tmp_path, png):
    names = ["000.png", "scan.001.png", "scan.002.png", "v1.0/a.b.c.PNG", "7.jpg", "7.mask.png", "7.left.jpg"]
    data = images(write(tmp_path / "a.tar", dict.fromkeys(names, png)))
    assert len(data.train_set) + len(data.val_set) == 5
    assert data.warning.endswith("a.tar: 2 further images of a sample, as 1.mask.png is beside 1.png")


def test_classes_of_names_with_dots(tmp_path, png):
    files = {"a.0.png": png, "a.0.cls": b"1", "a.1.png": png, "a.1.cls": b" 0\n", "b.in.png": png, "b.out.png": png}
    part = lazy(write(tmp_path / "a.tar", files | {"b.cls": b"2"})).train_set.x.part
    assert part.files.label.tolist() == [1, 0, 2, 2]


def test_names_of_every_origin_and_what_is_passed_over(tmp_path, png):
    path = tmp_path / "a.tar"
    names = ["/abs/Train/cat/0.png", "../Train/dog/0.png", ".\\Test\\dog\\0.png", "Train/dog/0.png", "Train/x.heic"]
    names[0] = "Train/cat/0.png"
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(png)
            tar.addfile(info, BytesIO(png))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("Train/cat/1.png")
            info.type, info.linkname = kind, names[0]
            tar.addfile(info)
    data = images(path, num_classes=2)
    assert (len(data.train_set), len(data.val_set), data.class_names) == (2, 1, ["cat", "dog"])
    assert data.warning.endswith(": 3 links or devices, 1 older images of the same name, 1 .heic")


# ---- in which order ----

ROOTS = {"folder": "pets", "zip": "pets-zip.zip", "tar": "pets.tar", "shards": "shards"}


def batches(root, rank=0, world_size=1, epoch=0, ready=0, **settings):
    """The batches of a rank from a given epoch and batch on."""
    data = lazy(root, **{"batch_size": 8, "shuffle_window": 2} | settings)
    data.position = (epoch, ready)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, strategy=strategy)
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


@pytest.mark.strength(1)
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(  # zip and tar files are divided as the folder is
    "kind", ["folder", "shards", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("zip", "tar"))]
)
def test_two_processes_share_out_each_batch(pets, kind, workers):
    whole = batches(pets / ROOTS[kind], epoch=1)
    parts = [batches(pets / ROOTS[kind], rank, 2, epoch=1, num_workers=workers) for rank in range(2)]
    assert len(whole) == len(parts[0]) == len(parts[1]) == 4
    for batch, *shares in zip(whole, *parts, strict=True):
        assert all(same({k: v[rank::2] for k, v in batch.items()}, share) for rank, share in enumerate(shares))


@pytest.mark.parametrize("kind", ["zip", "shards"])
def test_a_resumed_run_goes_on_at_the_next_batch(pets, kind):
    whole, rest = batches(pets / ROOTS[kind], epoch=2), batches(pets / ROOTS[kind], epoch=2, ready=3, num_workers=2)
    assert len(whole) == 4 and len(rest) == 1 and same(whole[3], rest[0])


def test_every_image_once_from_a_window_of_shards_at_a_time(pets):
    data = lazy(pets / "shards", batch_size=1, shuffle_window=2, val_fraction=0.01, num_classes=0)
    where = data.train_set.x.part.files.where[data.train_set.x.part.indices, 0]
    walked = [int(indices) for _, indices in data.train_dataloader().sampler]
    assert sorted(walked) == list(range(47))
    turns = where[torch.tensor(walked)].tolist()
    for shard in range(8):
        first, last = turns.index(shard), len(turns) - turns[::-1].index(shard)
        assert len(set(turns[first:last])) <= 2


@pytest.mark.slow
def test_a_killed_run_on_shards_resumes_to_the_same_bits(pets, tmp_path):
    words = [
        "experiment=folder_ddpm", "data=image_shards", f"data.root={pets}/shards", "data.size=[8,8]",
        "data.batch_size=8", "data.cache_gb=0", "data.num_workers=2", "data.shuffle_window=2",
        f"data.index={tmp_path}/index",
        "net.width=8", "trainer=cpu", "trainer.precision=32-true", "trainer.max_steps=14",
        "trainer.val_check_interval=5", "trainer.log_every_n_steps=2", "callbacks.sample_images.n=4", "sampler.steps=2",
        "logger=csv", "callbacks.checkpoint.every_n_steps=1",
    ]  # fmt: skip
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = started(*words, f"hydra.run.dir={whole}")
    assert done.returncode == 0, done.stderr
    assert started(*words, f"hydra.run.dir={broken}", *kill_at(9)).returncode == -9
    resumed = started(f"resume={broken}", "callbacks.fault=null")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(whole, broken)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"1.txt": b"text"}, "a.tar holds no image; add files named KEY.png, KEY.jpg"),
        ({"1.png": b"", "1.cls": b"cat"}, "a.tar cannot be used: 1.cls must hold a class number"),
        ({"1.png": b"", "1.cls": b"9" * 500}, "a.tar cannot be used: 1.cls must hold a class number"),
        ({"1.png": b"", "1.cls": b"1" * 5000}, "a.tar cannot be used: 1.cls must hold a class number"),
        ({"1.png": b"", "1.cls": b"300000000"}, "or the number of images, 1, got 300,000,000; renumber them"),
        ({"1.png": b"", "1.cls": b"0", "2.png": b""}, "a .cls file, but 1 have none, such as a.tar/2.png; add"),
        ({"1.png": b"", "1.cls": b"0", "2.png": b"", "2.cls": b"4"}, "(0, 1, 2, ...), or 0 to ignore them, got"),
        ({"cat/1.png": b"", "dog/2.png": b""}, "(cat, dog), or 0 to ignore them, got"),
    ],
)
def test_refuses_shards(tmp_path, files, message):
    assert message in refused(write(tmp_path / "a.tar", files), num_classes=3)


def test_refuses_damaged_shards(tmp_path, pets):
    whole = (pets / "pets.tar").read_bytes()
    shard = tmp_path / "a.tar"
    for length in (100, len(whole) // 2, len(whole) // 2 // 512 * 512, 512 * 3):
        shard.write_bytes(whole[:length])
        assert f"{shard} is damaged, or compressed (" in refused(shard), length
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as tar:
        tar.add(pets / "pets", "pets")
    assert "is damaged, or compressed (" in refused(tmp_path / "b.tar.gz")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.REGTYPE])
@pytest.mark.parametrize("size", [1 << 30, 1 << 62, 1 << 80])
def test_sizes_that_no_member_has(tmp_path, png, kind, size):
    info = tarfile.TarInfo("1.png")
    info.type, info.size = kind, size
    shard = tmp_path / "a.tar"
    with shard.open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT) + png)
        file.truncate(3 << 30)  # bytes, none of which are stored
    if kind == tarfile.REGTYPE and size == 1 << 30:
        told = refused(shard, val_root=str(shard))
        assert "2 of 2 images cannot be read: 1.png (1,073,741,824 bytes, more than" in told
    else:
        assert f"{shard} is damaged, or compressed (" in refused(shard)


def test_refuses_shards_that_are_not_there(tmp_path, pets, monkeypatch):
    told = refused(pets / "shards/pets-{06..09}.tar")
    assert "2 of 4 shards do not exist, such as" in told and "pets-08.tar" in told
    assert "matches no file" in refused(pets / "shards/other-*.tar")
    assert "must be a path on a disk, got" in refused("pipe:curl -s https://host/{0..9}.tar")
    assert "shards must be 0 to 1, as in " in refused(
        write(tmp_path / "a.tar", {"1.png": b"", "1.cls": b"0", "2.png": b"", "2.cls": b"1"}),
        val_root=str(pets / "shards"), num_classes=2, cache_gb=0.0, num_workers=1, max_unreadable=1.0,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "webdataset", None)
    assert "pip install 'diffusion-lab[webdataset]'" in refused(pets / "shards")
