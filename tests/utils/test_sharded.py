"""The folder of a sharded checkpoint is read, and runs nothing: neither its index nor its values."""

import io
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import FileSystemWriter, save

from src.utils.checkpoint_io import load_checkpoint
from src.utils.errors import UserError
from src.utils.sharded import FORCED, harmless
from src.utils.sharding import SHARDED


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


def test_code_in_the_index_is_not_run(folder, tmp_path):
    (folder / ".metadata").write_bytes(pickle.dumps(Harmful(tmp_path / "harm")))
    with pytest.raises(UserError, match=r"\.metadata cannot be read: .*names posix\.mkdir"):
        load_checkpoint(folder)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["torch.load", "torch.hub.load", "torch.compile", "builtins.eval", "torch.Tensor"])
def test_no_other_name_of_torch(folder, name):
    module, _, leaf = name.rpartition(".")
    (folder / ".metadata").write_bytes(b"c" + module.encode() + b"\n" + leaf.encode() + b"\n.")
    with pytest.raises(UserError, match="is not of an index"), harmless(folder, ""):
        pass


def test_code_in_a_value_is_not_run(folder, tmp_path):
    """torch.distributed.checkpoint itself unpickles what is no tensor."""
    buffer = io.BytesIO()
    torch.save(Harmful(tmp_path / "harm"), buffer)
    with pytest.raises(pickle.UnpicklingError), harmless(folder, ""):
        torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    assert not (tmp_path / "harm").exists() and FORCED not in os.environ
