"""What every request passes: its host, its origin, the token, its size and time; and the headers of the answer."""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException

from src.service.metrics import Metrics
from src.service.settings import Access, Limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
CHANGES = ("POST", "PUT", "PATCH", "DELETE")
OPEN = ("/", "/health", "/ready", "/api")  # paths that need no token, beside the files of the page: they tell nothing


class Refused(HTTPException):
    """A request that is answered at once, with a status and what is wrong."""


class Guard:
    """ASGI middleware around the whole service."""

    def __init__(self, app: Any, access: Access, limits: Limits, metrics: Metrics):
        self.app, self.access, self.limits, self.metrics = app, access, limits, metrics

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        try:
            self.check(scope)
            await self.app(scope, self.limited(receive), answer)
        except Refused as refused:
            body = json.dumps({"detail": refused.detail}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            if refused.status_code == 401:
                headers.append((b"www-authenticate", b"Bearer"))
            await answer({"type": "http.response.start", "status": refused.status_code, "headers": headers})
            await answer({"type": "http.response.body", "body": body})
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(method_of(scope), route, status).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - began)

    def check(self, scope: MutableMapping[str, Any]) -> None:
        """Refuse a request by its headers.

        Raises:
            Refused: with the status of the answer.
        """
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if self.access.hosts is not None and host.rpartition(":")[0] not in self.access.hosts and (
            host not in self.access.hosts
        ):  # fmt: skip
            raise Refused(421, "this service is not known under that name; start it with hosts=[NAME]")
        if scope["method"] in CHANGES and headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise Refused(403, "pages of other sites may not use this service")
        path = scope["path"]
        if self.access.token is not None and path not in OPEN and not path.startswith("/page/"):
            given = headers.get("authorization", "").removeprefix("Bearer ").encode()
            if not secrets.compare_digest(given, self.access.token.encode()):
                raise Refused(401, "this service needs the header Authorization: Bearer TOKEN")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.limits.body:
            raise Refused(413, f"a request may have {self.limits.body} bytes")

    def limited(self, receive: Receive) -> Receive:
        """Receive no more than the limit, within the time that a request may take to arrive."""
        received, over = 0, False
        until = time.monotonic() + self.limits.receive

        async def inner() -> Message:
            nonlocal received, over
            if over:  # what follows is the end of the connection, for which an answer that streams waits
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.01, until - time.monotonic()))
            except TimeoutError:
                raise Refused(408, f"a request must arrive within {self.limits.receive:g} s") from None
            received += len(message.get("body", b""))
            over = not message.get("more_body", False)
            if received > self.limits.body:
                raise Refused(413, f"a request may have {self.limits.body} bytes")
            return message

        return inner


def method_of(scope: MutableMapping[str, Any]) -> str:
    """The method of a request; one that HTTP does not know could make a new counter each time."""
    return scope["method"] if scope["method"] in ("GET", "HEAD", "OPTIONS", *CHANGES) else "other"
