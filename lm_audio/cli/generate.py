"""The verbs that make sound: generate, continue, inpaint."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import tyro

from lm_audio.cli.console import in_words, quiet_libraries, share_bar, waiting_for
from lm_audio.cli.outputs import OutputOptions, Settings, read_prompts
from lm_audio.version import __version__

if TYPE_CHECKING:
    from lm_audio.pipeline import AudioPipeline
    from lm_audio.sampling import Sampling

# What needs torch is imported where it runs, so that --help answers at once.


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    model: str | None = None
    """Folder, name from `lm-audio models`, or Hugging Face id (default: the embedded model)."""
    device: str | None = None
    """Device such as cpu, cuda or cuda:1 (default: CUDA if available, else CPU)."""
    dtype: str = "float32"
    """Precision of the language models: float32 (exact), bfloat16, float16, int8 (CPU only), or
    auto for the fastest one that passes an accuracy check on this model."""
    text_encoder: str | None = None
    """Folder or hub id of the text encoder, for checkpoints that do not include one."""

    def load(self) -> "AudioPipeline":
        from lm_audio.loading import load

        quiet_libraries()
        with waiting_for(self.model or "the default model"):
            return load(
                self.model, device=self.device, dtype=self.dtype, text_encoder=self.text_encoder
            )


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Options that are not given keep the model's defaults."""

    guidance_scale: float | None = None
    """How closely to follow the prompt; 1 disables guidance."""
    temperature: float | None = None
    """Sampling temperature; 0 is greedy."""
    top_k: int | None = None
    """Sample from the k most likely tokens (0 disables)."""
    top_p: float | None = None
    """Nucleus sampling: keep the smallest set of tokens with total probability p (0 disables)."""
    min_p: float | None = None
    """Drop tokens less likely than min_p times the most likely one (0 disables)."""
    repetition_penalty: float | None = None
    """Values above 1 make recent tokens less likely."""

    def of(self, model: "AudioPipeline") -> "dict[str, Sampling]":
        """The sampling of each stage, by name."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: replace(stage.sampling, **given) for name, stage in model.stages.items()}


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    seed: int | None = None
    """Random seed; the same seed gives the same clip (default: random, printed)."""
    negative: str | None = None
    """Negative prompt: what the sound should not contain."""
    condition: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Further condition as NAME=VALUE, such as voice=v2/en_speaker_6; repeatable."""

    def seeds(self, count: int) -> list[int]:
        from lm_audio.sampling import random_seed

        if count < 1:
            raise ValueError(f"Got --num-clips {count}; use 1 or more.")
        first = random_seed() if self.seed is None else self.seed
        return list(range(first, first + count))

    def conditions(self, model: "AudioPipeline") -> dict[str, Any]:
        """The conditions by name; numbers where the model takes numbers."""
        from lm_audio.conditioners.number import NumberConditioner
        from lm_audio.generation.lm_stage import LMStage

        numbers = {
            name
            for stage in model.stages.values()
            if isinstance(stage, LMStage)
            for name, conditioner in stage.conditioners.items()
            if isinstance(conditioner, NumberConditioner)
        }
        values: dict[str, Any] = {}
        for given in self.condition:
            name, equals, value = given.partition("=")
            if not (name and equals) or name in values or name == "text":
                raise ValueError(
                    f"Got --condition {given!r}; give NAME=VALUE, each name once, the text apart."
                )
            values[name] = _number(name, value) if name in numbers else value
        return values


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Generate sound from a text, a file of texts, or no prompt."""

    prompt: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="PROMPT")] = None
    """Description of the sound."""
    prompts: Path | None = None
    """File with one prompt per line, or - for stdin. An interrupted run resumes: clips that are
    already in the output folder's manifest are skipped."""
    duration: float = 5.0
    """Seconds of sound."""
    num_clips: int = 1
    """Clips per prompt, with seeds SEED, SEED + 1 and so on."""
    batch_size: int = 8
    """Clips per batch. Does not change the results."""
    model: Annotated[ModelOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=ModelOptions)
    request: Annotated[RequestOptions, tyro.conf.OmitArgPrefixes] = field(
        default_factory=RequestOptions
    )
    sampling: Annotated[SamplingOptions, tyro.conf.OmitArgPrefixes] = field(
        default_factory=SamplingOptions
    )
    out: Annotated[OutputOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=OutputOptions)

    def run(self) -> None:
        if self.prompt is not None and self.prompts is not None:
            raise ValueError("Got a prompt and --prompts; give one of them.")
        if self.batch_size < 1:
            raise ValueError(f"Got --batch-size {self.batch_size}; use 1 or more.")
        texts = [self.prompt] if self.prompts is None else read_prompts(self.prompts)
        wanted = [(text, seed) for text in texts for seed in self.request.seeds(self.num_clips)]
        places = self.out.places([text or "sound" for text, _ in wanted], [s for _, s in wanted])
        settings = [
            _settings(self, "generate", prompt=text, seed=seed, duration=self.duration)
            for text, seed in wanted
        ]
        left = self.out.missing(places, settings)
        if not left:
            print(
                f"All {len(wanted)} clips are in {self.out.folder} already.", file=self.out.screen
            )
            return
        model = _load(self.model, self.out.screen)
        with _making("generating", self.duration * len(left), self.out.screen) as progress:
            for first in range(0, len(left), self.batch_size):
                some = left[first : first + self.batch_size]
                clips = model.generate(
                    [wanted[i][0] for i in some],
                    duration=self.duration,
                    seed=[wanted[i][1] for i in some],
                    sampling=self.sampling.of(model),
                    negative=self.request.negative,
                    conditions=self.request.conditions(model),
                    progress=partial(_share_of, progress, first, len(some), len(left)),
                )
                self.out.deliver(clips, [places[i] for i in some], [settings[i] for i in some])


