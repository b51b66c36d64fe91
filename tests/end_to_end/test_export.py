"""A run is exported, loaded elsewhere, and never in place of something else."""

import json
import shutil
import subprocess
import sys
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest
import torch
import yaml

from src.api import load
from src.samplers import Pipeline
from src.utils.errors import UserError
from src.utils.model_folder import sha256_of

QUICK = [
    "experiment=digits_ddpm", "trainer=cpu", "debug=two_steps", "net.width=8", "condition=labels", "guidance=cfg",
    "sampler=ddim", "sampler.steps=3", "logger=csv", "callbacks.sample_images=null", "optimizer.lr=0.1",
]  # fmt: skip
# What a process must do without that only loads a model.
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pytorch_lightning", "lightning_fabric", "hydra", "omegaconf", "torchmetrics"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Blocked())
import torch
from src.samplers import Pipeline
torch.save(Pipeline.load(sys.argv[1]).sample(4), sys.argv[2])
"""


@pytest.fixture(scope="module")
def run(make_run, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("export") / "run", *QUICK)


@pytest.fixture(scope="module")
def folder(run, make_export):
    return make_export(run, "n=4")


@pytest.fixture(scope="module")
def make_export(tmp_path_factory):
    """`make_export(run, *words)` exports a run to a new folder."""

    def export(run: Path, *words: str) -> Path:
        from src.commands.main import run_command
        from src.commands.overrides import sampling_overrides
        from src.export import export as task

        out = tmp_path_factory.mktemp("exported") / "folder"
        before, sys.argv = sys.argv, ["src/export.py", f"run={run}", f"out={out}", *words]
        try:
            run_command(task, "export", sampling_overrides)
        except SystemExit as exit:
            assert not exit.code, words
        finally:
            sys.argv = before
        return out

    return export


def test_a_folder_is_loaded_without_lightning_and_hydra(run, folder, tmp_path):
    """In a process that cannot import them, and draws the same samples."""
    words = [sys.executable, "-c", BLOCKED, str(folder), str(tmp_path / "x.pt")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "x.pt"), load(run, "precision=32").sample(4))


def test_the_record(run, folder):
    record = json.loads((folder / "export.json").read_text())
    made = record["made_from"]
    assert made["checkpoint_sha256"] == sha256_of(run / "checkpoints" / made["checkpoint"]) and made["step"] == 2
    assert made["config_sha256"] == sha256_of(run / "config.yaml")
    assert {name: sha256_of(folder / name) for name in record["files"]} == record["files"]
    assert set(record["files"]) == {path.name for path in folder.iterdir()} - {"export.json"}
    assert record["largest_difference"]["predictions"] == 0 and record["largest_difference"]["samples"] < 1e-5


def test_the_model_card(run, folder, make_export, command):
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["pipeline_tag"] == "unconditional-image-generation" and "Not evaluated" in text
    assert command("evaluate", f"run={run}", "n=50", "metrics=[denoising,sampling_cost]").code == 0
    _, front, text = (make_export(run, "n=1") / "README.md").read_text().split("---\n", 2)
    metrics = yaml.safe_load(front)["model-index"][0]["results"][0]["metrics"]
    (file,) = run.glob("evaluations/*/metrics.json")
    values = json.loads(file.read_text())["metrics"]
    assert {metric["type"]: metric["value"] for metric in metrics} == {k: v["value"] for k, v in values.items()}
    value = values["mse_test"]
    assert f"{value['low']:.3g} to {value['high']:.3g}" in text and "Of 50 samples drawn by DDIM" in text


def test_an_existing_folder_is_kept(run, folder, command, tmp_path):
    folder = shutil.copytree(folder, tmp_path / "exported/folder")  # it is written anew with another seed
    before = {path: path.read_bytes() for path in folder.iterdir()}
    words = [f"run={run}", f"out={folder}", "n=1"]
    assert "overwrite=true" in command("export", *words).error
    (folder / "notes.txt").write_text("mine")
    done = command("export", *words, "overwrite=true")
    assert done.code == 1 and "notes.txt was not written by an export" in done.error
    (folder / "notes.txt").unlink()
    card = folder / "README.md"
    card.write_text("better")
    assert "README.md was changed since" in command("export", *words, "overwrite=true").error
    card.write_bytes(before[card])
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    done = command("export", *words, "overwrite=true", "seed=5")
    assert done.code == 0 and "largest difference" in done.out
    assert (folder / "config.json").read_bytes() != before[folder / "config.json"]
    assert Pipeline.load(str(folder)).seed == 5 and not list(folder.parent.glob(".*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "run=RUN must be given"),
        (["run=nowhere"], "no run folder nowhere"),
        (["run={run}", "format=safetensor"], "Choices: "),
        (["run={run}", "format.tolerance=0", "format.tolerance=-1"], "format.tolerance must be"),
        (["run={run}", "push=digits"], "push must be NAMESPACE/NAME"),
        (["run={run}", "push=a/b c"], "no name of a repository"),
        (["run={run}", "out={run}"], "exists; add overwrite=true"),
        (["run={run}", "out={run}", "overwrite=true"], "was not written by an export"),
    ],
)
def test_mistakes(run, command, words, said):
    done = command("export", *(word.format(run=run) for word in words))
    assert done.code == 1 and said in done.error and done.error.count("\n") == 1 and not done.out


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: (folder / "config.json").write_text("{}"), "must be one that python -m src.export"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "model.bin"), "a pickle, which is never loaded"),
        (lambda folder: torch.save({}, folder / "model.safetensors"), "cannot be read"),
        (lambda folder: truncate(folder / "model.safetensors"), "cannot be read"),
        (lambda folder: foreign(folder / "config.json"), "trust=True"),
        (lambda folder: foreign(folder / "config.json", "src.nets.mlp.MLP"), "channels"),
    ],
)
def test_a_damaged_folder(folder, tmp_path, break_it, said):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    break_it(copy)
    with pytest.raises(UserError, match=said):
        Pipeline.load(str(copy))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def foreign(file: Path, target: str = "os.system") -> None:
    config = json.loads(file.read_text())
    config["net"] = {"_target_": target, "command": "touch /tmp/owned"}
    file.write_text(json.dumps(config))


class Hub(BaseHTTPRequestHandler):
    """A stand-in for the hub, which keeps what is committed."""

    files: ClassVar[dict[str, bytes]] = {}
    refuses = False

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        host = f"http://{self.headers['Host']}"
        if self.refuses:
            return self.answer({"error": "no"}, 403)
        if self.path == "/api/repos/create":
            return self.answer({"url": f"{host}/me/{json.loads(body)['name']}"})
        if "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        if "/commit/" in self.path:
            for entry in map(json.loads, body.splitlines()):
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = b64decode(entry["value"]["content"])
            return self.answer({"commitUrl": f"{host}/me/digits/commit/1", "commitOid": "1", "hookOutput": ""})
        return self.answer({"errors": [], "warnings": []})

    def do_GET(self):
        self.answer({"id": "me/digits", "sha": "1", "siblings": []})

    def answer(self, content, status=200):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = HTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_xxx")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setattr(Hub, "files", {})
    yield Hub
    server.shutdown()
    server.server_close()


def test_upload(run, hub, command, tmp_path, monkeypatch):
    """What arrives is the folder; without a token nothing is begun; a refusal keeps the folder."""
    words = [f"run={run}", f"out={tmp_path / 'out'}", "n=1", "push=me/digits"]
    done = command("export", *words)
    assert done.code == 0 and "/me/digits" in done.out, done.error
    assert hub.files == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(hub, "refuses", True)
    done = command("export", *words, "overwrite=true")
    assert done.code == 1 and "push=me/digits: the upload failed" in done.error
    assert (tmp_path / "out/export.json").exists()
