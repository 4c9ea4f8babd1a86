"""Limits on what clients may ask for, API keys, and Prometheus metrics.

Shapes: C channels, N samples.
"""

import hmac
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Request, Security
from fastapi.security import HTTPBearer
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from torch import Tensor

from lm_audio.server.engine import Engine, Inpainter, Job
from lm_audio.server.wire import error_body

BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)  # seconds


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits per request.

    Args:
        max_duration: seconds of new sound.
        max_upload: bytes in the body.
        max_stream: seconds of sound in a live stream.
        timeout: seconds from the request to the complete clip.
    """

    max_duration: float = 120.0
    max_stream: float = 3600.0
    max_upload: int = 32 * 10**6
    timeout: float = 300.0

    def check_duration(self, seconds: float) -> None:
        if seconds > self.max_duration:
            raise ValueError(
                f"duration must be at most {self.max_duration:g} s of new sound, got {seconds:g}."
            )


WRONG_KEY = "Missing or invalid API key. Send the header 'Authorization: Bearer KEY'."
KEY_PROTOCOL = "openai-insecure-api-key."
"""How browsers send a key over a WebSocket: they cannot set headers, only name subprotocols."""


def is_known_key(given: str, keys: Sequence[str]) -> bool:
    """Compares all keys, so that the response time reveals nothing."""
    return sum(hmac.compare_digest(given.encode(), key.encode()) for key in keys) > 0


def require_key(keys: Sequence[str]) -> Callable[[Request], None]:
    """A dependency that raises a 401 unless the request carries one of these keys."""
    in_document = HTTPBearer(auto_error=False, description="An API key of the server.")

    def check(http: Request, _: Annotated[object, Security(in_document)] = None) -> None:
        if not is_known_key(_bearer(http.headers), keys):
            raise HTTPException(401, WRONG_KEY)

    return check


def may_connect(headers: Headers, *, keys: Sequence[str]) -> bool:
    """Whether a WebSocket client has a key, in a header or a subprotocol, if one is required."""
    protocols = [name.strip() for name in headers.get("sec-websocket-protocol", "").split(",")]
    given = [p.removeprefix(KEY_PROTOCOL) for p in protocols if p.startswith(KEY_PROTOCOL)]
    return not keys or any(is_known_key(key, keys) for key in (*given, _bearer(headers)))


def is_allowed_origin(headers: Headers, *, allowed: Sequence[str]) -> bool:
    """Whether a WebSocket comes from the server's own pages, an allowed site or no browser.

    Browsers do not apply CORS to WebSockets, so that any site could use an open server.
    """
    origin = headers.get("origin")
    if origin is None or origin in allowed or "*" in allowed:
        return True
    return urlsplit(origin).netloc == headers.get("host")


def _bearer(headers: Headers) -> str:
    kind, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if kind.lower() == "bearer" else ""


class BodyTooLargeError(Exception):
    """The body exceeds the limit."""


class BodyLimit:
    """ASGI middleware that answers 413 to large bodies, whatever their Content-Length header."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._max_bytes:
            await self._refuse(scope, receive, send)
            return
        read, answered = 0, False

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max_bytes:
                raise BodyTooLargeError
            return message

        async def watched(message: Message) -> None:
            nonlocal answered
            if read <= self._max_bytes:  # otherwise the app would report the error in its own way
                answered = True
                await send(message)

        with suppress(BodyTooLargeError):
            await self._app(scope, counted, watched)
        if not answered:
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = f"Request body too large. The maximum is {self._max_bytes:,} bytes."
        await JSONResponse(error_body(message, status=413), 413)(scope, receive, send)


class Metrics:
    """Prometheus metrics of one server."""

    def __init__(self, engine: Engine, inpainter: Inpainter) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "lm_audio_requests",
            "Responses by path and status",
            ["path", "status"],
            registry=self.registry,
        )
        self._sound = Counter(
            "lm_audio_sound_seconds",
            "Seconds of new audio in complete clips",
            registry=self.registry,
        )
        self._first_sound = Histogram(
            "lm_audio_first_sound_seconds",
            "Seconds from the request to its first samples",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._clip = Histogram(
            "lm_audio_clip_seconds",
            "Seconds from the request to the complete clip",
            buckets=BUCKETS,
            registry=self.registry,
        )
        queued = Gauge("lm_audio_waiting", "Queued clips", registry=self.registry)
        queued.set_function(lambda: engine.num_queued)
        running = Gauge("lm_audio_working", "Clips in the running batch", registry=self.registry)
        running.set_function(lambda: engine.num_running)
        inpaintings = Gauge(
            "lm_audio_inpaintings", "Queued and running inpaintings", registry=self.registry
        )
        inpaintings.set_function(lambda: inpainter.num_open)
        self.streams = Gauge("lm_audio_streams", "Open live streams", registry=self.registry)

    async def timed(self, job: Job) -> AsyncGenerator[Tensor]:
        """The sound of a job, samples [C, N] by samples; observes how long it takes."""
        num_new = 0  # without the prompt of a continuation
        async with aclosing(job.sound()) as sound:
            async for samples in sound:
                if not num_new:
                    self._first_sound.observe(time.monotonic() - job.created_at)
                num_new += samples.shape[1]
                yield samples
        if job.clip is not None:
            self._clip.observe(time.monotonic() - job.created_at)
            self._sound.inc(num_new / job.clip.sample_rate if num_new else job.clip.duration)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class RequestCounter:
    """ASGI middleware that counts responses by path and status."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = scope.get("route")  # set by the router; unknown paths have none
            path = route.path if route is not None else "other"
            self._metrics.requests.labels(path, str(status)).inc()
