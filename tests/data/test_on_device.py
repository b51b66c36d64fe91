"""Batches that are on the device in time: a stand-in for the GPU notes what is asked of it."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from src.data.on_device import CopiedAhead, is_held
from src.data.samples import TensorSamples, WithTraining
from tests.helpers.tiny import Memory, fit, make_module, weights

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.fixture
def gpu(monkeypatch):
    """The notes of a GPU that is the CPU."""
    notes, current = [], []

    class Stream:
        def __init__(self, device):
            notes.append("stream")

        def record_event(self):
            notes.append("event")
            return len(notes)

    @contextmanager
    def inside(stream):
        current.append(stream)
        yield
        current.pop()

    main = SimpleNamespace(wait_event=lambda event: notes.append(("wait", event)))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", inside)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda x, stream: notes.append("kept"))
    return notes


def test_the_next_batch_is_copied_before_this_one_is_used(gpu):
    """Each is used after its own copy, not after the next one's; the order is the loader's."""
    batches = [{"x": torch.full((2,), float(i)), "train": {"x": torch.tensor([i])}} for i in range(3)]
    ahead = iter(CopiedAhead(batches, CPU))
    assert next(ahead)["x"][0] == 0
    assert gpu == ["stream", "event", "event", ("wait", 2), "kept", "kept"], "the second copy is under way"
    assert [int(batch["train"]["x"]) for batch in ahead] == [1, 2]
    assert len(CopiedAhead(batches, CPU)) == 3 and list(CopiedAhead([], CPU)) == []


class OnGPU(Memory):
    """Data for a trainer that is said to have a GPU."""

    def _loader(self, data, shuffle):
        return CopiedAhead(super()._loader(data, shuffle), CPU)


def test_a_run_learns_the_same_and_resumes(gpu, tmp_path):
    """Epochs, their order and the position of a resumed run pass through."""
    plain = fit(tmp_path, max_steps=12, val_check_interval=4)[0]
    ahead = fit(tmp_path, data=OnGPU(), max_steps=12, val_check_interval=4)[0]
    assert torch.equal(weights(plain), weights(ahead))
    _, trainer, _ = fit(tmp_path, make_module(), OnGPU(), max_steps=7)
    trainer.save_checkpoint(tmp_path / "7.ckpt")
    resumed = fit(tmp_path, make_module(), OnGPU(), ckpt_path=tmp_path / "7.ckpt", max_steps=12, val_check_interval=4)[
        0
    ]
    assert torch.equal(weights(plain), weights(resumed)) and "event" in gpu


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_samples_on_a_device_are_indexed_there(flip, dtype):
    """The meta device stands in for it, which has shapes only; a copy on the CPU gives the same values."""
    x = torch.arange(60).view(10, 1, 2, 3).to(dtype)
    samples, where = TensorSamples(x, torch.arange(10), flip, 3), (2, torch.tensor([4, 1, 7]))
    there, copy, here = samples.to(torch.device("meta"))[where], samples.to(CPU)[where], samples[where]
    for name, value in here.items():
        assert (there[name].device.type, there[name].shape) == ("meta", value.shape)
        assert torch.equal(copy[name], value) and there[name].dtype == value.dtype


def test_what_is_held_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=5000))
    small, large = (
        TensorSamples(torch.zeros(100, dtype=torch.uint8)),
        TensorSamples(torch.zeros(101, dtype=torch.uint8)),
    )
    assert is_held(small, CUDA) and not is_held(large, CUDA) and not is_held(small, CPU)

    assert is_held(WithTraining(small, small), CUDA) and not is_held(WithTraining(small, large), CUDA)

    class Own(TensorSamples):
        """Of the user, whose batches may be made anywhere."""

    assert not is_held(Own(small.x), CUDA)
    assert not is_held(TensorSamples(SimpleNamespace(nbytes=0)), CUDA), "decoded on access"


@pytest.mark.parametrize("held", [True, False])
def test_the_loader_for_a_gpu(monkeypatch, held):
    """Held data need no workers; others are pinned and copied ahead."""
    monkeypatch.setattr("src.data.base.is_held", lambda data, device: held)
    monkeypatch.setattr(TensorSamples, "to", lambda samples, device: samples)
    data = Memory()
    data.num_workers = 2
    data.load()
    strategy = SimpleNamespace(root_device=CUDA)
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, strategy=strategy)
    loader = data.train_dataloader()
    assert isinstance(loader, CopiedAhead) is not held
    inner = loader if held else loader.loader
    assert (inner.num_workers, inner.pin_memory) == ((0, False) if held else (2, True))
    assert loader.sampler is inner.sampler and loader.batch_sampler is None and loader._iterator is None
