"""The routes: OpenAI's speech API and a fuller one, in front of an engine.

No path in a request is ever opened, uploads are decoded by the checked reader, and a failing
request does not affect others.

Shapes: C channels, N samples.
"""

import asyncio
import base64
import io
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, FastAPI, File, Form, Request, Response, UploadFile, params
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from torch import Tensor

from audio_tokenizers.audio_files import audio_info, read_audio
from lm_audio.clip import Clip
from lm_audio.generation.request import make_requests
from lm_audio.pipeline import AudioPipeline
from lm_audio.server.engine import (
    BatchJob,
    BusyError,
    DeadlineError,
    Engine,
    Inpainter,
    Job,
    StoppedError,
)
from lm_audio.server.guard import BodyLimit, Limits, Metrics, RequestCounter, require_key
from lm_audio.server.wire import (
    MEDIA_TYPES,
    STREAMED,
    ClipAnswer,
    ClipsAnswer,
    CommonFields,
    ErrorAnswer,
    Format,
    GenerationBody,
    GenerationFields,
    InpaintingBody,
    SpeechBody,
    encoded,
    error_body,
    streamed,
)
from lm_audio.system import releases_omp_threads
from lm_audio.version import __version__

logger = logging.getLogger(__name__)

RETRY_SECONDS = 2
MAX_PROMPT_SECONDS = 600.0
POLL_SECONDS = 0.25  # between checks whether the client is still connected


@dataclass(frozen=True, kw_only=True)
class Backend:
    """What the routes share."""

    engine: Engine
    inpainter: Inpainter
    metrics: Metrics
    limits: Limits
    name: str

    async def generate(
        self, body: GenerationFields, *, prompt: str | None, seed: int, audio: Tensor | None = None
    ) -> Job:
        """Queues a clip, after the samples [C, N] of `audio` if there are any."""
        self._check(body, seconds=body.duration)
        pipeline = self.engine.pipeline
        (request,) = make_requests(
            prompt,
            duration=body.duration,
            seed=seed,
            sample_rate=pipeline.sample_rate,
            negative=body.negative,
            conditions=body.conditions,
            sampling=body.sampling_of(pipeline.stages),
        )
        job = BatchJob(request, prompt=audio, timeout=self.limits.timeout)
        await run_in_threadpool(self.engine.submit, job)
        return job

    def inpaint(self, body: InpaintingBody, audio: Tensor) -> Job:
        """Queues the samples [C, N] with a span of them replaced."""
        self._check(body, seconds=body.end - body.start)
        pipeline = self.engine.pipeline
        job = Job(seed=body.seed_or_random(), timeout=self.limits.timeout)
        work = partial(
            pipeline.inpaint,
            (audio, pipeline.sample_rate),
            start=body.start,
            end=body.end,
            text=body.prompt,
            seed=job.seed,
            sampling=body.sampling_of(pipeline.stages),
            negative=body.negative,
            conditions=body.conditions,
            num_candidates=body.candidates,
        )
        self.inpainter.submit(job, work)
        return job

    def close(self) -> None:
        """Finishes all open jobs."""
        self.engine.close()
        self.inpainter.close()

    def _check(self, body: CommonFields, *, seconds: float) -> None:
        if body.model not in (None, self.name):
            raise HTTPException(404, f"Unknown model {body.model!r}. Use {self.name!r}.")
        self.limits.check_duration(seconds)


