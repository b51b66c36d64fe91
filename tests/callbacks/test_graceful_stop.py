"""A signal ends a run after the step at hand, without losing it."""

import signal
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from src.callbacks import graceful_stop
from src.callbacks.checkpoint import BestLastCheckpoint
from src.callbacks.graceful_stop import GracefulStop, requeue
from src.utils.errors import UserError
from src.utils.processes import STOPPING
from tests.helpers.resuming import MODULES, Place, assert_goes_on, run
from tests.helpers.tiny import Memory, fit

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def handlers():
    """What a failing test may leave behind must not reach the others."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class SignalIn(pl.Callback):
    """Raises a real signal in a hook, at a step."""

    def __init__(self, number: int, step: int, hook: str):
        self.number, self.step = number, step
        setattr(self, hook, self.send)

    def send(self, trainer, *_):
        if trainer.global_step == self.step and self.number:
            number, self.number = self.number, 0
            signal.raise_signal(number)


def stopped(tmp_path, number, step, hook="on_train_batch_start", **settings):
    callbacks = [GracefulStop("the/run"), SignalIn(number, step, hook), BestLastCheckpoint(str(tmp_path / "c"))]
    with pytest.raises(UserError) as caught:
        fit(tmp_path, callbacks=callbacks, **settings)
    return caught.value, torch.load(tmp_path / "c/last.ckpt", weights_only=True)["global_step"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_optimizer_step", "on_after_backward"])
def test_the_step_at_hand_is_finished_and_saved(tmp_path, number, code, hook):
    was = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    try:
        error, step = stopped(tmp_path, number, 3, hook)
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers, "all as it was"
    finally:
        signal.signal(number, was)
    assert error.exit_code == code
    assert step == 4
    assert str(error) == (
        f"stopped by {signal.Signals(number).name} at step 4, which is saved. "
        "Resume with: python -m src.train resume=the/run"
    )


def test_a_second_signal_ends_the_process():
    stop = GracefulStop("the/run")
    signal.signal(signal.SIGTERM, stop.receive)
    signal.raise_signal(signal.SIGTERM)
    assert stop.received == signal.SIGTERM and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_gradients_at_hand_are_not_lost(tmp_path):
    """In the midst of accumulation it waits for the optimizer step."""
    error, step = stopped(tmp_path, signal.SIGTERM, 1, accumulate_grad_batches=2, max_steps=5)
    assert step == 2 and "at step 2" in str(error)


def test_a_signal_while_validating(tmp_path):
    """The validation is finished, and the run stops no more than one step later."""
    error, step = stopped(tmp_path, signal.SIGINT, 2, "on_validation_batch_start", val_check_interval=2)
    assert error.exit_code == 130
    assert step in (2, 3) and f"at step {step}," in str(error)


def test_a_step_that_is_validated_is_stopped_at_after_that(tmp_path):
    """A run that goes on from there never comes back to the validation."""
    settings = {"val_check_interval": 3, "max_steps": 7}
    whole = run(tmp_path / "whole", MODULES["plain"], Memory(), **settings)
    callbacks = [GracefulStop("the/run"), SignalIn(signal.SIGTERM, 2, "on_train_batch_start")]
    with pytest.raises(UserError, match="at step 3, which is saved"):
        run(tmp_path / "part", MODULES["plain"], Memory(), callbacks=callbacks, **settings)
    begin = Place(*(tmp_path / "part" / name for name in ("3.ckpt", "3.csv")))
    rest = run(tmp_path / "rest", MODULES["plain"], Memory(), begin=begin, **settings)
    assert list(rest.places) == [4, 5, 6, 7]
    assert_goes_on(whole, rest, batches=5, by_steps=True)


@pytest.mark.parametrize("settings", [{}, {"limit_val_batches": 0}])
def test_the_last_step_ends_the_run(tmp_path, settings):
    callbacks = [GracefulStop("the/run"), SignalIn(signal.SIGTERM, 4, "on_train_batch_start")]
    ended = run(tmp_path / "run", MODULES["plain"], Memory(), callbacks=callbacks, max_steps=5, **settings)
    assert list(ended.places) == [1, 2, 3, 4, 5]
    assert any("val/loss_ema" in row for row in ended.rows) == (not settings)


def test_the_second_signal_ends_at_once():
    stop = GracefulStop("x")
    before = signal.getsignal(signal.SIGTERM)
    try:
        stop.receive(signal.SIGTERM, None)
        assert stop.received == signal.SIGTERM and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_handlers_are_put_back_after_an_undisturbed_run(tmp_path):
    seen = []

    class Look(pl.Callback):
        def on_train_batch_end(self, *_):
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    stop = GracefulStop("x")
    fit(tmp_path, callbacks=[stop, Look()], max_steps=2)
    assert signal.getsignal(signal.SIGTERM) == before and seen == [stop.receive, stop.receive]


@pytest.mark.parametrize("hook", ["on_train_end", "on_exception"])
def test_handlers_are_put_back_by_itself(hook):
    """Before Lightning puts back its own."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which `nohup` ignores
    before = [signal.getsignal(number) for number in STOPPING]
    stop = GracefulStop("x")
    stop.on_train_start(None, None)
    assert [signal.getsignal(number) for number in STOPPING] == [stop.receive] * len(STOPPING)
    getattr(stop, hook)(None, None)
    assert [signal.getsignal(number) for number in STOPPING] == before and not stop.previous


