"""Spikes in the training of a flow map, with their noise level."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from src.diffusion.losses import StepSizes
from src.module import DiffusionModule
from src.statistics.spikes import Spike, SpikeDetector
from src.utils.console import log

READ_EVERY = 100  # steps between two readings, for each of which an accelerator is waited for once
LEAST = {"tangent": 1.0}  # of a spike; it begins at 0, from where it grows fast
MOST = {
    "tangent": 2.0
}  # that of the true map is a difference of two means of data, below 1.5 for those of unit variance
NAMES = {"tangent": "the derivative (train/tangent)", "loss": "the loss"}
SMOOTHER = (
    "Lower optimizer.lr, make the network smoother in x and time (net.fourier_features=0, a smaller "
    "time_embedding.scale) or use loss=progressive, which has no derivative"
)
SLOWER = "Lower optimizer.lr or set trainer.gradient_clip_val=1"


class SpikeReport(pl.Callback):
    """Spikes of the loss of a flow map, and of the derivative in it, by which this family of losses fails.

    Written to the summary and run.json at the end, or to the log when a run fails. The samples of the first process are
    watched: the weights, which spikes come from, are the same in all.

    Attributes:
        detectors: of each size that the loss keeps in `last_step`; see :mod:`src.statistics.spikes`.
    """

    def __init__(self) -> None:
        self.detectors: dict[str, SpikeDetector] = {}
        self.unread: list[tuple[int, dict[str, StepSizes]]] = []
        self.results: dict[str, int] = {}
        self.report: list[tuple[str, str]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, DiffusionModule)
        if pl_module.loss.last_step:
            self.unread.append((trainer.global_step, dict(pl_module.loss.last_step)))
        if len(self.unread) >= READ_EVERY:
            self.read()

    def read(self) -> None:
        """Pass what was kept on the device to the detectors."""
        values = iter(to_host([sizes.values for _, step in self.unread for sizes in step.values()]))
        for step, found in self.unread:
            for name, sizes in found.items():
                size = next(values)
                most = size.argmax()
                self.detector(name).update(step, size.mean().item(), sizes.t[most].item(), sizes.s[most].item())
        self.unread.clear()

    def detector(self, name: str) -> SpikeDetector:
        """The detector of a size, made when it is first seen."""
        return self.detectors.setdefault(name, SpikeDetector(LEAST.get(name, 0.0)))

    def state_dict(self) -> dict[str, Any]:
        self.read()
        return {name: detector.state_dict() for name, detector in self.detectors.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, state in state_dict.items():
            self.detector(name).load_state_dict(state)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.read()
        self.results = {f"{name}_spikes": detector.count for name, detector in self.detectors.items()}
        self.report = self.verdict(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.read()
        for _, text in self.verdict(pl_module) if trainer.is_global_zero else []:
            log.warning(f"WARNING: before the run ended, {text}")

    def verdict(self, pl_module: pl.LightningModule) -> list[tuple[str, str]]:
        """A sentence about the spikes, if there were any, else about a derivative that is too large throughout."""
        advice = SMOOTHER if "tangent" in self.detectors else SLOWER
        found = {name: self.detectors[name] for name in NAMES if name in self.detectors}
        for name, detector in found.items():
            if worst := detector.worst:
                often = "once" if detector.count == 1 else f"in {detector.count:,} steps, the last {detector.last:,}"
                text = f"worst at step {worst.step:,}, {worst.ratio:,.3g} times its running median"
                return [("spikes", f"{NAMES[name]} spiked {often}; {text}, {noise_level(pl_module, worst)}. {advice}")]
        for name, most in MOST.items():
            if name in found and found[name].usual > most and (largest := found[name].largest):
                text = f"is {found[name].usual:,.3g}, where that of a true map is below {most:g}; largest at step"
                where = f"{largest.step:,}, {largest.value:,.3g}, {noise_level(pl_module, largest)}"
                return [("unstable", f"{NAMES[name]} {text} {where}. {advice}")]
        return []


def noise_level(pl_module: pl.LightningModule, spike: Spike) -> str:
    """Where a spike comes from."""
    assert isinstance(pl_module, DiffusionModule)
    log_snr = pl_module.denoiser.schedule.log_snr(torch.tensor(spike.t, dtype=torch.float64)).item()
    return f"most of it at t = {spike.t:.3g} (log-SNR {log_snr:.3g}), s = {spike.s:.3g}"


def to_host(tensors: list[Tensor]) -> list[Tensor]:
    """Copy vectors to the CPU at once; what is not finite is the largest."""
    if not tensors:
        return []
    together = torch.cat(tensors).double().nan_to_num(nan=torch.inf).cpu()
    return list(together.split([len(x) for x in tensors]))
