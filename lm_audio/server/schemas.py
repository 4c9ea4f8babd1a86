"""What people may ask the service for, and what it answers."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat

from lm_audio.sampling import Sampling

Format = Literal["wav", "flac", "opus", "mp3", "pcm"]
LONGEST_TEXT = 4096  # characters, as OpenAI's API has it


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 3.0 is 3."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)


class Body(BaseModel):
    """A field that nobody reads is a mistake of who sent it."""

    model_config = ConfigDict(extra="forbid", strict=True)


class SamplingBody(Body):
    """What is not given stays as the model has it."""

    temperature: Annotated[FiniteFloat, Field(ge=0, le=10)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000), WHOLE] | None = None
    top_p: Annotated[FiniteFloat, Field(ge=0, le=1)] | None = None
    min_p: Annotated[FiniteFloat, Field(ge=0, le=1)] | None = None
    guidance_scale: Annotated[FiniteFloat, Field(ge=0, le=100)] | None = None
    repetition_penalty: Annotated[FiniteFloat, Field(ge=1, le=10)] | None = None

    def of(self, own: Sampling) -> Sampling:
        """That of a stage, with what was given."""
        return replace(own, **self.model_dump(exclude_none=True))


class Asked(Body):
    """What all requests may say."""

    model: str | None = Field(default=None, description="The one of this service, if any.")
    seed: Annotated[int, Field(ge=0, lt=2**63), WHOLE] | None = None
    negative: str | None = Field(default=None, max_length=LONGEST_TEXT)
    conditions: dict[str, str | FiniteFloat] = Field(default_factory=dict)
    sampling: dict[str, SamplingBody] = Field(
        default_factory=dict, description='By the name of the stage; "*" is all others.'
    )


class TimedAsked(Asked):
    duration: FiniteFloat = Field(default=5.0, gt=0, description="Seconds of new sound.")


class GenerationBody(TimedAsked):
    """A clip, or several, from a text or from nothing."""

    prompt: str | None = Field(default=None, max_length=LONGEST_TEXT)
    n: Annotated[
        int, Field(ge=1, le=16, description="Clips, of the seeds seed, seed + 1 ..."), WHOLE
    ] = 1
    response_format: Format = "wav"
    stream: bool = Field(
        default=False, description="Sound instead of JSON, wav and pcm while it is made."
    )


class SpeechBody(TimedAsked):
    """OpenAI's request: the prompt is its input."""

    input: str = Field(max_length=LONGEST_TEXT)
    voice: str | None = Field(
        default=None, max_length=200, description="For models that take one; else without effect."
    )
    response_format: Format = "mp3"
    speed: Annotated[FiniteFloat, Field(ge=1, le=1)] = 1.0
    stream_format: Literal["audio"] = "audio"


class InpaintingBody(Asked):
    """A clip of which a span is made anew."""

    start: FiniteFloat = Field(ge=0, description="Seconds.")
    end: FiniteFloat = Field(gt=0, description="Seconds.")
    prompt: str | None = Field(default=None, max_length=LONGEST_TEXT)
    candidates: Annotated[int, Field(ge=1, le=16, description="Fillings; one is kept."), WHOLE] = 4
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
    """What is wrong, as OpenAI's clients read it."""

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