class Together:
    """A trainer of two processes, the other of which has received a signal; as far as it is looked at."""

    world_size, global_step, should_stop, checkpoint_callbacks = 2, 20, False, ()

    def __init__(self, batches, theirs=signal.SIGTERM, accumulates=False):
        self.reduced = []
        loop = SimpleNamespace(total_batch_idx=batches, _should_accumulate=lambda: accumulates, _data_fetcher=None)
        loop._should_check_val_fx = lambda fetcher: False
        self.fit_loop = SimpleNamespace(epoch_loop=loop, _data_fetcher=object())
        self.strategy, self.theirs = self, theirs

    def reduce(self, number, reduce_op="mean"):
        self.reduced.append(number.item())
        return max(number, torch.tensor(self.theirs)) if reduce_op == "max" else (number + self.theirs) / 2


@pytest.mark.parametrize(("batches", "theirs", "stops"), [(20, signal.SIGTERM, True), (20, 0, False), (21, 15, False)])
def test_processes_stop_together_at_every_tenth_batch(batches, theirs, stops):
    trainer, stop = Together(batches, theirs), GracefulStop("the/run")
    with pytest.raises(UserError, match="stopped by SIGTERM at step 20") if stops else nullcontext():
        stop.on_train_batch_end(trainer, SimpleNamespace(device="cpu"))
    assert trainer.reduced == [0] * (batches == 20)


@pytest.mark.parametrize("change", [{"accumulates": True}, {"should_stop": True}])
def test_it_waits_for_the_step_and_for_the_end(change):
    trainer, stop = Together(20, accumulates=change.pop("accumulates", False)), GracefulStop("the/run")
    vars(trainer).update(change)
    stop.on_train_batch_end(trainer, SimpleNamespace(device="cpu"))
    assert stop.after_validation == 0


@pytest.mark.parametrize(("saved", "writes"), [(20, 0), (10, 1)])
@pytest.mark.parametrize(
    ("number", "main", "says"),
    [
        (signal.SIGUSR1, True, "which is saved. Job 7 is requeued"),
        (signal.SIGUSR1, False, "which is saved. Resume with: python -m src.train resume=the/run"),
        (signal.SIGTERM, True, "which is saved. Resume with: python -m src.train resume=the/run"),
    ],
)
def test_what_is_saved_and_said_at_the_end(monkeypatch, number, main, says, saved, writes):
    """A step that is saved is not saved again; the warning of SLURM alone requeues, by the main process."""
    monkeypatch.setattr(graceful_stop, "requeue", lambda: "Job 7 is requeued")
    checkpoint, seen = BestLastCheckpoint("x"), []
    checkpoint.saved_step, checkpoint.save_last = saved, seen.append
    trainer = SimpleNamespace(checkpoint_callbacks=[object(), checkpoint], global_step=20, is_global_zero=main)
    with pytest.raises(UserError, match=says) as caught:
        GracefulStop("the/run").stop(trainer, number)
    assert caught.value.exit_code == 128 + number and seen == [trainer] * writes


def test_what_nohup_ignores_stays_ignored(tmp_path):
    seen = []

    class Look(pl.Callback):
        def on_train_batch_end(self, *_):
            seen.append(signal.getsignal(signal.SIGHUP))

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    fit(tmp_path, callbacks=[GracefulStop("x"), Look()], max_steps=1)
    assert seen == [signal.SIG_IGN] and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ('test "$*" = "requeue 4711_2"', "Job 4711_2 is requeued; with auto_resume=true it resumes from here"),
        ("echo no such job >&2; exit 1", "SLURM did not requeue job 4711_2: no such job\n"),
        (None, "SLURM did not requeue job 4711_2: [Errno 2] No such file or directory: 'scontrol'"),
    ],
)
def test_a_job_of_an_array_is_requeued(tmp_path, monkeypatch, script, says):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert requeue() is None, "outside SLURM"
    if script:
        (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, value in {"JOB_ID": "12", "ARRAY_JOB_ID": "4711", "ARRAY_TASK_ID": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert requeue() == says
