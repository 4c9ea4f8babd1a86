"""The service: OpenAI's speech API, and our fuller one, over an engine.

No path of a request is opened, all sound is read by the checked reader, and nothing that a request
says ends another one.

Shapes: C channels, N samples.
"""

import asyncio
import base64
import hmac
import io
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, File, Form, Request, Response, UploadFile, params
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from torch import Tensor

from audio_tokenizers.audio_files import audio_info, read_audio
from lm_audio.sampling import random_seed
from lm_audio.server.engine import BusyError, DeadlineError, Engine, StoppedError
from lm_audio.server.limits import BodyLimit
from lm_audio.server.metrics import Counted
from lm_audio.server.schemas import (
    ClipAnswer,
    ClipsAnswer,
    ErrorAnswer,
    Format,
    GenerationBody,
    InpaintingBody,
    SpeechBody,
    error_body,
)
from lm_audio.server.service import Limits, Listener, Service
from lm_audio.server.streams import MEDIA_TYPES, STREAMED, encoded, streamed
from lm_audio.system import releases_omp_threads
from lm_audio.version import __version__

logger = logging.getLogger(__name__)

RETRY_SECONDS = 2
LONGEST_PROMPT = 600.0  # seconds
LOOK_SECONDS = 0.25  # between looks whether who asked is still there


def create_app(
    engine: Engine,
    *,
    name: str,
    keys: Sequence[str] = (),
    limits: Limits | None = None,
) -> FastAPI:
    """The service of an engine.

    Args:
        name: of its model.
        keys: one of which a request must bear; anybody may ask if there are none.
    """
    service = Service(engine, name=name, limits=limits or Limits())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    app = FastAPI(
        title="lm-audio",
        version=__version__,
        description="Sound from text or from sound.",
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        responses={"default": {"model": ErrorAnswer, "description": "What is wrong."}},
    )
    app.add_middleware(BodyLimit, most_bytes=service.limits.upload)
    app.add_middleware(Counted, metrics=service.metrics)
    _answer_errors(app)
    allowed = [Depends(_bearer(keys))] if keys else []
    _tell_of_itself(app, service, allowed)
    _make_sound(app, service, allowed)
    _go_on_from_sound(app, service, allowed)
    return app


