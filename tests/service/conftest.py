"""A service of a model so small that a request takes milliseconds."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from starlette.testclient import TestClient

from src.diffusion.beta_schedules import CosineSchedule
from src.diffusion.denoiser import Denoiser
from src.diffusion.parameterizations import V
from src.nets.mlp import MLP
from src.samplers import DDIM, Heun
from src.samplers.pipeline import Pipeline
from src.service.app import create_app
from src.service.broadcast import Broadcast
from src.service.metrics import Metrics
from src.service.model import Restored
from src.service.models import Models
from src.service.results import Results, Retention
from src.service.service import Service
from src.service.settings import Access, Limits
from src.service.store import Store
from src.service.worker import Worker
from src.utils.errors import UserError

SHAPE, BATCH = (1, 4, 4), 4


def make_pipeline(steps=3) -> Pipeline:
    torch.manual_seed(1)
    net = MLP(SHAPE[0], SHAPE[1:], width=8, depth=1)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    denoiser = Denoiser(net.eval(), CosineSchedule(), V()).requires_grad_(False)
    return Pipeline(denoiser, DDIM(denoiser.schedule, steps=steps), SHAPE, batch_size=BATCH)


class Tiny:
    """A model with two samplers, and a task that turns pictures upside down."""

    digest, samplers, solvers = "0123456789abcdef", ["ddim", "heun"], ["ddnm"]
    tasks: ClassVar = {"flip": {"times": 1}}
    conditions: ClassVar = {}
    card: ClassVar = {"name": "tiny", "kind": "images", "shape": list(SHAPE), "classes": [], "steps": 3,
                      "guided": False, "parameters": 1234, "run": "RUN", "weights": "best", "digest": "0",
                      "device": "cpu", "trained": {"steps": 2}, "parts": {"net": "MLP"}}  # fmt: skip

    def __init__(self):
        self.pipeline, self.calls = make_pipeline(), 0

    def sampling(self, settings):
        made = Heun if settings.get("sampler") == "heun" else DDIM
        return replace(self.pipeline, sampler=made(self.pipeline.sampler.schedule, steps=settings.get("steps", 3)))

    def condition(self, settings, n, every=True, images=None):
        if settings.get("condition"):
            raise UserError("label=3 needs a run trained with condition=labels; leave label= out")

    def check_task(self, name, settings, given):
        if given.x.shape[1:] != SHAPE:
            raise UserError("input must have the shape 1 x 4 x 4")

    def do_task(self, name, settings, given, on_step):
        self.pipeline.denoiser.net(torch.zeros(1, *SHAPE), torch.zeros(1))
        return Restored(given.x[:, :, ::-1].copy(), given.x, {"turned": "once"})

    def curves(self):
        return {"train/loss": [[1, 0.5], [2, 0.25]]}

    def command(self, kind, settings):
        return "python -m src.sample"


class Conditioned(Tiny):
    """A model with conditions of every kind, which it only notes."""

    conditions: ClassVar = {
        "label": {"kind": "class", "names": ["cat", "dog"]},
        "vector": {"kind": "numbers", "names": ["mass", "age"]},
        "text": {"kind": "text", "bytes": 20},
        "image": {"kind": "image", "shape": [1, 2, 2]},
    }

    def __init__(self):
        super().__init__()
        self.asked = []

    def condition(self, settings, n, every=True, images=None):
        self.asked.append((settings.get("condition"), dict(images or {})))

    def read_image(self, name, read):
        return read((1, 2, 2), True)


@dataclass
class Served:
    """A service and a client that asks it."""

    service: Service
    client: TestClient

    def post(self, path, wait=60, **asked):
        return self.client.post(f"{path}?wait={wait}", json=asked)


def make_service(folder: Path, model=None, access=None, url=None, **limits) -> Service:
    models = model if isinstance(model, Models) else Models(model or Tiny())
    results, store = Results(folder / "results"), Store(url or f"sqlite:///{folder}/jobs.db")
    broadcast, metrics = Broadcast(), Metrics(models.current.digest)
    worker = Worker(models, store, results, broadcast, metrics, Retention(), BATCH)
    access = access or Access(hosts=("testserver",))
    return Service(models, store, results, broadcast, metrics, worker, Limits(**limits), access)


@pytest.fixture
def serve(tmp_path):
    """Make services, which are stopped at the end."""
    opened = []

    def start(**settings) -> Served:
        service = make_service(tmp_path, **settings)
        client = TestClient(create_app(service), raise_server_exceptions=False)
        opened.append(client)
        client.__enter__()
        return Served(service, client)

    yield start
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def service(tmp_path):
    """Make services without a worker, which a test moves by hand."""
    return partial(make_service, tmp_path)
