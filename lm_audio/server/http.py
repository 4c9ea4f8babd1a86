"""The routes: OpenAI's speech API, vLLM-Omni's, and a fuller one, in front of an engine.

No path in a request is ever opened, uploads are decoded by the checked reader, and a failing
request does not affect others.

Shapes: C channels, N samples.
"""

import io
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, File, Form, Request, Response, UploadFile, WebSocket, params
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi_offline import FastAPIOffline
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from torch import Tensor

from audio_tokenizers.audio_files import audio_info, read_audio
from lm_audio.pipeline import AudioPipeline
from lm_audio.renderers.levels import measure_levels
from lm_audio.server.answers import audio_answer, audio_bytes, cancel, clips_answer
from lm_audio.server.backend import Backend
from lm_audio.server.description import ModelAnswer, ModelsAnswer
from lm_audio.server.engine import Engine, Job, StoppedError
from lm_audio.server.events import speech_events
from lm_audio.server.guard import (
    KEY_PROTOCOL,
    WRONG_KEY,
    BodyLimit,
    Limits,
    RequestCounter,
    is_allowed_origin,
    may_connect,
    require_key,
)
from lm_audio.server.live import close, serve_live
from lm_audio.server.wire import (
    MEDIA_TYPES,
    STATUSES,
    AudioGenerateBody,
    ClipsAnswer,
    ConversionBody,
    ErrorAnswer,
    GenerationBody,
    InpaintingBody,
    RequestError,
    SpeechBody,
    VariationBody,
    check_format,
    converted,
    error_body,
    error_of,
)
from lm_audio.system import releases_omp_threads
from lm_audio.version import __version__

RETRY_SECONDS = 2
EXPOSED = ("x-seed", "x-ignored-fields", "x-notice", "x-loudness", "x-true-peak", "retry-after")
MAX_PROMPT_SECONDS = 600.0
LINKS = {
    "docs": "/docs",
    "openapi": "/openapi.json",
    "models": "/v1/models",
    "voices": "/v1/audio/voices",
    "speech": "/v1/audio/speech",
    "generations": "/v1/audio/generations",
    "melodies": "/v1/audio/melodies",
    "variations": "/v1/audio/variations",
    "conversions": "/v1/audio/conversions",
    "live stream": "/v1/audio/stream",
    "health": "/health",
    "metrics": "/metrics",
}


def create_app(
    engine: Engine,
    *,
    name: str,
    keys: Sequence[str] = (),
    limits: Limits | None = None,
    cors: Sequence[str] = (),
    strict: bool = False,
    index: bool = True,
) -> FastAPI:
    """The HTTP application for an engine.

    Args:
        name: the model name that clients use.
        keys: accepted API keys; without any, no key is required.
        cors: the origins whose pages may call the server, such as https://example.org; * is any.
        strict: refuse fields that have no effect, which are otherwise named in a header.
        index: answer / with links; False leaves / to a page.
    """
    backend = Backend(engine, name=name, limits=limits or Limits(), strict=strict)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(backend.close)

    app = FastAPIOffline(  # its /docs loads nothing from other hosts
        title="lm-audio",
        version=__version__,
        description="Generates audio from text and from audio.",
        redoc_url=None,
        swagger_ui_parameters={"validatorUrl": None},
        lifespan=lifespan,
        responses={"default": {"model": ErrorAnswer, "description": "An error."}},
    )
    app.add_middleware(BodyLimit, max_bytes=backend.limits.max_upload)
    app.add_middleware(RequestCounter, metrics=backend.metrics)
    if cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    _add_error_handlers(app)
    auth = [Depends(require_key(keys))] if keys else []
    _add_status_routes(app, backend, auth, index=index)
    _add_speech_routes(app, backend, auth)
    _add_generation_routes(app, backend, auth)
    _add_variation_route(app, backend, auth)
    _add_conversion_route(app, backend, auth)
    _add_live_route(app, backend, keys=keys, origins=cors)
    return app


def _add_status_routes(
    app: FastAPI, backend: Backend, auth: Sequence[params.Depends], *, index: bool
) -> None:
    @app.get("/v1", include_in_schema=False)
    async def links() -> dict[str, str]:
        """Where to go."""
        return {"name": "lm-audio", "version": __version__, "model": backend.name, **LINKS}

    if index:
        app.add_api_route("/", links, include_in_schema=False)

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
    async def models() -> ModelsAnswer:
        """The served model, and what it can do."""
        return ModelsAnswer(data=[backend.model])

    @app.get("/v1/models/{name:path}", dependencies=auth)
    async def model(name: str) -> ModelAnswer:
        """The served model, by its name or that of one of OpenAI's speech models."""
        backend.check_model(name)
        return backend.model.model_copy(update={"id": name})

    @app.get("/v1/audio/voices", dependencies=auth)
    async def voices() -> dict[str, list[str]]:
        """The voices of the model, in vLLM-Omni's format."""
        return {"voices": list(backend.voices) or ["default"], "uploaded_voices": []}