def create_app(
    engine: Engine,
    *,
    name: str,
    keys: Sequence[str] = (),
    limits: Limits | None = None,
) -> FastAPI:
    """The HTTP application for an engine.

    Args:
        name: the model name that clients use.
        keys: accepted API keys; without any, no key is required.
    """
    inpainter = Inpainter(max_queue=engine.max_queue)
    backend = Backend(
        engine=engine,
        inpainter=inpainter,
        metrics=Metrics(engine, inpainter),
        limits=limits or Limits(),
        name=name,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(backend.close)

    app = FastAPI(
        title="lm-audio",
        version=__version__,
        description="Generates audio from text and from audio.",
        docs_url=None,  # these pages load scripts from a CDN
        redoc_url=None,
        lifespan=lifespan,
        responses={"default": {"model": ErrorAnswer, "description": "An error."}},
    )
    app.add_middleware(BodyLimit, max_bytes=backend.limits.max_upload)
    app.add_middleware(RequestCounter, metrics=backend.metrics)
    _add_error_handlers(app)
    auth = [Depends(require_key(keys))] if keys else []
    _add_status_routes(app, backend, auth)
    _add_generation_routes(app, backend, auth)
    _add_upload_routes(app, backend, auth)
    return app


def _add_status_routes(app: FastAPI, backend: Backend, auth: Sequence[params.Depends]) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process is alive."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """Whether the server accepts requests."""
        if not backend.engine.alive:
            raise StoppedError("The server is shutting down.")
        return {"status": "ok"}

    @app.get("/metrics", dependencies=auth, response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(backend.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models", dependencies=auth)
    async def models() -> dict[str, Any]:
        """The served model."""
        model = {"id": backend.name, "object": "model", "created": 0, "owned_by": "lm-audio"}
        return {"object": "list", "data": [model]}


SOUND: dict[int | str, Any] = {
    200: {"description": "Audio.", "content": {kind: {} for kind in MEDIA_TYPES.values()}}
}
CLIPS: dict[str, Any] = {"response_model": ClipsAnswer, "responses": SOUND}
"""Responses in the OpenAPI document."""


def _add_generation_routes(app: FastAPI, backend: Backend, auth: Sequence[params.Depends]) -> None:
    @app.post("/v1/audio/speech", dependencies=auth, response_class=Response, responses=SOUND)
    async def speech(body: SpeechBody, http: Request) -> Response:
        """OpenAI's speech API: audio from text; wav and pcm are sent while they are made."""
        if "voice" in backend.engine.pipeline.conditions:
            if body.voice is not None:
                body.conditions.setdefault("voice", body.voice)
        elif body.voice not in (None, "default"):
            raise ValueError(f"Unknown voice {body.voice!r}. This model only has 'default'.")
        job = await backend.generate(body, prompt=body.input, seed=body.seed_or_random())
        return await _audio_answer(job, body.response_format, http, backend)

    @app.post("/v1/audio/generations", dependencies=auth, **CLIPS)
    async def generations(body: GenerationBody, http: Request) -> Any:
        """One or more clips, with or without a text prompt."""
        if body.stream and body.n > 1:
            raise ValueError(f"n must be 1 when stream is true, got {body.n}.")
        first = body.seed_or_random()
        jobs: list[Job] = []
        try:
            for seed in range(first, first + body.n):
                jobs.append(await backend.generate(body, prompt=body.prompt, seed=seed))
        except BaseException:
            _cancel(jobs)
            raise
        if body.stream:
            return await _audio_answer(jobs[0], body.response_format, http, backend)
        return await _json_answer(jobs, body.response_format, http, backend)


def _add_upload_routes(app: FastAPI, backend: Backend, auth: Sequence[params.Depends]) -> None:
    @app.post("/v1/audio/continuations", dependencies=auth, **CLIPS)
    async def continuations(
        file: Annotated[UploadFile, File()],
        http: Request,
        settings: Annotated[str, Form(max_length=20_000)] = "{}",
    ) -> Any:
        """The uploaded audio, followed by new sound; `settings` is the JSON of a generation."""
        body = GenerationBody.model_validate_json(settings)
        if body.n > 1:
            raise ValueError(f"n must be 1 for a continuation, got {body.n}.")
        audio = await run_in_threadpool(_read, await file.read(), backend.engine.pipeline)
        seed = body.seed_or_random()
        job = await backend.generate(body, prompt=body.prompt, seed=seed, audio=audio)
        if body.stream:
            return await _audio_answer(job, body.response_format, http, backend)
        return await _json_answer([job], body.response_format, http, backend)

    @app.post("/v1/audio/inpaintings", dependencies=auth, response_model=ClipsAnswer)
    async def inpaintings(
        file: Annotated[UploadFile, File()],
        settings: Annotated[str, Form(max_length=20_000)],
        http: Request,
    ) -> Any:
        """The uploaded audio with one span replaced; `settings` is JSON with `start` and `end`,
        and optionally `prompt`, `seed`, `sampling` and `candidates`."""
        body = InpaintingBody.model_validate_json(settings)
        audio = await run_in_threadpool(_read, await file.read(), backend.engine.pipeline)
        job = backend.inpaint(body, audio)
        return await _json_answer([job], body.response_format, http, backend)


async def _clip(job: Job, sound: AsyncGenerator[Tensor]) -> Clip:
    """Waits for the complete clip; cancels the job on the way out."""
    async with aclosing(sound):
        async for _ in sound:
            pass
    if job.clip is None:  # another clip of this request failed
        raise asyncio.CancelledError
    return job.clip


def _cancel(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.cancel()


@releases_omp_threads
def _read(data: bytes, pipeline: AudioPipeline) -> Tensor:
    """The samples [C, N] of an upload, in the pipeline's format."""
    info = audio_info(io.BytesIO(data))
    if info.duration > MAX_PROMPT_SECONDS:  # a small file can hold hours
        raise ValueError(
            f"The file is {info.duration:.0f} s long. The maximum is {MAX_PROMPT_SECONDS:.0f} s."
        )
    audio = read_audio(
        io.BytesIO(data), sample_rate=pipeline.sample_rate, num_channels=pipeline.num_channels
    )
    return audio.samples


async def _audio_answer(job: Job, form: Format, http: Request, backend: Backend) -> Response:
    """The audio of a clip, sent while it is made if the format allows it."""
    seed = {"x-seed": str(job.seed)}
    sound = backend.metrics.timed(job)
    if form not in STREAMED:
        clip = await _unless_disconnected(_clip(job, sound), http)
        data = await run_in_threadpool(encoded, clip, form)
        return Response(data, media_type=MEDIA_TYPES[form], headers=seed)
    first = await _unless_disconnected(anext(sound), http)  # errors so far get a proper status

    async def pieces() -> AsyncIterator[Tensor]:
        async with aclosing(sound):
            yield first
            async for samples in sound:
                yield samples

    pipeline = backend.engine.pipeline
    body = streamed(
        pieces(), form, sample_rate=pipeline.sample_rate, num_channels=pipeline.num_channels
    )
    return StreamingResponse(body, media_type=MEDIA_TYPES[form], headers=seed)


async def _json_answer(
    jobs: Sequence[Job], form: Format, http: Request, backend: Backend
) -> ClipsAnswer:
    """All clips as base64 in JSON."""
    try:
        made = asyncio.gather(*(_clip(job, backend.metrics.timed(job)) for job in jobs))
        clips = await _unless_disconnected(made, http)
    finally:
        _cancel(jobs)
    files = [await run_in_threadpool(encoded, clip, form) for clip in clips]
    answers = [
        ClipAnswer(
            b64_audio=base64.b64encode(file).decode(),
            format=form,
            seed=clip.seed,
            duration=clip.duration,
            sample_rate=clip.sample_rate,
        )
        for clip, file in zip(clips, files, strict=True)
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


def _add_error_handlers(app: FastAPI) -> None:
    """Errors in OpenAI's format, as one line."""

    def answer(status: int, message: str, *, param: str | None = None) -> JSONResponse:
        headers = {"retry-after": str(RETRY_SECONDS)} if status in (429, 503) else {}
        if status == 401:
            headers["www-authenticate"] = "Bearer"
        body = error_body(" ".join(message.split()), status=status, param=param)
        return JSONResponse(body, status, headers=headers)

    @app.exception_handler(RequestValidationError)
    @app.exception_handler(ValidationError)
    async def invalid(_: Request, error: Any) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        reason = first["msg"].rstrip(".")
        message = f"{where}: {reason}." if where else f"{reason}."
        return answer(400, message, param=where or None)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, str(error.detail))

    statuses = {ValueError: 400, BusyError: 429, StoppedError: 503, DeadlineError: 504}
    for kind, status in statuses.items():

        @app.exception_handler(kind)
        async def known(_: Request, error: Exception, status: int = status) -> JSONResponse:
            return answer(status, str(error))

    @app.exception_handler(Exception)
    async def unknown(_: Request, error: Exception) -> JSONResponse:
        logger.error("A request failed.", exc_info=error)
        return answer(500, "Internal server error. See the server log for details.")
