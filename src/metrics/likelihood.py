"""Likelihood of test data under the model."""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from src.diffusion.conditions import Cond, map_cond, rows_of
from src.diffusion.likelihood import bits_per_dimension, dequantize, ode_log_likelihood
from src.metrics.base import EvalContext, Metric, MetricValue, ReportSection
from src.metrics.denoising import condition_of, trained_range
from src.samplers.self_conditioning import SelfConditioned
from src.utils.console import progress_bar
from src.utils.ranges import PositiveFloat, PositiveInt
from src.utils.seeding import generator

MAX_EXACT = 8  # elements of a sample, up to which the divergence is computed exactly


class Likelihood(Metric):
    """Bits per dimension of test data along the probability-flow ODE.

    Args:
        n: number of test data.
        probes: Hutchinson probes per sample for the divergence; 0 for the exact divergence, with a backward pass for
            each element. Samples of up to 8 elements always use the exact one.
        bins: quantization levels of a pixel; images are dequantized uniformly.
        sigma_min, sigma_max: limits of the ODE, as noise-to-signal ratio sigma / alpha.
        tolerance: relative and absolute tolerance of the solver.
        batch_size: test data per solver call.
    """

    needs_samples = False

    def __init__(
        self,
        n: PositiveInt = 64,
        probes: PositiveInt = 1,
        bins: Annotated[int, Ge(2)] = 256,
        sigma_min: PositiveFloat = 1e-3,
        sigma_max: PositiveFloat = 1e3,
        tolerance: PositiveFloat = 1e-4,
        batch_size: PositiveInt = 64,
    ):
        self.n, self.probes, self.bins = n, probes, bins
        self.sigma_min, self.sigma_max, self.tolerance, self.batch_size = sigma_min, sigma_max, tolerance, batch_size

    def why_not_applicable(self, context: EvalContext) -> str | None:
        if reason := super().why_not_applicable(context):
            return reason
        low, high = trained_range(context)
        return "this network was trained at a single noise level" if low == high else None

    def __call__(self, context: EvalContext) -> ReportSection:
        batch = context.test.some(self.n, "likelihood", context.seed)
        images = context.kind == "images"
        x = context.to_model(batch["x"])
        if images:
            x = dequantize(x, self.bins, generator("dequantize", context.seed))
        cond = condition_of(context, batch, x)
        log_density, evaluations = self.log_density(context, x, cond)
        if cond is not None:  # a condition that is found in the data is encoded too
            log_density = log_density + context.pipeline.denoiser.condition.log_prior(cond).to(log_density)
        if not images:  # whose bits are those of a level, in any unit
            log_density = log_density - context.data.units.log_volume(x.shape[1:])
        bits = bits_per_dimension(log_density, x[0].numel(), self.bins if images else None)
        value = mean_bits("bits per dimension of test data", bits)
        section = ReportSection(
            "Likelihood", {"bits_per_dim": value}, notes=[how_to_read_bits(self.bins if images else None)]
        )
        if (true := getattr(context.data, "log_density", None)) is not None:
            # At the same points, so that their variance cancels in the difference.
            excess = bits - bits_per_dimension(true(batch["x"]), x[0].numel()).to(bits)
            value.real_baseline = value.value - excess.mean().item()
            section.values["bits_above_truth"] = mean_bits("bits per dimension in excess of the true density", excess)
            section.notes.append("The real-data value is that of the true density, at the same points.")
        section.values["likelihood_nfe"] = MetricValue(
            "network evaluations per likelihood, each with its backward passes", evaluations
        )
        return section

    def log_density(self, context: EvalContext, x: Tensor, cond: Cond | None) -> tuple[Tensor, float]:
        """The log-density of x in nats, (n,), and the mean number of network evaluations."""
        pipeline, found, evaluations = context.pipeline, [], 0
        signs, count = generator("probes", context.seed), 0 if x[0].numel() <= MAX_EXACT else self.probes
        bar = progress_bar(None, "likelihood, evaluations", leave=False, delay=2)
        with bar, pipeline.count_nfe():
            for rows in torch.arange(len(x)).split(self.batch_size):
                part = x[rows].to(pipeline.device)
                some = map_cond(lambda value: value.to(pipeline.device), rows_of(cond, rows))

                def denoise(x_t: Tensor, t: Tensor, some: Cond | None = some) -> Tensor:
                    bar.update()
                    fresh = SelfConditioned(pipeline.denoiser)  # without the estimate of the last call
                    return fresh(x_t, t, some).x_0

                probes = torch.randint(0, 2, (count, *part.shape), generator=signs).to(part) * 2 - 1
                one = ode_log_likelihood(
                    denoise, pipeline.denoiser.schedule, part, probes if count else None,
                    self.sigma_min, self.sigma_max, self.tolerance, self.tolerance,
                )  # fmt: skip
                found.append(one.log_density.cpu())
                evaluations += one.nfe * len(rows)
        return torch.cat(found), evaluations / len(x)


def mean_bits(name: str, bits: Tensor) -> MetricValue:
    """The mean of bits (n,) with its 95 % interval."""
    mean, margin = bits.mean().item(), 1.96 * bits.std().item() / len(bits) ** 0.5
    return MetricValue(name, mean, mean - margin, mean + margin, better="lower")


def how_to_read_bits(bins: int | None) -> str:
    """Explain bits per dimension of data with this number of levels, or of continuous data for None."""
    if bins is None:
        return (
            "Bits per dimension of a density, possibly below 0; only differences between models of the same data are "
            "meaningful. For data of lower dimension than their space, such as sine waves without noise, sigma_min "
            "bounds them from below."
        )
    return (
        f"An upper bound on the cost of storing a value of {bins} levels without loss with this model; without a model "
        f"it is {torch.tensor(bins).log2():.3g}."
    )
