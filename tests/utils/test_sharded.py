"""The folder of a sharded checkpoint is compared with its checksums, read, and runs nothing of what is in it."""

import io
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import FileSystemWriter, save

from src.utils.checkpoints import load_checkpoint
from src.utils.errors import UserError
from src.utils.sharded import (
    DIGESTS,
    FORCED,
    INDEX,
    SHARDED,
    checksums,
    safe_shard_loading,
    shard_files,
    write_checksums,
)


class Harmful:
    def __init__(self, place: Path):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "last.ckpt"
    state = {"state_dict": {"w": torch.arange(6.0), "h": torch.ones(2, dtype=torch.bfloat16)}}
    state["optimizer_0"] = {"state": {"w": {"step": torch.tensor(3.0)}}, "param_groups": [{"params": ["w"], "lr": 0.1}]}
    save(state, storage_writer=FileSystemWriter(path), no_dist=True)
    torch.save({"global_step": 3}, path / SHARDED)
    return path


def test_an_index_of_torch_is_read(folder):
    found = load_checkpoint(folder)
    assert torch.equal(found["state_dict"]["w"], torch.arange(6.0)) and found["global_step"] == 3
    assert found["optimizer_states"][0]["param_groups"] == [{"params": [0], "lr": 0.1}]
    assert FORCED not in os.environ


def test_the_rest_beside_the_shards_must_be_as_wanted(folder):
    with pytest.raises(UserError, match="is damaged: epoch"):
        load_checkpoint(folder, wanted={"global_step": int, "epoch": int})


def test_code_in_the_index_is_not_run(folder, tmp_path):
    (folder / ".metadata").write_bytes(pickle.dumps(Harmful(tmp_path / "harm")))
    with pytest.raises(UserError, match=r"\.metadata cannot be read: .*names posix\.mkdir"):
        load_checkpoint(folder)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["torch.load", "torch.hub.load", "torch.compile", "builtins.eval", "torch.Tensor"])
def test_no_other_name_of_torch(folder, name):
    module, _, leaf = name.rpartition(".")
    (folder / ".metadata").write_bytes(b"c" + module.encode() + b"\n" + leaf.encode() + b"\n.")
    with pytest.raises(UserError, match="which an index does not contain"), safe_shard_loading(folder, ""):
        pass


def test_code_in_a_value_is_not_run(folder, tmp_path):
    """torch.distributed.checkpoint itself unpickles what is no tensor."""
    buffer = io.BytesIO()
    torch.save(Harmful(tmp_path / "harm"), buffer)
    with pytest.raises(pickle.UnpicklingError), safe_shard_loading(folder, ""):
        torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    assert not (tmp_path / "harm").exists() and FORCED not in os.environ


def flip(file: Path, place: float = 0.5) -> None:
    """Turn one bit of a file over, at this share of its length."""
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["__0_0.distcp", INDEX, SHARDED])
@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda file: os.truncate(file, 0)])
def test_a_file_that_differs_from_its_digest_is_named(folder, name, damage):
    write_checksums(folder, checksums(folder, shard_files(folder)))
    assert load_checkpoint(folder)["global_step"] == 3
    damage(folder / name)
    with pytest.raises(UserError) as caught:
        load_checkpoint(folder)
    said = "is damaged: it differs from its checksum" if (folder / name).exists() else "is missing"
    assert str(caught.value).startswith(f"{folder / name} {said}") and "\n" not in str(caught.value)


def test_what_is_beside_the_files_of_a_checkpoint_does_not_matter(folder):
    write_checksums(folder, checksums(folder, shard_files(folder)))
    (folder / "notes.txt").write_text("the good one")
    (folder / "pictures").mkdir()
    assert load_checkpoint(folder)["global_step"] == 3


@pytest.mark.parametrize("content", ["", "{", "[]", '{"crc32": {"meta.pt": "text"}}', '{"crc32": 5}', "{}"])
def test_damaged_digests_are_named(folder, content):
    (folder / DIGESTS).write_text(content)
    with pytest.raises(UserError, match=rf"{DIGESTS} (is damaged|cannot be read)"):
        load_checkpoint(folder)


def test_digests_name_nothing_outside_their_folder(folder, tmp_path):
    """Nor is anything outside read, which could be a device without end."""
    (tmp_path / "file").touch()
    write_checksums(folder, {"../file": 0})
    with pytest.raises(UserError, match="differs from its checksum"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["__0_0.distcp", INDEX, SHARDED])
def test_a_missing_file_is_one_line_without_digests_too(folder, name):
    """As in the folders of earlier versions, whose content is not compared."""
    (folder / name).unlink()
    with pytest.raises(UserError, match=r"is missing|is incomplete"):
        load_checkpoint(folder)
