"""What goes over the wire: request and response bodies, errors, and audio as bytes.

Shapes: C channels, N samples.
"""

import io
import logging
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi.exceptions import RequestValidationError
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    model_validator,
)
from torch import Tensor

from audio_tokenizers.audio_writer import LONGEST_COMMENT, write_audio
from audio_tokenizers.containers import LongAudioError
from audio_tokenizers.wav_stream import pcm16, wav_header
from lm_audio.clip import Clip
from lm_audio.generation.track import Stage
from lm_audio.pipeline import DEFAULT_SECONDS
from lm_audio.sampling import AnySampling, Solver, SolverAlias, names_of, random_seed
from lm_audio.server.engine import BusyError, DeadlineError, StoppedError
from lm_audio.system import releases_omp_threads

logger = logging.getLogger(__name__)

Format = Literal["wav", "flac", "opus", "mp3", "aac", "pcm"]
MEDIA_TYPES: dict[Format, str] = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "opus": "audio/ogg",
    "mp3": "audio/mpeg",
    "aac": "audio/aac",
    "pcm": "audio/pcm",
}
STREAMED = {"wav", "pcm"}
MAX_TEXT = 4096  # characters, as in OpenAI's API


def _integral(value: Any) -> Any:
    """JSON has one kind of number: 3.0 is 3."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


INTEGRAL = BeforeValidator(_integral)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("Text must not be empty")
    return text


Input = Annotated[str, Field(min_length=1, max_length=MAX_TEXT), AfterValidator(_not_blank)]
Speed = Annotated[FiniteFloat, Field(ge=0.25, le=4, strict=False)]  # some clients send a string
Seed = Annotated[int, Field(ge=0, lt=2**63), INTEGRAL]


class RequestError(Exception):
    """A refused request.

    Args:
        code: what OpenAI's clients test, such as `model_not_found`.
        param: the field that is wrong.
    """

    def __init__(
        self, message: str, *, code: str, status: int = 400, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.status, self.param = code, status, param


class Body(BaseModel):
    """Unknown fields are rejected."""

    model_config = ConfigDict(extra="forbid", strict=True)


class SamplingBody(Body):
    """Sampling options; omitted ones keep the model's defaults."""

    temperature: Annotated[FiniteFloat, Field(ge=0, le=10)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000), INTEGRAL] | None = None
    top_p: Annotated[FiniteFloat, Field(ge=0, le=1)] | None = None
    min_p: Annotated[FiniteFloat, Field(ge=0, le=1)] | None = None
    guidance_scale: Annotated[FiniteFloat, Field(ge=0, le=100)] | None = None
    repetition_penalty: Annotated[FiniteFloat, Field(ge=1, le=10)] | None = None
    steps: Annotated[int, Field(ge=1, le=1000), INTEGRAL] | None = Field(
        default=None,
        description="For stages that denoise, or of each codebook of masked models.",
    )
    solver: Solver | SolverAlias | None = Field(
        default=None, description="For stages that denoise."
    )

    def over(self, stage: Stage) -> AnySampling:
        """The stage's own sampling with the given options replaced."""
        given = self.model_dump(exclude_none=True)
        if stage.sampling is None or (unknown := given.keys() - names_of(stage.sampling)):
            wrong = min(unknown) if stage.sampling is not None else "sampling"
            raise ValueError(f"The {stage.name} stage has no {wrong}.")
        return replace(stage.sampling, **given)


class CommonFields(Body):
    """Fields of all requests."""

    model: str | None = Field(default=None, description="The name of the served model.")
    seed: Seed | None = None
    negative: str | None = Field(default=None, max_length=MAX_TEXT)
    conditions: dict[str, str | FiniteFloat] = Field(default_factory=dict)
    sampling: dict[str, SamplingBody] = Field(
        default_factory=dict, description='Options by stage name; "*" applies to all other stages.'
    )
    raw: bool = Field(default=False, description="Keep the level as generated.")

    def seed_or_random(self) -> int:
        return random_seed() if self.seed is None else self.seed

    def sampling_of(self, stages: Mapping[str, Stage]) -> dict[str, AnySampling] | None:
        """The sampling of each stage that the request changes, by name."""
        unknown = self.sampling.keys() - stages.keys() - {"*"}
        if unknown:
            choices = ", ".join([*stages, "*"])
            raise ValueError(f"Unknown stage {min(unknown)!r}. Choose one of: {choices}.")
        changed = {
            name: given.over(stage)
            for name, stage in stages.items()
            if (given := self.sampling.get(name, self.sampling.get("*"))) is not None
        }
        return changed or None


