"""What the race wants to know of a training run of ours, and the weights at some moments of it."""

import json
import time
from pathlib import Path

import numpy as np
import pytorch_lightning as pl


class Watch(pl.Callback):
    """Takes the time at the end of every step, and writes checkpoints at the given moments.

    Unlike that of the bench it counts from the start of the process, with all that is not a step.

    Args:
        file: where to write what was seen; the checkpoints go to the folder checkpoints/ beside it.
        began: when the process was started, in seconds of the clock.
        moments: seconds after that.
    """

    def __init__(self, file: str, began: float, moments: list[float]):
        self.file, self.began, self.moments = Path(file), began, sorted(moments)
        self.ends: list[float] = []
        self.images = 0
        self.kept: dict[str, dict[str, float]] = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.ends.append(time.time() - self.began)
        self.images += len(batch["x"])
        if self.moments and self.ends[-1] >= self.moments[0]:
            self.moments = [m for m in self.moments if m > self.ends[-1]]
            name = f"step_{trainer.global_step}"
            self.kept[name] = {"seconds": self.ends[-1], "images": self.images}
            trainer.save_checkpoint(self.file.parent / "checkpoints" / f"{name}.ckpt")

    def on_train_end(self, trainer, pl_module):
        seen = {
            "parameters": sum(p.numel() for p in pl_module.denoiser.net.parameters()),
            "first_step_s": self.ends[0],
            "images": self.images,
            "step_s": float(np.median(np.diff(self.ends[2:]))),
            "train_s": self.ends[-1],
            "kept": self.kept,
        }
        self.file.write_text(json.dumps(seen))
