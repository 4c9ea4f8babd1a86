"""Server-sent events: OpenAI's speech events, and those of clips while they are made.

Shapes: C channels, N samples.
"""

import asyncio
import base64
import json
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from audio_tokenizers.wav_stream import pcm16
from lm_audio.clip import Clip
from lm_audio.renderers.levels import measure_levels
from lm_audio.server.backend import Backend
from lm_audio.server.engine import Job
from lm_audio.server.wire import error_of
from lm_audio.system import releases_omp_threads

EVENT_BYTES = 48 * 1024  # of audio in one event
POLL_SECONDS = 0.25  # between looks at positions and progress


def speech_events(
    audio: bytes | AsyncIterator[bytes], job: Job, *, text: str, headers: Mapping[str, str]
) -> Response:
    """OpenAI's events: audio in base64, then the usage."""

    async def events() -> AsyncIterator[bytes]:
        try:
            async for piece in _cut(audio):
                yield _event("speech.audio.delta", audio=_base64(piece))
        except Exception as error:  # too late for another status
            yield _event("speech.audio.error", **error_of(error)[1])
            return
        tokens = job.clip.tokens if job.clip is not None else None
        used = {"input_tokens": len(text.split())}
        used["output_tokens"] = 0 if tokens is None else tokens.numel()
        yield _event("speech.audio.done", usage={**used, "total_tokens": sum(used.values())})

    return _response(events(), headers={"x-seed": str(job.seed), **headers})


def clip_events(
    jobs: Sequence[Job], http: Request, backend: Backend, *, prompts: Sequence[str | None]
) -> Response:
    """The clips of one request while they are made, as 16-bit PCM of their new sound."""
    return _response(_clip_events(jobs, http, backend, prompts=prompts), headers={})


async def _clip_events(
    jobs: Sequence[Job], http: Request, backend: Backend, *, prompts: Sequence[str | None]
) -> AsyncIterator[bytes]:
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    works = [_follow(i, job, backend, queue) for i, job in enumerate(jobs)]
    tasks = [asyncio.create_task(work) for work in (*works, _notify(prompts, backend, queue))]
    for task in tasks:
        task.add_done_callback(lambda _: queue.put_nowait(b""))  # wakes the loop below
    shown: list[tuple[int, float] | None] = [None] * len(jobs)
    try:
        yield _event(
            "audio.accepted",
            seeds=[job.seed for job in jobs],
            sample_rate=backend.pipeline.sample_rate,
            num_channels=backend.pipeline.num_channels,
        )
        while not (all(task.done() for task in tasks) and queue.empty()):
            for i, job in enumerate(jobs):
                state = (backend.position(job), round(job.progress, 2))
                if not job.over and state != shown[i]:
                    shown[i] = state
                    yield _event("audio.progress", index=i, position=state[0], progress=state[1])
            try:
                if event := await asyncio.wait_for(queue.get(), POLL_SECONDS):
                    yield event
            except TimeoutError:
                if await http.is_disconnected():
                    return
    finally:
        for task in tasks:
            task.cancel()
        for job in jobs:
            job.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _notify(
    prompts: Sequence[str | None], backend: Backend, queue: asyncio.Queue[bytes]
) -> None:
    """Queues the notice for the first unknown prompt; the sound does not wait for it."""
    for prompt in prompts:
        if notice := await backend.notice_text(prompt):
            queue.put_nowait(_event("audio.notice", message=notice))
            return


async def _follow(index: int, job: Job, backend: Backend, queue: asyncio.Queue[bytes]) -> None:
    """Queues the events of one clip."""
    is_whole = True
    try:
        async with aclosing(backend.metrics.timed(job)) as sound:
            async for samples in sound:
                is_whole = False
                queue.put_nowait(_event("audio.delta", index=index, audio=_base64(pcm16(samples))))
        clip = job.clip
        if clip is None:
            return
        if is_whole:  # nothing was sent while it was made
            async for piece in _cut(await run_in_threadpool(pcm16, clip.samples)):
                queue.put_nowait(_event("audio.delta", index=index, audio=_base64(piece)))
        facts = await run_in_threadpool(_facts, clip)
        if (score := await backend.score(job, clip)) is not None:
            facts["score"] = score
        settings = backend.settings_of(job, clip)
        queue.put_nowait(_event("audio.done", index=index, **facts, settings=settings))
    except Exception as error:
        queue.put_nowait(_event("audio.error", index=index, **error_of(error)[1]))


@releases_omp_threads
def _facts(clip: Clip) -> dict[str, Any]:
    levels = measure_levels(clip.samples, clip.sample_rate)
    return {
        "seed": clip.seed,
        "duration": clip.duration,
        "loudness": finite(levels.loudness),
        "true_peak": finite(levels.true_peak),
    }


def finite(level: float) -> float | None:
    """A level for JSON: rounded, and None for silence."""
    return round(level, 2) if math.isfinite(level) else None


def _response(events: AsyncIterator[bytes], *, headers: Mapping[str, str]) -> Response:
    all_headers = {"cache-control": "no-cache", "x-accel-buffering": "no", **headers}
    return StreamingResponse(events, media_type="text/event-stream", headers=all_headers)


def _event(name: str, **content: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **content})}\n\n".encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def _cut(audio: bytes | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if isinstance(audio, bytes):
        for start in range(0, len(audio), EVENT_BYTES):
            yield audio[start : start + EVENT_BYTES]
        return
    async for piece in audio:
        yield piece
