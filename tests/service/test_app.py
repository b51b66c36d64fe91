"""The API as a client sees it."""

import base64
import io
import json
import threading

import numpy as np
import pytest
from PIL import Image

from src.samplers import Heun
from src.service.settings import Access
from src.service.store import QUEUED
from src.tasks import Generate, TaskInput
from tests.service.conftest import Conditioned, Tiny, make_pipeline

WHITE = [[[1.0] * 4] * 4]


def result(served, job):
    answer = served.client.get(f"/jobs/{job}/samples.npz")
    assert answer.status_code == 200
    return dict(np.load(io.BytesIO(answer.content)))


def test_samples_are_those_of_the_pipeline(serve):
    """Bit for bit, for one request and for several together, in whole and in broken batches."""
    served = serve()
    pipeline = make_pipeline()
    asked = [{"n": n, "seed": seed} for seed, n in enumerate([1, 2, 4, 7])]
    asked.append({"n": 3, "seed": 9, "sampler": "heun", "steps": 2})
    waiting = [served.post("/samples", wait=0, **one).json()["id"] for one in asked]
    for job, one in zip(waiting, asked, strict=True):
        while served.client.get(f"/jobs/{job}").json()["state"] != "done":
            pass
        pipeline.seed = one["seed"]
        if "sampler" in one:
            pipeline.sampler = Heun(pipeline.sampler.schedule, steps=2)
        drawn = Generate(one["n"], pad_batches=True)(pipeline, TaskInput()).x
        expected = pipeline.to_units(drawn).numpy()
        assert result(served, job)["x"].tobytes() == expected.tobytes()


def test_a_request_that_waits_gets_its_result(serve):
    served = serve()
    answer = served.post("/samples", n=2, seed=5)
    job = answer.json()
    assert (answer.status_code, job["state"], job["n"], job["seed"]) == (200, "done", 2, 5)
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert job["info"]["nfe"] == 3
    picture = Image.open(io.BytesIO(served.client.get(f"/jobs/{job['id']}/samples.png").content))
    assert picture.size == (8, 4)
    pixels = np.asarray(picture).reshape(4, 2, 4).transpose(1, 0, 2) / 255
    assert np.abs(pixels - result(served, job["id"])["x"][:, 0]).max() <= 0.5 / 255 + 1e-6
    assert served.client.get(f"/jobs/{job['id']}/samples").json()["picture"].startswith("data:image/png;base64,")


def test_a_seed_is_drawn_and_named(serve):
    served = serve()
    seeds = {served.post("/samples", n=1).json()["seed"] for _ in range(2)}
    assert len(seeds) == 2


def test_a_task(serve):
    served = serve()
    drawn = served.post("/samples", n=2).json()["id"]
    x = result(served, drawn)["x"]
    file = io.BytesIO()
    Image.fromarray((x[1, 0] * 255).round().astype(np.uint8)).save(file, "PNG")
    inputs = [
        {"samples": [{"job": drawn, "index": 1}]},
        {"x": x[1].tolist()},
        {"images": ["data:image/png;base64," + base64.b64encode(file.getvalue()).decode()]},
    ]
    for given in inputs:
        job = served.post("/tasks/flip", **given).json()
        assert job["state"] == "done", job
        arrays = result(served, job["id"])
        assert np.abs(arrays["x"] - x[1:, :, ::-1]).max() <= 0.5 / 255 + 1e-6
        assert np.abs(arrays["given"] - x[1:]).max() <= 0.5 / 255 + 1e-6
        assert job["info"] == {"turned": "once"}