class GenerationFields(CommonFields):
    """Fields of requests for new sound of a given duration."""

    duration: FiniteFloat = Field(
        default=DEFAULT_SECONDS, gt=0, description="Seconds of new sound."
    )


_Prompt = Annotated[str, Field(max_length=MAX_TEXT)]
_Loose = Field(strict=False)  # JSON has no tuples
Part = (
    Annotated[tuple[FiniteFloat, _Prompt], _Loose]
    | Annotated[tuple[FiniteFloat, _Prompt, dict[str, int | FiniteFloat]], _Loose]
)
STORY = Field(
    min_length=1,
    max_length=100,
    description="Prompts, the seconds at which they start and, for diffusion models, settings: "
    "over, seed, guidance_scale. In place of prompt.",
)


BLEND = Field(
    min_length=1,
    max_length=8,
    description="Prompts and their relative weights, in place of prompt, for diffusion models.",
)


StreamFormat = Literal["sse"] | None
STREAM_FORMAT: Any = Field(
    default=None, description="Return server-sent events with 16-bit PCM (docs/serving.md)."
)


def _check_stream_format(body: "GenerationBody | InpaintingBody | VariationBody") -> None:
    if body.stream_format is None:
        return
    if "response_format" in body.model_fields_set and body.response_format != "pcm":
        raise ValueError("Server-sent events contain pcm; omit response_format")
    if getattr(body, "stream", False):
        raise ValueError("Use stream_format or stream, not both")


class GenerationBody(GenerationFields):
    """One or more clips, with or without a text prompt."""

    prompt: str | None = Field(default=None, max_length=MAX_TEXT)
    story: Annotated[list[Part], STORY] | None = None
    blend: (
        Annotated[dict[Annotated[str, Field(max_length=MAX_TEXT)], FiniteFloat], BLEND] | None
    ) = None
    loop: bool = Field(default=False, description="A seamless loop, for models that can.")
    n: Annotated[
        int,
        Field(ge=1, le=16, description="Number of clips; their seeds are seed, seed + 1, ..."),
        INTEGRAL,
    ] = 1
    response_format: Format = "wav"
    stream: bool = Field(
        default=False,
        description="Return audio instead of JSON; wav and pcm are sent while they are made.",
    )
    stream_format: StreamFormat = STREAM_FORMAT

    @model_validator(mode="after")
    def _events_are_pcm(self) -> "GenerationBody":
        _check_stream_format(self)
        return self


class VoiceId(BaseModel):
    """OpenAI's reference to a custom voice."""

    id: str = Field(max_length=200)


class SpeechBody(GenerationFields):
    """OpenAI's speech request; `input` is the prompt. Unknown fields are ignored."""

    model_config = ConfigDict(extra="allow", strict=True)

    input: Input
    voice: Annotated[str, Field(max_length=200)] | VoiceId | None = Field(
        default=None, description="A voice of GET /v1/audio/voices; others are ignored."
    )
    instructions: Annotated[str, Field(max_length=MAX_TEXT)] | None = Field(
        default=None, description="Ignored."
    )
    response_format: Format | None = Field(default=None, description="mp3 by default.")
    speed: Speed | None = Field(default=None, description="Ignored unless it is 1.")
    stream_format: Literal["audio", "sse"] | None = Field(
        default=None, description="Audio (the default), or OpenAI's server-sent events."
    )
    stream: bool | None = Field(
        default=None, description="Changes nothing: wav and pcm are sent while they are made."
    )

    @property
    def voice_name(self) -> str | None:
        return self.voice.id if isinstance(self.voice, VoiceId) else self.voice

    def without_effect(self) -> list[str]:
        """The fields that no model uses; a voice depends on the model."""
        unused = {"instructions": self.instructions, "speed": self.speed not in (None, 1.0)}
        return [name for name, given in unused.items() if given] + [*(self.model_extra or {})]


