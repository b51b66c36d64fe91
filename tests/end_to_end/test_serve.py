"""The service of a trained run: the bytes of src.sample, and mistakes on its command line."""

import base64
import io
import json
import shlex
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from src.commands.champions import Champions
from src.commands.ray_serving import scaling
from src.commands.retrain.command import digest_of
from src.commands.served_model import ServedModel
from src.runs.registry import FIRST, PROMOTED, Registry, Version
from src.runs.run import Run
from src.service.app import create_app
from src.service.models import Models
from tests.service.conftest import make_service


@pytest.fixture(scope="module")
def served(make_run, tmp_path_factory, tiny):
    """A run with labels, and a client of its service."""
    folder = tmp_path_factory.mktemp("serve")
    words = ["experiment=digits_ddpm", "condition=labels", *tiny, f"paths.outputs={folder}"]
    run = make_run(folder / "run", *words, "sampler=ddim")
    model = ServedModel([f"run={run}", "batch_size=4", "sampler.steps=3"])
    with TestClient(create_app(make_service(folder, model))) as client:
        yield client


def answer(client, path, **asked):
    found = client.post(f"{path}?wait=60", json=asked)
    assert found.status_code == 200, found.text
    assert found.json()["state"] == "done", found.text
    return found.json()


def arrays(client, job):
    return dict(np.load(io.BytesIO(client.get(f"/jobs/{job['id']}/samples.npz").content)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [
        {"n": 2},
        {"n": 6},
        {"n": 3, "sampler": "heun", "steps": 2},
        {"n": 3, "sampler": "ddpm", "steps": 4},
        {"n": 3, "guidance": 2.0, "condition": {"label": [3, 1]}},
    ],
    ids=str,
)
def test_the_command_of_an_answer_gives_the_same_bytes(served, command, tmp_path, asked):
    job = answer(served, "/samples", seed=5, **asked)
    words = shlex.split(job["command"])
    assert words[:3] == ["python", "-m", "src.sample"]
    done = command("sample", *words[3:], f"out={tmp_path}")
    assert done.code == 0, done.error
    ours, theirs = arrays(served, job), np.load(tmp_path / "samples.npz")
    for name in ("x", "label", "nfe"):
        assert ours[name].tobytes() == theirs[name].tobytes(), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("denoise", {"noise_std": 0.2, "sample": True}),
        ("sdedit", {}),
        ("deblur", {"blur_std": 1.0}),
        ("interpolate", {"steps": 4}),
    ],
    ids=str,
)
def test_so_does_that_of_a_task(served, command, tmp_path, task, settings):
    drawn = answer(served, "/samples", n=6, seed=1)
    np.savez(tmp_path / "given.npz", x=arrays(served, drawn)["x"])
    given = [{"job": drawn["id"], "index": i} for i in range(6)]
    job = answer(served, f"/tasks/{task}", samples=given, settings=settings, seed=2, condition={"label": 3})
    words = [word.replace("input=FILE", f"input={tmp_path}/given.npz") for word in shlex.split(job["command"])[3:]]
    done = command("sample", *words, f"out={tmp_path}/out")
    assert done.code == 0, done.error
    assert arrays(served, job)["x"].tobytes() == np.load(tmp_path / "out/samples.npz")["x"].tobytes()


@pytest.mark.slow
def test_what_a_run_cannot_do_is_refused_at_once(served):
    for path, asked, reason in [
        ("/samples", {"condition": {"label": 10}}, "label must be one of 0 to 9"),
        ("/samples", {"sampler": "pndm", "steps": 0}, "steps"),
        ("/tasks/colorize", {"x": [[[0.0] * 8] * 8]}, "task.weights must be one for each of 1 channels"),
        ("/tasks/super_resolution", {"x": [[[0.0] * 3] * 3]}, "must have the shape 1 x 2 x 2"),
        ("/tasks/interpolate", {"x": [[[0.0] * 8] * 8]}, "pairs of samples, got 1"),
        ("/tasks/denoise", {"x": [[[0.0] * 8] * 8], "settings": {"noise_std": -1}}, "noise_std"),
        ("/tasks/inpaint", {"x": [[[0.0] * 8] * 8], "mask": [[1.0]]}, "mask must have the shape 8 x 8, as the samples"),
        ("/tasks/denoise", {"x": [[[0.0] * 8] * 8], "mask": [[1.0]]}, "the task denoise takes none"),
    ]:  # fmt: skip
        found = served.post(path, json=asked)
        assert found.status_code == 422, (path, found.text)
        assert reason in found.json()["detail"], found.json()


