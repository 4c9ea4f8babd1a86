"""What a service counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lm_audio.server.engine import Engine
from lm_audio.server.inpainter import Inpainter

SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """The counts of one service."""

    def __init__(self, engine: Engine, inpainter: Inpainter) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "lm_audio_requests", "Answers", ["path", "status"], registry=self.registry
        )
        self.sound = Counter(
            "lm_audio_sound_seconds", "Seconds of sound that were made", registry=self.registry
        )
        self.first_sound = Histogram(
            "lm_audio_first_sound_seconds",
            "From the request to its first sound",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.whole_clip = Histogram(
            "lm_audio_clip_seconds",
            "From the request to the whole clip",
            buckets=SECONDS,
            registry=self.registry,
        )
        waiting = Gauge("lm_audio_waiting", "Clips that wait", registry=self.registry)
        waiting.set_function(lambda: engine.num_waiting)
        working = Gauge("lm_audio_working", "Clips in the running batch", registry=self.registry)
        working.set_function(lambda: engine.num_working)
        spans = Gauge(
            "lm_audio_inpaintings", "Inpaintings that wait or are made", registry=self.registry
        )
        spans.set_function(lambda: inpainter.num_waiting)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class Counted:
    """ASGI middleware that counts answers by their path and status."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = scope.get("route")  # the router's: what nobody serves has none
            path = route.path if route is not None else "other"
            self._metrics.requests.labels(path, str(status)).inc()
