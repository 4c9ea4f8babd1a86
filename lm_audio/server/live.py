"""A live stream over a WebSocket: sound that goes on, and prompts that change while it plays.

The sound is a chain of windows, each of which continues the last seconds of the one before. A new
prompt takes effect from the next window on. Windows are made only a little ahead of their playing
time, so that a prompt is heard soon, however fast the machine is.

Shapes: C channels, N samples.
"""

import asyncio
import time
from collections.abc import Awaitable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocket, WebSocketDisconnect

from audio_tokenizers.wav_stream import pcm16
from lm_audio.sampling import random_seed
from lm_audio.server.backend import Backend
from lm_audio.server.engine import BusyError, DeadlineError, Job
from lm_audio.server.wire import LiveBody, RequestError, error_of

Result = TypeVar("Result")

CONTEXT_SECONDS = 5.0  # what a window continues, or less if the model sees less
RETRY_SECONDS = 0.25
MAX_MESSAGE = 64 * 1024  # characters
NORMAL, INVALID, FAILED, TRY_LATER = 1000, 1008, 1011, 1013  # WebSocket close codes


@dataclass
class LiveStream:
    """One connection: what the client last asked for, and what was sent."""

    socket: WebSocket
    backend: Backend
    settings: LiveBody
    seed: int
    num_sent: int = 0
    num_windows: int = 0

    def __post_init__(self) -> None:
        pipeline = self.backend.pipeline
        self.rate = pipeline.sample_rate
        self._past = torch.zeros(pipeline.num_channels, 0)
        self._began = time.monotonic()

    @property
    def num_left(self) -> int:
        """Samples until the stream ends by itself."""
        most = self.backend.limits.max_stream
        return round(min(self.settings.duration or most, most) * self.rate) - self.num_sent

    def update(self, body: LiveBody) -> None:
        """Takes over the given fields; the others stay as they are."""
        given = {name: getattr(body, name) for name in body.model_fields_set}
        self.settings = self.settings.model_copy(update=given)
        self.seed = self.seed if body.seed is None else body.seed

    async def check(self) -> None:
        """Raises for settings that cannot be played, and for a model that takes no audio."""
        pipeline = self.backend.pipeline
        request = self._request()
        silence = torch.zeros(pipeline.num_channels, self.rate)
        await run_in_threadpool(pipeline.start, request, silence)

    async def play(self) -> None:
        """Sends windows until the duration is reached."""
        self._began = time.monotonic()
        accepted = self.settings
        while self.num_left > 0:
            early = self.num_sent / self.rate - (time.monotonic() - self._began)
            if early > self.settings.ahead:
                await asyncio.sleep(min(early - self.settings.ahead, RETRY_SECONDS))
                continue
            try:
                job = await self._submit()
            except (ValueError, RequestError) as error:  # a prompt that the model refuses
                if self.settings is accepted:
                    raise
                await self._deliver(self.socket.send_json(_error(error)))
                self.settings = accepted
                continue
            accepted = self.settings
            await self._send(job)

    def _request(self) -> Any:
        return self.backend.request(
            self.settings,
            prompt=self.settings.prompt,
            seed=(self.seed + self.num_windows) % 2**63,
            duration=min(round(self.settings.window * self.rate), self.num_left) / self.rate,
        )

    async def _submit(self) -> Job:
        request = self._request()
        past = self._past if self.num_windows else None
        while True:
            try:
                return await self.backend.submit(request, audio=past)
            except BusyError:
                if not self.num_windows:
                    raise
                await asyncio.sleep(RETRY_SECONDS)  # a stream that plays keeps its place in line

    async def _send(self, job: Job) -> None:
        start = self.num_sent / self.rate
        window = {"index": self.num_windows, "start": start, "prompt": self.settings.prompt}
        message = {"type": "window", **window, "seed": job.seed}
        await self._deliver(self.socket.send_json(message))
        async with aclosing(self.backend.metrics.timed(job)) as sound:
            async for samples in sound:
                await self._deliver(self.socket.send_bytes(pcm16(samples)))
                past = torch.cat([self._past, samples], dim=1)
                self._past = past[:, -round(CONTEXT_SECONDS * self.rate) :]
                self.num_sent += samples.shape[1]
        self.num_windows += 1

    async def _deliver(self, sending: Awaitable[None]) -> None:
        try:
            await _within(
                self.backend.limits.timeout,
                sending,
                otherwise="The client did not read for {:g} s.",
            )
        except RuntimeError as error:  # closed in the meantime
            raise WebSocketDisconnect from error


async def serve_live(socket: WebSocket, backend: Backend) -> None:
    """Plays for one accepted connection, until it stops, ends or is closed."""
    try:
        first = await _within(
            backend.limits.timeout, _receive(socket), otherwise="No message within {:g} s."
        )
        if first.type == "stop":
            await socket.close(NORMAL)
            return
        seed = random_seed() if first.seed is None else first.seed
        stream = LiveStream(socket, backend, settings=first, seed=seed)
        await stream.check()
        await _run(stream)
    except WebSocketDisconnect:
        return
    except Exception as error:
        await close(socket, error)


async def close(socket: WebSocket, error: Exception) -> None:
    """Sends an error as the last message."""
    code = INVALID if isinstance(error, ValueError | RequestError) else FAILED
    with suppress(RuntimeError, WebSocketDisconnect, TimeoutError):  # the client is gone or stalls
        async with asyncio.timeout(RETRY_SECONDS):
            await socket.send_json(_error(error))
            await socket.close(TRY_LATER if isinstance(error, BusyError) else code)


async def _run(stream: LiveStream) -> None:
    """Plays and listens at the same time; whichever ends first ends the other."""
    socket, backend = stream.socket, stream.backend
    with backend.metrics.streams.track_inprogress():
        await socket.send_json(
            {
                "type": "started",
                "model": backend.name,
                "format": "pcm16",
                "sample_rate": stream.rate,
                "num_channels": backend.pipeline.num_channels,
                "seed": stream.seed,
            }
        )
        playing = asyncio.create_task(stream.play())
        listening = asyncio.create_task(_listen(stream))
        tasks = (playing, listening)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    reason = "stopped" if listening.done() and not listening.cancelled() else "duration"
    seconds = stream.num_sent / stream.rate
    await socket.send_json({"type": "done", "reason": reason, "duration": seconds})
    await socket.close(NORMAL)


async def _listen(stream: LiveStream) -> None:
    """Takes messages until one says stop; a wrong one gets an error and changes nothing."""
    while True:
        try:
            body = await _receive(stream.socket)
            stream.backend.check_model(body.model)
        except (RequestError, ValidationError) as error:
            await stream.socket.send_json(_error(error))
            continue
        if body.type == "stop":
            return
        stream.update(body)


async def _receive(socket: WebSocket) -> LiveBody:
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", NORMAL))
    text = message.get("text")
    if text is None or len(text) > MAX_MESSAGE:
        raise RequestError(
            f"Send JSON text messages of at most {MAX_MESSAGE:,} characters.",
            code="invalid_message",
        )
    return LiveBody.model_validate_json(text)


def _error(error: Exception) -> dict[str, Any]:
    return {"type": "error", **error_of(error, what="The message")[1]}


async def _within(seconds: float, work: Awaitable[Result], *, otherwise: str) -> Result:
    try:
        return await asyncio.wait_for(work, seconds)
    except TimeoutError:
        raise DeadlineError(otherwise.format(seconds)) from None