@pytest.mark.slow
def test_the_card_and_the_curves(served):
    run = served.get("/run").json()
    assert (run["kind"], run["shape"], run["classes"]) == ("images", [1, 8, 8], [*map(str, range(10))])
    assert run["guided"]
    assert {"denoise", "inpaint", "interpolate"} <= set(run["tasks"])
    assert not {"generate", "augment"} & set(run["tasks"])
    assert "heun" in run["samplers"]
    assert any(name.startswith("train/loss") for name in served.get("/run/curves").json())


@pytest.mark.slow
def test_the_champion_of_a_registry(make_run, tmp_path, tiny, capsys):
    """Each version is loaded by its digest; one whose weights were changed is not, which is said once."""
    words = ["experiment=digits_ddpm", *tiny, f"paths.outputs={tmp_path}"]
    folders = [make_run(tmp_path / f"run_{seed}", *words, f"seed={seed}") for seed in (1, 2)]
    registry, digests = Registry(tmp_path, "digits"), [digest_of(Run(folder)) for folder in folders]
    for i, event in enumerate([FIRST, PROMOTED]):
        before = digests[i - 1] if i else None
        registry.add(event, Version(digests[i], registry.place_of(folders[i]), before), before)
    champions = Champions(registry, lambda run: ServedModel([f"run={run}", "batch_size=4"]))
    models = Models(champions.champion(), champions)
    assert models.current.digest == digests[1] and models.update() is None
    registry.rollback()
    assert models.update() is models.current and models.current.digest == digests[0]
    assert f"run={folders[0]}" in models.command(digests[0], "samples", {"seed": 1, "n": 1})
    assert champions.earlier("0" * 16) is None and champions.earlier(digests[1]).digest == digests[1]
    checkpoint = folders[1] / "checkpoints/best.ckpt"
    (folders[0] / "checkpoints/best.ckpt").replace(checkpoint)
    registry.rollback(digests[1])
    assert models.update() is None and models.update() is None and models.current.digest == digests[0]
    assert "".join(capsys.readouterr()).count("no longer those of the champion") == 1


@pytest.fixture(scope="module")
def conditional(make_run, tmp_path_factory, tiny):
    """The client of a run with labels, a vector, texts and images of low resolution, and its folder."""
    folder, rng = tmp_path_factory.mktemp("conditional"), np.random.default_rng(0)
    label = np.arange(40) % 3
    np.savez(
        folder / "data.npz", x=rng.random((40, 1, 8, 8)), label=np.array(["cat", "dog", "fox"])[label],
        vector=rng.normal(size=(40, 2)), text=np.array(["a cat", "a dog", "the quick brown fox"])[label],
    )  # fmt: skip
    words = ["experiment=digits_ddpm", "data=array", f"data.root={folder}/data.npz", "data.kind=images",
             "data.vector=vector", "data.text=text", "data.batch_size=16",
             "condition=[labels,vector,text,low_resolution]"]  # fmt: skip
    run = make_run(folder / "run", *words, *tiny, f"paths.outputs={folder}", "sampler=ddim")
    model = ServedModel([f"run={run}", "batch_size=4", "sampler.steps=2"])
    with TestClient(create_app(make_service(folder, model))) as client:
        yield client, folder


