"""The mean loss, in total and by noise level."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric


class BinnedLoss(Metric):
    """The mean loss over all samples, and in bins of the log-SNR.

    Args:
        edges: increasing log-SNR values between the bins; the outermost bins are open.

    `compute` returns {"loss": mean, "log_snr/d_-4..-2": mean, ...}, without empty bins, over all processes.
    """

    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self, edges: tuple[float, ...] = (-8, -6, -4, -2, 0, 2, 4, 6, 8)):
        super().__init__()
        self.edges = torch.tensor(edges, dtype=torch.float64)  # not a buffer: it stays on the CPU, like the log-SNR
        borders = ["-inf", *(f"{e:g}" for e in edges), "inf"]
        # TensorBoard sorts its cards by name: a leading letter keeps them in the order of the noise.
        self.names = [f"{chr(97 + i)}_{a}..{b}" for i, (a, b) in enumerate(pairwise(borders))]
        for name in ("sums", "counts"):
            self.add_state(name, torch.zeros(len(edges) + 1), dist_reduce_fx="sum")

    @property
    def sums_and_counts(self) -> Float[Tensor, "2 bins"]:
        """The state of this process, saved and restored by a resumed run."""
        return torch.stack([self.sums, self.counts])

    @sums_and_counts.setter
    def sums_and_counts(self, value: Float[Tensor, "2 bins"]) -> None:
        self.sums, self.counts = value.to(self.sums).unbind()

    def update(
        self, losses: Float[Tensor, " batch"], log_snr: Float[Tensor, " batch"], weights: Tensor | None = None
    ) -> None:
        """Add the losses of samples, with their log-SNR (on the CPU) and their weights in the mean."""
        bins = torch.bucketize(log_snr, self.edges).to(losses.device, non_blocking=True)
        weights = torch.ones_like(losses) if weights is None else weights
        self.sums.index_add_(0, bins, (weights * losses).to(self.sums.dtype))
        self.counts.index_add_(0, bins, weights.to(self.counts.dtype))

    def compute(self) -> dict[str, float]:
        """Compute the means."""
        sums, counts = self.sums.tolist(), self.counts.tolist()
        means = {"loss": sum(sums) / sum(counts)} if sum(counts) else {}
        bins = zip(self.names, sums, counts, strict=True)
        return means | {f"log_snr/{name}": total / count for name, total, count in bins if count}
