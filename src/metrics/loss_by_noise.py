"""The validation loss by noise level."""

from src.loggers.metrics_csv import read_metrics
from src.metrics.base import EvalContext, Metric, Picture, ReportSection
from src.statistics.convergence import convergence_status


class LossByNoise(Metric):
    """The first and the last validation loss that was logged for each noise level, and the convergence status."""

    needs_samples = False

    def why_not_applicable(self, context: EvalContext) -> str | None:
        reason = super().why_not_applicable(context)
        if reason is None and not losses_by_noise(context):
            return "the run has no metrics.csv with validation losses"
        return reason

    def __call__(self, context: EvalContext) -> ReportSection:
        from src.plots.metrics import loss_by_noise

        rows = losses_by_noise(context)
        status = convergence_status(rows)
        section = ReportSection("Convergence", interpretation=f"{status.text.capitalize()}.")
        section.tables = {"relative_decrease": status.relative_decrease}
        section.pictures["loss_by_noise"] = Picture(
            loss_by_noise(rows[0], rows[-1]), "Validation loss of the averaged weights in bins of the log-SNR."
        )
        return section


def losses_by_noise(context: EvalContext) -> list[dict[str, float]]:
    """The rows of metrics.csv that hold validation losses by noise level."""
    file = context.run.path / "metrics.csv"
    rows = read_metrics(file) if file.exists() else []
    return [row for row in rows if any(key.startswith("val_ema/log_snr/") for key in row)]
