"""How long a run is, and where in its data it goes on, as Lightning's loops count it."""

from typing import Any


def go_on_between_batches(fit_loop: dict[str, Any], batches: int, by_steps: bool) -> tuple[int, int]:
    """Give the loops in a checkpoint the counts of an undisturbed run; returns the (epoch, batch) that comes next.

    Lightning guesses from its counts in which hook a checkpoint was written, and catches up on what followed. After the
    last batch of an epoch it leaves out the start of the next one, whose counts from then on lag behind, so that a
    second checkpoint there is taken for another place. Only two forms are taken up in full: in mid-epoch after a batch,
    and before an epoch begins. A checkpoint is brought to one of them, whenever and by whichever run it was written.

    Args:
        fit_loop: the state of the loop, as in checkpoint["loops"]["fit_loop"]; changed in place.
        batches: of an epoch, as it is now; a run that goes on with fewer may have passed the end of one.
        by_steps: whether trainer.max_steps ends the run. Without it, Lightning does not restart before an epoch.
    """
    epochs, counts = fit_loop["epoch_progress"], fit_loop["epoch_loop.batch_progress"]
    epoch, batch, total = epochs["current"]["ready"] - 1, counts["current"]["processed"], counts["total"]["processed"]
    if batch >= batches:
        epoch, batch = epoch + 1, 0
    begun = epoch + (batch > 0)
    for part in ("total", "current"):
        epochs[part] |= {"ready": begun, "started": begun, "processed": epoch, "completed": epoch}
    behind = int(batch > 0 or by_steps)  # a loop that restarts makes up for the end of one batch
    for part, n in (("total", total), ("current", batch)):
        counts[part] |= {"ready": n, "started": n, "processed": n, "completed": n - behind}
    counts["is_last_batch"] = False
    steps = fit_loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"]
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] = steps - behind
    return epoch, batch


def total_steps(trainer: Any, batches: int) -> int:
    """Optimizer steps of a whole run with this many batches an epoch, or -1 where only time ends it.

    Lightning's own estimate would start the loaders before a checkpoint has said where in the data to begin.
    """
    steps = [trainer.max_steps] if trainer.max_steps > 0 else []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        steps.append(trainer.max_epochs * -(-epoch_batches(trainer, batches) // trainer.accumulate_grad_batches))
    return min(steps, default=-1)


def epoch_batches(trainer: Any, batches: int) -> int:
    """How many of the batches of an epoch the trainer takes."""
    limit = trainer.limit_train_batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)
