"""Snapshots of the averages are written when they should be, and are exact."""

from functools import partial

import pytest
import torch
from pytorch_lightning.callbacks import timer

from src.callbacks.checkpoint import BestLastCheckpoint
from src.callbacks.ema_snapshots import EMASnapshots
from src.optim.ema import PowerFunctionEMA, reconstruct
from src.utils.errors import UserError
from tests.helpers.tiny import StepClock, fit, make_module

load = partial(torch.load, weights_only=True)
pytestmark = pytest.mark.filterwarnings("ignore")


def run(folder, ckpt_path=None, module=None, count=20, every_n_steps=None, **settings):
    folder.mkdir(exist_ok=True)
    callbacks = [
        EMASnapshots(str(folder / "s"), count, every_n_steps),
        BestLastCheckpoint(str(folder / "c"), every_n_steps=1),
    ]
    return fit(
        folder, module or make_module(average=PowerFunctionEMA), callbacks=callbacks, ckpt_path=ckpt_path, **settings
    )


def steps(folder):
    return [int(p.stem.removeprefix("step_")) for p in sorted((folder / "s").glob("*"))]


@pytest.mark.most(4)
@pytest.mark.parametrize(
    ("count", "every", "settings", "expected"),
    [
        (3, None, {}, [2, 4, 6]),
        (4, None, {}, [2, 3, 5, 6]),
        (1, None, {}, [6]),
        (20, None, {}, [1, 2, 3, 4, 5, 6]),
        (20, 4, {}, [4]),
        (3, None, {"accumulate_grad_batches": 2}, [2, 4, 6]),
        (2, None, {"max_steps": -1, "max_epochs": 2}, [5, 10]),
        (20, 5, {"max_steps": 11, "val_check_interval": 2}, [5, 10]),
    ],
)
def test_when_they_are_written(tmp_path, count, every, settings, expected):
    run(tmp_path, count=count, every_n_steps=every, **settings)
    assert steps(tmp_path) == expected


def test_they_hold_the_averages_of_their_step(tmp_path):
    module, _, watch = run(tmp_path, count=3)
    averages = PowerFunctionEMA(module.denoiser)
    names = [name for name, _ in module.denoiser.named_parameters()]
    model = make_module(average=PowerFunctionEMA).denoiser
    for step, now in enumerate(watch.weights, 1):
        model.load_state_dict(dict(zip(names, now, strict=True)), strict=False)
        averages.update(model, step)
        if step % 2 == 0:
            snapshot = load(tmp_path / f"s/step_{step:06d}.pt")
            assert (snapshot["step"], snapshot["sigma_rel"]) == (step, [0.05, 0.1])
            for found, average in zip(snapshot["weights"], (averages, *averages.others), strict=True):
                assert found.keys() == set(names)
                assert all(torch.equal(found[k], p) for k, p in average.model.named_parameters())
    rebuilt = reconstruct([load(p) for p in (tmp_path / "s").iterdir()], 0.05)
    for key, value in module.ema.model.state_dict().items():
        torch.testing.assert_close(rebuilt[key], value, rtol=0, atol=1e-6)


def test_without_power_averages_there_are_none(tmp_path):
    run(tmp_path, module=make_module(decay=0.9))
    assert not (tmp_path / "s").exists()


def contents(folder):
    return {p.name: load(p) for p in (folder / "s").iterdir()}


def test_a_resumed_run_leaves_the_same_bits(tmp_path):
    """Even where the snapshots went on after the last checkpoint, or the last one was never written."""
    run(tmp_path / "whole", max_steps=11, count=5)
    ckpt = tmp_path / "parts/c/last.ckpt"
    run(tmp_path / "parts", max_steps=7, every_n_steps=1)
    kept = ckpt.read_bytes()
    assert steps(tmp_path / "parts") == [1, 2, 3, 4, 5, 6, 7]
    run(tmp_path / "parts", ckpt, max_steps=9, every_n_steps=1)
    ckpt.write_bytes(kept)
    for path in (tmp_path / "parts/s").iterdir():
        if int(path.stem[-6:]) not in (3, 5, 8):
            path.unlink()
    run(tmp_path / "parts", ckpt, max_steps=11, count=5)
    assert steps(tmp_path / "whole") == steps(tmp_path / "parts") == [3, 5, 7, 9, 11]
    whole, parts = contents(tmp_path / "whole"), contents(tmp_path / "parts")
    for name, snapshot in whole.items():
        for a, b in zip(snapshot["weights"], parts[name]["weights"], strict=True):
            assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_without_an_end_needs_an_interval(tmp_path, monkeypatch):
    monkeypatch.setattr(timer, "time", StepClock())
    endless = {"max_steps": -1, "max_epochs": -1, "max_time": {"seconds": 40}}
    with pytest.raises(UserError, match=r"callbacks\.ema_snapshots\.every_n_steps"):
        run(tmp_path / "a", **endless)
    assert not (tmp_path / "a/s").exists()
    run(tmp_path / "b", every_n_steps=5, **endless)
    assert steps(tmp_path / "b")[:2] == [5, 10]


def test_a_full_disk_is_said_in_one_line(tmp_path, monkeypatch):
    def failing_save(content, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", failing_save)
    callbacks = [EMASnapshots(str(tmp_path / "s"), count=3)]
    with pytest.raises(UserError, match=r"the snapshot of step 2 could not be written to .*No space left"):
        fit(tmp_path, make_module(average=PowerFunctionEMA), callbacks=callbacks)
    assert not list((tmp_path / "s").iterdir())


@pytest.mark.parametrize("arguments", [{"count": 0}, {"every_n_steps": 0}])
def test_refuses(arguments):
    with pytest.raises(ValueError, match="must be >= 1"):
        EMASnapshots("x", **arguments)
