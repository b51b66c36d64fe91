"""How probable the model thinks new data."""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from src.diffusion.likelihood import bits_per_dimension, dequantize, ode_log_likelihood
from src.metrics.base import Measure, Section, Subject, Value
from src.metrics.denoising import condition_of, to_model, trained_range
from src.samplers.pipeline import SelfConditioned
from src.utils.console import progress_bar
from src.utils.ranges import PositiveFloat, PositiveInt
from src.utils.seeding import generator

FEW = 8  # elements of a sample


class Likelihood(Measure):
    """Bits per dimension of test data along the probability-flow ODE.

    Args:
        n: test data.
        probes: random directions of each, for the divergence; 0 for the exact one, which takes a backward pass for each
            element of a sample, and which is taken anyway where these are few.
        bins: levels of a pixel, over which images are spread first.
        sigma_min, sigma_max: where the ODE begins and ends, of the standard deviation of the noise over the signal.
        tolerance: of the solver, relative and absolute.
        batch_size: test data that are solved for together.
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

    def refusal(self, subject: Subject) -> str | None:
        if reason := super().refusal(subject):
            return reason
        low, high = trained_range(subject)
        return "this network knows one noise level alone" if low == high else None

    def __call__(self, subject: Subject) -> Section:
        batch = subject.test.some(self.n, "likelihood", subject.seed)
        images = subject.kind == "images"
        x = to_model(subject, batch["x"])
        if images:
            x = dequantize(x, self.bins, generator("dequantize", subject.seed))
        cond = condition_of(subject, batch, x)
        log_density, evaluations = self.log_density(subject, x, cond)
        if cond is not None:  # a condition that is found in the data has to be stored too
            log_density = log_density + subject.pipeline.denoiser.condition.log_prior(cond).to(log_density)
        bits = bits_per_dimension(log_density, x[0].numel(), self.bins if images else None)
        value = in_bits("bits per dimension of test data", bits)
        section = Section("Likelihood", {"bits_per_dim": value}, notes=[how_to_read(self.bins if images else None)])
        if (true := getattr(subject.data, "log_density", None)) is not None:
            # Of the same points, so that their own spread is no part of the difference.
            excess = bits - bits_per_dimension(true(batch["x"]), x[0].numel()).to(bits)
            value.floor = value.value - excess.mean().item()
            section.values["bits_above_truth"] = in_bits("bits per dimension above those of the true density", excess)
            section.notes.append("Beside it stands the true density of the data, at the same points.")
        section.values["likelihood_nfe"] = Value(
            "evaluations of the network for a likelihood, each with its backward passes", evaluations
        )
        return section

    def log_density(self, subject: Subject, x: Tensor, cond: Tensor | None) -> tuple[Tensor, float]:
        """In nats, (n,), and the mean number of evaluations."""
        model, found, evaluations = subject.pipeline, [], 0
        signs, count = generator("probes", subject.seed), 0 if x[0].numel() <= FEW else self.probes
        bar = progress_bar(None, "likelihood, evaluations", leave=False, delay=2)
        with bar, model.count_nfe():
            for rows in torch.arange(len(x)).split(self.batch_size):
                part = x[rows].to(model.device)
                some = None if cond is None else cond[rows].to(model.device)

                def denoise(x_t: Tensor, t: Tensor, some: Tensor | None = some) -> Tensor:
                    bar.update()
                    # A new one each time: a function of x_t alone.
                    return SelfConditioned(model.denoiser)(x_t, t, some).x_0

                probes = torch.randint(0, 2, (count, *part.shape), generator=signs).to(part) * 2 - 1
                one = ode_log_likelihood(
                    denoise, model.denoiser.schedule, part, probes if count else None,
                    self.sigma_min, self.sigma_max, self.tolerance, self.tolerance,
                )  # fmt: skip
                found.append(one.log_density.cpu())
                evaluations += one.nfe * len(rows)
        return torch.cat(found), evaluations / len(x)


def in_bits(name: str, bits: Tensor) -> Value:
    """The mean with its 95 % interval."""
    mean, margin = bits.mean().item(), 1.96 * bits.std().item() / len(bits) ** 0.5
    return Value(name, mean, mean - margin, mean + margin, better="lower")


def how_to_read(bins: int | None) -> str:
    """What the bits are of."""
    if bins is None:
        return (
            "They are those of a density, and so may be below 0; what matters is the difference between two models of "
            "the same data. Data that fill no volume, such as sine waves without noise, have as few as sigma_min lets "
            "them have."
        )
    return (
        f"They are an upper bound on what it costs to store a value of {bins} levels without loss with this model; "
        f"a model that knows nothing needs {torch.tensor(bins).log2():.3g}."
    )
