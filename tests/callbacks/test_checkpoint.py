"""Checkpoints are written when they should be, and hold what they should."""

from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.callbacks import timer

from src.callbacks.checkpoint import BestLastCheckpoint, Finishing, out_of_time, validate
from src.diffusion.losses import MSE
from src.diffusion.weightings import v_weighting
from src.loggers.metrics_csv import read_metrics
from src.utils.checkpoints import best_checkpoint
from tests.helpers.tiny import StepClock, fit, make_module

pytestmark = pytest.mark.filterwarnings("ignore")


class Noted(BestLastCheckpoint):
    """Notes when `last.ckpt` is written."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.writes = []

    def save_last(self, trainer):
        super().save_last(trainer)
        assert load(self.last_path)["global_step"] == trainer.global_step
        self.writes.append(trainer.global_step)


def load(path):
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    ("every", "settings", "expected"),
    [
        (100, {}, [6]),  # at the end, after the one validation
        (1, {}, [1, 2, 3, 4, 5, 6]),
        (2, {}, [2, 4, 6]),
        (4, {}, [4, 6]),
        (100, {"val_check_interval": 2}, [2, 4, 6]),
        (2, {"val_check_interval": 3}, [2, 3, 5, 6]),  # counted from the last one written
        (100, {"limit_val_batches": 0}, [6]),
        (2, {"accumulate_grad_batches": 2, "max_steps": 4}, [2, 4]),
        (100, {"max_steps": -1, "max_epochs": 2}, [10]),
    ],
)
def test_when_they_are_written(tmp_path, every, settings, expected):
    checkpoints = Noted(str(tmp_path / "c"), every_n_steps=every)
    fit(tmp_path, callbacks=[checkpoints], **settings)
    assert checkpoints.writes == expected
    assert {p.name for p in (tmp_path / "c").iterdir()} <= {"last.ckpt", "best.ckpt"}


@pytest.mark.parametrize(
    ("every", "keep", "settings", "kept", "writes"),
    [
        (100, 2, {}, [2, 4, 6], [2, 4, 6]),
        (100, 4, {}, [4], [4, 6]),
        (3, 2, {}, [2, 4, 6], [2, 4, 6]),
        (100, 2, {"val_check_interval": 3}, [2, 4, 6], [2, 3, 4, 6]),
        (100, 3, {"val_check_interval": 3}, [3, 6], [3, 6]),
        (100, 2, {"accumulate_grad_batches": 2, "max_steps": 4}, [2, 4], [2, 4]),
    ],
)
def test_those_that_are_kept(tmp_path, every, keep, settings, kept, writes):
    checkpoints = Noted(str(tmp_path / "c"), every_n_steps=every, keep_every_n_steps=keep)
    module, _, watch = fit(tmp_path, callbacks=[checkpoints], **settings)
    assert checkpoints.writes == writes
    names = {p.name for p in (tmp_path / "c").iterdir()}
    assert names - {"last.ckpt", "best.ckpt"} == {f"step_{step}.ckpt" for step in kept}
    name = next(name for name, _ in module.denoiser.named_parameters())
    for step in kept:
        state = load(tmp_path / f"c/step_{step}.ckpt")
        assert state["global_step"] == step
        assert torch.equal(state["state_dict"][f"denoiser.{name}"], watch.weights[step - 1][0])


def test_a_kept_one_resumes_to_the_same_bits(tmp_path):
    run = {"val_check_interval": 2, "log_every_n_steps": 4, "max_steps": 7}
    fit(
        tmp_path,
        make_module(dropout=0.3),
        callbacks=[BestLastCheckpoint(str(tmp_path / "a"), keep_every_n_steps=4)],
        **run,
    )
    again = make_module(dropout=0.3)
    fit(
        tmp_path,
        again,
        callbacks=[BestLastCheckpoint(str(tmp_path / "b"))],
        ckpt_path=tmp_path / "a/step_4.ckpt",
        **run,
    )
    a, b = (load(tmp_path / name / "last.ckpt")["state_dict"] for name in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_an_impossible_interval_is_refused():
    with pytest.raises(ValueError, match="keep_every_n_steps must be >= 1 or null, got 0"):
        BestLastCheckpoint("x", keep_every_n_steps=0)


def test_what_was_logged_is_written_first(tmp_path):
    """A run that is killed after a checkpoint has every row up to it."""

    class Check(BestLastCheckpoint):
        def save_last(self, trainer):
            super().save_last(trainer)
            assert read_metrics(tmp_path / "metrics.csv")[-1]["step"] == trainer.global_step

    fit(tmp_path, callbacks=[Check(str(tmp_path), every_n_steps=1)], val_check_interval=4)


def test_the_best_is_the_lowest_validation_loss(tmp_path):
    """The rate is far too high after a while, so that the best is neither the first nor the last."""

    def schedule(optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < 60 else 300.0)

    module = make_module(lr=1e-2, schedule=schedule, decay=0.0)
    checkpoints = BestLastCheckpoint(str(tmp_path / "c"))
    _, _, watch = fit(tmp_path, module, callbacks=[checkpoints], max_steps=70, val_check_interval=10)
    losses = {step: metrics["val/loss_ema"] for step, metrics in watch.validations}
    lowest = min(losses, key=losses.get)
    assert list(losses) == [10, 20, 30, 40, 50, 60, 70] and lowest not in (10, 70)
    best, last = load(tmp_path / "c/best.ckpt"), load(tmp_path / "c/last.ckpt")
    assert (best["global_step"], last["global_step"]) == (lowest, 70)
    assert checkpoints.best == pytest.approx(losses[lowest]) and checkpoints.best_step == lowest
    names = [name for name, _ in module.denoiser.named_parameters()]
    for name, expected in zip(names, watch.weights[lowest - 1], strict=True):
        assert torch.equal(best["state_dict"][f"denoiser.{name}"], expected)
    assert any(not torch.equal(best["state_dict"][k], last["state_dict"][k]) for k in best["state_dict"])


def test_another_monitor(tmp_path):
    checkpoints = BestLastCheckpoint(str(tmp_path / "c"), monitor="val/loss_raw")
    _, _, watch = fit(tmp_path, callbacks=[checkpoints], val_check_interval=2)
    assert checkpoints.best == pytest.approx(min(metrics["val/loss_raw"] for _, metrics in watch.validations))


def test_the_best_is_remembered_over_a_resumed_run(tmp_path):
    first = BestLastCheckpoint(str(tmp_path / "c"))
    fit(tmp_path, make_module(), callbacks=[first], val_check_interval=3)
    before = load(tmp_path / "c/best.ckpt")
    again = BestLastCheckpoint(str(tmp_path / "c"))
    worse = make_module(lr=0.0)

    def spoil(optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1e4)

    worse.make_lr_schedule = spoil
    fit(
        tmp_path, worse, callbacks=[again], val_check_interval=3, max_steps=9,
        ckpt_path=tmp_path / "c/last.ckpt",
    )  # fmt: skip
    assert load(tmp_path / "c/last.ckpt")["global_step"] == 9
    assert (again.best, again.best_step) == (first.best, first.best_step)
    after = load(tmp_path / "c/best.ckpt")
    assert after["global_step"] == before["global_step"] == first.best_step


def test_a_validation_in_mid_accumulation_keeps_the_best(tmp_path):
    """Nothing is written that would lose the gradients collected so far, except the best."""
    checkpoints = Noted(str(tmp_path / "c"))
    settings = {"val_check_interval": 3, "accumulate_grad_batches": 2, "max_steps": 5}
    # Nothing is learnt, so the first validation stays the best; it comes one batch after the first step.
    _, _, watch = fit(tmp_path, make_module(lr=0.0), callbacks=[checkpoints], **settings)
    assert [step for step, _ in watch.validations] == [1, 3, 5]
    assert checkpoints.writes == [5]
    assert load(tmp_path / "c/best.ckpt")["global_step"] == 1


def test_its_state_survives():
    checkpoints = BestLastCheckpoint("x")
    state = {"best": 0.5, "best_step": 3, "saved_step": 7, "validated_step": 6, "ended": True}
    vars(checkpoints).update(state)
    again = BestLastCheckpoint("x")
    again.load_state_dict(checkpoints.state_dict())
    assert again.state_dict() == checkpoints.state_dict() == state


def test_a_run_that_goes_on_has_its_time_anew(tmp_path, monkeypatch):
    """Lightning would count what was spent before, and stop at once."""
    monkeypatch.setattr(timer, "time", StepClock())
    checkpoints, short = BestLastCheckpoint(str(tmp_path)), {"max_steps": 100000, "max_time": {"seconds": 20}}
    _, first, _ = fit(tmp_path, callbacks=[checkpoints], **short)
    assert 0 < first.global_step < 100000
    _, second, _ = fit(
        tmp_path, callbacks=[BestLastCheckpoint(str(tmp_path))], ckpt_path=tmp_path / "last.ckpt", **short
    )
    assert second.global_step > first.global_step + 10


@pytest.mark.parametrize("left", [None, "older"])
def test_a_kill_before_the_best_is_copied_is_mended(tmp_path, left):
    """It is known when the run is read, and mended when it goes on."""
    folder, settings = tmp_path / "c", {"val_check_interval": 2, "max_steps": 4}
    fit(tmp_path, callbacks=[BestLastCheckpoint(str(folder))], **settings)
    best = load(folder / "best.ckpt")
    assert best["global_step"] == 4 and best_checkpoint(folder) == folder / "best.ckpt"
    (folder / "best.ckpt").unlink()
    if left:
        torch.save(best | {"global_step": 2, "state_dict": {}}, folder / "best.ckpt")
    assert best_checkpoint(folder) == folder / "last.ckpt"
    again = BestLastCheckpoint(str(folder))
    fit(
        tmp_path,
        callbacks=[again],
        ckpt_path=folder / "last.ckpt",
        **settings | {"max_steps": 5, "limit_val_batches": 0},
    )
    assert load(folder / "best.ckpt")["global_step"] == again.best_step == 4
    assert best_checkpoint(folder) == folder / "best.ckpt" and load(folder / "last.ckpt")["global_step"] == 5


def test_the_best_of_a_run_that_was_never_validated_is_its_last(tmp_path):
    fit(tmp_path, callbacks=[BestLastCheckpoint(str(tmp_path))], limit_val_batches=0)
    assert best_checkpoint(tmp_path) == tmp_path / "last.ckpt"


@pytest.mark.parametrize("damage", [b"", b"damaged"])
def test_a_damaged_last_one_does_not_hide_the_best(tmp_path, damage):
    fit(tmp_path, callbacks=[BestLastCheckpoint(str(tmp_path))], val_check_interval=2)
    (tmp_path / "last.ckpt").write_bytes(damage)
    assert best_checkpoint(tmp_path) == tmp_path / "best.ckpt"


@pytest.mark.parametrize(
    ("left", "out"),
    [([], False), ([5.0], False), ([0.0], True), ([5.0, -1.0], True), ([None], False), ([None, 0.0], True)],
)
def test_time_is_out_when_any_timer_is(monkeypatch, left, out):
    timers = [timer.Timer("00:00:01:00") for _ in left]
    for one, seconds in zip(timers, left, strict=True):
        monkeypatch.setattr(one, "time_remaining", lambda seconds=seconds: seconds)
    assert out_of_time(SimpleNamespace(callbacks=[*timers, object()])) is out


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("limit", [0, 2])
def test_the_validation_of_a_run_that_has_ended(log, limit):
    """It is logged only if it was not; after it all is as before."""
    seen = []
    loop = SimpleNamespace(restarting=True, run=lambda: seen.append((trainer.loggers, trainer.validating)))
    epoch_loop = SimpleNamespace(_should_check_val_epoch=lambda: limit > 0, val_loop=loop)
    trainer = SimpleNamespace(
        loggers=["csv"], validating=False, training=False, fit_loop=SimpleNamespace(epoch_loop=epoch_loop)
    )
    validate(trainer, log)
    assert trainer.loggers == ["csv"]
    assert seen == ([(["csv"] if log else [], True)] if limit else [])
    assert (trainer.training, loop.restarting) == ((True, False) if limit else (False, True))


class Logger:
    def save(self):
        pass


def at_step(step, planned, **more):
    """A trainer after a step, as far as a checkpoint looks at it."""
    saved = []
    module = SimpleNamespace(total_steps=lambda: planned)
    parts = {"loggers": [Logger()], "callbacks": [], "should_stop": False, "is_global_zero": True, "max_steps": planned}
    trainer = SimpleNamespace(global_step=step, lightning_module=module, saved=saved, **parts | more)
    trainer.save_checkpoint = lambda path: saved.append(path.name)
    return trainer


@pytest.mark.parametrize(
    ("step", "planned", "stops", "left", "ended"),
    [
        (5, 10, True, 3.0, True), (5, 10, True, None, True), (5, -1, True, 3.0, True), (12, 10, True, 3.0, True),
        (5, 10, False, 3.0, False), (10, 10, True, 3.0, False), (5, 10, True, 0.0, False),
    ],
)  # fmt: skip
def test_a_run_has_ended_if_it_stops_before_its_length_with_time_left(tmp_path, step, planned, stops, left, ended):
    clock = timer.Timer()
    clock.time_remaining = lambda: left
    trainer, checkpoints = at_step(step, planned, should_stop=stops, callbacks=[clock]), BestLastCheckpoint(tmp_path)
    checkpoints.save_last(trainer)
    assert checkpoints.ended is ended and checkpoints.saved_step == step and trainer.saved == ["last.ckpt"]


@pytest.mark.parametrize(
    ("finishing", "done", "ended", "validates"),
    [(True, True, False, True), (True, False, True, True), (True, False, False, False), (False, True, True, False)],
)
@pytest.mark.parametrize("validated", [4, 5, 6])
@pytest.mark.parametrize("main", [True, False])
def test_a_run_that_was_killed_after_a_checkpoint_is_completed(
    tmp_path, monkeypatch, finishing, done, ended, validates, validated, main
):
    """The last validation is repeated where it is the end, and logged unless it was; all wait for the main process."""
    calls = []
    monkeypatch.setattr("src.callbacks.checkpoint.validate", lambda trainer, log: calls.append(log))
    checkpoints = BestLastCheckpoint(str(tmp_path / "a/b"))
    checkpoints.ended, checkpoints.validated_step = ended, validated

    class Loop:
        pass

    loop = Finishing.__new__(Finishing) if finishing else Loop()
    monkeypatch.setattr(type(loop), "done", done, raising=False)
    strategy = SimpleNamespace(barrier=lambda name: calls.append((name, checkpoints.dirpath.exists())))
    trainer = at_step(5, 10, fit_loop=loop, strategy=strategy, is_global_zero=main)
    checkpoints.on_train_start(trainer, None)
    assert calls == [("best checkpoint", main), *[validated != 5] * validates]
    assert trainer.should_stop is validates


@pytest.mark.parametrize(("best_step", "copies"), [(5, True), (4, False)])
def test_the_best_is_copied_before_the_others_go_on(tmp_path, best_step, copies):
    checkpoints = BestLastCheckpoint(str(tmp_path))
    state = checkpoints.state_dict() | {"best": 0.5, "best_step": best_step}
    torch.save({"global_step": 5, "callbacks": {"BestLastCheckpoint": state}}, checkpoints.last_path)
    checkpoints.best_step, there = best_step, []
    strategy = SimpleNamespace(barrier=lambda name: there.append(checkpoints.best_path.exists()))
    checkpoints.on_train_start(at_step(5, 10, fit_loop=None, strategy=strategy), None)
    assert there == [copies]


@pytest.mark.parametrize(
    ("change", "counts"),
    [({}, True), ({"sanity_checking": True}, False), ({"fn": "validate"}, False), ({"validated": 5}, False)],
)
@pytest.mark.parametrize(("before", "best"), [(None, True), (0.6, True), (0.5, False), (0.4, False)])
def test_which_validations_count(tmp_path, change, counts, before, best):
    """Those of the training, once each; the first of equal losses is the best."""
    checkpoints, fields = BestLastCheckpoint(tmp_path), {"validated": 2, "fn": "fit", "sanity_checking": False} | change
    checkpoints.best, checkpoints.best_step, checkpoints.validated_step = before, 1, fields["validated"]
    trainer = at_step(
        5, 10, sanity_checking=fields["sanity_checking"], state=SimpleNamespace(fn=fields["fn"]),
        callback_metrics={"val/loss_ema": torch.tensor(0.5)},
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(_should_accumulate=lambda: True)),
    )  # fmt: skip
    checkpoints.on_validation_end(trainer, SimpleNamespace(loss=SimpleNamespace(ranks_checkpoints=True)))
    assert (checkpoints.best, checkpoints.best_step) == ((0.5, 5) if counts and best else (before, 1))
    assert checkpoints.validated_step == (5 if counts else fields["validated"])
    assert trainer.saved == ["best.ckpt"] * (counts and best), "in the midst of accumulation"


def test_the_best_is_the_newest_where_the_loss_does_not_rank_them(tmp_path):
    class Rising(MSE):
        ranks_checkpoints = False

        def __call__(self, denoiser, x_0, t, noise, cond=None):
            return super().__call__(denoiser, x_0, t, noise, cond) + trained.global_step

    trained = make_module(lr=0.0)
    trained.loss = Rising(v_weighting)
    checkpoints = BestLastCheckpoint(str(tmp_path / "c"))
    _, _, watch = fit(tmp_path, trained, callbacks=[checkpoints], val_check_interval=2, max_steps=6)
    losses = [metrics["val/loss_ema"] for _, metrics in watch.validations]
    assert losses == sorted(losses) and checkpoints.best == pytest.approx(losses[-1]) and checkpoints.best_step == 6
    assert load(tmp_path / "c/best.ckpt")["global_step"] == 6
