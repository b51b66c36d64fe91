"""The application: its parts, put together, and its errors as JSON."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles

from src import __version__
from src.service.guard import Guard
from src.service.routes import api_routes, page_routes
from src.service.service import Service
from src.service.store import QueueFull
from src.utils.errors import UserError

PAGE = Path(__file__).with_name("page")


def create_app(service: Service) -> FastAPI:
    """Make the ASGI application of a service; its worker runs as long as the application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.broadcast.loop = asyncio.get_running_loop()
        service.worker.start()
        yield
        await asyncio.to_thread(service.worker.stop)

    app = FastAPI(
        title="Diffusion Lab", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        description=f"Samples and tasks of the run {service.model.card['name']}.",
    )  # fmt: skip
    app.include_router(api_routes(service))
    app.include_router(page_routes(PAGE))
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    app.add_middleware(Guard, access=service.access, limits=service.limits, metrics=service.metrics)  # type: ignore[arg-type]
    app.add_exception_handler(UserError, refuse)
    app.add_exception_handler(RequestValidationError, refuse)
    app.add_exception_handler(QueueFull, lambda request, error: full(service))
    return app


def refuse(request: Request, error: Exception) -> Response:
    """Answer a mistake with its reason; nothing of the request is repeated, which JSON might not hold."""
    if isinstance(error, RequestValidationError):
        where = [(".".join(map(str, e["loc"][1:])), e["msg"]) for e in error.errors()]
        detail = "; ".join(f"{key}: {text}" if key else text for key, text in where[:5])
    else:
        detail = str(error)
    return as_json({"detail": detail}, 422)


def full(service: Service) -> Response:
    """Answer that too much waits, and when to come again."""
    seconds = max(1, min(60, round(service.worker.seconds_per_sample * service.limits.queue / 4)))
    return as_json(
        {"detail": f"{service.limits.queue} samples wait already; try again in {seconds} s"},
        429, {"Retry-After": str(seconds)},
    )  # fmt: skip


def as_json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer in ASCII, which half a surrogate pair cannot break."""
    return Response(json.dumps(content), status, headers, "application/json")