class AudioGenerateBody(Body):
    """vLLM-Omni's request for sound. Unknown fields are ignored."""

    model_config = ConfigDict(extra="allow", strict=True)

    input: Input
    model: str | None = None
    response_format: Format | None = Field(default=None, description="wav by default.")
    audio_length: Annotated[FiniteFloat, Field(gt=0)] | None = Field(
        default=None, description=f"Seconds of sound; {DEFAULT_SECONDS:g} by default."
    )
    audio_start: FiniteFloat | None = Field(default=None, description="Ignored unless it is 0.")
    negative_prompt: Annotated[str, Field(max_length=MAX_TEXT)] | None = None
    guidance_scale: Annotated[FiniteFloat, Field(ge=0, le=100)] | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=1000), INTEGRAL] | None = Field(
        default=None, description="Ignored by models without such steps."
    )
    seed: Seed | None = None
    speed: Speed | None = Field(default=None, description="Ignored unless it is 1.")

    def without_effect(self, stages: Mapping[str, Stage]) -> list[str]:
        """The fields that the model does not use."""
        unused = {
            "audio_start": bool(self.audio_start),
            "num_inference_steps": self.num_inference_steps is not None and not _denoising(stages),
            "speed": self.speed not in (None, 1.0),
        }
        return [name for name, given in unused.items() if given] + [*(self.model_extra or {})]

    def generation(self, stages: Mapping[str, Stage]) -> GenerationFields:
        """The same request in our own terms."""
        steps = set(_denoising(stages)) if self.num_inference_steps is not None else set()
        return GenerationFields(
            model=self.model,
            seed=self.seed,
            duration=DEFAULT_SECONDS if self.audio_length is None else self.audio_length,
            negative=self.negative_prompt or None,
            sampling={
                name: SamplingBody(
                    guidance_scale=self.guidance_scale,
                    steps=self.num_inference_steps if name in steps else None,
                )
                for name in stages
                if self.guidance_scale is not None or name in steps
            },
        )


def _denoising(stages: Mapping[str, Stage]) -> list[str]:
    return [name for name, stage in stages.items() if "steps" in names_of(stage.sampling)]


class LiveBody(CommonFields):
    """A message of a client of the live stream: new settings from the next window on, or stop."""

    type: Literal["prompt", "stop"] = "prompt"
    prompt: str | None = Field(default=None, max_length=MAX_TEXT)
    window: FiniteFloat = Field(default=2.0, ge=0.5, le=10, description="Seconds.")
    ahead: FiniteFloat = Field(
        default=4.0, ge=0, le=3600, description="Seconds of sound sent before they are played."
    )
    duration: Annotated[FiniteFloat, Field(gt=0)] | None = Field(
        default=None, description="Seconds of sound in all; the server's maximum by default."
    )


class VariationBody(CommonFields):
    """A variation of a clip, of the same length."""

    strength: FiniteFloat = Field(
        default=0.4, gt=0, le=1, description="How much to change; 1 keeps almost nothing."
    )
    prompt: str | None = Field(default=None, max_length=MAX_TEXT)
    response_format: Format = "wav"
    stream_format: StreamFormat = STREAM_FORMAT

    @model_validator(mode="after")
    def _events_are_pcm(self) -> "VariationBody":
        _check_stream_format(self)
        return self


class InpaintingBody(CommonFields):
    """A span of a clip to replace."""

    start: FiniteFloat = Field(ge=0, description="Start of the span in seconds.")
    end: FiniteFloat = Field(gt=0, description="End of the span in seconds.")
    prompt: str | None = Field(default=None, max_length=MAX_TEXT)
    candidates: Annotated[
        int, Field(ge=1, le=16, description="Fillings to compare; the best one is kept."), INTEGRAL
    ] = 4
    response_format: Format = "wav"
    stream_format: StreamFormat = STREAM_FORMAT

    @model_validator(mode="after")
    def _events_are_pcm(self) -> "InpaintingBody":
        _check_stream_format(self)
        return self


class ConversionBody(Body):
    """The format to convert a file to."""

    response_format: Format = "wav"


SCORE = "Fit to the prompt, if the server has a judge; the higher, the better."


class ClipAnswer(BaseModel):
    b64_audio: str
    format: Format
    seed: int
    duration: float
    sample_rate: int
    score: float | None = Field(default=None, description=SCORE)


class ClipsAnswer(BaseModel):
    created: int
    model: str
    data: list[ClipAnswer]