def _tell_of_itself(app: FastAPI, service: Service, allowed: Sequence[params.Depends]) -> None:
    """The routes that make nothing."""

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """Whether it takes requests."""
        if not service.engine.alive:
            raise StoppedError("The service is shutting down.")
        return {"status": "ok"}

    @app.get("/metrics", dependencies=allowed, response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models", dependencies=allowed)
    async def models() -> dict[str, Any]:
        model = {"id": service.name, "object": "model", "created": 0, "owned_by": "lm-audio"}
        return {"object": "list", "data": [model]}


SOUND: dict[int | str, Any] = {
    200: {"description": "Sound.", "content": {kind: {} for kind in MEDIA_TYPES.values()}}
}
CLIPS: dict[str, Any] = {"response_model": ClipsAnswer, "responses": SOUND}
"""What is answered, for the document of the service."""


def _make_sound(app: FastAPI, service: Service, allowed: Sequence[params.Depends]) -> None:
    """The routes that make clips from a text or from nothing."""

    @app.post("/v1/audio/speech", dependencies=allowed, response_class=Response, responses=SOUND)
    async def speech(body: SpeechBody, http: Request) -> Response:
        """OpenAI's speech: sound from a text, wav and pcm while it is made."""
        if "voice" in service.engine.pipeline.conditions:
            if body.voice is not None:
                body.conditions.setdefault("voice", body.voice)
        elif body.voice not in (None, "default"):
            raise ValueError(f"Got the voice {body.voice!r} and this model has none; use default.")
        seed = random_seed() if body.seed is None else body.seed
        listener = await service.submit(body, prompt=body.input, seed=seed)
        return await _sound_answer(listener, body.response_format, http)

    @app.post("/v1/audio/generations", dependencies=allowed, **CLIPS)
    async def generations(body: GenerationBody, http: Request) -> Any:
        """Clips from a text or from nothing."""
        first = random_seed() if body.seed is None else body.seed
        if body.stream and body.n > 1:
            raise ValueError(f"Got n={body.n} and stream; a stream is of one clip.")
        listeners: list[Listener] = []
        try:
            for seed in range(first, first + body.n):
                listeners.append(await service.submit(body, prompt=body.prompt, seed=seed))
        except BaseException:
            _give_up(listeners)
            raise
        if body.stream:
            return await _sound_answer(listeners[0], body.response_format, http)
        return await _json_answer(listeners, body.response_format, http, service.name)


def _go_on_from_sound(app: FastAPI, service: Service, allowed: Sequence[params.Depends]) -> None:
    """The routes that take a file."""

    @app.post("/v1/audio/continuations", dependencies=allowed, **CLIPS)
    async def continuations(
        file: Annotated[UploadFile, File()],
        http: Request,
        settings: Annotated[str, Form(max_length=20_000)] = "{}",
    ) -> Any:
        """The sound of a file, then new sound; `settings` is the JSON of a generation."""
        body = GenerationBody.model_validate_json(settings)
        if body.n > 1:
            raise ValueError(f"Got n={body.n}; a continuation is one clip.")
        sound = await run_in_threadpool(_read, await file.read(), service.engine)
        seed = random_seed() if body.seed is None else body.seed
        listener = await service.submit(body, prompt=body.prompt, seed=seed, sound=sound)
        if body.stream:
            return await _sound_answer(listener, body.response_format, http)
        return await _json_answer([listener], body.response_format, http, service.name)

    @app.post("/v1/audio/inpaintings", dependencies=allowed, response_model=ClipsAnswer)
    async def inpaintings(
        file: Annotated[UploadFile, File()],
        settings: Annotated[str, Form(max_length=20_000)],
        http: Request,
    ) -> Any:
        """The sound of a file, a span of it made anew; `settings` is JSON with its start and end,
        `prompt`, `seed`, `sampling` and `candidates`."""
        body = InpaintingBody.model_validate_json(settings)
        sound = await run_in_threadpool(_read, await file.read(), service.engine)
        listener = service.inpaint(body, sound)
        return await _json_answer([listener], body.response_format, http, service.name)


def _give_up(listeners: Sequence[Listener]) -> None:
    """What is not whole is made for nobody any more."""
    for listener in listeners:
        if listener.clip is None:
            listener.give_up()


@releases_omp_threads
def _read(data: bytes, engine: Engine) -> Tensor:
    """The samples [C, N] of a file, as the pipeline takes them."""
    info = audio_info(io.BytesIO(data))
    if info.duration > LONGEST_PROMPT:  # a small file can hold hours
        raise ValueError(
            f"The file lasts {info.duration:.0f} s; send {LONGEST_PROMPT:.0f} s at most."
        )
    pipeline = engine.pipeline
    audio = read_audio(
        io.BytesIO(data), sample_rate=pipeline.sample_rate, num_channels=pipeline.num_channels
    )
    return audio.samples


async def _sound_answer(listener: Listener, form: Format, http: Request) -> Response:
    """The bytes of a clip: as they are made where the format allows that."""
    seed = {"x-seed": str(listener.seed)}
    pipeline = listener.service.engine.pipeline
    if form not in STREAMED:
        clip = await _unless_gone(listener.whole(), http)
        data = await run_in_threadpool(encoded, clip, form)
        return Response(data, media_type=MEDIA_TYPES[form], headers=seed)
    sound = listener.sound()
    first = await _unless_gone(anext(sound), http)  # what goes wrong before it has a status

    async def pieces() -> AsyncIterator[Tensor]:
        try:
            yield first
            async for samples in sound:
                yield samples
        finally:
            await sound.aclose()

    body = streamed(pieces(), form, pipeline.sample_rate, pipeline.num_channels)
    return StreamingResponse(body, media_type=MEDIA_TYPES[form], headers=seed)


async def _json_answer(
    listeners: Sequence[Listener], form: Format, http: Request, name: str
) -> ClipsAnswer:
    try:
        clips = await _unless_gone(asyncio.gather(*(each.whole() for each in listeners)), http)
    finally:
        _give_up(listeners)
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
    return ClipsAnswer(created=int(time.time()), model=name, data=answers)


async def _unless_gone(work: Awaitable[Any], http: Request) -> Any:
    """The result, unless who asked goes away first, when it is given up."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([task], timeout=LOOK_SECONDS))[0]:
            if await http.is_disconnected():
                raise HTTPException(499, "The client has gone away.")
        return task.result()
    finally:
        task.cancel()


def _bearer(keys: Sequence[str]) -> Callable[[Request], None]:
    known = [key.encode() for key in keys]

    def check(http: Request) -> None:
        kind, _, given = http.headers.get("authorization", "").partition(" ")
        # All keys are compared, so that the time tells nothing.
        right = [hmac.compare_digest(given.strip().encode(), key) for key in known]
        if kind.lower() != "bearer" or not any(right):
            raise HTTPException(401, "Give a key of this service: Authorization: Bearer KEY.")

    return check


def _answer_errors(app: FastAPI) -> None:
    """Errors as OpenAI's clients read them, in one sentence."""

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
        said = first["msg"].rstrip(".")
        return answer(400, f"{where}: {said}." if where else f"{said}.", param=where or None)

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
        return answer(500, "Something went wrong here; the log of the service says what.")