@pytest.mark.parametrize(
    ("path", "asked", "reason"),
    [
        ("/samples", {"n": 0}, "n: Input should be greater than or equal to 1"),
        ("/samples", {"n": 9}, "less than or equal to 8"),
        ("/samples", {"n": True}, "n: Input should be a valid integer"),
        ("/samples", {"seed": -1}, "seed: "),
        ("/samples", {"steps": 21}, "less than or equal to 20"),
        ("/samples", {"sampler": "os.system"}, "sampler: Input should be 'ddim' or 'heun'"),
        ("/samples", {"_target_": "os.system"}, "_target_: Extra inputs are not permitted"),
        ("/samples", {"condition": {"label": 3}}, "needs a run trained with condition=labels"),
        ("/tasks/flip", {}, "exactly one of images, x and samples must be given"),
        ("/tasks/flip", {"x": WHITE, "images": []}, "exactly one"),
        ("/tasks/flip", {"x": [[1.0]]}, "x must have the shape (N, 1, H, W), got (1, 1)"),
        ("/tasks/flip", {"x": [[[1.0], [1.0, 2.0]]]}, "nested lists of equal lengths"),
        ("/tasks/flip", {"x": [[["a"]]]}, "x must be an array of numbers"),
        ("/tasks/flip", {"x": [[[7.0]]]}, "images must be in [0, 1], got 7 to 7"),
        ("/tasks/flip", {"x": [[[1.0]]]}, "input must have the shape 1 x 4 x 4"),
        ("/tasks/flip", {"x": [WHITE] * 9}, "a task may have 8 samples, got 9"),
        ("/tasks/flip", {"images": ["/etc/passwd"]}, "images[0] must be a picture in base64"),
        ("/tasks/flip", {"images": ["aGVsbG8="]}, "cannot be read as a picture (not an image of a known format)"),
        ("/tasks/flip", {"samples": [{"job": "0" * 32}]}, "there is no job"),
        ("/tasks/flip", {"samples": [{"job": "../../etc"}]}, "String should match pattern"),
        ("/tasks/flip", {"x": WHITE, "settings": {"mask": 1}}, "the task flip has times, got 'mask'"),
        ("/tasks/flip", {"x": WHITE, "settings": {"times": 1e9}}, "less than or equal to 1000"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_at_once(serve, path, asked, reason):
    served = serve(n=8, steps=20)
    answer = served.post(path, **asked)
    assert answer.status_code == 422
    assert reason in answer.json()["detail"]
    assert served.service.store.waiting() == 0


@pytest.mark.parametrize(
    "given",
    [
        {"label": 1},
        {"label": ["dog", 0]},
        {"vector": [0.5, -2]},
        {"vector": [[0.5, 1], [2, 3]], "text": "a dog"},
        {"text": ["a", "${oc.env:HOME}"]},
        {"text": "", "label": None},
    ],
    ids=str,
)
def test_conditions_reach_the_model(serve, given):
    served = serve(model=(model := Conditioned()))
    job = served.post("/samples", n=2, condition=given).json()
    assert job["state"] == "done", job
    expected = {name: value for name, value in given.items() if value is not None}
    assert job["settings"]["condition"] == expected
    assert model.asked == [(expected, {})] * 2  # when it is accepted, and when it is done


@pytest.mark.parametrize("several", [False, True])
def test_images_among_conditions_are_kept_with_the_job(service, serve, several):
    """Also over a restart; neither the settings nor the lists of jobs hold them."""
    x = np.array([[[0, 255], [51, 102]]], np.uint8)
    file = io.BytesIO()
    Image.fromarray(x[0]).save(file, "PNG")
    picture = base64.b64encode(file.getvalue()).decode()
    value = [picture, f"data:image/png;base64,{picture}"] if several else (x / 255).tolist()
    model = Conditioned()
    before = service(model=model)
    job = before.accept_samples({"n": 2, "condition": {"image": value, "text": "a"}})
    served = serve(model=model)
    while (found := served.client.get(f"/jobs/{job}").json())["state"] != "done":
        pass
    assert found["settings"]["images"] == ["image"] and found["settings"]["condition"] == {"text": "a"}
    assert len(found["settings"]) == 4 and len(model.asked) == 2
    for condition, images in model.asked:
        assert condition == {"text": "a"}
        assert np.abs(images["image"] - np.stack([x / 255] * (1 + several))).max() < 1e-6


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"angle": 3}, "condition.angle: Extra inputs are not permitted"),
        ({"label": True}, "condition.label: must be a class, by its number or its name, or a list of classes"),
        ({"label": 2**70}, "condition.label: must be a class"),
        ({"label": 0.5}, "condition.label: must be"),
        ({"label": []}, "condition.label"),
        ({"vector": "1"}, "condition.vector: must be the numbers of a sample"),
        ({"vector": [[[1]]]}, "condition.vector"),
        ({"vector": 1e10}, "condition.vector"),
        ({"vector": [0] * 2000}, "condition.vector"),
        ({"text": 5}, "condition.text: must be a text of up to 4,096 characters"),
        ({"text": "a" * 5000}, "condition.text"),
        ({"image": 5}, "condition.image"),
        ({"image": []}, "condition.image must be an array of numbers"),
        ({"image": "/etc/passwd"}, "condition.image[0] must be a picture in base64"),
        ({"image": [[["a"]]]}, "condition.image must be an array of numbers"),
        ({"image": [[[7.0]]]}, "condition.image: images must be in [0, 1], got 7 to 7"),
        ({"image": [[[0.5] * 200] * 200]}, "condition.image may hold 10,000 numbers, got 40,000"),
        ({"image": [{"a": 1}]}, "condition.image must be an array of numbers"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_conditions_that_are_none(serve, given, reason):
    served = serve(model=Conditioned(), pixels=10_000)
    answer = served.post("/samples", n=2, condition=given)
    assert answer.status_code == 422
    assert reason in answer.json()["detail"]
    assert served.service.store.waiting() == 0


def test_images_are_no_conditions_of_tasks(serve):
    answer = serve(model=Conditioned()).post("/tasks/flip", x=WHITE, condition={"image": [[[0.5] * 2] * 2]})
    assert answer.status_code == 422 and "condition.image is for new samples" in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'{"n": NaN}', b'{"seed": 1e400}', b'{"\\ud800": 1}', b'{"sampler": "\\ud800"}', b"\xff",
     b'{"n": ' + b"9" * 5000 + b"}", b"[" * 100_000],
)  # fmt: skip
def test_broken_bodies(serve, body):
    answer = serve().client.post("/samples", content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    assert "detail" in answer.json()


def test_unknown_jobs_and_paths(serve):
    client = serve().client
    for path in ("/jobs/" + "0" * 32, "/jobs/" + "0" * 32 + "/samples.png", "/nothing", "/page/../app.py"):
        assert client.get(path).status_code == 404, path
    assert client.get("/jobs/..%2f..%2fjobs.db").status_code in (404, 422)
    assert client.get("/jobs?text=%00").status_code == 422


def test_a_picture_with_too_many_pixels(serve):
    file = io.BytesIO()
    Image.new("L", (2000, 2000)).save(file, "PNG")
    answer = serve(pixels=10_000).post("/tasks/flip", images=[base64.b64encode(file.getvalue()).decode()])
    assert answer.status_code == 422
    assert "may have 10,000 pixels, got 2000 x 2000" in answer.json()["detail"]


def test_a_full_queue_says_when_to_come_again(serve):
    served = serve(queue=4)
    served.service.worker.stop()
    assert served.post("/samples", wait=0, n=4).status_code == 202
    answer = served.post("/samples", wait=0, n=1)
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 60


def test_cancel_and_thumbs(serve):
    served = serve()
    done = served.post("/samples", n=1).json()["id"]
    assert served.client.put(f"/jobs/{done}/thumb", json={"thumb": 1}).json()["thumb"] == 1
    assert [job["id"] for job in served.client.get("/jobs?thumb=1").json()] == [done]
    assert served.client.get("/jobs?thumb=-1").json() == []
    served.service.worker.stop()
    waits = served.post("/samples", wait=0, n=1).json()["id"]
    assert served.client.delete(f"/jobs/{waits}").json()["state"] == "cancelled"
    assert served.client.get(f"/jobs/{waits}/samples.npz").status_code == 404


def test_events_show_every_step(serve):
    served = serve()
    served.service.worker.stop()
    job = served.post("/samples", wait=0, n=2, steps=3).json()["id"]
    served.service.worker.stopping.clear()

    def start(job_id):  # once the watcher is there
        while not served.service.broadcast.is_watched(job_id):
            pass
        served.service.worker.start()

    threading.Thread(target=start, args=(job,), daemon=True).start()
    with served.client.stream("GET", f"/jobs/{job}/events") as answer:
        lines = [line for line in answer.iter_lines() if line]
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event")]
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data")]
    steps = [part["step"] for name, part in zip(names, data, strict=True) if name == "step"]
    assert steps == [0, 1, 2, 3]
    assert all(part["picture"].startswith("data:image/png") for part in data if "step" in part)
    assert names[-1] == "end"
    assert data[-1]["state"] == "done"


def test_work_goes_on_after_a_restart(service, serve):
    """Jobs accepted by a process that was killed are done, with the same bytes, by the next one."""
    first = service()
    queued = first.accept_samples({"n": 2, "seed": 1})
    running = first.accept_samples({"n": 2, "seed": 2, "sampler": "heun"})
    first.store.claim(first.model.digest, 1)
    served = serve()
    for job, seed in ((queued, 1), (running, 2)):
        while (row := served.client.get(f"/jobs/{job}").json())["state"] != "done":
            assert row["state"] in ("queued", "running")
        again = served.post("/samples", **(row["settings"])).json()["id"]
        assert result(served, job)["x"].tobytes() == result(served, again)["x"].tobytes()
        assert row["seed"] == seed


class Broken(Tiny):
    def sampling(self, settings):
        if settings.get("steps") == 13:
            pipeline = super().sampling({})
            pipeline.sampler.step = lambda *a: 1 / 0
            return pipeline
        return super().sampling(settings)


def test_an_error_of_the_model_is_one_job_s(serve, caplog):
    served = serve(model=Broken())
    job = served.post("/samples", n=1, steps=13).json()
    assert job["state"] == "failed"
    assert "failed on the server (ZeroDivisionError)" in job["error"]
    assert served.post("/samples", n=1).json()["state"] == "done"
    assert served.client.get("/ready").status_code == 200


def test_a_job_that_takes_too_long_is_stopped(serve):
    served = serve(seconds=0.1, steps=3000)
    job = served.post("/samples", n=1, steps=3000).json()
    assert job["state"] == "expired"
    assert "deadline" in job["error"]


def test_metrics_count(serve):
    served = serve()
    served.post("/samples", n=3)
    served.post("/samples", n=0)
    text = served.client.get("/metrics").text
    assert 'diffusion_jobs_total{kind="samples",state="done"} 1.0' in text
    assert "diffusion_samples_total 3.0" in text
    assert "diffusion_samples_nonfinite_total 0.0" in text
    assert 'diffusion_requests_total{method="POST",route="/samples",status="422"} 1.0' in text
    assert 'diffusion_weights_info{digest="0123456789abcdef"} 1.0' in text


def test_health(serve):
    served = serve()
    assert served.client.get("/health").json() == {"status": "ok"}
    assert served.client.get("/ready").json() == {"status": "ready"}
    served.service.worker.stop()
    assert served.client.get("/health").status_code == 200
    assert served.client.get("/ready").status_code == 503


def test_what_cannot_be_recorded_is_done_later(service, monkeypatch):
    """A full disk, say; the job waits until there is room."""
    served = service()
    job = served.accept_samples({"n": 1, "seed": 1})
    with monkeypatch.context() as patch:
        patch.setattr(served.results, "write", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            served.worker.do_or_return(served.store.claim(served.model.digest, 4))
    assert served.store.find(job).state == QUEUED
    served.worker.do_or_return(served.store.claim(served.model.digest, 4))
    assert served.store.find(job).state == "done"


def test_results_are_kept_as_long_as_said(service):
    served = service()
    job = served.accept_samples({"n": 1, "seed": 1})
    served.worker.do(served.store.claim(served.model.digest, 4))
    name = served.store.find(job).result
    for left in ("left_over.npz", f".{job}.123.npz"):
        (served.results.folder / left).write_bytes(b"half")
    served.worker.retention.keep(served.store, served.results)
    assert len(served.results.names()) == 3, "one may be about to be written"
    served.worker.retention.tidy(served.store, served.results)
    assert served.results.names() == {name}
    served.worker.retention.gigabytes, served.worker.retention.looked = 1e-9, -1e9
    served.worker.retention.keep(served.store, served.results)
    assert served.results.names() == set()
    assert served.store.find(job) is None


def test_the_shape_of_the_schema(serve):
    schema = serve(n=8).client.get("/openapi.json").json()
    request = schema["components"]["schemas"]["SampleRequest"]["properties"]
    assert request["n"]["maximum"] == 8
    assert request["sampler"]["anyOf"][0]["enum"] == ["ddim", "heun"]


def test_no_path_of_a_request_is_a_file_of_the_service(service):
    """The only names of files come from the database."""
    served = service()
    job = served.accept_samples({"n": 1})
    assert served.store.find(job).state == QUEUED
    assert served.results.names() == set()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Bearer secret"}, 200),
        ({"authorization": "Bearer secret", "host": "evil.example"}, 421),
        ({"authorization": "Bearer secret", "host": "testserver:8000"}, 200),
    ],
)
def test_access(serve, headers, status):
    client = serve(access=Access("secret", ("testserver",))).client
    answer = client.get("/run", headers=headers)
    assert answer.status_code == status
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_what_needs_no_token(serve):
    client = serve(access=Access("secret", ("testserver",))).client
    assert client.get("/health").status_code == client.get("/ready").status_code == 200
    assert client.get("/metrics").status_code == client.get("/jobs").status_code == 401


def test_pages_of_other_sites_change_nothing(serve):
    client = serve().client
    crossing = {"sec-fetch-site": "cross-site"}
    assert client.post("/samples", json={}, headers=crossing).status_code == 403
    assert client.get("/run", headers=crossing).status_code == 200
    assert client.post("/samples", content=b"{}", headers={"content-type": "text/plain"}).status_code == 422


def test_too_large_bodies(serve):
    client = serve(body=1000).client
    assert client.post("/samples", json={"x": "a" * 2000}).status_code == 413

    def chunks():
        for _ in range(10):
            yield b"a" * 500

    assert client.post("/samples", content=chunks(), headers={"content-type": "application/json"}).status_code == 413
