"""The cost of sampling."""

from src.metrics.base import EvalContext, Metric, MetricValue, ReportSection


class SamplingCost(Metric):
    """Network evaluations and seconds of sampling."""

    def why_not_applicable(self, context: EvalContext) -> str | None:
        return "samples from a file have no known cost" if context.from_file else super().why_not_applicable(context)

    def __call__(self, context: EvalContext) -> ReportSection:
        assert context.cost is not None
        n, cost = len(context.x), context.cost
        section = ReportSection("Cost of sampling")
        section.values["nfe"] = MetricValue("network evaluations per sample", cost.evaluations / n, better="lower")
        section.values["seconds_per_1000"] = MetricValue(
            "seconds per 1,000 samples", 1000 * cost.seconds / n, better="lower"
        )
        return section
