"""A checkpoint is written whole or not at all, and reading one runs nobody's code."""

import os
import resource
import signal
from pathlib import Path

import pytest
import torch

from src.utils.checkpoints import AtomicCheckpointIO, best_checkpoint, load_checkpoint, without_tensors
from src.utils.errors import UserError
from src.utils.sharded import SHARDED

OLD = {"global_step": 1, "state_dict": {"w": torch.arange(5.0)}}
NEW = {"global_step": 7, "state_dict": {"w": torch.arange(5.0) + 1}}

# What Lightning restores beside them.
RESTORED = {"epoch": 0, "pytorch-lightning_version": "2.6.6", "loops": {"fit_loop": {}}, "callbacks": {},
            "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1}]}], "lr_schedulers": [{}]}  # fmt: skip


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "checkpoints" / "last.ckpt"


def message_of(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def save(checkpoint, path) -> None:
    AtomicCheckpointIO().save_checkpoint(checkpoint, str(path))


def assert_holds(path: Path, checkpoint) -> None:
    found = load_checkpoint(path)
    assert found["global_step"] == checkpoint["global_step"]
    assert torch.equal(found["state_dict"]["w"], checkpoint["state_dict"]["w"])
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_round_trip(path):
    save(OLD, path)
    assert_holds(path, OLD)
    save(NEW, path)
    assert_holds(path, NEW)
    save(NEW | RESTORED, path)
    loaded = AtomicCheckpointIO().load_checkpoint(str(path), map_location="meta", weights_only=False)
    assert loaded["state_dict"]["w"].device.type == "cpu"


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos"),
    ],
)
@pytest.mark.parametrize("earlier", [True, False])
def test_a_failure_in_mid_file_leaves_the_old_one(path, monkeypatch, error, earlier):
    if earlier:
        save(OLD, path)
    written = torch.save

    def failing_save(checkpoint, file):
        file.write(b"half of a checkpoint")
        raise error

    monkeypatch.setattr(torch, "save", failing_save)
    message = message_of(lambda: save(NEW, path))
    assert "the checkpoint of step 7 could not be written" in message and str(path.parent) in message
    assert str(error).splitlines()[0] in message
    assert (f"the previous {path} is kept" if earlier else "there is no earlier file") in message
    assert not list(path.parent.glob(".*"))
    assert path.exists() == earlier
    monkeypatch.setattr(torch, "save", written)
    if earlier:
        assert_holds(path, OLD)


def test_the_systems_own_words_are_shown_where_torch_hides_them(path, monkeypatch):
    def failing_save(checkpoint, file):
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904 - as torch does it

    monkeypatch.setattr(torch, "save", failing_save)
    assert "No space left on device" in message_of(lambda: save(NEW, path))


