"""The loss of training on held-out data, with its interval."""

from typing import Annotated

import torch
from annotated_types import Ge
from hydra.utils import instantiate
from torch import Tensor, nn

from src.diffusion.conditions import map_cond, rows_of
from src.metrics.base import EvalContext, Metric, ReportSection
from src.metrics.denoising import condition_of
from src.metrics.generalization import MeanWithMargin
from src.utils.console import progress_bar
from src.utils.ranges import PositiveInt
from src.utils.seeding import generator


class HeldOutLoss(Metric):
    """The loss that the run was trained with, on test data; the interval covers their choice.

    Each datum is given noise at several times, those of validation. Data, times and noise are functions of the seed, so
    that runs with the same loss, weighting, schedule and data are compared on the same.

    Args:
        n: number of test data, at most all.
        times: times of each.
    """

    needs_samples = False

    def __init__(self, n: Annotated[int, Ge(2)] = 1000, times: PositiveInt = 8):
        self.n, self.times = n, times

    def why_not_applicable(self, context: EvalContext) -> str | None:
        if reason := super().why_not_applicable(context):
            return reason
        loss = instantiate(context.run.config().loss)
        if isinstance(loss, nn.Module) and any(True for _ in loss.parameters()):
            return "its loss has parameters of its own, which checkpoints for sampling do not hold"
        return None

    @torch.no_grad()
    def __call__(self, context: EvalContext) -> ReportSection:
        losses = self.losses(context)
        value = MeanWithMargin.of(losses).to_value("held-out loss")
        note = (
            f"The loss of training on {len(losses):,} test data, each at {self.times} times. Comparable between runs "
            "with the same loss, weighting, schedule and data."
        )
        return ReportSection("Held-out loss", {"held_out_loss": value}, notes=[note])

    def losses(self, context: EvalContext) -> Tensor:
        """The mean loss (n,) of each datum over its times, float64."""
        cfg, denoiser, device = context.run.config(), context.pipeline.denoiser, context.pipeline.device
        loss, times = instantiate(cfg.loss), instantiate(cfg.time_sampler).for_validation()
        batch = context.test.some(self.n, "held-out loss", context.seed)
        x_0 = context.to_model(batch["x"])
        cond, n = condition_of(context, batch, x_0), len(x_0)
        total = torch.zeros(n, dtype=torch.float64)
        with progress_bar(self.times * n, "held-out loss", leave=False, delay=2, unit_scale=True) as bar:
            for k in range(self.times):
                t = times(n, generator("held-out loss", context.seed, "t", k), denoiser.schedule)
                noise = torch.randn(x_0.shape, generator=generator("held-out loss", context.seed, "noise", k))
                for rows in torch.arange(n).split(context.pipeline.batch_size):
                    given = (x_0[rows].to(device), t[rows], noise[rows].to(device))
                    part = map_cond(lambda value: value.to(device), rows_of(cond, rows))
                    total[rows] += loss(denoiser, *given, part).double().cpu()
                    bar.update(len(rows))
        return total / self.times