@dataclass(frozen=True, kw_only=True)
class Continue:
    """Continue an audio file: its own samples, then new sound."""

    audio: tyro.conf.Positional[Path]
    """WAV, FLAC, OGG, Opus or MP3 file."""
    duration: float = 5.0
    """Seconds of new sound."""
    text: str | None = None
    """Description of the new sound."""
    model: Annotated[ModelOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=ModelOptions)
    request: Annotated[RequestOptions, tyro.conf.OmitArgPrefixes] = field(
        default_factory=RequestOptions
    )
    sampling: Annotated[SamplingOptions, tyro.conf.OmitArgPrefixes] = field(
        default_factory=SamplingOptions
    )
    out: Annotated[OutputOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=OutputOptions)

    def run(self) -> None:
        from audio_tokenizers.audio_files import audio_info

        audio_info(self.audio)  # what is wrong with it is told before the model is loaded
        (seed,) = self.request.seeds(1)
        places = self.out.places([f"{self.audio.stem} continued"], [seed])
        given = {"audio": str(self.audio), "text": self.text, "duration": self.duration}
        settings = _settings(self, "continue", seed=seed, **given)
        model = _load(self.model, self.out.screen)
        with _making("continuing", self.duration, self.out.screen) as progress:
            clip = model.continue_from(
                self.audio,
                duration=self.duration,
                text=self.text,
                seed=seed,
                sampling=self.sampling.of(model),
                negative=self.request.negative,
                conditions=self.request.conditions(model),
                progress=progress,
            )
            self.out.deliver([clip], places, [settings])


@dataclass(frozen=True, kw_only=True)
class Inpaint:
    """Regenerate a span of an audio file; all other samples are kept."""

    audio: tyro.conf.Positional[Path]
    """WAV, FLAC, OGG, Opus or MP3 file."""
    start: float
    """Start of the span, in seconds."""
    end: float
    """End of the span, in seconds."""
    text: str | None = None
    """Description of the new sound."""
    num_candidates: int = 4
    """Fillings to generate; the one that fits best is kept."""
    model: Annotated[ModelOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=ModelOptions)
    request: Annotated[RequestOptions, tyro.conf.OmitArgPrefixes] = field(
        default_factory=RequestOptions
    )
    sampling: Annotated[SamplingOptions, tyro.conf.OmitArgPrefixes] = field(
        default_factory=SamplingOptions
    )
    out: Annotated[OutputOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=OutputOptions)

    def run(self) -> None:
        from audio_tokenizers.audio_files import audio_info

        audio_info(self.audio)
        (seed,) = self.request.seeds(1)
        places = self.out.places([f"{self.audio.stem} inpainted"], [seed])
        given = {"audio": str(self.audio), "text": self.text, "start": self.start, "end": self.end}
        given["num_candidates"] = self.num_candidates
        settings = _settings(self, "inpaint", seed=seed, **given)
        model = _load(self.model, self.out.screen)
        with _making("inpainting", self.end - self.start, self.out.screen) as progress:
            clip = model.inpaint(
                self.audio,
                start=self.start,
                end=self.end,
                text=self.text,
                seed=seed,
                sampling=self.sampling.of(model),
                negative=self.request.negative,
                conditions=self.request.conditions(model),
                num_candidates=self.num_candidates,
                progress=progress,
            )
            self.out.deliver([clip], places, [settings])


def _settings(verb: Generate | Continue | Inpaint, name: str, **given: Any) -> Settings:
    """All that reproduces a clip; options that were not given are the model's own."""
    options = {
        **given,
        "negative": verb.request.negative,
        "condition": list(verb.request.condition) or None,
        **asdict(verb.sampling),
        **asdict(verb.model),
        "watermark": verb.out.watermark,
        "model": verb.model.model or "default",
        "lm-audio": __version__,
    }
    return {"verb": name} | {key: value for key, value in options.items() if value is not None}


def _share_of(
    progress: Callable[[float], None], done: int, count: int, total: int, share: float
) -> None:
    """Reports the share of all clips, from that of the current batch."""
    progress((done + share * count) / total)


def _load(options: ModelOptions, screen: TextIO) -> "AudioPipeline":
    """Loads the model and prints its name, size and loading time."""
    from lm_audio.networks.packing import num_parameters

    began = time.perf_counter()
    model = options.load()
    took = time.perf_counter() - began
    stages: Any = model.stages.values()  # each kind has its own model
    count = sum(num_parameters(stage.model) for stage in stages)
    name = options.model or "the model in this package"
    said = f"loaded {name}: {in_words(count)} parameters in {took:.1f} s"
    print(said, file=screen, flush=True)
    return model


@contextmanager
def _making(what: str, seconds: float, screen: TextIO) -> Iterator[Callable[[float], None]]:
    """Shows a progress bar, then the time taken and the real-time factor."""
    began = time.perf_counter()
    with share_bar(what) as progress:
        yield progress
    took = time.perf_counter() - began
    factor = took / seconds
    said = f"made {seconds:.2f} s of sound in {took:.1f} s: a real-time factor of {factor:.2f}"
    print(said, file=screen)


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"Got --condition {name}={value}; the model takes a number.") from None