SOUND: dict[int | str, Any] = {
    200: {"description": "Audio.", "content": {kind: {} for kind in MEDIA_TYPES.values()}}
}
SPEECH: dict[int | str, Any] = {
    200: {**SOUND[200], "content": {**SOUND[200]["content"], "text/event-stream": {}}}
}
CLIPS: dict[str, Any] = {"response_model": ClipsAnswer, "responses": SPEECH}
"""Responses in the OpenAPI document."""


def _add_speech_routes(app: FastAPI, backend: Backend, auth: Sequence[params.Depends]) -> None:
    @app.post("/v1/audio/speech", dependencies=auth, response_class=Response, responses=SPEECH)
    async def speech(body: SpeechBody, http: Request) -> Response:
        """OpenAI's speech API: audio from text; wav and pcm are sent while they are made.

        The header X-Ignored-Fields names the fields that have no effect on the model.
        """
        unused = body.without_effect()
        if body.voice_name in backend.voices:
            body.conditions.setdefault("voice", body.voice_name)
        elif body.voice_name not in (None, "default"):
            unused = ["voice", *unused]
        form = body.response_format or "mp3"
        check_format(form)
        headers = {**backend.ignored(unused), **await backend.notice(body.input)}
        job = await backend.generate(body, prompt=body.input, seed=body.seed_or_random())
        if body.stream_format == "sse":
            audio = await audio_bytes(job, form, http, backend)
            return speech_events(audio, job, text=body.input, headers=headers)
        return await audio_answer(job, form, http, backend, headers=headers)

    @app.post("/v1/audio/generate", dependencies=auth, response_class=Response, responses=SOUND)
    async def generate(body: AudioGenerateBody, http: Request) -> Response:
        """vLLM-Omni's API: audio from text.

        The header X-Ignored-Fields names the fields that have no effect on the model.
        """
        stages = backend.pipeline.stages
        form = body.response_format or "wav"
        check_format(form)
        ignored = backend.ignored(body.without_effect(stages))
        headers = {**ignored, **await backend.notice(body.input)}
        fields = body.generation(stages)
        job = await backend.generate(fields, prompt=body.input, seed=fields.seed_or_random())
        return await audio_answer(job, form, http, backend, headers=headers)


def _add_generation_routes(app: FastAPI, backend: Backend, auth: Sequence[params.Depends]) -> None:
    @app.post("/v1/audio/generations", dependencies=auth, **CLIPS)
    async def generations(body: GenerationBody, http: Request) -> Any:
        """One or more clips, with or without a text prompt."""
        return await _generated(body, http, backend)

    @app.post("/v1/audio/melodies", dependencies=auth, **CLIPS)
    async def melodies(
        file: Annotated[UploadFile, File()],
        http: Request,
        settings: Annotated[str, Form(max_length=20_000)] = "{}",
    ) -> Any:
        """New sound that follows the melody of the uploaded audio, for models that take one;
        `settings` is the JSON of a generation."""
        body = GenerationBody.model_validate_json(settings)
        backend.check_melody()
        melody = await run_in_threadpool(_read, await file.read(), backend.pipeline)
        return await _generated(body, http, backend, melody=melody, name=file.filename)

    @app.post("/v1/audio/continuations", dependencies=auth, **CLIPS)
    async def continuations(
        file: Annotated[UploadFile, File()],
        http: Request,
        settings: Annotated[str, Form(max_length=20_000)] = "{}",
    ) -> Any:
        """The uploaded audio, followed by new sound; `settings` is the JSON of a generation."""
        body = GenerationBody.model_validate_json(settings)
        check_format(body.response_format)
        if body.n > 1:
            raise ValueError(f"n must be 1 for a continuation, got {body.n}.")
        audio = await run_in_threadpool(_read, await file.read(), backend.pipeline)
        seed = body.seed_or_random()
        job = await backend.generate(body, prompt=body.prompt, seed=seed, audio=audio)
        job.uploads = {"audio": file.filename or ""}
        if body.stream:
            return await audio_answer(job, body.response_format, http, backend)
        return await clips_answer([job], body, http, backend)

    @app.post("/v1/audio/inpaintings", dependencies=auth, **CLIPS)
    async def inpaintings(
        file: Annotated[UploadFile, File()],
        settings: Annotated[str, Form(max_length=20_000)],
        http: Request,
    ) -> Any:
        """The uploaded audio with one span replaced; `settings` is JSON with `start` and `end`,
        and optionally `prompt`, `seed`, `sampling` and `candidates`."""
        body = InpaintingBody.model_validate_json(settings)
        check_format(body.response_format)
        audio = await run_in_threadpool(_read, await file.read(), backend.pipeline)
        job = backend.inpaint(body, audio)
        job.uploads = {"audio": file.filename or ""}
        return await clips_answer([job], body, http, backend)


