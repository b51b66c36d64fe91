"""Where the memory does not suffice: one line that says what fits, and the command to go on with."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from src.commands.cli import user_message
from src.commands.out_of_memory import largest_sampled, metric_memory, sampling_error, smaller_batches
from src.commands.plan.fitting import estimated_batch, what_fits
from src.diffusion.beta_schedules import CosineSchedule
from src.diffusion.conditions import Labels
from src.diffusion.denoiser import Denoiser
from src.diffusion.parameterizations import V
from src.nets.mlp import MLP
from src.samplers.ancestral import DDIM
from src.samplers.pipeline import Pipeline
from src.utils.errors import UserError, is_out_of_memory
from tests.end_to_end.preparing import composed
from tests.helpers.memory import SAID, limited


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (torch.OutOfMemoryError(SAID), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError("Unable to allocate 9 GiB"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (UserError("out of memory: said already"), False),
    ],
)  # fmt: skip
def test_which_errors_are_meant(error, found):
    assert is_out_of_memory(error) is found
    if found:
        for name, part in {"train": "data.batch_size", "sample": "batch_size, or device=cpu"}.items():
            message = user_message(error, name)
            assert message.startswith("out of memory: ") and part in message and "GPU 0 has" not in message


SETTINGS = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 64),
        "processes": st.integers(1, 4),
        "most": st.integers(0, 400),
        "more": st.integers(1, 3),
    }
)


@given(SETTINGS)
def test_smaller_batches_make_the_same_steps(drawn):
    batch, processes = drawn["batch"] * drawn["processes"], drawn["processes"]
    trainer = {"accumulate_grad_batches": drawn["more"], "val_check_interval": 10}
    cfg = OmegaConf.create({"data": {"batch_size": batch}, "trainer": trainer})
    settings = smaller_batches(cfg, drawn["most"], processes)
    if not settings:
        assert drawn["batch"] == 1, "only a single sample cannot be divided"
        return
    smaller, parts = settings["data.batch_size"], settings["trainer.accumulate_grad_batches"]
    assert smaller * parts == batch * drawn["more"] and smaller % processes == 0 and smaller < batch
    assert smaller // processes <= (drawn["most"] or batch)
    assert settings["trainer.val_check_interval"] * smaller == 10 * batch, "as many samples between two validations"


def pipeline(**changes):
    net = MLP(1, (6,), width=8, depth=1, num_classes=3)
    return Pipeline(
        Denoiser(net, CosineSchedule(), V(), condition=Labels(3)), DDIM(CosineSchedule(), 2), (1, 6), **changes
    )


@pytest.mark.parametrize(("limit", "fits"), [(1, 1), (5, 4), (16, 16), (24, 16)])
@pytest.mark.parametrize("cond", [None, torch.arange(40) % 3])
def test_the_batch_that_can_be_sampled_is_tried(monkeypatch, limit, fits, cond):
    limited(monkeypatch, MLP, limit)
    sampled = pipeline(cond=cond, batch_size=32)
    assert largest_sampled(sampled, 32) == fits
    with pytest.raises(torch.OutOfMemoryError) as caught:
        sampled.sample(40)
    error = sampling_error(caught.value, sampled, 40, True)
    assert f"{fits} fit: use batch_size={fits}, which" in str(error) and "GPU 0 has" not in str(error)
    assert len(pipeline(cond=cond, batch_size=fits).sample(40)) == 40


def test_what_cannot_be_sampled_at_all(monkeypatch):
    limited(monkeypatch, MLP, 0)
    assert "Not even one sample fits" in str(sampling_error(torch.OutOfMemoryError(SAID), pipeline(), 1, True))
    said = str(sampling_error(torch.OutOfMemoryError(SAID), pipeline(), 100, False))
    assert "such as batch_size=50" in said, "of a task with an input, whose batches are not tried"


def test_a_metric_says_which_others_there_are():
    with pytest.raises(UserError, match=r"in metrics.b: .* metrics=\[a,c\]"), metric_memory("b", "abc"):
        raise torch.OutOfMemoryError(SAID)
    with pytest.raises(ZeroDivisionError), metric_memory("b", "abc"):
        raise ZeroDivisionError


def test_the_estimate_is_that_of_the_memory():
    """Twice the memory for the batch holds twice as many samples; it is a plan's."""
    cfg = OmegaConf.create(OmegaConf.to_container(composed("train", "experiment=mixture_ddpm"), resolve=True))
    cfg.net.depth = 1
    cfg.trainer.precision = "32-true"
    small, large = (estimated_batch(cfg, bytes, on_gpu=False) for bytes in (1e9, 2e9))
    assert 100 < small < large == pytest.approx(2 * small, rel=0.1)


def test_no_estimate_hides_the_error():
    assert what_fits(
        SimpleNamespace(net={}, trainer=SimpleNamespace(precision="32")), torch.device("cpu"), 1, False
    ) == (0, "")
