"""A run goes on from each of its checkpoints as if it had never stopped, however often it is stopped."""

from itertools import combinations
from types import SimpleNamespace

import pytest

from src.callbacks.overfit_one_batch import OverfitOneBatch
from src.utils.loop_counters import epoch_batches, go_on_between_batches, total_steps
from tests.helpers.resuming import MODULES, assert_goes_on, run
from tests.helpers.tiny import Memory

pytestmark = pytest.mark.filterwarnings("ignore")

# Beside each, the batches of an epoch of 27 samples, 8 a batch; three epochs and one step, or three epochs.
STEPS, EPOCHS = {"max_steps": 10}, {"max_steps": -1, "max_epochs": 3}
QUICK = {
    "validated at every other end": (3, STEPS | {"val_check_interval": 6}),
    "validated within epochs": (3, EPOCHS | {"val_check_interval": 2, "check_val_every_n_epoch": 1}),
    "accumulated over epochs": (3, EPOCHS | {"accumulate_grad_batches": 2, "val_check_interval": 4}),
    "some batches": (2, STEPS | {"limit_train_batches": 2, "val_check_interval": 3}),
    "the same batches": (3, STEPS | {"val_check_interval": 4, "callbacks": [OverfitOneBatch()]}),
}
SLOW = {
    "not validated": (3, STEPS | {"limit_val_batches": 0}),
    "validated at the end": (3, STEPS),
    "validated at each step": (3, STEPS | {"val_check_interval": 1}),
    "validated at every second step": (3, STEPS | {"val_check_interval": 2}),
    "validated at ends": (3, STEPS | {"val_check_interval": 3}),
    "validated by epochs": (3, STEPS | {"val_check_interval": 1.0, "check_val_every_n_epoch": 1}),
    "epochs": (3, EPOCHS),
    "epochs, validated at every other end": (3, EPOCHS | {"val_check_interval": 6}),
    "epochs, every second validated": (3, EPOCHS | {"val_check_interval": 1.0, "check_val_every_n_epoch": 2}),
    "accumulated": (3, {"max_steps": 7, "accumulate_grad_batches": 2, "val_check_interval": 3}),
    "accumulated, validated in between": (3, {"max_steps": 7, "accumulate_grad_batches": 2, "val_check_interval": 1}),
    "accumulated by more than an epoch": (3, {"max_steps": 4, "accumulate_grad_batches": 4, "val_check_interval": 6}),
    "a share of the batches": (2, EPOCHS | {"limit_train_batches": 0.7, "val_check_interval": 4}),
    "one batch": (1, STEPS | {"limit_train_batches": 1, "val_check_interval": 4, "callbacks": [OverfitOneBatch()]}),
}


def data():
    return Memory(n=27, n_val=5)


def check(tmp_path, kind, batches, settings, every=1, some=None):
    """Resume from each of the checkpoints, or from those after `some` steps, and compare all that follows."""
    whole = run(tmp_path / "whole", MODULES[kind], data(), every, **settings)
    steps, by_steps = list(whole.places), settings["max_steps"] != -1
    for step in some or steps[:-1]:
        part = run(tmp_path / str(step), MODULES[kind], data(), every, whole.places[step], **settings)
        assert list(part.places) == [later for later in steps if later > step]
        assert_goes_on(whole, part, batches, by_steps)


@pytest.mark.parametrize("kind", MODULES)
def test_every_part_goes_on(tmp_path, kind):
    """From the end of an epoch that is not validated, and from mid-epoch."""
    check(tmp_path, kind, 3, {"max_steps": 7, "val_check_interval": 6}, some=[3, 5])


@pytest.mark.parametrize(
    ("name", "some"),
    [*((name, (2, 3, 5)) for name in QUICK), *(pytest.param(n, None, marks=pytest.mark.slow) for n in QUICK | SLOW)],
)
def test_a_run_goes_on_from_each_of_its_checkpoints(tmp_path, name, some):
    """And from there on writes the checkpoints of a run that was never stopped, from which it goes on in turn.

    So it may be killed at any steps, any number of times.
    """
    batches, settings = (QUICK | SLOW)[name]
    check(tmp_path, "plain", batches, settings, some=some)


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 2, 3, 4])
def test_checkpoints_at_any_interval(tmp_path, every):
    check(tmp_path, "plain", 3, STEPS | {"val_check_interval": 5}, every)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [STEPS | {"val_check_interval": 6}, EPOCHS | {"val_check_interval": 4}])
