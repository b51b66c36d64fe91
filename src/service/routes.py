"""The routes of the API and of the page."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, HTTPException, Query, Response
from fastapi.responses import FileResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from src.service.broadcast import of_the_end
from src.service.pictures import png, shown
from src.service.results import pack
from src.service.schemas import JobAnswer, JobId, Thumb, literal, request_models
from src.service.service import Service
from src.service.store import DONE, ENDED

LOOK = 1.0  # seconds between looks into the database, for jobs that another process computes
Wait = Annotated[float, Query(ge=0, le=60, description="seconds to wait for the result")]
Answers = dict[int | str, dict[str, Any]]
BAD: Answers = {422: {"description": "The request is wrong"}}
BUSY: Answers = {429: {"description": "Too much waits; Retry-After says when to come again"}}
NONE: Answers = {404: {"description": "There is no such job"}}


def api_routes(service: Service) -> APIRouter:
    """The routes of the API."""
    router = APIRouter()
    add_requests(router, service)
    add_jobs(router, service)
    add_results(router, service)
    add_state(router, service)
    return router


def add_requests(router: APIRouter, service: Service) -> None:
    """Samples and tasks."""
    samples, task = request_models(service.model, service.limits)

    async def accepted(job: str, wait: float, response: Response) -> dict[str, Any]:
        row = await ended(service, job, wait)
        response.status_code = 200 if row.state in ENDED else 202
        response.headers["Location"] = f"/jobs/{job}"
        return service.described(row)

    later: Answers = {202: {"model": JobAnswer, "description": "Accepted"}}

    @router.post("/samples", responses=BAD | BUSY | later, tags=["samples"])
    async def draw_samples(asked: samples, response: Response, wait: Wait = 0) -> JobAnswer:  # type: ignore[valid-type]
        """Draw new samples."""
        job = await run_in_threadpool(service.accept_samples, asked.model_dump())  # type: ignore[attr-defined]
        return await accepted(job, wait, response)  # type: ignore[return-value]

    @router.post("/tasks/{name}", responses=BAD | BUSY | later, tags=["tasks"])
    async def do_task(
        name: literal([*service.model.tasks]), asked: task, response: Response, wait: Wait = 0,  # type: ignore[valid-type]
    ) -> JobAnswer:  # fmt: skip
        """Apply a task, such as denoise, to samples."""
        job = await run_in_threadpool(service.accept_task, name, asked.model_dump())  # type: ignore[attr-defined]
        return await accepted(job, wait, response)  # type: ignore[return-value]


def add_jobs(router: APIRouter, service: Service) -> None:
    """The state of jobs."""

    @router.get("/jobs", tags=["jobs"])
    def list_jobs(
        text: Annotated[str, Query(max_length=100, pattern=r"^[^\x00]*$")] = "",
        kind: Annotated[str | None, Query(max_length=64, pattern="^\\w+$")] = None,
        thumb: Annotated[int | None, Query(ge=-1, le=1)] = None,
        before: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 24,
        after: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
        digest: Annotated[str | None, Query(max_length=64, pattern="^\\w+$")] = None,
        oldest: bool = False,
    ) -> list[JobAnswer]:
        """Jobs that are done, the newest first, or the oldest; each word of `text` must be in settings, kind or id."""
        rows = service.store.search(text, kind, thumb, before, limit, after, digest, oldest)
        return [service.described(row) for row in rows]  # type: ignore[misc]

    @router.get("/jobs/{job}", responses=NONE, tags=["jobs"])
    def show_job(job: JobId) -> JobAnswer:
        """A job."""
        return service.described(found(service, job))  # type: ignore[return-value]

    @router.delete("/jobs/{job}", responses=NONE, tags=["jobs"])
    def cancel_job(job: JobId) -> JobAnswer:
        """Cancel a job that has not ended."""
        found(service, job)
        service.store.cancel(job)
        service.broadcast.tell_end(job, "cancelled")
        return service.described(found(service, job))  # type: ignore[return-value]

    @router.put("/jobs/{job}/thumb", responses=NONE, tags=["jobs"])
    def rate_job(job: JobId, thumb: Thumb) -> JobAnswer:
        """Keep an opinion: 1 for good, -1 for bad, 0 for none."""
        found(service, job)
        service.store.rate(job, thumb.thumb)
        return service.described(found(service, job))  # type: ignore[return-value]

    @router.get("/jobs/{job}/events", responses=NONE, tags=["jobs"], response_class=StreamingResponse)
    async def watch_job(job: JobId) -> StreamingResponse:
        """The steps of a job as server-sent events: `step` with the samples so far, and `end` with the job."""
        await run_in_threadpool(found, service, job)
        return StreamingResponse(
            events(service, job), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )


def add_results(router: APIRouter, service: Service) -> None:
    """The results of jobs."""
    picture: Answers = {200: {"content": {"image/png": {}}}}
    archive: Answers = {200: {"content": {"application/octet-stream": {}}}}

    @router.get("/jobs/{job}/samples.npz", responses=NONE | archive, tags=["results"], response_class=Response)
    def download(job: JobId) -> Response:
        """The result as src.sample writes it: x (N, C, *S) float32, images in [0, 1], and what else there is."""
        name = {"Content-Disposition": f'attachment; filename="{job}.npz"'}
        return Response(pack(**arrays(service, job)), 200, name, "application/octet-stream")

    @router.get("/jobs/{job}/samples", responses=NONE, tags=["results"])
    def show_samples(job: JobId, name: Literal["x", "given"] = "x") -> dict[str, Any]:
        """The result, or what it was made from, as the page draws it."""
        return shown(one(service, job, name), str(service.model.pipeline.kind))

    @router.get("/jobs/{job}/samples.png", responses=NONE | picture, tags=["results"], response_class=Response)
    def show_picture(job: JobId, name: Literal["x", "given"] = "x") -> Response:
        """The images of a result, side by side."""
        if service.model.pipeline.kind != "images":
            raise HTTPException(404, "the samples of this run are no images; see samples.npz")
        kept = {"Cache-Control": "private, max-age=86400"}
        return Response(png(one(service, job, name)), 200, kept, "image/png")


def add_state(router: APIRouter, service: Service) -> None:
    """The model and the state of the service."""

    @router.get("/run", tags=["service"])
    def show_run() -> dict[str, Any]:
        """The run that is served, its choices and the limits of a request."""
        model, limits = service.model, service.limits
        bounds = {name: getattr(limits, name) for name in ("n", "steps", "pixels", "body")}
        choices = {name: getattr(model, name) for name in ("samplers", "solvers", "tasks", "conditions")}
        return {**model.card, **choices, "limits": bounds}

    @router.get("/run/curves", tags=["service"])
    def show_curves() -> dict[str, list[list[float]]]:
        """The losses of the training: (step, value) by name."""
        return service.model.curves()

    @router.get("/health", tags=["service"])
    def health() -> dict[str, str]:
        """Says that the process answers."""
        return {"status": "ok"}

    @router.get("/ready", tags=["service"], responses={503: {"description": "Jobs are not being done"}})
    def ready() -> dict[str, str]:
        """Says that jobs are being done and the database answers."""
        try:
            service.store.waiting()
        except Exception:
            raise HTTPException(503, "the database does not answer") from None
        if not service.worker.alive:
            raise HTTPException(503, "the worker has stopped")
        return {"status": "ready"}

    @router.get("/metrics", tags=["service"], response_class=Response)
    def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def page_routes(folder: Path) -> APIRouter:
    """The pages."""
    router = APIRouter(include_in_schema=False)
    fresh = {"Cache-Control": "no-cache"}

    @router.get("/")
    def page() -> FileResponse:
        return FileResponse(folder / "index.html", headers=fresh)

    @router.get("/api")
    def api() -> FileResponse:
        return FileResponse(folder / "api.html", headers=fresh)

    return router


# ---- what they share ----


def found(service: Service, job: str) -> Any:
    """The row of a job, or 404."""
    row = service.store.find(job)
    if row is None:
        raise HTTPException(404, "there is no such job")
    return row


def arrays(service: Service, job: str) -> dict[str, np.ndarray]:
    """The arrays of a job that is done, or 404."""
    row = found(service, job)
    if row.state != DONE:
        raise HTTPException(404, f"this job is {row.state} and has no result")
    try:
        return service.results.read(row.result)
    except FileNotFoundError:
        raise HTTPException(404, "the result was removed") from None


def one(service: Service, job: str, name: str) -> np.ndarray:
    """One of these arrays, or 404."""
    there = arrays(service, job)
    if name not in there:
        raise HTTPException(404, f"this result has no {name}")
    return there[name]


async def ended(service: Service, job: str, seconds: float) -> Any:
    """The row of a job when it has ended, or after so many seconds."""
    queue = service.broadcast.watch(of_the_end(job))
    try:
        until = asyncio.get_running_loop().time() + seconds
        while True:
            row = await run_in_threadpool(service.store.find, job)
            left = until - asyncio.get_running_loop().time()
            if row.state in ENDED or left <= 0:
                return row
            try:
                await asyncio.wait_for(queue.get(), min(left, LOOK))
            except TimeoutError:
                continue
    finally:
        service.broadcast.leave(of_the_end(job), queue)


async def events(service: Service, job: str) -> AsyncIterator[str]:
    """Server-sent events of a job until its end."""
    queue = service.broadcast.watch(job)
    try:
        while True:
            row = await run_in_threadpool(service.store.find, job)
            if row is None or row.state in ENDED:
                yield event("end", {} if row is None else service.described(row))
                return
            yield event("state", {"state": row.state})
            try:
                while True:
                    news = await asyncio.wait_for(queue.get(), LOOK)
                    if "state" in news:
                        break
                    yield event("step", news)
            except TimeoutError:
                continue
    finally:
        service.broadcast.leave(job, queue)


def event(name: str, data: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
