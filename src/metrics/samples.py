"""What to look at: samples that the classifier is sure of and that it is not, how samples come about, and the cost."""

import torch

from src.loggers.metrics_csv import read_metrics
from src.metrics.base import Measure, Picture, Section, Subject, Value
from src.plots.pictures import READABLE, image_grid, sample_grid, trajectory_frames
from src.statistics.convergence import verdict
from src.utils.ranges import PositiveInt
from src.utils.seeding import generator


class Samples(Measure):
    """Random samples; of images also those that a classifier is most and least confident about.

    Args:
        n: in each grid.
    """

    def __init__(self, n: PositiveInt | None = None):
        self.n = n

    def __call__(self, subject: Subject) -> Section:
        section = Section("Samples")
        n = min(self.n or READABLE[1 + len(subject.data.shape)], len(subject.x))
        chosen = torch.randperm(len(subject.x), generator=generator("random samples", subject.seed))[:n]
        label = None if subject.label is None else subject.label[chosen]
        section.pictures["random"] = Picture(
            sample_grid(subject.x[chosen], label=label, kind=subject.kind),
            f"{n:,} of {len(subject.x):,} samples, chosen at random.",
        )
        real = subject.test.some(n, "samples")["x"]
        caption = f"{len(real):,} of {len(subject.test):,} test data, for comparison."
        section.pictures["data"] = Picture(sample_grid(real, kind=subject.kind), caption)
        if subject.kind == "images":
            self.show_extremes(subject, section, n)
        return section

    def show_extremes(self, subject: Subject, section: Section, n: int) -> None:
        """Add the samples whose class the classifier is most and least sure of."""
        logits = subject.features.logits(subject.fake)
        if logits is None:
            return
        p = logits.softmax(1)
        asked = subject.label is not None and bool((subject.label >= 0).all())
        # Of equally sure ones, which are many at 1.0, the larger margin of the logits decides.
        sure = p[torch.arange(len(p)), subject.label] if asked else p.amax(1)
        margin = logits.topk(2).values.diff(dim=1).abs().flatten()
        order = torch.tensor(sorted(range(len(p)), key=lambda i: (round(sure[i].item(), 4), margin[i].item())))
        what = "is of the class that was asked for" if asked else "is of the class that it takes it for"
        worst, best = order[: n // 2], order.flip(0)[: n // 2]
        section.pictures["worst"] = Picture(
            image_grid(subject.x[worst], columns=8),
            f"The {len(worst)} samples of {len(p):,} of which the classifier is least sure that each {what}: "
            f"{sure[worst[0]]:.0%} to {sure[worst[-1]]:.0%}, the least sure first.",
        )
        section.pictures["best"] = Picture(
            image_grid(subject.x[best], columns=8), f"The {len(best)} of {len(p):,} of which it is most sure."
        )


class Trajectory(Measure):
    """Sampling trajectory of the first samples, as an animation."""

    def refusal(self, subject: Subject) -> str | None:
        return "samples from a file have no trajectory" if subject.given else super().refusal(subject)

    def __call__(self, subject: Subject) -> Section:
        assert subject.trajectory is not None
        n = subject.trajectory.shape[1]
        label = None if subject.label is None else subject.label[:n]
        frames = trajectory_frames(subject.trajectory, label, kind=subject.kind)
        section = Section("From noise to data")
        section.pictures["trajectory"] = Picture(frames, f"The first {n:,} of {len(subject.x):,} samples on their way.")
        return section


class LossByNoise(Measure):
    """The first and last validation loss at each noise level, as logged in training."""

    needs_samples = False

    def refusal(self, subject: Subject) -> str | None:
        known = super().refusal(subject)
        return "the run holds no metrics.csv with validation losses" if known is None and not losses(subject) else known

    def __call__(self, subject: Subject) -> Section:
        from src.plots.metrics import loss_by_noise

        found = verdict(rows := losses(subject))
        section = Section("Has it converged?", verdict=f"Verdict: {found.text}.", tables={"falls": found.falls})
        section.pictures["loss_by_noise"] = Picture(
            loss_by_noise(rows[0], rows[-1]), "Validation loss of the averaged weights in bins of the log-SNR."
        )
        return section


def losses(subject: Subject) -> list[dict[str, float]]:
    """The rows of metrics.csv that hold validation losses by noise level."""
    file = subject.run.path / "metrics.csv"
    rows = read_metrics(file) if file.exists() else []
    return [row for row in rows if any(key.startswith("val_ema/log_snr/") for key in row)]


class SamplingCost(Measure):
    """Network evaluations and seconds of sampling."""

    def refusal(self, subject: Subject) -> str | None:
        return "samples from a file have no known cost" if subject.given else super().refusal(subject)

    def __call__(self, subject: Subject) -> Section:
        assert subject.cost is not None
        n, cost = len(subject.x), subject.cost
        section = Section("Cost of sampling")
        section.values["nfe"] = Value("evaluations of the network a sample", cost.evaluations / n, better="lower")
        section.values["seconds_per_1000"] = Value("seconds for 1,000 samples", 1000 * cost.seconds / n, better="lower")
        return section