def test_every_pair_of_kills(tmp_path, settings):
    """As they happen: killed, resumed, killed again, resumed to the end."""
    whole = run(tmp_path / "whole", MODULES["plain"], data(), **settings)
    for first, second in combinations(list(whole.places)[:-1], 2):
        there = tmp_path / str(first)
        if not there.exists():
            once = run(there, MODULES["plain"], data(), begin=whole.places[first], **settings)
        twice = run(tmp_path / f"{first}, {second}", MODULES["plain"], data(), begin=once.places[second], **settings)
        assert_goes_on(whole, twice, 3, settings["max_steps"] != -1)


def test_a_run_that_goes_on_with_shorter_epochs_begins_the_next(tmp_path):
    """As many epochs as it made stay made."""
    whole = run(tmp_path / "whole", MODULES["plain"], data(), max_steps=5)
    settings = {"max_steps": 8, "limit_train_batches": 1}
    part = run(tmp_path / "part", MODULES["plain"], data(), begin=whole.places[5], **settings)
    assert [(epoch, batch) for epoch, batch, _ in part.batches.values()] == [(2, 0), (3, 0), (4, 0)]


@pytest.mark.parametrize(
    ("max_steps", "max_epochs", "limit", "accumulate", "steps"),
    [
        (-1, None, 1.0, 1, -1), (-1, -1, 1.0, 1, -1), (1, None, 1.0, 1, 1), (9, -1, 1.0, 1, 9),
        (-1, 1, 1.0, 1, 10), (-1, 3, 0.55, 1, 15), (-1, 3, 4, 1, 12), (-1, 3, 40, 1, 30), (-1, 3, 1.0, 4, 9),
        (8, 3, 1.0, 4, 8), (10, 3, 1.0, 4, 9),
    ],
)  # fmt: skip
def test_the_number_of_steps(max_steps, max_epochs, limit, accumulate, steps):
    """Of ten batches an epoch: the fewer of those by steps and by epochs, whose last batches make a step, too."""
    trainer = SimpleNamespace(
        max_steps=max_steps, max_epochs=max_epochs, limit_train_batches=limit, accumulate_grad_batches=accumulate
    )
    assert total_steps(trainer, 10) == steps
    assert epoch_batches(trainer, 10) == min(10, limit if isinstance(limit, int) else int(10 * limit))


def counters(epoch, batch, total, steps):
    """Those of a checkpoint in the midst of a batch, as far as they are looked at."""
    progress = dict.fromkeys(("ready", "started", "processed", "completed"), -1)
    step = {"step": {"total": {"completed": steps}}}
    return {
        "epoch_progress": {"total": progress.copy(), "current": progress | {"ready": epoch + 1}},
        "epoch_loop.batch_progress": {
            "total": progress | {"processed": total}, "current": progress | {"processed": batch},
            "is_last_batch": True,
        },
        "epoch_loop.automatic_optimization.optim_progress": {"optimizer": step},
        "epoch_loop.state_dict": {"_batches_that_stepped": -1},
    }  # fmt: skip


@pytest.mark.parametrize("by_steps", [True, False])
@pytest.mark.parametrize(
    ("epoch", "batch", "batches", "position"),
    [(2, 1, 3, (2, 1)), (2, 2, 3, (2, 2)), (2, 3, 3, (3, 0)), (2, 3, 2, (3, 0)), (2, 0, 3, (2, 0)), (0, 1, 1, (1, 0))],
)
def test_the_counters_of_a_run_that_goes_on(epoch, batch, batches, position, by_steps):
    """After a batch within an epoch that has begun, or before one; a batch that the loop completes itself is left."""
    loop = counters(epoch, batch, 7, 6)
    assert go_on_between_batches(loop, batches, by_steps) == position
    now, done = position
    begun, behind = now + (done > 0), int(done > 0 or by_steps)
    made = {"ready": begun, "started": begun, "processed": now, "completed": now}
    assert loop["epoch_progress"] == {"total": made, "current": made}
    assert loop["epoch_loop.batch_progress"] == {
        "total": {"ready": 7, "started": 7, "processed": 7, "completed": 7 - behind},
        "current": {"ready": done, "started": done, "processed": done, "completed": done - behind},
        "is_last_batch": False,
    }
    assert loop["epoch_loop.state_dict"] == {"_batches_that_stepped": 6 - behind}
