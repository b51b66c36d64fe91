"""New weights while a service works: no request is dropped, and each is done by the weights that its answer names."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from src.service.models import Models
from src.service.store import QUEUED
from tests.service.conftest import Tiny


class Weights(Tiny):
    """Tiny with weights of their own."""

    def __init__(self, digest):
        super().__init__()
        self.digest = digest
        self.card = self.card | {"digest": digest, "run": f"run of {digest}"}
        for p in self.pipeline.denoiser.net.parameters():
            p.data.mul_(1 + int(digest[-1]) / 10)

    def command(self, kind, settings):
        return f"sample run={self.digest}"


class Source:
    """Whatever `champion` is; all of `known` can be loaded again."""

    def __init__(self, *known):
        self.champion, self.known = known[0], {model.digest: model for model in known}

    def newer(self, digest):
        return None if self.champion.digest == digest else self.champion

    def earlier(self, digest):
        return self.known.get(digest)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("src.service.worker.PULSE", 0.02)
    monkeypatch.setattr("src.service.models.GRACE", 0.0)


def alone(model, seed, n=2):
    """What src.sample would draw: the samples of a seed with these weights."""
    pipeline = replace(model.pipeline, seed=seed)
    with torch.no_grad():
        return pipeline.to_units(pipeline.sample(range(n))).numpy()


def until(true, seconds=300.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_change_under_load(serve):
    """Four clients ask all the while, as the champion changes twice and goes back."""
    first, second = Weights("w1"), Weights("w2")
    source = Source(first, second)
    served = serve(model=Models(first, source))
    changes, over, done = [second, first, second], threading.Event(), []

    def client(i):
        found = []
        while not (found and over.is_set() and found[-1][1]["digest"] == "w2"):
            seed = 1000 * i + len(found)
            answer = served.post("/samples", n=2, seed=seed)
            assert answer.status_code == 200 and answer.json()["state"] == "done", answer.text
            found.append((seed, answer.json()))
            done.append(seed)
        return found

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(client, i) for i in range(4)]
        for change in changes:
            many = len(done) + 8  # four may be on their way since before the last change
            until(lambda many=many: len(done) >= many)
            source.champion = change
            until(lambda model=change: served.service.model is model)
        over.set()
        answers = [answer for one in clients for answer in one.result()]
    digests = [job["digest"] for _, job in sorted(answers, key=lambda answer: answer[1]["number"])]
    assert set(digests) == {"w1", "w2"} and digests[0] == "w1" and digests[-1] == "w2"
    assert sum(a != b for a, b in pairwise(digests)) >= 3
    for seed, job in answers[:: max(1, len(answers) // 20)]:
        x = np.load(io.BytesIO(served.client.get(f"/jobs/{job['id']}/samples.npz").content))["x"]
        expected = {model.digest: alone(model, seed) for model in (first, second)}
        assert np.abs(x - expected[job["digest"]]).max() < 1e-5
        assert np.abs(expected["w1"] - expected["w2"]).max() > 1e-3
        assert job["command"] == f"sample run={job['digest']}"
    until(lambda: [*served.service.models.loaded] == ["w2"])
    assert 'weights_info{digest="w2"} 1' in served.client.get("/metrics").text
    assert 'weights_info{digest="w1"}' not in served.client.get("/metrics").text
    assert served.client.get("/run").json()["digest"] == "w2"


def test_jobs_that_wait_are_done_by_their_weights(service):
    """What was accepted before the change; earlier weights leave when none is left."""
    first, second = Weights("w1"), Weights("w2")
    made = service(model=Models(first, source := Source(first, second)))
    asked = {"n": 1, "seed": 3, "sampler": None, "steps": None, "guidance": None, "condition": None}
    before = made.accept_samples(dict(asked))
    source.champion = second
    made.models.update()
    after = made.accept_samples(dict(asked))
    made.models.drop(made.store.waited_for())
    assert [*made.models.loaded] == ["w1", "w2"]
    for job, digest in [(before, "w1"), (after, "w2")]:
        (claimed,) = made.worker.claim()
        assert (claimed.id, claimed.digest) == (job, digest)
        made.worker.do([claimed])
        assert np.abs(made.results.read(f"{job}.npz")["x"] - alone(made.models.loaded[digest], 3, 1)).max() < 1e-5
    made.models.drop(made.store.waited_for())
    assert [*made.models.loaded] == ["w2"]
    assert made.described(made.store.find(before))["command"] == "sample run=w1"


def test_after_a_kill_earlier_weights_are_loaded_for_their_jobs(service):
    """The champion changed while the service was down; weights that are gone end their jobs with a reason."""
    first, second, lost = Weights("w1"), Weights("w2"), Weights("w3")
    jobs = []
    for model in (first, lost):
        made = service(model=Models(model))
        jobs.append(made.accept_samples({"n": 1, "seed": 3}))
        made.store.engine.dispose()
    made = service(model=Models(second, Source(second, first)))
    made.worker.start()
    until(lambda: made.store.find(jobs[0]).state != QUEUED and made.store.find(jobs[0]).finished)
    made.worker.stop()
    assert made.store.find(jobs[0]).state == "done"
    assert np.abs(made.results.read(f"{jobs[0]}.npz")["x"] - alone(first, 3, 1)).max() < 1e-5
    assert "other weights" in made.store.find(jobs[1]).error
