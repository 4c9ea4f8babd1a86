"""Answers: what the jobs of one request make, as audio, as JSON, or as events.

Shapes: C channels, N samples.
"""

import asyncio
import base64
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from torch import Tensor

from lm_audio.clip import Clip
from lm_audio.server.backend import Backend
from lm_audio.server.engine import Job
from lm_audio.server.events import clip_events
from lm_audio.server.wire import (
    MEDIA_TYPES,
    STREAMED,
    ClipAnswer,
    ClipsAnswer,
    Format,
    GenerationBody,
    InpaintingBody,
    VariationBody,
    encoded,
    streamed,
)

POLL_SECONDS = 0.25  # between checks whether the client is still connected


async def audio_bytes(
    job: Job, form: Format, http: Request, backend: Backend
) -> bytes | AsyncIterator[bytes]:
    """The audio of a clip, in pieces if the format allows sending it while it is made."""
    sound = backend.metrics.timed(job)
    if form not in STREAMED:
        clip = await _unless_disconnected(_clip(job, sound), http)
        clip = replace(clip, settings=backend.settings_of(job, clip))
        return await run_in_threadpool(encoded, clip, form)
    first = await _unless_disconnected(anext(sound), http)  # errors so far get a proper status

    async def pieces() -> AsyncIterator[Tensor]:
        async with aclosing(sound):
            yield first
            async for samples in sound:
                yield samples

    pipeline = backend.pipeline
    return streamed(
        pieces(), form, sample_rate=pipeline.sample_rate, num_channels=pipeline.num_channels
    )


async def audio_answer(
    job: Job,
    form: Format,
    http: Request,
    backend: Backend,
    *,
    headers: Mapping[str, str] | None = None,
) -> Response:
    audio = await audio_bytes(job, form, http, backend)
    all_headers = {"x-seed": str(job.seed), **(headers or {})}
    kind = MEDIA_TYPES[form]
    if isinstance(audio, bytes):
        return Response(audio, media_type=kind, headers=all_headers)
    return StreamingResponse(audio, media_type=kind, headers=all_headers)


async def clips_answer(
    jobs: Sequence[Job],
    body: GenerationBody | InpaintingBody | VariationBody,
    http: Request,
    backend: Backend,
) -> Any:
    """All clips, as JSON or as events."""
    if body.stream_format == "sse":
        prompts = [body.prompt]
        if isinstance(body, GenerationBody) and (body.story or body.blend):
            prompts = [*(body.blend or {}), *(part[1] for part in body.story or ())]
        return clip_events(jobs, http, backend, prompts=prompts)
    return await _json_answer(jobs, body.response_format, http, backend)


async def _json_answer(
    jobs: Sequence[Job], form: Format, http: Request, backend: Backend
) -> ClipsAnswer:
    """All clips as base64 in JSON."""
    try:
        made = asyncio.gather(*(_clip(job, backend.metrics.timed(job)) for job in jobs))
        clips = await _unless_disconnected(made, http)
    finally:
        cancel(jobs)
    named = [
        replace(clip, settings=backend.settings_of(job, clip))
        for clip, job in zip(clips, jobs, strict=True)
    ]
    files = [await run_in_threadpool(encoded, clip, form) for clip in named]
    scores = [await backend.score(job, clip) for job, clip in zip(jobs, clips, strict=True)]
    answers = [
        ClipAnswer(
            b64_audio=base64.b64encode(file).decode(),
            format=form,
            seed=clip.seed,
            duration=clip.duration,
            sample_rate=clip.sample_rate,
            score=score,
        )
        for clip, file, score in zip(clips, files, scores, strict=True)
    ]
    return ClipsAnswer(created=int(time.time()), model=backend.name, data=answers)


async def _unless_disconnected(work: Awaitable[Any], http: Request) -> Any:
    """The result of the work, which is cancelled if the client disconnects first."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([task], timeout=POLL_SECONDS))[0]:
            if await http.is_disconnected():
                raise HTTPException(499, "Client disconnected.")
        return task.result()
    finally:
        task.cancel()


async def _clip(job: Job, sound: AsyncGenerator[Tensor]) -> Clip:
    """Waits for the complete clip; cancels the job on the way out."""
    async with aclosing(sound):
        async for _ in sound:
            pass
    if job.clip is None:  # another clip of this request failed
        raise asyncio.CancelledError
    return job.clip


def cancel(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.cancel()