def as_url(x):
    file = io.BytesIO()
    Image.fromarray(x).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [
        {"label": ["fox", 0], "text": ["a dog", "it's ${oc.env:HOME}"]},
        {"vector": [0.1, -2]},
        {"vector": [[0.1, -2], [3, 4.5]], "label": 2},
        {"image": "small"},
        {"image": "large", "text": "a cat"},
        {"image": "array"},
        {},
    ],
    ids=str,
)
def test_conditions_of_every_kind(conditional, command, asked):
    """They give the bytes of src.sample; an image may be the condition or the whole sample, a picture or an array."""
    client, folder = conditional
    pictures = np.random.default_rng(1).integers(0, 256, (8, 8), np.uint8)
    files = {"small": pictures[:2, :2], "large": pictures}
    sent = dict(asked)
    if "image" in asked:
        x = files.get(asked["image"], pictures)
        sent["image"] = (x[None] / 255).tolist() if asked["image"] == "array" else as_url(x)
        np.save(folder / "given.npy", x[None] / 255)
        Image.fromarray(x).save(folder / "given.png")
    job = answer(client, "/samples", n=3, seed=4, condition=sent or None)
    assert "data:image" not in str(job)
    file = f"{folder}/given.{'npy' if asked.get('image') == 'array' else 'png'}"
    words = [
        word.replace("condition.image=FILE", f"condition.image={file}") for word in shlex.split(job["command"])[3:]
    ]
    done = command("sample", *words, f"out={folder}/drawn")
    assert done.code == 0, done.error
    ours, theirs = arrays(client, job), np.load(folder / "drawn" / "samples.npz")
    for name in ("x", "label", "vector", "text", "image"):
        assert ours[name].tobytes() == theirs[name].tobytes(), name


@pytest.mark.slow
def test_conditions_of_a_task(conditional, command):
    client, folder = conditional
    x = np.random.default_rng(2).random((2, 1, 8, 8)).astype(np.float32)
    np.save(folder / "x.npy", x)
    asked = {"text": "a dog", "vector": [1, 2]}
    job = answer(client, "/tasks/denoise", x=x.tolist(), condition=asked, seed=1, settings={"sample": True})
    words = [word.replace("input=FILE", f"input={folder}/x.npy") for word in shlex.split(job["command"])[3:]]
    done = command("sample", *words, f"out={folder}/denoised")
    assert done.code == 0, done.error
    assert arrays(client, job)["x"].tobytes() == np.load(folder / "denoised" / "samples.npz")["x"].tobytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ({"label": 3}, "must be one of 0 to 2, got 3"),
        ({"label": "wolf"}, "label=wolf is no class of this run; did you mean fox? The classes: cat, dog, fox"),
        ({"angle": 3}, "condition.angle: Extra inputs are not permitted"),
        ({"vector": 3}, "condition.vector must be numbers of shape (2,), or several of them, got 3"),
        ({"vector": [[1, 2], [3]]}, "condition.vector must be numbers of shape (2,)"),
        ({"vector": [1, "a"]}, "condition.vector"),
        ({"text": "x" * 100}, "condition.text must have at most 19 bytes, got 100"),
        ({"text": []}, "condition.text"),
        ({"text": 3}, "condition.text"),
        ({"image": "/etc/passwd"}, "condition.image[0] must be a picture in base64"),
        ({"image": [[[1, 2], [3]]]}, "condition.image must be an array: nested lists of equal lengths"),
        ({"image": [[[9.0] * 8] * 8]}, "condition.image: images must be in [0, 1], got 9 to 9"),
        ({"image": [[[0.5] * 3] * 3]}, "condition.image must be numbers of shape (1, 2, 2)"),
        ({"image": []}, "condition.image must be an array of numbers"),
        ({"image": "${oc.env:HOME}"}, "condition.image[0] must be a picture in base64"),
    ],
    ids=str,
)
def test_conditions_that_are_refused(conditional, condition, reason):
    found = conditional[0].post("/samples", json={"n": 2, "condition": condition})
    assert found.status_code == 422, found.text
    assert reason in found.json()["detail"]


