"""What Prometheus reads of the service."""

from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters of one service."""

    def __init__(self, digest: str):
        self.registry = CollectorRegistry()
        of: Any = {"namespace": "diffusion", "registry": self.registry}
        self.requests = Counter("requests", "HTTP requests", ["method", "route", "status"], **of)
        self.seconds = Histogram("request_seconds", "Time to answer", ["route"], buckets=SECONDS, **of)
        self.jobs = Counter("jobs", "Ended jobs", ["kind", "state"], **of)
        self.latency = Histogram("job_seconds", "From acceptance to the end", ["kind"], buckets=SECONDS, **of)
        self.waiting = Gauge("waiting_samples", "Samples that wait or are being computed", **of)
        self.batch = Histogram("batch_samples", "Samples computed together", buckets=[2**i for i in range(11)], **of)
        self.samples = Counter("samples", "Samples made", **of)
        self.nonfinite = Counter("samples_nonfinite", "Samples with numbers that are not finite", **of)
        self.clipped = Histogram(
            "sample_clipped_share", "Share of a sample's numbers at 0 or 1", buckets=[i / 10 for i in range(11)], **of
        )
        self.level = Histogram(
            "sample_mean", "Mean of a sample", buckets=[-1, -0.5, *(i / 20 for i in range(21)), 1.5, 2], **of
        )
        self.weights = Gauge("weights_info", "The digest of the weights", ["digest"], **of)
        self.serve(digest)

    def serve(self, digest: str) -> None:
        """Name the weights of new requests."""
        self.weights.clear()
        self.weights.labels(digest).set(1)

    def ended(self, job: Any, state: str) -> None:
        """Count a job that ended now."""
        import time

        self.jobs.labels(job.kind, state).inc()
        self.latency.labels(job.kind).observe(time.time() - job.created)

    def look_at(self, x: np.ndarray) -> None:
        """Count samples (N, C, *S), in the units of the data."""
        flat = x.reshape(len(x), -1)
        finite = np.isfinite(flat).all(1)
        self.samples.inc(len(x))
        self.nonfinite.inc(int((~finite).sum()))
        for sample in flat[finite]:
            self.clipped.observe(float(((sample <= 0) | (sample >= 1)).mean()))
            self.level.observe(float(sample.mean()))

    def text(self) -> bytes:
        """The metrics in Prometheus's format."""
        return generate_latest(self.registry)
