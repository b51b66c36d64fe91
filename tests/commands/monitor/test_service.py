"""A service is looked at: its figures, their limits, and its outputs since its deployment."""

from math import isnan

import pytest
import torch
from starlette.testclient import TestClient

from src.commands.monitor.findings import Findings
from src.commands.monitor.service import Check, ServiceClient, checks_of, quantile, since
from src.commands.monitor.watch import Watch
from src.metrics.drift import Drift
from src.metrics.features.base import ReferenceData
from src.service.app import create_app
from src.utils.errors import UserError
from tests.metrics.conftest import Images, Pixels
from tests.service.conftest import SHAPE, Tiny, make_service

LIMITS = {"latency": 60.0, "failures": 0.01, "errors": 0.0, "queue": 512.0, "nonfinite": 0.0, "clipped": None}


@pytest.fixture
def served(tmp_path):
    """The model of a service, a function that asks it for samples, and one that makes what looks at it."""
    model = Tiny()
    with TestClient(create_app(make_service(tmp_path / "served", model)), raise_server_exceptions=False) as client:

        def fetch(path):
            answer = client.get(path)
            if answer.status_code != 200:
                raise OSError(f"{path} is answered by {answer.status_code}")
            return answer.content

        def ask(*seeds, n=16, **settings):
            for seed in seeds:
                assert (
                    client.post("/samples?wait=60", json={"n": n, "seed": seed, **settings}).json()["state"] == "done"
                )

        yield model, ask, lambda: Watch(ServiceClient(fetch), "http://x", tmp_path / "kept", LIMITS, 32)


@pytest.fixture(scope="module")
def reference():
    x = torch.rand(40, *SHAPE, generator=torch.Generator().manual_seed(0))
    return ReferenceData(Images((x[:20], None), (x[20:], None)), Pixels)


def test_a_service_that_works(served, reference):
    model, ask, watch = served
    ask(0, 1)
    first = watch()
    checks = {check.name: check for check in first.look()}
    assert not [check for check in checks.values() if check.failed]
    assert checks["nonfinite"].value == checks["failures"].value == 0
    assert 0 < checks["latency"].value <= 60 and 0 <= checks["clipped"].value < 1
    assert first.restarted and first.digest == model.digest and len(first.first.x) == 32
    assert first.compare_outputs(reference, 99, 0) == []  # there is nothing since
    first.remember()
    ask(2, 3)
    second = watch()
    second.look()
    assert not second.restarted and len(second.latest.x) == 32
    tests = second.compare_outputs(reference, 99, 0)
    assert [test.name for test in tests] == ["outputs: features of the run", "outputs: mean, contrast and spectrum"]
    assert all(test.p > 0.02 for test in tests)


def test_outputs_that_changed(served, reference):
    """The digest is the same, the samples are not; those that were asked for otherwise are not compared."""
    model, ask, watch = served
    ask(0, 1, 2)
    watch().look()
    ask(3, 4, 5, 6, sampler="heun")
    later = watch()
    later.look()
    assert later.compare_outputs(reference, 99, 0) == []
    for p in model.pipeline.denoiser.net.parameters():
        p.mul_(1.5)
    ask(7, 8, 9)
    found, last = Findings(), watch()
    found.checks, found.of_outputs = last.look(), last.compare_outputs(reference, 999, 0)
    found.decide(Drift())
    assert found.exit_code == 3 and "outputs of the service differ" in found.verdict


def test_samples_that_are_not_finite(served):
    model, ask, watch = served
    for p in model.pipeline.denoiser.net.parameters():
        p.fill_(torch.nan)
    ask(0)
    found = Findings(checks=watch().look())
    assert found.exit_code == 4
    assert "samples that are not finite" in found.verdict
    assert [check.value for check in found.checks if check.name == "nonfinite"] == [1.0]


@pytest.mark.parametrize("body", [None, b"", b"<html>", b'{"a": 1}', b"up 1\n"], ids=str)
def test_what_is_no_service(tmp_path, body):
    def fetch(path):
        if body is None:
            raise OSError("nobody is there")
        return body

    found = Findings(checks=Watch(ServiceClient(fetch), "http://x", tmp_path, LIMITS, 32).look())
    assert [check.name for check in found.checks if check.failed] == ["unreachable"]
    assert found.exit_code == 4
    assert ("nobody is there" if body is None else "is no service of this project") in found.verdict


def figures(**values):
    """Figures by NAME, NAME__LABEL_VALUE."""
    found = {}
    for key, value in values.items():
        name, _, rest = key.partition("__")
        label, _, text = rest.partition("_")
        found[(f"diffusion_{name}", frozenset({(label, text)} if rest else ()))] = value
    return found


def test_shares_and_limits():
    now = figures(
        jobs_total__state_done=95, jobs_total__state_failed=4, jobs_total__state_expired=1,
        requests_total__status_200=199, requests_total__status_503=1, waiting_samples=600,
        samples_total=0, sample_clipped_share_sum=3, sample_clipped_share_count=12,
    )  # fmt: skip
    found = {check.name: check for check in checks_of(now, LIMITS)}
    assert (found["failures"].value, found["errors"].value, found["clipped"].value) == (0.05, 0.005, 0.25)
    assert isnan(found["nonfinite"].value) and isnan(found["latency"].value)
    assert {name for name, check in found.items() if check.failed} == {"failures", "errors", "queue"}


def test_counts_since_the_last_look():
    before, now = (
        figures(samples_total=5, waiting_samples=7),
        figures(samples_total=9, waiting_samples=3, jobs_total__state_done=2),
    )
    assert since(now, before) == figures(samples_total=4, waiting_samples=3, jobs_total__state_done=2)
    assert since(before, now) is before  # it was started again


def test_quantiles():
    """As histogram_quantile of Prometheus: linear in the bucket."""
    counts = {"le_1": 10, "le_2": 30, "le_5": 40, "le_+Inf": 40}
    seconds = figures(**{f"s_bucket__{le}": n for le, n in counts.items()})
    assert quantile(seconds, "diffusion_s_bucket", 0.5) == 1.5
    assert quantile(seconds, "diffusion_s_bucket", 0.95) == pytest.approx(2 + 3 * 8 / 10)
    assert quantile(figures(**{"s_bucket__le_1": 1, "s_bucket__le_+Inf": 9}), "diffusion_s_bucket", 0.95) == 1
    assert isnan(quantile({}, "diffusion_s_bucket", 0.5))


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "file:///etc/passwd", "http://"])
def test_addresses_that_are_none(url):
    with pytest.raises(UserError, match="must be the address of a service"):
        ServiceClient.at(url, None)


def test_exit_codes_add_up():
    late = Check("latency", "late", 61.0, 60.0)
    assert Findings(checks=[late]).exit_code == 4
    assert Findings(checks=[late], differing=[None]).exit_code == 7  # type: ignore[list-item]
    assert Findings(checks=[Check("latency", "", float("nan"), 60.0)]).exit_code == 0
