"""The thread that owns the device: takes jobs from the database, computes them, and records their results."""

import json
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from src.diffusion.conditions import Cond, cat_cond, rows_of
from src.samplers.base import State
from src.samplers.pipeline import Pipeline
from src.service.batching import draw_together
from src.service.broadcast import Broadcast
from src.service.metrics import Metrics
from src.service.model import SAMPLES, GivenArrays, ServiceModel
from src.service.models import Models
from src.service.pictures import shown
from src.service.results import Results, Retention, unpack
from src.service.store import CANCELLED, DONE, EXPIRED, FAILED, Store
from src.utils.console import log
from src.utils.errors import UserError

IDLE = 0.5  # seconds between looks into the database, for jobs that another process accepted
PULSE = 2.0  # seconds between signs of life
Outcome = dict[str, Any] | str  # the arrays of a result, or an error


class Stopped(Exception):
    """Nobody waits any longer for what is being computed."""


class Worker:
    """Computes jobs, those with equal settings together.

    Args:
        models: what computes them.
        store: where they are.
        results: where their results go.
        broadcast: who watches them.
        metrics: what is counted.
        retention: what is kept.
        batch_size: samples computed together, always as many.
        gather: seconds to wait for requests that can be computed together, when the service was idle.
    """

    def __init__(
        self, models: Models, store: Store, results: Results, broadcast: Broadcast, metrics: Metrics,
        retention: Retention, batch_size: int, gather: float = 0.005,
    ):  # fmt: skip
        self.models, self.store, self.results, self.broadcast, self.metrics = models, store, results, broadcast, metrics
        self.retention, self.batch_size, self.gather = retention, batch_size, gather
        self.wake, self.stopping = threading.Event(), threading.Event()
        self.running: dict[str, Any] = {}
        self.seconds_per_sample = 0.1  # a running mean, for Retry-After
        self.threads: list[threading.Thread] = []

    def start(self) -> None:
        """Go on with what was accepted before, and start."""
        self.models.load(self.store.waited_for())
        self.store.recover(self.models.loaded, starting=True)
        self.retention.tidy(self.store, self.results)
        loops = (self.compute, self.keep_alive, *([self.follow_source] if self.models.source is not None else []))
        self.threads = [threading.Thread(target=loop, daemon=True) for loop in loops]
        for thread in self.threads:
            thread.start()

    def stop(self, seconds: float = 30.0) -> None:
        """Finish what is being computed; what waits stays in the database."""
        self.stopping.set()
        self.wake.set()
        for thread in self.threads:
            thread.join(seconds)

    @property
    def alive(self) -> bool:
        """True if jobs are being taken."""
        return bool(self.threads) and all(thread.is_alive() for thread in self.threads)

    # ---- the threads ----

    def compute(self) -> None:
        """Take jobs until the service stops."""
        while not self.stopping.is_set():
            with self.going_on("taking a job"):
                jobs = self.claim()
                if jobs:
                    self.do_or_return(jobs)
                elif self.wake.wait(IDLE):
                    self.wake.clear()
                    time.sleep(self.gather)

    def claim(self) -> list[Any]:
        """Take jobs, those of the earliest weights first."""
        claims = (self.store.claim(digest, self.batch_size) for digest in [*self.models.loaded])
        return next((jobs for jobs in claims if jobs), [])

    def follow_source(self) -> None:
        """Replace the weights when there are newer ones; jobs that were accepted before get those that they are for."""
        while not self.stopping.wait(PULSE):
            with self.going_on("looking for newer weights"):
                if (found := self.models.update()) is not None:
                    self.metrics.serve(found.digest)
                    log.info(f"new weights: {found.digest}, of {found.card['run']}")
                waited_for = self.store.waited_for()
                self.models.load(waited_for)
                self.models.drop(waited_for)

    def keep_alive(self) -> None:
        """Renew the leases, find jobs to stop, and end or return what other processes left."""
        while not self.stopping.wait(PULSE / 4 if self.running else PULSE):
            with self.going_on("keeping leases"):
                if self.running:
                    self.store.renew([*self.running])
                    for job in self.store.cancelled():
                        self.running.pop(job, None)
                self.store.recover(self.models.loaded)
                self.metrics.waiting.set(self.store.waiting())
                self.retention.keep(self.store, self.results)

    @contextmanager
    def going_on(self, what: str) -> Iterator[None]:
        """Go on after an error, such as a database that is away for a moment."""
        try:
            yield
        except Exception as error:
            log.warning(f"WARNING: {what} failed: {type(error).__name__}: {' '.join(str(error).split())}")
            self.stopping.wait(1.0)

    # ---- a batch of jobs ----

    def do_or_return(self, jobs: list[Any]) -> None:
        """Compute jobs; what could not be recorded, such as on a full disk, goes back to the queue."""
        try:
            self.do(jobs)
        except BaseException:
            self.store.give_back([job.id for job in jobs])
            raise
        finally:
            self.running = {}

    def do(self, jobs: list[Any]) -> None:
        """Compute jobs of equal settings, and record how each of them ended."""
        self.running = {job.id: job for job in jobs}
        began, model = time.perf_counter(), self.models.loaded[jobs[0].digest]
        try:
            outcomes = self.draw(model, jobs) if jobs[0].kind == SAMPLES else self.do_task(model, jobs[0])
        except Stopped:
            outcomes = {}
        except UserError as error:
            outcomes = {job.id: str(error) for job in jobs}
        except Exception as error:
            log.error("".join(traceback.format_exception(error)))
            if len(jobs) > 1:  # one of them may be at fault, or all together are too many
                for job in jobs:
                    self.do([job])
                return
            outcomes = {jobs[0].id: f"this failed on the server ({type(error).__name__}); see its log"}
        seconds = time.perf_counter() - began
        n = sum(job.n for job in jobs)
        self.seconds_per_sample += 0.2 * (seconds / n - self.seconds_per_sample)
        self.metrics.batch.observe(n)
        ends = {job.id: self.end_of(job, outcomes.get(job.id)) for job in jobs}
        done = self.store.finish(ends)  # at once, since each transaction waits for the disk
        for job in jobs:
            if job.id in done:
                state, _ = ends[job.id]
                self.metrics.ended(job, state)
                self.broadcast.tell_end(job.id, state)

    def end_of(self, job: Any, outcome: Outcome | None) -> tuple[str, dict[str, Any]]:
        """The state and the values of a job at its end, whose result is then written."""
        values: dict[str, Any]
        if job.id not in self.running or outcome is None:
            state, values = CANCELLED, {"error": "cancelled"}
            if time.time() > job.deadline:
                state, values = EXPIRED, {"error": "the deadline passed while this was computed"}
        elif isinstance(outcome, str):
            state, values = FAILED, {"error": outcome}
        else:
            self.metrics.look_at(outcome["x"])
            info = outcome.pop("info", {})
            name, size = self.results.write(job.id, **outcome)
            state, values = DONE, {"result": name, "bytes": size, "info": json.dumps(info)}
        return state, values

    def check_wanted(self) -> None:
        """Stop if every job was cancelled or is too late.

        Raises:
            Stopped: in that case.
        """
        now = time.time()
        for job in list(self.running.values()):
            if now > job.deadline:
                self.running.pop(job.id, None)
        if not self.running:
            raise Stopped

    # ---- new samples ----

    def draw(self, model: ServiceModel, jobs: list[Any]) -> dict[str, Outcome]:
        """Draw the samples of jobs, of which each gets what it would get alone."""
        settings = json.loads(jobs[0].settings)
        pipeline = model.sampling(settings)
        draws: list[tuple[int, int]] = []
        place: dict[str, slice] = {}
        conds = [self.condition_of(model, job) for job in jobs]
        for job in jobs:
            place[job.id] = slice(len(draws), len(draws) + job.n)
            draws += [(job.seed, i) for i in range(job.n)]
        cond = None if conds[0] is None else cat_cond([one for one in conds if one is not None])
        parts, size = [], self.batch_size
        with pipeline.count_nfe() as cost:
            for first in range(0, len(draws), size):
                part = slice(first, first + size)
                states = draw_together(pipeline, draws[part], rows_of(cond, part), size)
                parts.append(self.follow(states, pipeline, len(draws[part]), first, jobs, place))
        x = pipeline.to_units(torch.cat(parts).float()).numpy()
        nfe = cost.evaluations / (size * len(parts))
        info = {"nfe": nfe, "batch": len(draws)}
        return {
            job.id: {"x": np.ascontiguousarray(x[place[job.id]]), "nfe": nfe, "info": info, **condition_arrays(given)}
            for job, given in zip(jobs, conds, strict=True)
        }

    def condition_of(self, model: ServiceModel, job: Any) -> Cond | None:
        """The conditions of the samples of a job."""
        settings = json.loads(job.settings)
        images = unpack(self.store.input_of(job.id)) if settings.get("images") else {}
        return model.condition(settings | {"seed": job.seed}, job.n, images=images)

    def follow(
        self, states: Iterator[State], pipeline: Pipeline, n: int, first: int, jobs: list[Any], place: dict[str, slice]
    ) -> torch.Tensor:
        """Compute the n samples of a batch from number `first` on, and show the watchers of each job every step."""
        steps = len(pipeline.sampler.times()) - 1
        batch, batches = first // self.batch_size, -(-sum(job.n for job in jobs) // self.batch_size)
        for step, state in enumerate(states, batch * steps):
            self.check_wanted()
            for job in jobs:
                if not self.broadcast.is_watched(job.id):
                    continue
                inside = slice(max(0, place[job.id].start - first), max(0, place[job.id].stop - first))
                x = state.x_t[:n][inside]
                if len(x):
                    picture = shown(pipeline.to_units(x.float().cpu()).numpy(), str(pipeline.kind))
                    begins = max(0, first - place[job.id].start)
                    self.broadcast.tell(job.id, {"step": step, "steps": steps * batches, "first": begins, **picture})
        return state.x_t[:n].cpu()

    # ---- tasks ----

    def do_task(self, model: ServiceModel, job: Any) -> dict[str, Outcome]:
        """Do a task on the input of a job, which is a batch of its own."""
        given = GivenArrays(**unpack(self.store.input_of(job.id)))
        settings = json.loads(job.settings)
        steps, made = len(model.sampling(settings).sampler.times()) - 1, 0

        def on_step(n: int) -> None:
            nonlocal made
            made += n
            self.check_wanted()
            self.broadcast.tell(job.id, {"step": min(steps, made // job.n), "steps": steps})

        # A task may evaluate the network without making steps.
        hook = model.pipeline.denoiser.net.register_forward_pre_hook(lambda *_: self.check_wanted())
        try:
            restored = model.do_task(job.kind, settings | {"seed": job.seed}, given, on_step)
        finally:
            hook.remove()
        return {job.id: {"x": restored.x, "given": restored.given, "mask": given.mask, "info": restored.info}}


def condition_arrays(cond: Cond | None) -> dict[str, np.ndarray]:
    """The conditions of a request as arrays of its result: `label` for classes, as src.sample writes them."""
    named = cond if isinstance(cond, dict) else {} if cond is None else {"cond": cond}
    return {"label" if not x.is_floating_point() and x.ndim == 1 else name: x.numpy() for name, x in named.items()}
