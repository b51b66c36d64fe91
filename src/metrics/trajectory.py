"""The sampling trajectory as an animation."""

from src.metrics.base import EvalContext, Metric, Picture, ReportSection
from src.plots.pictures import trajectory_frames


class Trajectory(Metric):
    """An animation of the first samples from noise to data."""

    def why_not_applicable(self, context: EvalContext) -> str | None:
        return "samples from a file have no trajectory" if context.from_file else super().why_not_applicable(context)

    def __call__(self, context: EvalContext) -> ReportSection:
        assert context.trajectory is not None
        n = context.trajectory.shape[1]
        label = None if context.label is None else context.label[:n]
        frames = trajectory_frames(context.trajectory, label, kind=context.kind)
        section = ReportSection("From noise to data")
        caption = f"The trajectories of the first {n:,} of {len(context.x):,} samples."
        section.pictures["trajectory"] = Picture(frames, caption)
        return section