class Error(BaseModel):
    """An error in OpenAI's format."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    error: Error


CODES = {
    400: "invalid_value",
    401: "invalid_api_key",
    404: "unknown_url",
    405: "method_not_allowed",
    413: "request_too_large",
    429: "rate_limit_exceeded",
    500: "internal_error",
    503: "server_shutting_down",
    504: "timeout",
}
"""The code of an error that has no more precise one, by status."""


def error_body(
    message: str, *, status: int, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    kind: Literal["invalid_request_error", "server_error"]
    kind = "invalid_request_error" if status < 500 else "server_error"
    message, code = " ".join(message.split()), code or CODES.get(status)
    return ErrorAnswer(error=Error(message=message, type=kind, param=param, code=code)).model_dump()


STATUSES = {ValueError: 400, BusyError: 429, StoppedError: 503, DeadlineError: 504}
PYDANTIC_CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "string_too_long": "string_above_max_length",
    "string_too_short": "string_below_min_length",
}


def error_of(error: Exception, *, what: str = "The body") -> tuple[int, dict[str, Any]]:
    """The status and the body for an error; `what` is what a client sent as JSON."""
    if isinstance(error, RequestValidationError | ValidationError):
        return 400, _invalid(error.errors()[0], what=what)
    if isinstance(error, RequestError):
        status = error.status
        return status, error_body(str(error), status=status, param=error.param, code=error.code)
    for kind, status in STATUSES.items():
        if isinstance(error, kind):
            code = "audio_too_long" if isinstance(error, LongAudioError) else None
            return status, error_body(str(error), status=status, code=code)
    logger.error("A request failed.", exc_info=error)
    return 500, error_body("Internal server error. See the server log for details.", status=500)


def _invalid(first: Mapping[str, Any], *, what: str) -> dict[str, Any]:
    """From the first complaint of pydantic."""
    kind = str(first["type"])
    if kind == "json_invalid":
        return error_body(f"{what} is not valid JSON.", status=400, code="invalid_json")
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    reason = str(first["msg"]).removeprefix("Value error, ").rstrip(".")
    code = "invalid_type" if kind.endswith("_type") else PYDANTIC_CODES.get(kind)
    said = {"missing": f"Missing field {where!r}.", "extra_forbidden": f"Unknown field {where!r}."}
    message = said.get(kind, f"{where}: {reason}." if where else f"{reason}.")
    return error_body(message, status=400, param=where or None, code=code)


def check_format(form: Format) -> None:
    """Refuses a format that this machine cannot write."""
    if form == "aac" and shutil.which("ffmpeg") is None:
        raise RequestError(
            "response_format 'aac' needs ffmpeg, which is not installed on the server. "
            "Use mp3 or opus.",
            code="unsupported_value",
            param="response_format",
        )


@releases_omp_threads
def encoded(clip: Clip, form: Format) -> bytes:
    """A clip as a file, or as 16-bit little-endian samples."""
    if form == "pcm":
        return pcm16(clip.samples)
    return _aac(clip.encoded("wav")) if form == "aac" else clip.encoded(form)


@releases_omp_threads
def converted(samples: Tensor, sample_rate: int, form: Format, *, comment: str) -> bytes:
    """Samples [C, N] as a file with a comment in its metadata, or as 16-bit samples."""
    if form == "pcm":
        return pcm16(samples)
    file = io.BytesIO()
    kept = comment if comment.isascii() and len(comment) <= LONGEST_COMMENT else None
    written = "wav" if form == "aac" else form
    write_audio(file, samples.clamp(-1, 1), sample_rate, format=written, comment=kept)
    return _aac(file.getvalue()) if form == "aac" else file.getvalue()


def _aac(wav: bytes) -> bytes:
    options = ["-i", "pipe:0", "-c:a", "aac", "-f", "adts", "pipe:1"]
    done = subprocess.run(["ffmpeg", "-v", "error", *options], input=wav, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"ffmpeg failed: {done.stderr.decode(errors='replace')}")
    return done.stdout


async def streamed(
    pieces: AsyncIterator[Tensor], form: Format, *, sample_rate: int, num_channels: int
) -> AsyncIterator[bytes]:
    """Samples [C, N] as WAV or PCM while they are made; samples beyond full scale are clipped."""
    if form == "wav":
        yield wav_header(sample_rate, num_channels)
    async for samples in pieces:
        yield releases_omp_threads(pcm16)(samples)
