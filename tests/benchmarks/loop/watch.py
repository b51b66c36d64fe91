"""What a bench sees of a training run from inside."""

import json
import resource
import sys
import time
from pathlib import Path

import pytorch_lightning as pl

from tests.benchmarks.loop.loops import SKIP

UNIT = 2**20 if sys.platform == "darwin" else 2**10  # MiB in those in which systems count memory


class Watch(pl.Callback):
    """Takes the time of every step after the first ones, from its beginning to that of the next.

    Args:
        file: where each process writes what it saw, with its rank as ending; None writes nothing.
    """

    def __init__(self, file: str | None = None):
        self.file = file
        self.times: list[float] = []
        self.last = self.first_step = 0.0

    def on_train_batch_start(self, trainer, *_):
        now = time.perf_counter()
        if trainer.global_step > SKIP:
            self.times.append(now - self.last)
        self.last = now

    def on_train_batch_end(self, *_):
        self.first_step = self.first_step or time.time()

    def on_fit_end(self, trainer, pl_module):
        if self.file is not None:
            mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / UNIT
            seen = {"first_step": self.first_step, "times": self.times, "mib": mib}
            Path(f"{self.file}.{trainer.global_rank}").write_text(json.dumps(seen))
