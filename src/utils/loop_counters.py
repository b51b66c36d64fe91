"""The length of a run and its position in the data, in the counters of Lightning's loops."""

from typing import Any


def go_on_between_batches(fit_loop: dict[str, Any], batches: int, by_steps: bool) -> tuple[int, int]:
    """Set the loop counters of a checkpoint to those of an uninterrupted run, and return the next (epoch, batch).

    Lightning infers from its counters in which hook a checkpoint was written. After the last batch of an epoch it skips
    the start of the next epoch, whose counters then lag behind, so that a second checkpoint there is mistaken for
    another position. Only two states resume correctly: after a batch within an epoch, and before an epoch begins. This
    function brings any checkpoint to one of these.

    Args:
        fit_loop: the state of the loop, as in checkpoint["loops"]["fit_loop"]; changed in place.
        batches: number of batches of an epoch now; a run that resumes with fewer may be past the end of an epoch.
        by_steps: True if trainer.max_steps ends the run; otherwise Lightning does not restart before an epoch.
    """
    epochs, counts = fit_loop["epoch_progress"], fit_loop["epoch_loop.batch_progress"]
    epoch, batch, total = epochs["current"]["ready"] - 1, counts["current"]["processed"], counts["total"]["processed"]
    if batch >= batches:
        epoch, batch = epoch + 1, 0
    begun = epoch + (batch > 0)
    for part in ("total", "current"):
        epochs[part] |= {"ready": begun, "started": begun, "processed": epoch, "completed": epoch}
    behind = int(batch > 0 or by_steps)  # a restarted loop completes one batch itself
    for part, n in (("total", total), ("current", batch)):
        counts[part] |= {"ready": n, "started": n, "processed": n, "completed": n - behind}
    counts["is_last_batch"] = False
    steps = fit_loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"]
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] = steps - behind
    return epoch, batch


def total_steps(trainer: Any, batches: int) -> int:
    """Number of optimizer steps of a run with this many batches per epoch, or -1 if only its time is limited.

    Lightning's own estimate would start the data loaders before a checkpoint sets the position in the data.
    """
    steps = [max(trainer.max_steps, 1)] if trainer.max_steps >= 0 else []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        steps.append(trainer.max_epochs * -(-epoch_batches(trainer, batches) // trainer.accumulate_grad_batches))
    return min(steps, default=-1)


def epoch_batches(trainer: Any, batches: int) -> int:
    """The number of batches per epoch that the trainer uses."""
    limit = trainer.limit_train_batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)