async def _generated(
    body: GenerationBody,
    http: Request,
    backend: Backend,
    *,
    melody: Tensor | None = None,
    name: str | None = None,
) -> Any:
    """The clips of a generation.

    Args:
        melody: samples [C, N] whose melody the clips follow.
        name: that of its file.
    """
    if body.stream and body.n > 1:
        raise ValueError(f"n must be 1 when stream is true, got {body.n}.")
    check_format(body.response_format)
    first = body.seed_or_random()
    jobs: list[Job] = []
    try:
        for seed in range(first, first + body.n):
            job = await backend.generate(body, prompt=body.prompt, seed=seed, melody=melody)
            job.uploads = {} if melody is None else {"melody": name or ""}
            jobs.append(job)
    except BaseException:
        cancel(jobs)
        raise
    if body.stream:
        headers = await backend.notice(body.prompt)
        return await audio_answer(jobs[0], body.response_format, http, backend, headers=headers)
    return await clips_answer(jobs, body, http, backend)


def _add_conversion_route(app: FastAPI, backend: Backend, auth: Sequence[params.Depends]) -> None:
    @app.post("/v1/audio/conversions", dependencies=auth, response_class=Response, responses=SOUND)
    async def conversions(
        file: Annotated[UploadFile, File()],
        settings: Annotated[str, Form(max_length=20_000)] = "{}",
    ) -> Response:
        """The uploaded audio in another format, in the sample rate and channels of the model;
        `settings` is JSON with `response_format`.

        The headers X-Loudness (LUFS) and X-True-Peak (dBTP) are missing for silence.
        """
        form = ConversionBody.model_validate_json(settings).response_format
        check_format(form)
        data = await file.read()
        samples = await run_in_threadpool(_read, data, backend.pipeline)
        rate = backend.pipeline.sample_rate
        info = await run_in_threadpool(audio_info, io.BytesIO(data))
        audio = await run_in_threadpool(converted, samples, rate, form, comment=info.comment)
        levels = await run_in_threadpool(measure_levels, samples, rate)
        measured = {"x-loudness": levels.loudness, "x-true-peak": levels.true_peak}
        headers = {k: f"{v:.2f}" for k, v in measured.items() if math.isfinite(v)}
        return Response(audio, media_type=MEDIA_TYPES[form], headers=headers)


def _add_variation_route(app: FastAPI, backend: Backend, auth: Sequence[params.Depends]) -> None:
    @app.post("/v1/audio/variations", dependencies=auth, **CLIPS)
    async def variations(
        file: Annotated[UploadFile, File()],
        http: Request,
        settings: Annotated[str, Form(max_length=20_000)] = "{}",
    ) -> Any:
        """A variation of the uploaded audio, by a diffusion model; `settings` is JSON with
        `strength`, `prompt`, `seed`, `sampling` and others, all optional."""
        body = VariationBody.model_validate_json(settings)
        check_format(body.response_format)
        audio = await run_in_threadpool(_read, await file.read(), backend.pipeline)
        job = await backend.vary(body, audio)
        job.uploads = {"audio": file.filename or ""}
        return await clips_answer([job], body, http, backend)


def _add_live_route(
    app: FastAPI, backend: Backend, *, keys: Sequence[str], origins: Sequence[str]
) -> None:
    @app.websocket("/v1/audio/stream")
    async def stream(socket: WebSocket) -> None:
        """Sound without end whose prompt may change (docs/serving.md)."""
        named = [name for name in socket.scope["subprotocols"] if not name.startswith(KEY_PROTOCOL)]
        # Refused after the handshake: pages are not shown the status of one that fails.
        await socket.accept(named[0] if named else None)
        if not is_allowed_origin(socket.headers, allowed=origins):
            message = "This origin may not connect. Start the server with --cors ORIGIN."
            await close(socket, RequestError(message, status=403, code="origin_not_allowed"))
        elif not may_connect(socket.headers, keys=keys):
            await close(socket, RequestError(WRONG_KEY, status=401, code="invalid_api_key"))
        else:
            await serve_live(socket, backend)


@releases_omp_threads
def _read(data: bytes, pipeline: AudioPipeline) -> Tensor:
    """The samples [C, N] of an upload, in the pipeline's format."""
    audio = read_audio(
        io.BytesIO(data),
        sample_rate=pipeline.sample_rate,
        num_channels=pipeline.num_channels,
        max_duration=MAX_PROMPT_SECONDS,  # a small file can hold hours
    )
    return audio.samples


def _add_error_handlers(app: FastAPI) -> None:
    """Errors in OpenAI's format, as one line."""

    async def answer(http: Request, error: Exception) -> JSONResponse:
        if isinstance(error, HTTPException):
            status, message = error.status_code, str(error.detail)
            if status in (404, 405):
                message = f"{message}: {http.method} {http.url.path}. See /docs for all routes."
            body = error_body(message, status=status)
        else:
            uploaded = isinstance(error, ValidationError)
            status, body = error_of(error, what="The field 'settings'" if uploaded else "The body")
        headers = {"retry-after": str(RETRY_SECONDS)} if status in (429, 503) else {}
        if status == 401:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse(body, status, headers=headers)

    for kind in (RequestValidationError, RequestError, HTTPException, *STATUSES, Exception):
        app.add_exception_handler(kind, answer)
