"""How far a flow map is from the ODE of its own denoiser, and from its semigroup."""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from src.diffusion.flow_map import FlowMap
from src.metrics.base import EvalContext, Metric, MetricValue, Picture, ReportSection
from src.plots.metrics import error_by_times
from src.samplers.base import ddim_step
from src.samplers.ode import Heun
from src.samplers.pipeline import Pipeline
from src.utils.ranges import PositiveInt


class FlowMapMetrics(Metric):
    r"""Errors of a flow map, root mean squares over new samples in the units of the data.

    Of one step, :math:`X(x_1, 1, 0)` against the ODE of the map's own denoiser, s = t, solved by Heun's method from the
    same noise; between all pairs of times as a picture; and of the semigroup, :math:`X(x_t, t, s)` against
    :math:`X(X(x_t, t, u), u, s)` with u in the middle, which needs no solution.

    Args:
        samples: number of samples.
        times: number of intervals of [0, 1] between whose ends steps are compared.
        steps_per_interval: steps of the solver in each.
    """

    needs_samples = False

    def __init__(
        self, samples: PositiveInt = 64, times: Annotated[int, Ge(2)] = 8, steps_per_interval: PositiveInt = 4
    ):
        self.samples, self.times, self.steps_per_interval = samples, times, steps_per_interval

    def why_not_applicable(self, context: EvalContext) -> str | None:
        if not isinstance(context.pipeline.denoiser, FlowMap):
            return "the run has no flow map"
        return super().why_not_applicable(context)

    def __call__(self, context: EvalContext) -> ReportSection:
        with context.pipeline.inference():
            errors, semigroup = self.measure(context.pipeline)
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
        return section

    def measure(self, pipeline: Pipeline) -> tuple[Tensor, float]:
        """The errors (T + 1, T + 1) of steps from time 1 - i / T to 1 - j / T, 0 for j <= i, and of the semigroup."""
        indices, k = range(self.samples), self.steps_per_interval
        pipeline_cond = pipeline.conditions(indices)
        drawn = Pipeline(
            pipeline.denoiser, pipeline.sampler, pipeline.shape, pipeline.guidance, pipeline_cond, pipeline.seed
        )
        solver = Heun(pipeline.sampler.schedule, self.times * k)
        noise = drawn.noise(indices, "flow map")
        x_1 = solver.sample_prior(noise, torch.empty(self.samples, *pipeline.shape, device=pipeline.device))
        path = [state.x_t for state in solver.trajectory(drawn.denoise(indices), x_1, noise)][::k]
        levels = solver.noise_levels(solver.times()[::k])
        predict = drawn.denoise(indices)

        def step(x_t: Tensor, i: int, j: int) -> Tensor:
            return ddim_step(x_t, predict(x_t, levels[i].t, levels[j].t).x_0, levels[i], levels[j])

        errors, squares = torch.zeros(self.times + 1, self.times + 1), []
        for i in range(self.times):
            for j in range(i + 1, self.times + 1):
                end = step(path[i], i, j)
                errors[i, j] = (end - path[j]).square().mean().sqrt()
                if (j - i) % 2 == 0:
                    middle = (i + j) // 2
                    squares.append((end - step(step(path[i], i, middle), middle, j)).square().mean())
        return errors, torch.stack(squares).mean().sqrt().item()


HOW_TO_READ = (
    "A flow map takes a sample from time t to s by one evaluation. Its error is the distance from where the ODE of its "
    "own denoiser leads, solved in many steps from the same noise; it says nothing of how good that denoiser is. The "
    "semigroup error compares one step with two over the time in the middle."
)
