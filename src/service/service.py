"""What the routes work with."""

import json
import secrets
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from src.service.broadcast import Broadcast
from src.service.conditions import reader, split_images
from src.service.metrics import Metrics
from src.service.model import SAMPLES, GivenArrays, ServiceModel
from src.service.models import Models
from src.service.results import Results, pack
from src.service.settings import Access, Limits
from src.service.store import DONE, Store
from src.service.uploads import batch, decode_pictures, mask_of
from src.service.worker import Worker
from src.utils.errors import UserError


@dataclass
class Service:
    """Models with their database, their worker and their limits."""

    models: Models
    store: Store
    results: Results
    broadcast: Broadcast
    metrics: Metrics
    worker: Worker
    limits: Limits
    access: Access

    @property
    def model(self) -> ServiceModel:
        """The model of new requests."""
        return self.models.current

    # ---- accepting ----

    def accept_samples(self, asked: dict[str, Any]) -> str:
        """Check a request for samples, and keep it; returns the id of its job.

        Raises:
            UserError: if the model cannot do it.
            QueueFull: if too much waits.
        """
        model = self.model  # the same for all steps, since it may be replaced in between
        given, images = split_images(asked.pop("condition", None) or {}, model.conditions)
        settings, seed = self.completed(model, asked | {"condition": given or None})
        most = self.limits.pixels
        read = {name: model.read_image(name, reader(value, name, most)) for name, value in images.items()}
        model.condition(settings, settings["n"], images=read)
        if read:  # they are kept as the input of the job, and named in its settings
            settings["images"] = sorted(read)
        return self.keep(model, SAMPLES, settings, settings["n"], seed, pack(**read) if read else None)

    def accept_task(self, name: str, asked: dict[str, Any]) -> str:
        """Check a request for a task, and keep it with its input; returns the id of its job.

        Raises:
            UserError: if the model cannot do it.
            QueueFull: if too much waits.
        """
        given = self.read_input({key: asked.pop(key, None) for key in ("images", "x", "samples", "mask")})
        model = self.model
        condition, images = split_images(asked.pop("condition", None) or {}, model.conditions)
        if images:
            raise UserError(f"condition.{next(iter(images))} is for new samples; leave it out of a task")
        settings, seed = self.completed(model, asked | {"condition": condition or None})
        if unknown := set(settings.get("settings", {})) - set(model.tasks[name]):
            known = ", ".join(model.tasks[name]) or "none"
            raise UserError(f"settings: the task {name} has {known}, got {sorted(unknown)[0]!a}")
        if len(given.x) > self.limits.n:
            raise UserError(f"a task may have {self.limits.n} samples, got {len(given.x)}")
        model.check_task(name, settings, given)
        return self.keep(model, name, settings, len(given.x), seed, pack(x=given.x, mask=given.mask))

    def completed(self, model: ServiceModel, asked: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """The settings of a request without what it left open, and its seed, drawn if it names none."""
        settings = {key: value for key, value in asked.items() if value is not None}
        settings.setdefault("seed", secrets.randbelow(2**31))
        steps = len(model.sampling(settings).sampler.times()) - 1
        if steps > self.limits.steps:
            raise UserError(f"steps must be <= {self.limits.steps}, got {steps}")
        return settings, settings["seed"]

    def keep(
        self, model: ServiceModel, kind: str, settings: dict[str, Any], n: int, seed: int, data: bytes | None
    ) -> str:
        """Write a checked request to the database, and wake the worker."""
        alike = {key: settings.get(key) for key in ("sampler", "steps", "guidance")}
        alike |= {"kind": kind} if kind == SAMPLES else {"alone": secrets.token_hex(8)}
        key = blake2b(json.dumps(alike, sort_keys=True).encode(), digest_size=16).hexdigest()
        job = self.store.accept(
            kind, settings, key, n, seed, model.digest, self.limits.seconds, data, self.limits.queue
        )
        self.worker.wake.set()
        return job

    def read_input(self, given: dict[str, Any]) -> GivenArrays:
        """The arrays of a request.

        Raises:
            UserError: if there is not exactly one input, or it cannot be read.
        """
        shape, pixels = self.model.pipeline.shape, self.limits.pixels
        images = self.model.pipeline.kind == "images"
        named = [key for key in ("images", "x", "samples") if given[key] is not None]
        if len(named) != 1:
            raise UserError("exactly one of images, x and samples must be given")
        if given["images"] is not None:
            x = decode_pictures(given["images"], shape[0] if images else None, pixels)
        elif given["x"] is not None:
            x = batch(given["x"], shape, images, pixels)
        else:
            x = np.stack([self.sample(one["job"], one["index"]) for one in given["samples"]])
        return GivenArrays(x, None if given["mask"] is None else mask_of(given["mask"], pixels))

    def sample(self, job: str, index: int) -> np.ndarray:
        """A sample (C, *S) of a job that is done.

        Raises:
            UserError: if there is none.
        """
        row = self.store.find(job)
        if row is None or row.state != DONE:
            raise UserError(f"samples: there is no job {job} that is done")
        x = self.results.read(row.result)["x"]
        if index >= len(x):
            raise UserError(f"samples: job {job} has {len(x)} samples, got index {index}")
        return x[index]

    # ---- answering ----

    def described(self, row: Any) -> dict[str, Any]:
        """A job as the answer to a request."""
        settings = json.loads(row.settings)
        return {
            "id": row.id, "number": row.number, "kind": row.kind, "state": row.state, "settings": settings, "n": row.n,
            "seed": row.seed, "digest": row.digest, "created": row.created, "finished": row.finished,
            "seconds": None if row.finished is None else row.finished - row.created, "error": row.error,
            "info": json.loads(row.info or "{}"), "thumb": row.thumb,
            "command": self.models.command(row.digest, row.kind, settings),
        }  # fmt: skip
