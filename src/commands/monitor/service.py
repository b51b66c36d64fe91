"""What a service says of itself: its figures, and the checks of them."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite, nan
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

from src.utils.errors import UserError

SECONDS, MOST_BYTES = 30, 256 << 20  # of an answer
Fetch = Callable[[str], bytes]  # the body at a path; OSError if there is none
Samples = Mapping[tuple[str, frozenset], float]  # of Prometheus, by name and labels


@dataclass(frozen=True)
class Check:
    """A figure of the service, and its limit.

    Attributes:
        name: its key in the limits, and its label in Prometheus.
        title: what it is.
        value: NaN if nothing was counted yet.
        limit: the largest value that is fine; None for any.
        why: of a service that does not answer, the reason.
    """

    name: str
    title: str
    value: float
    limit: float | None = None
    why: str = ""

    @property
    def failed(self) -> bool:
        return self.limit is not None and self.value > self.limit


class ServiceClient:
    """The API of a service.

    Args:
        fetch: gets the body at a path.
    """

    def __init__(self, fetch: Fetch):
        self.fetch = fetch

    @classmethod
    def at(cls, url: str, token: str | None) -> "ServiceClient":
        """The client of the service at a URL.

        Raises:
            UserError: if it is none of HTTP.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UserError(f"service={url} must be the address of a service, such as http://127.0.0.1:8000")
        return cls(partial(fetch_from, url.rstrip("/"), token))

    def json(self, path: str, **query: Any) -> Any:
        """The JSON at a path."""
        return json.loads(self.fetch(f"{path}?{urlencode(query)}" if query else path))

    def samples(self) -> Samples:
        """The figures that Prometheus reads.

        Raises:
            UserError: if the library that reads them is missing.
        """
        try:
            from prometheus_client.parser import text_string_to_metric_families
        except ImportError as error:
            raise UserError("service= needs prometheus-client: pip install 'diffusion-lab[serve]'") from error
        families = text_string_to_metric_families(self.fetch("/metrics").decode())
        return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def fetch_from(url: str, token: str | None, path: str) -> bytes:
    """The body at a path of a service.

    Raises:
        OSError: if it does not answer, or with an error.
    """
    request = Request(url + path, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urlopen(request, timeout=SECONDS) as answer:
            return answer.read(MOST_BYTES)
    except HTTPError as error:
        raise OSError(f"{path} is answered by {error.code} {error.reason}") from error
    except URLError as error:
        raise OSError(f"{url} does not answer ({error.reason})") from error


def since(now: Samples, before: Samples) -> Samples:
    """What was counted since an earlier look, of the same process; all if it was started again."""
    if any(now.get(key, 0.0) < value for key, value in before.items() if is_count(key[0])):
        return now
    return {key: value - before.get(key, 0.0) if is_count(key[0]) else value for key, value in now.items()}


def is_count(name: str) -> bool:
    """True for what only grows."""
    return name.endswith(("_total", "_bucket", "_count", "_sum"))


def checks_of(samples: Samples, limits: Mapping[str, float | None]) -> list[Check]:
    """The checks of the figures of a service."""
    jobs, requests = (
        by_label(samples, "diffusion_jobs_total", "state"),
        by_label(samples, "diffusion_requests_total", "status"),
    )
    made = total(samples, "diffusion_samples_total")
    clipped = share(
        total(samples, "diffusion_sample_clipped_share_sum"), total(samples, "diffusion_sample_clipped_share_count")
    )
    faults = sum(n for status, n in requests.items() if status.startswith("5"))
    found = {
        "latency": ("95 % of the jobs end within (s)", quantile(samples, "diffusion_job_seconds_bucket", 0.95)),
        "failures": ("jobs that failed or came too late", share(jobs["failed"] + jobs["expired"], sum(jobs.values()))),
        "errors": ("requests that the service could not answer (5xx)", share(faults, sum(requests.values()))),
        "queue": ("samples that wait", total(samples, "diffusion_waiting_samples")),
        "nonfinite": ("samples that are not finite", share(total(samples, "diffusion_samples_nonfinite_total"), made)),
        "clipped": ("numbers of samples at an end of their range", clipped),
    }
    return [Check(name, title, value, limits.get(name)) for name, (title, value) in found.items()]


def by_label(samples: Samples, name: str, label: str) -> defaultdict[str, float]:
    """The sums of a metric by one of its labels."""
    found: defaultdict[str, float] = defaultdict(float)
    for (key, labels), value in samples.items():
        if key == name:
            found[dict(labels)[label]] += value
    return found


def total(samples: Samples, name: str) -> float:
    """The sum of a metric over all labels."""
    return sum(value for (key, _), value in samples.items() if key == name)


def share(part: float, whole: float) -> float:
    """part / whole; NaN of nothing."""
    return part / whole if whole else nan


def quantile(samples: Samples, name: str, q: float) -> float:
    """A quantile of a histogram, linear within a bucket as Prometheus has it; NaN if it is empty.

    Values beyond the last bucket count as its end.
    """
    counts = sorted((float(end), n) for end, n in by_label(samples, name, "le").items())
    whole = counts[-1][1] if counts else 0.0
    if not whole:
        return nan
    low, below = 0.0, 0.0
    for end, n in counts:
        if n >= q * whole:
            return low if end == inf else low + (end - low) * (q * whole - below) / (n - below)
        low, below = end, n
    return low


def text_of(value: float) -> str:
    """A figure for people."""
    return f"{value:.3g}" if isfinite(value) else "none yet"


def failing(checks: Iterable[Check]) -> list[Check]:
    """Those beyond their limits."""
    return [check for check in checks if check.failed]
