"""What a training run does before and after its steps, with stand-ins for its parts."""

import re
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from src.callbacks.checkpoint import BestLastCheckpoint, Finishing
from src.callbacks.progress import Progress
from src.commands import training
from src.commands.training import Training
from src.runs.run import Run
from src.utils.errors import UserError
from src.utils.fsdp import FSDP2Strategy
from tests.helpers.tiny import Memory, make_module


class Strategy:
    root_device = torch.device("cpu")


class Loop:
    """Lightning's."""


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A run with stand-ins for its parts, some of which are given; test_dry_pass.py has what is tried of them."""
    monkeypatch.setattr(training, "check_parts", lambda *given: None)

    def build(resume=None, data=None, module=None, cfg=None, **parts):
        run = Run(tmp_path / "run")
        run.path.mkdir(exist_ok=True)
        run.update_metadata(overrides=["seed=3"], failed="before")
        plain = {"name": "x", "sweep": {"objective": "best_val_loss"}, "compile": False}
        plain |= {"channels_last": "auto", "tf32": True} | (cfg or {})
        seen = []
        setup = SimpleNamespace(
            plain=plain, cfg=OmegaConf.create(plain), run=run, overrides=["seed=3"], key="key",
            unused=[], unlock_folder=lambda: seen.append("unlocked"), batch_facts=None,
        )  # fmt: skip
        settings = {"strategy": Strategy(), "fit_loop": Loop(), "callbacks": [], "loggers": [], "world_size": 2}
        trainer = SimpleNamespace(**settings | parts)
        made = Training(setup, data or Memory(), module or make_module(), trainer, resume)
        made.seen = seen
        return made

    return build


# ---- before ----


@pytest.mark.parametrize(
    ("resumes", "loads", "reported", "finishing"),
    [(False, False, 0, False), (False, True, 0, False), (True, True, 4, True), (True, True, 5, False)],
)
def test_the_weights_that_a_run_begins_with(make, tmp_path, monkeypatch, resumes, loads, reported, finishing):
    """A resumed run whose results are not those of its last step goes through its end again."""
    loaded, source = [], tmp_path / "last.ckpt"
    monkeypatch.setattr(training, "load_weights_into", lambda *given: loaded.append(given) or 5)
    run = make(resume=source if resumes else None)
    run.run.update_metadata(results={"steps": reported, "seconds": 1.0})
    assert run._load(source if loads else None) == (5 if loads else 0)
    assert loaded == ([(run.module, source, False)] if loads else [])
    assert type(run.trainer.fit_loop) is (Finishing if finishing else Loop)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("resumes", [False, True])
def test_a_strategy_that_splits_the_weights_loads_those_of_a_resumed_run_itself(
    make, tmp_path, monkeypatch, sharded, resumes
):
    loaded, source = [], tmp_path / "last.ckpt"
    monkeypatch.setattr(training, "load_weights_into", lambda module, source, itself: loaded.append(itself) or 5)
    strategy = FSDP2Strategy.__new__(FSDP2Strategy) if sharded else Strategy()
    run = make(resume=source if resumes else None, strategy=strategy)
    run._load(source)
    assert loaded == [sharded and resumes]


@pytest.mark.parametrize("main", [True, False])
@pytest.mark.parametrize("resumes", [True, False])
def test_the_parts_of_a_run_are_built_and_checked_in_order(tmp_path, monkeypatch, resumes, main):
    """The folder is written by the main process, once all is checked."""
    calls, run = [], Run(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    (run.checkpoints / "last.ckpt").write_text("")
    cfg = OmegaConf.create({"data": {}})
    setup = SimpleNamespace(cfg=cfg, plain={}, run=run, resumes=resumes, auto_batch=False)
    data, module, source = Memory(), make_module(), tmp_path / "earlier.ckpt"

    def step(name, result=None):
        return lambda *given: calls.append((name, *given)) or result

    monkeypatch.setattr(training, "is_main_process", lambda: main)
    for name, result in (
        ("start_logging", None), ("instantiate", data), ("build_initial_module", module), ("check_labels", None),
        ("initial_checkpoint", source), ("build_trainer", "trainer"),
    ):  # fmt: skip
        monkeypatch.setattr(training, name, step(name, result))
    for name, result in (("_load", 7), ("_check", None), ("_prepare_folder", None)):
        monkeypatch.setattr(Training, name, lambda self, *given, name=name, result=result: step(name, result)(*given))
    made = Training._prepare(setup)
    last = run.checkpoints / "last.ckpt" if resumes else None
    assert (made.setup, made.data, made.module, made.trainer, made.resume) == (setup, data, module, "trainer", last)
    begun = [] if resumes else [("initial_checkpoint", cfg)]
    assert calls == [
        ("start_logging", run.path / "train.log" if main else None), ("instantiate", cfg.data),
        ("build_initial_module", cfg), ("check_labels", module.denoiser.condition, data), *begun,
        ("build_trainer", cfg), ("_load", last or source), ("_check", last or source), *[("_prepare_folder", 7)] * main,
    ]  # fmt: skip


@pytest.mark.parametrize("compiles", [False, True])
def test_the_parts_are_checked_against_each_other(make, tmp_path, monkeypatch, compiles):
    seen = []
    for name in ("check_callbacks", "check_sharding", "check_objective", "compile_net"):
        monkeypatch.setattr(training, name, lambda *given, name=name: seen.append((name, *given)))
    run = make(cfg={"compile": compiles}, callbacks=["some"], precision="32-true")
    run.data.check_batch_size = lambda size: seen.append(("check_batch_size", size))
    run._check(tmp_path)
    checked = [("check_callbacks", ["some"], run.module, tmp_path)]
    checked += [("compile_net", run.module.denoiser.net, Strategy.root_device, True)] * compiles
    assert seen == [*checked, ("check_objective", "best_val_loss", ["some"]), ("check_batch_size", 2)]
    seen.clear()
    monkeypatch.setattr(FSDP2Strategy, "root_device", Strategy.root_device)
    run.trainer.strategy = FSDP2Strategy.__new__(FSDP2Strategy)
    run.setup.cfg.compile = False
    run._check(tmp_path)
    assert ("check_sharding", run.module, ["some"]) in seen


def length(max_steps):
    return {
        "max_steps": max_steps, "max_epochs": -1, "limit_train_batches": 1.0, "limit_val_batches": 1.0,
        "val_check_interval": 5, "check_val_every_n_epoch": None, "accumulate_grad_batches": 1, "world_size": 1,
    }  # fmt: skip


PARTS = {
    "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1e-3},
    "lr_schedule": {"_target_": "src.optim.lr_schedules.cosine_lr", "_partial_": True},
    "resume": None,
    "resume_changed_data": False,
    "paths": {"outputs": "outputs"},
}


@pytest.fixture
def noted(monkeypatch):
    """The calls of what prepares the loggers, and of what checks the checkpoint and the data of a resumed run."""
    calls = []
    for name in ("rewind_loggers", "check_resumable", "check_data_unchanged"):
        monkeypatch.setattr(training, name, lambda *given, name=name: calls.append((name, *given)))
    return calls


@pytest.mark.parametrize(
    ("begun", "again", "creates", "rewinds"),
    [(False, False, True, False), (True, False, True, True), (True, True, False, True)],
)
def test_the_folder_of_a_run_that_begins(make, noted, begun, again, creates, rewinds):
    """One that was stopped before its first checkpoint begins anew, with its own config if it is resumed."""
    run, created = make(cfg=PARTS | {"resume": "run" if again else None}, **length(10)), []
    if begun:
        (run.run.path / "config.yaml").write_text("seed: 0")
    run.run.create = lambda *given, **more: created.append((*given, more))
    run._prepare_folder(0)
    assert noted == [("rewind_loggers", run.trainer, 0)] * rewinds
    assert created == [(run.setup.plain, ["seed=3"], {"key": "key"})] * creates
    assert len(run.data.train_set) == 40


@pytest.mark.parametrize(
    ("planned", "step", "reported", "over"),
    [(10, 10, 10, True), (10, 12, 12, True), (10, 10, None, False), (10, 9, 9, False), (-1, 10, 10, False)],
)
def test_the_folder_of_a_run_that_goes_on(make, tmp_path, noted, planned, step, reported, over):
    """One that has made its steps and reported them is finished; of any other, all is checked first."""
    parts = PARTS | ({"lr_schedule": PARTS["optimizer"] | {"_target_": "src.optim.lr_schedules.constant_lr"}})
    del parts["lr_schedule"]["lr"]
    run = make(resume=tmp_path / "last.ckpt", cfg=parts | {"resume_changed_data": True}, **length(planned))
    if reported is not None:
        run.run.update_metadata(results={"steps": reported, "seconds": 1.0})
    message = rf"^this run is finished, at step {step}; make it longer with trainer\.max_steps={2 * step}$"
    with pytest.raises(UserError, match=message) if over else nullcontext():
        run._prepare_folder(step)
    if over:
        assert noted == []
        return
    (_, path, trainer, optimizer, schedule), *others = noted
    assert (path, trainer) == (run.resume, run.trainer) and isinstance(optimizer, torch.optim.Adam)
    assert schedule.optimizer is optimizer
    assert others == [("check_data_unchanged", run.run, run.data, True), ("rewind_loggers", run.trainer, step)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": PARTS["optimizer"] | {"lr": -1.0}}, "^optimizer: .*-1"),
        ({"lr_schedule": PARTS["lr_schedule"] | {"warmup_step": 1}}, "^lr_schedule: .*warmup_step"),
    ],
)
def test_parts_that_cannot_be_built_are_refused_before_the_folder_is_written(make, noted, changes, message):
    run = make(cfg=PARTS | changes, **length(10))
    with pytest.raises(UserError, match=message):
        run._prepare_folder(0)
    assert not run.run.exists and noted == []


def test_a_condition_is_shown_some_data(make, noted):
    run, seen = make(cfg=PARTS, **length(10)), []
    run.module.denoiser.condition.check_data = lambda batch, n: seen.append((batch["x"].shape, n))
    run.run.create = lambda *given, **more: None
    run._prepare_folder(0)
    assert seen == [((1, 1, 6), 40)]


def test_what_is_noted_of_a_run_that_begins(make, monkeypatch):
    given, said = [], []
    monkeypatch.setattr(training, "before_training", lambda *args: given.append(args) or [("row", "value")])
    monkeypatch.setattr(training, "log", SimpleNamespace(info=said.append, warning=said.append))
    monkeypatch.setattr(training, "git_commit", lambda: "abc")
    monkeypatch.setattr(
        training, "record_sources", lambda path, cfg: {"changes": (path, cfg) == (run.run.path, run.cfg)}
    )
    monkeypatch.setattr(sys, "argv", ["train", "name=a b"])
    run = make(precision="32-true")
    run.data.setup()
    run.data.class_names = ["a", "b"]
    run.data.warn("Few samples")
    run.setup.unused = ["clip=none"]
    run.announce()
    assert given == [(run.cfg, run.data, run.module.denoiser, run.trainer, run.run.path, None)]
    assert said[0].startswith("\nTraining x\n") and said[1] == "WARNING: Few samples\n"
    assert said[2:] == ["WARNING: clip=none has no effect here: no other part of this run takes it\n"]
    noted = run.run.metadata()
    assert noted["data_identity"] == run.data.identity() and noted["data_identity"]["training samples"] == 40
    expected = {
        "name": "x", "data": run.data.source, "data_warning": "Few samples", "kind": run.data.kind,
        "units": run.data.units.as_dict(), "vector_names": noted["vector_names"],
        "classes": ["a", "b"], "precision": "32-true", "torch": torch.__version__, "commit": "abc",
        "command": "train 'name=a b'", "failed": None, "overrides": ["seed=3"],
        "parameters": sum(p.numel() for p in run.module.denoiser.net.parameters()),
        "changes": True, "lightning": training.pl.__version__, "python": sys.version.split()[0],
    }  # fmt: skip
    assert {name: noted[name] for name in expected} == expected and noted.keys() == {*expected, "data_identity"}


def test_without_a_warning_of_the_data_none_is_said(make, monkeypatch):
    said = []
    monkeypatch.setattr(training, "before_training", lambda *given: [("row", "value")])
    monkeypatch.setattr(training, "log", SimpleNamespace(info=lambda text: None, warning=said.append))
    run = make(precision="32-true")
    run.data.setup()
    run.announce()
    assert said == [] and run.run.metadata()["data_warning"] is None


@pytest.mark.parametrize("main", [True, False])
@pytest.mark.parametrize("error", [None, UserError("no"), KeyboardInterrupt()])
def test_a_folder_is_locked_before_all_and_given_up_if_the_run_cannot_begin(monkeypatch, error, main):
    calls = []
    setup = SimpleNamespace(
        lock_folder=lambda: calls.append("locked"), discard_folder=lambda: calls.append("discarded")
    )

    def prepare(given):
        calls.append(given)
        if error is not None:
            raise error
        return "a run"

    monkeypatch.setattr(training, "is_main_process", lambda: main)
    monkeypatch.setattr(Training, "_prepare", prepare)
    with pytest.raises(type(error)) if error is not None else nullcontext():
        assert Training.prepare(setup) == "a run"
    assert calls == [*["locked"] * main, setup, *["discarded"] * (error is not None)]


# ---- the run ----


KILLED = (
    "a data loader process was killed (DataLoader worker (pid 1) is killed), probably for lack of memory: use fewer "
    "data.num_workers, or data.num_workers=0"
)


@pytest.mark.parametrize("main", [True, False])
@pytest.mark.parametrize(
    ("error", "noted", "raised"),
    [
        (None, "before", None),
        (UserError("stopped", exit_code=130), "before", "^stopped$"),
        (UserError("stopped", exit_code=128), "before", "^stopped$"),
        (UserError("no", exit_code=127), "no", "^no$"),
        (ValueError("a\nb"), "ValueError: a b", "^a\nb$"),
        (RuntimeError("DataLoader worker (pid 1) is killed"), KILLED,
         rf"^{re.escape(KILLED)}\. Resume it with: python -m src\.train resume=/.*/run$"),
    ],
)  # fmt: skip
def test_an_error_is_noted_unless_a_signal_ended_the_run(make, tmp_path, monkeypatch, error, noted, raised, main):
    """By the main process alone; in any case the folder is unlocked."""
    fitted = []

    def fit(*given, **more):
        fitted.append((*given, more))
        if error is not None:
            raise error

    monkeypatch.setattr(training, "is_main_process", lambda: main)
    monkeypatch.setattr(training, "destroy_process_group", lambda: run.seen.append("group ended"))
    run = make(resume=tmp_path / "last.ckpt", fit=fit)
    with pytest.raises(Exception, match=raised) if raised else nullcontext():
        run.fit()
    assert fitted == [(run.module, run.data, {"ckpt_path": tmp_path / "last.ckpt"})]
    assert run.run.metadata()["failed"] == (noted if main else "before")
    assert run.seen == ["group ended", "unlocked"]


# ---- after ----


class Result:
    """A callback with results and notes of its own."""

    def __init__(self, results, report):
        self.results, self.report = results, report


@pytest.mark.parametrize("left", [-1.0, 5.0, None])
@pytest.mark.parametrize(("step", "planned"), [(10, 10), (9, 10), (9, -1)])
def test_what_is_noted_of_a_run_that_has_ended(make, monkeypatch, left, step, planned):
    checkpoints, progress = BestLastCheckpoint("x"), Progress()
    checkpoints.best, checkpoints.best_step = 0.25, 8
    monkeypatch.setattr(Progress, "elapsed", 12.345)
    monkeypatch.setattr(Progress, "mean_rate", 99.94)
    timer = training.out_of_time.__globals__["Timer"]()
    timer.time_remaining = lambda: left
    others = [Result({"quality/nfe": 5, "none": None}, [("quality", "fine")]), Result({}, [])]
    given = []
    monkeypatch.setattr(training, "after_training", lambda *args: given.append(args) or [("row", "value")])
    run = make(
        callbacks=[*others, checkpoints, progress, timer], checkpoint_callbacks=[object(), checkpoints],
        callback_metrics={"val/loss_ema": torch.tensor(0.5)}, global_step=step,
    )  # fmt: skip
    run.module.total_steps = lambda: planned
    logged = []
    run.log_hyperparameters = logged.append
    run.report()
    out = left == -1.0 and step < planned
    results = {
        "best_val_loss": 0.25, "best_step": 8, "steps": step, "seconds": 12.3, "samples_per_second": 99.9,
        "val/loss_ema": 0.5, "quality/nfe": 5,
    }  # fmt: skip
    noted = run.run.metadata()
    assert noted["results"] == results | {"none": None} and noted["note"] == ["quality: fine"]
    assert noted["finished"] is (not out) and logged == [results]
    assert given == [(run.cfg, run.trainer, run.run.path, results | {"none": None}, out)]


def test_settings_are_logged_with_the_results(make):
    class Board(training.TensorBoardLogger):
        def __init__(self):
            self.logged = []

        def log_hyperparams(self, *given):
            self.logged.append(given)

        def finalize(self, status):
            self.logged.append(status)

    board, other = Board(), SimpleNamespace(finalize=lambda status: ended.append(status))
    ended = []
    run = make(cfg={"net": {"width": 8, "size": [1, 2]}, "seed": None}, loggers=[board, other])
    run.log_hyperparameters({"val/loss": 0.5})
    settings = {
        "name": "x",
        "sweep.objective": "best_val_loss",
        "compile": False,
        "channels_last": "auto",
        "tf32": True,
        "net.width": 8,
        "seed": "none",
    }
    assert board.logged == [(settings, {"final/val_loss": 0.5}), "success"] and ended == ["success"]
