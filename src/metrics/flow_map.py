"""How far a flow map is from the ODE of its own denoiser, its semigroup, and the exact map where that is known."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from src.diffusion.conditions import count_cond, rows_of
from src.diffusion.exact_trajectory import exact_trajectory
from src.diffusion.flow_map import FlowMap
from src.metrics.base import EvalContext, Metric, MetricValue, Picture, ReportSection
from src.plots.metrics import error_by_times
from src.samplers.base import NoiseLevel, ddim_step
from src.samplers.ode import Heun
from src.samplers.pipeline import Pipeline
from src.utils.ranges import PositiveInt

Exact = Callable[[Tensor, Tensor, Tensor], Tensor]


class FlowMapMetrics(Metric):
    r"""Errors of a flow map, root mean squares over new samples in the units of the data.

    Of one step, :math:`X(x_1, 1, 0)` against the ODE of the map's own denoiser, s = t, solved by Heun's method from the
    same noise; between all pairs of times as a picture; and of the semigroup, :math:`X(x_t, t, s)` against
    :math:`X(X(x_t, t, u), u, s)` with u in the middle, which needs no solution.

    Where the data have a `posterior_mean`, their denoiser is known and with it the exact map, the ODE solved to 1e-9:
    then also the error of one step against it, that between all pairs of times, and the order in which several steps
    converge to it, the slope of log error against log steps.

    Args:
        samples: number of samples.
        times: number of intervals of [0, 1] between whose ends steps are compared.
        steps_per_interval: steps of the solver in each.
        steps: numbers of steps from noise to data, for the order.
        exact_samples: number of samples that are compared with the exact map.
    """

    needs_samples = False

    def __init__(
        self,
        samples: PositiveInt = 64,
        times: Annotated[int, Ge(2)] = 8,
        steps_per_interval: PositiveInt = 4,
        steps: Sequence[PositiveInt] = (1, 2, 4, 8),
        exact_samples: PositiveInt = 1024,
    ):
        if len(set(steps)) < 2 or min(steps) < 1:
            raise ValueError(f"metrics.flow_map.steps must be at least two numbers >= 1, got {list(steps)}")
        self.samples, self.times, self.steps_per_interval = samples, times, steps_per_interval
        self.steps, self.exact_samples = list(steps), exact_samples

    def why_not_applicable(self, context: EvalContext) -> str | None:
        if not isinstance(context.pipeline.denoiser, FlowMap):
            return "the run has no flow map"
        return super().why_not_applicable(context)

    def __call__(self, context: EvalContext) -> ReportSection:
        with context.pipeline.inference():
            errors, semigroup = self.measure(context.pipeline)
            exact = exact_denoiser(context)
            compared = None if exact is None else self.compare(context.pipeline, exact)
        unit = context.pipeline.std_to_units(1.0)
        values = {
            "flow_map_error": MetricValue("error of one step", unit * errors[0, -1].item(), better="lower"),
            "semigroup_error": MetricValue("error of the semigroup", unit * semigroup, better="lower"),
        }
        section = ReportSection("Flow map", values, notes=[HOW_TO_READ])
        section.pictures["flow_map"] = Picture(
            error_by_times(unit * errors), "Root mean square error of a step from t to s, in the units of the data"
        )
        section.tables["flow_map_errors"] = (unit * errors).tolist()
        if compared is not None:
            self.add_comparison(section, *compared)
        return section

    def add_comparison(self, section: ReportSection, errors: Tensor, by_steps: Tensor) -> None:
        """Add the errors against the exact map, between all pairs of times and by numbers of steps."""
        counts = f"{', '.join(map(str, self.steps[:-1]))} and {self.steps[-1]}"
        section.values |= {
            "exact_map_error": MetricValue("error of one step from the exact", errors[0, -1].item(), better="lower"),
            "exact_map_order": MetricValue(f"order of convergence of {counts} steps", order(self.steps, by_steps)),
        }  # fmt: skip
        section.pictures["exact_flow_map"] = Picture(
            error_by_times(errors), "Root mean square error of a step from t to s against the exact map"
        )
        section.tables["exact_map_errors"] = errors.tolist()
        section.tables["exact_map_errors_by_steps"] = dict(zip(self.steps, by_steps.tolist(), strict=True))
        shown = ", ".join(f"{error:.3g} by {k}" for k, error in zip(self.steps, by_steps.tolist(), strict=True))
        section.notes.append(f"{HOW_TO_READ_EXACT} Errors from noise to data: {shown}.")

    # ---- the errors ----

    def measure(self, pipeline: Pipeline) -> tuple[Tensor, float]:
        """The errors (T + 1, T + 1) of steps from time 1 - i / T to 1 - j / T, 0 for j <= i, and of the semigroup."""
        k, drawn = self.steps_per_interval, Drawn(pipeline, self.samples)
        solver = Heun(pipeline.sampler.schedule, self.times * k)
        path = [state.x_t for state in solver.trajectory(drawn.predict, drawn.x_1, drawn.noise)][::k]
        levels = solver.noise_levels(solver.times()[::k])
        errors, squares = torch.zeros(self.times + 1, self.times + 1), []
        for i, j in pairs(self.times):
            end = drawn.step(path[i], levels[i], levels[j])
            errors[i, j] = (end - path[j]).square().mean().sqrt()
            if (j - i) % 2 == 0:
                u = levels[(i + j) // 2]
                two = drawn.step(drawn.step(path[i], levels[i], u), u, levels[j])
                squares.append((end - two).square().mean())
        return errors, torch.stack(squares).mean().sqrt().item()

    def compare(self, pipeline: Pipeline, exact: Exact) -> tuple[Tensor, Tensor]:
        """The errors against the exact map: (T + 1, T + 1) as in `measure`, and (K,) by numbers of steps."""
        schedule, drawn = pipeline.sampler.schedule, Drawn(pipeline, self.exact_samples)
        times = torch.linspace(1, 0, self.times + 1, dtype=torch.float64)
        path, levels = exact_trajectory(exact, schedule, drawn.x_1, times), pipeline.sampler.noise_levels(times)
        errors = torch.zeros(self.times + 1, self.times + 1)
        for i, j in pairs(self.times):
            end = drawn.step(path[i].to(drawn.x_1), levels[i], levels[j])
            errors[i, j] = (end.double().cpu() - path[j]).square().mean().sqrt()
        by_steps = []
        for steps in self.steps:
            x = drawn.x_1
            for t, s in pairwise(pipeline.sampler.noise_levels(torch.linspace(1, 0, steps + 1, dtype=torch.float64))):
                x = drawn.step(x, t, s)
            by_steps.append((x.double().cpu() - path[-1]).square().mean().sqrt())
        return errors, torch.stack(by_steps)


class Drawn:
    """The noise of new samples and the steps that a flow map takes with them."""

    def __init__(self, pipeline: Pipeline, n: int):
        indices, given = range(n), pipeline.cond
        if given is not None:  # one for each sample of the evaluation, of which there may be more or fewer
            given = rows_of(given, torch.arange(n) % count_cond(given))
        # Errors are compared that bf16 would round away.
        pipeline = replace(pipeline, cond=pipeline.conditions(indices, given), dtype=None)
        self.noise, self.predict = pipeline.noise(indices, "flow map"), pipeline.denoise(indices)
        self.x_1 = pipeline.sampler.sample_prior(self.noise, torch.empty(n, *pipeline.shape, device=pipeline.device))

    def step(self, x_t: Tensor, t: NoiseLevel, s: NoiseLevel) -> Tensor:
        """The step of the map from t to s."""
        return ddim_step(x_t, self.predict(x_t, t.t, s.t).x_0, t, s)


def pairs(times: int) -> Iterator[tuple[int, int]]:
    """The pairs i < j <= times."""
    return ((i, j) for i in range(times) for j in range(i + 1, times + 1))


def exact_denoiser(context: EvalContext) -> Exact | None:
    """The denoiser of the data where it is known and is what an unconditional flow map learns."""
    known: Exact | None = getattr(context.data, "posterior_mean", None)
    pipeline = context.pipeline
    conditional = pipeline.cond is not None or pipeline.conditions(range(1)) is not None
    return None if conditional or not context.data.units.is_identity else known


def order(steps: Sequence[int], errors: Tensor) -> float:
    """The order p of errors that fall as steps^-p: the slope of a line through their logarithms."""
    x, y = torch.tensor(steps, dtype=torch.float64).log(), errors.double().log()
    x, y = x - x.mean(), y - y.mean()
    return -(x @ y / (x @ x)).item()


HOW_TO_READ = (
    "A flow map takes a sample from time t to s by one evaluation. Its error is the distance from where the ODE of its "
    "own denoiser leads, solved in many steps from the same noise; it says nothing of how good that denoiser is. The "
    "semigroup error compares one step with two over the time in the middle."
)
HOW_TO_READ_EXACT = (
    "The denoiser of these data is known, and with it the exact map. The error against it includes that of the learned "
    "denoiser, which stays with many steps, so that the order is low for a map that is good in one step."
)