@pytest.mark.slow
def test_conditions_that_a_form_needs(conditional):
    client, _ = conditional
    assert client.get("/run").json()["conditions"] == {
        "label": {"kind": "class", "names": ["cat", "dog", "fox"]},
        "vector": {"kind": "numbers", "names": ["vector[0]", "vector[1]"]},
        "text": {"kind": "text", "bytes": 19},
        "image": {"kind": "image", "shape": [1, 2, 2], "sample": [1, 8, 8]},
    }
    small = {"x": [[[0.5] * 8] * 8], "condition": {"image": [[[0.5] * 2] * 2]}}
    found = client.post("/tasks/denoise", json=small)
    assert found.status_code == 422 and "condition.image is for new samples" in found.json()["detail"]
    schema = client.get("/openapi.json").json()["components"]["schemas"]["GivenCondition"]
    assert set(schema["properties"]) == {"label", "vector", "text", "image"}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "run=RUN must be given"),
        (["run=champion", "ckpt=last"], "is served with ckpt=best weights=ema"),
        (["run=nowhere"], "there is no run folder nowhere"),
        (["run=x", "port=99999"], "port must be"),
        (["run=x", "limits.n=0"], "limits.n must be"),
        (["run=x", "replicas=2"], "replicas=2 needs engine=ray"),
        (["run=x", "engine=gunicorn"], "engine must be"),
        (["run=x", "limits.m=1"], "limits.m: there is no such option. limits has: n, steps"),
        (["run=x", "host=300.1.1.1"], "cannot be listened on"),
        (["run=x", "database=mysql"], "there is no run folder x"),
    ],
    ids=str,
)
def test_mistakes(command, tmp_path, monkeypatch, words, reason):
    monkeypatch.chdir(tmp_path)
    done = command("serve", *words)
    assert done.code == 1
    assert done.error.count("\n") == 1
    assert reason in done.error, done.error


def test_a_port_in_use(command):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = command("serve", "run=x", f"port={taken.getsockname()[1]}")
    assert "cannot be listened on (Address already in use); choose another port" in done.error


def test_replicas_need_ray(command, monkeypatch):
    monkeypatch.setattr("src.utils.imports.find_spec", lambda name: None)
    done = command("serve", "run=x", "engine=ray", "replicas=[1,2]")
    assert done.code == 1 and "ray is needed for engine=ray; install it: pip install ray" in done.error


def test_the_number_of_replicas():
    """Fixed, or between two."""
    assert scaling(3) == {"num_replicas": 3}
    found = scaling([1, 4])["autoscaling_config"]
    assert (found["min_replicas"], found["max_replicas"]) == (1, 4)


@pytest.mark.slow
def test_replicas_share_the_queue(make_run, tiny, tmp_path):
    """Two processes behind one port, with one database: every job once, by one of them; needs ray[serve]."""
    pytest.importorskip("ray.serve")
    run = make_run(tmp_path / "run", "experiment=digits_ddpm", *tiny, f"paths.outputs={tmp_path}", "sampler=ddim")
    port, log = free_port(), tmp_path / "log"
    line = [sys.executable, "-m", "src.serve", f"run={run}", f"paths.outputs={tmp_path}", f"port={port}"]
    with log.open("w") as file:
        process = subprocess.Popen([*line, "engine=ray", "replicas=2"], stdout=file, stderr=file)
    try:
        until = time.monotonic() + 240
        while "2 replicas\n" not in log.read_text() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.5)
        assert "2 replicas\n" in log.read_text(), log.read_text()
        url = f"http://127.0.0.1:{port}/samples?wait=60"
        with ThreadPoolExecutor(8) as pool:
            answers = [*pool.map(lambda seed: ask(url, n=1, seed=seed, sampler="ddim", steps=2), range(40))]
    finally:
        process.terminate()
        assert process.wait(60) == 0
    assert {answer["state"] for answer in answers} == {"done"}
    with sqlite3.connect(tmp_path / "service/jobs.db") as db:
        owners = db.execute("select owner, count(*), max(attempts) from jobs group by owner").fetchall()
    assert len(owners) == 2 and sum(n for _, n, _ in owners) == 40 and {most for *_, most in owners} == {1}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(url, **asked):
    request = urllib.request.Request(url, json.dumps(asked).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=90) as answer:
        return json.load(answer)


def test_without_the_extra(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "src.commands.serving", raising=False)
    done = command("serve", "run=x")
    assert done.code == 1
    assert "pip install 'diffusion-lab[serve]'" in done.error