def test_a_bug_is_not_taken_for_a_full_disk(path, monkeypatch):
    monkeypatch.setattr(torch, "save", lambda *_: {}["bug"])
    with pytest.raises(KeyError):
        save(NEW, path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_that_is_really_full(path):
    path.parent.mkdir()
    (path.parent / f".{path.name}.partial").symlink_to("/dev/full")
    message = message_of(lambda: save(NEW, path))
    assert "the checkpoint of step 7" in message
    assert "No space left on device" in message
    assert list(path.parent.iterdir()) == [] and Path("/dev/full").exists()


def test_a_file_that_may_not_grow(path):
    """As on a full disk, but for this process alone: the kernel refuses what goes beyond the limit."""
    save(OLD, path)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        message = message_of(lambda: save({"global_step": 7, "w": torch.zeros(1_000_000)}, path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "the checkpoint of step 7 could not be written" in message and "File too large" in message
    assert_holds(path, OLD)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    assert "step 7" in message_of(lambda: save(NEW, tmp_path / "file" / "last.ckpt"))


def test_a_missing_file(path):
    assert message_of(lambda: load_checkpoint(path)) == f"there is no checkpoint {path}"
    assert message_of(lambda: load_checkpoint(path.parent.parent)).startswith("there is no checkpoint")


@pytest.mark.parametrize("size", [0, 1, 100, 0.5, -1])
def test_a_truncated_file(path, size):
    save(OLD, path)
    whole = path.stat().st_size
    size = int(size * whole) if isinstance(size, float) else size % whole
    os.truncate(path, size)
    message = message_of(lambda: load_checkpoint(path))
    assert message.startswith(f"{path} cannot be read: it is truncated")


@pytest.mark.parametrize("content", [b"hello\n", b"\x00" * 1000, b"PK\x03\x04 no archive"])
def test_another_file(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    assert f"{path} cannot be read" in message_of(lambda: load_checkpoint(path))


class Harmful:
    def __reduce__(self):
        return os.mkdir, (os.environ["HARM"],)


def test_code_in_a_checkpoint_is_not_run(path, tmp_path, monkeypatch):
    monkeypatch.setenv("HARM", str(tmp_path / "harm"))
    path.parent.mkdir()
    torch.save({"global_step": 1, "x": Harmful()}, path)
    assert "cannot be read" in message_of(lambda: load_checkpoint(path))
    assert "cannot be read" in message_of(lambda: AtomicCheckpointIO().load_checkpoint(path, weights_only=False))
    assert not (tmp_path / "harm").exists()
    torch.load(path, weights_only=False)  # it would have been
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize("key", [*RESTORED, "global_step", "state_dict"])
@pytest.mark.parametrize("value", [None, [5], "text", {"no": "such"}])
def test_a_checkpoint_that_lacks_what_lightning_restores(path, key, value):
    content = NEW | RESTORED | {key: value}
    if value is None:
        del content[key]
    save(content, path)
    if isinstance(value, str) and isinstance(RESTORED.get(key), str):
        return
    if isinstance(value, dict) and key in ("callbacks", "state_dict"):
        return
    message = message_of(lambda: AtomicCheckpointIO().load_checkpoint(path))
    assert message.startswith(f"{path} is damaged: {key}") and "start a new run" in message


@pytest.mark.parametrize(
    ("best_step", "copied", "name"),
    [(5, None, "last"), (5, 3, "last"), (5, 5, "best"), (3, 3, "best"), (3, None, "best")],
)
def test_the_best_is_the_last_one_until_it_is_copied(tmp_path, best_step, copied, name):
    """By the state in the last one, of step 5; best.ckpt is missing, or of the step given."""
    state = {"best": 0.1, "best_step": best_step}
    for file, step in (("last", 5), ("best", copied)):
        if step is not None:
            torch.save({"global_step": step, "callbacks": {"BestLastCheckpoint": state}}, tmp_path / f"{file}.ckpt")
    assert best_checkpoint(tmp_path) == tmp_path / f"{name}.ckpt"


@pytest.mark.parametrize(
    ("best", "copied", "name"), [(None, False, "last"), (None, True, "best"), (0.1, False, "best")]
)
def test_the_last_one_is_the_best_of_a_run_without_a_validation(tmp_path, best, copied, name):
    """Of step 5; where another one is the best, it is not taken for it."""
    state = {"best": best, "best_step": 0}
    torch.save({"global_step": 5, "callbacks": {"BestLastCheckpoint": state}}, tmp_path / "last.ckpt")
    if copied:
        torch.save({"global_step": 0}, tmp_path / "best.ckpt")
    assert best_checkpoint(tmp_path) == tmp_path / f"{name}.ckpt"


@pytest.mark.parametrize("content", [None, b"", {"callbacks": {}}, {"global_step": 5, "callbacks": {}}])
def test_without_a_state_the_best_is_the_file_of_that_name(tmp_path, content):
    if isinstance(content, dict):
        torch.save(content, tmp_path / "last.ckpt")
    elif content is not None:
        (tmp_path / "last.ckpt").write_bytes(content)
    assert best_checkpoint(tmp_path) == tmp_path / "best.ckpt"


def test_what_is_read_without_tensors(tmp_path):
    """The content of a file, or of the file beside the shards; nothing of what is not as it should be."""
    torch.save(NEW, tmp_path / "last.ckpt")
    assert without_tensors(tmp_path / "last.ckpt")["global_step"] == 7
    assert without_tensors(tmp_path / "last.ckpt", {"global_step": int, "state_dict": dict})["global_step"] == 7
    assert without_tensors(tmp_path / "last.ckpt", {"global_step": str}) == {}
    assert without_tensors(tmp_path / "none.ckpt") == {} == without_tensors(tmp_path)
    torch.save({"global_step": 3}, tmp_path / SHARDED)
    assert without_tensors(tmp_path) == {"global_step": 3}
