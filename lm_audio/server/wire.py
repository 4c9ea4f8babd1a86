"""What goes over the wire: request and response bodies, and audio as bytes.

Shapes: C channels, N samples.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat
from torch import Tensor

from audio_tokenizers.wav_stream import pcm16, wav_header
from lm_audio.clip import Clip
from lm_audio.generation.track import Stage
from lm_audio.sampling import Sampling, random_seed
from lm_audio.system import releases_omp_threads

Format = Literal["wav", "flac", "opus", "mp3", "pcm"]
MEDIA_TYPES: dict[Format, str] = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "opus": "audio/ogg",
    "mp3": "audio/mpeg",
    "pcm": "audio/pcm",
}
STREAMED = {"wav", "pcm"}
MAX_TEXT = 4096  # characters, as in OpenAI's API


def _integral(value: Any) -> Any:
    """JSON has one kind of number: 3.0 is 3."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


INTEGRAL = BeforeValidator(_integral)


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

    def over(self, default: Sampling) -> Sampling:
        """The default with the given options replaced."""
        return replace(default, **self.model_dump(exclude_none=True))


class CommonFields(Body):
    """Fields of all requests."""

    model: str | None = Field(default=None, description="The name of the served model.")
    seed: Annotated[int, Field(ge=0, lt=2**63), INTEGRAL] | None = None
    negative: str | None = Field(default=None, max_length=MAX_TEXT)
    conditions: dict[str, str | FiniteFloat] = Field(default_factory=dict)
    sampling: dict[str, SamplingBody] = Field(
        default_factory=dict, description='Options by stage name; "*" applies to all other stages.'
    )

    def seed_or_random(self) -> int:
        return random_seed() if self.seed is None else self.seed

    def sampling_of(self, stages: Mapping[str, Stage]) -> dict[str, Sampling] | None:
        """The sampling of each stage that the request changes, by name."""
        unknown = self.sampling.keys() - stages.keys() - {"*"}
        if unknown:
            choices = ", ".join([*stages, "*"])
            raise ValueError(f"Unknown stage {min(unknown)!r}. Choose one of: {choices}.")
        changed = {
            name: given.over(stage.sampling)
            for name, stage in stages.items()
            if (given := self.sampling.get(name, self.sampling.get("*"))) is not None
        }
        return changed or None


class GenerationFields(CommonFields):
    """Fields of requests for new sound of a given duration."""

    duration: FiniteFloat = Field(default=5.0, gt=0, description="Seconds of new sound.")


class GenerationBody(GenerationFields):
    """One or more clips, with or without a text prompt."""

    prompt: str | None = Field(default=None, max_length=MAX_TEXT)
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


class SpeechBody(GenerationFields):
    """OpenAI's speech request; `input` is the prompt."""

    input: str = Field(max_length=MAX_TEXT)
    voice: str | None = Field(
        default=None,
        max_length=200,
        description='For models with voices; omit it or send "default" otherwise.',
    )
    response_format: Format = "mp3"
    speed: Annotated[FiniteFloat, Field(ge=1, le=1)] = 1.0
    stream_format: Literal["audio"] = "audio"


class InpaintingBody(CommonFields):
    """A span of a clip to replace."""

    start: FiniteFloat = Field(ge=0, description="Start of the span in seconds.")
    end: FiniteFloat = Field(gt=0, description="End of the span in seconds.")
    prompt: str | None = Field(default=None, max_length=MAX_TEXT)
    candidates: Annotated[
        int, Field(ge=1, le=16, description="Fillings to compare; the best one is kept."), INTEGRAL
    ] = 4
    response_format: Format = "wav"


class ClipAnswer(BaseModel):
    b64_audio: str
    format: Format
    seed: int
    duration: float
    sample_rate: int


class ClipsAnswer(BaseModel):
    created: int
    model: str
    data: list[ClipAnswer]


class Error(BaseModel):
    """An error in OpenAI's format."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    code: None = None


class ErrorAnswer(BaseModel):
    error: Error


def error_body(message: str, *, status: int, param: str | None = None) -> dict[str, Any]:
    kind: Literal["invalid_request_error", "server_error"]
    kind = "invalid_request_error" if status < 500 else "server_error"
    return ErrorAnswer(error=Error(message=message, type=kind, param=param)).model_dump()


@releases_omp_threads
def encoded(clip: Clip, form: Format) -> bytes:
    """A clip as a file, or as 16-bit little-endian samples."""
    return pcm16(clip.samples) if form == "pcm" else clip.encoded(form)


async def streamed(
    pieces: AsyncIterator[Tensor], form: Format, *, sample_rate: int, num_channels: int
) -> AsyncIterator[bytes]:
    """Samples [C, N] as WAV or PCM while they are made; samples beyond full scale are clipped."""
    if form == "wav":
        yield wav_header(sample_rate, num_channels)
    async for samples in pieces:
        yield releases_omp_threads(pcm16)(samples)
