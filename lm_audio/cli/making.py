"""The verbs that make sound: generate, continue, inpaint."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lm_audio.cli.console import in_words, quiet_libraries, share_bar, waiting_for

if TYPE_CHECKING:
    from lm_audio.clip import Clip
    from lm_audio.pipeline import AudioPipeline
    from lm_audio.sampling import Sampling

# What needs torch is imported where it runs, so that --help answers at once.

LONGEST_SLUG = 40  # characters of a prompt in a file name


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    model: str | None = None
    """A folder, a name that `lm-audio models` lists, or a hub id; else the one in the package."""
    device: str | None = None
    """Such as cpu, cuda or cuda:1; CUDA where there is any by default."""
    dtype: str = "float32"
    """Of the language models: float32 (exact), bfloat16 or float16; int8 on a CPU."""
    text_encoder: str | None = None
    """A folder or hub id of what reads the text, for files that lack it."""

    def load(self) -> "AudioPipeline":
        from lm_audio.loading import load

        quiet_libraries()
        with waiting_for(self.model or "the default model"):
            return load(
                self.model, device=self.device, dtype=self.dtype, text_encoder=self.text_encoder
            )


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """What is not given stays as the model has it."""

    guidance_scale: float | None = None
    """How closely to follow the prompt; 1 is no guidance."""
    temperature: float | None = None
    """0 always picks the likeliest token."""
    top_k: int | None = None
    """Only the k likeliest tokens; 0 is all."""
    top_p: float | None = None
    """Of these, the fewest that hold this share; 0 is all."""
    min_p: float | None = None
    """Of these, those at least so likely, compared to the likeliest; 0 is all."""
    repetition_penalty: float | None = None
    """Above 1, recent tokens become less likely."""

    def of(self, model: "AudioPipeline") -> "dict[str, Sampling]":
        """The sampling of each stage of a model, by name."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: replace(stage.sampling, **given) for name, stage in model.stages.items()}


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    seed: int | None = None
    """The same one gives the same clip; a new one is drawn by default, and printed."""
    negative: str | None = None
    """What the sound should not be like."""
    condition: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE, such as voice=v2/en_speaker_6; may be given several times."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The suffix says the format: .wav, .flac, .ogg, .opus or .mp3; a file in out/ by default."""
    plot: Path | None = None
    """A .png for a picture of the waveform and its mel spectrogram; needs matplotlib."""
    play: bool = False
    """Play what was made."""

    def seeds(self, count: int) -> list[int]:
        from lm_audio.sampling import random_seed

        if count < 1:
            raise ValueError(f"Got --num-samples {count}; ask for at least 1.")
        first = random_seed() if self.seed is None else self.seed
        return list(range(first, first + count))

    def paths(self, name: str, seeds: Sequence[int]) -> list[Path]:
        """Where clips of these seeds go, once it is sure that all that is asked for can be done."""
        from audio_tokenizers.audio_writer import AudioWriter
        from lm_audio.clip import find_player, new_figure

        if self.output is None:
            paths = [Path("out") / f"{name}-{seed}.wav" for seed in seeds]
        else:
            paths = _each(self.output, seeds)
        for path in paths:
            AudioWriter(path, 24_000)  # its suffix is one that can be written
            if path.is_dir():
                raise ValueError(f"{path} is a folder; give the name of a file.")
        if self.plot is not None:
            new_figure(self.plot)
        if self.play:
            find_player()
        return paths

    def deliver(self, clips: "Sequence[Clip]", paths: Sequence[Path]) -> None:
        """Writes, draws and plays what was made."""
        for clip, path in zip(clips, paths, strict=True):
            clip.save(path)
            print(f"{path}: {clip.duration:.2f} s at {clip.sample_rate} Hz, seed {clip.seed}")
        if self.plot is not None:
            pictures = _each(self.plot, [clip.seed for clip in clips])
            for clip, picture in zip(clips, pictures, strict=True):
                clip.plot(picture)
        if self.play:
            for clip in clips:
                clip.play()

    def conditions(self, model: "AudioPipeline") -> dict[str, Any]:
        """The conditions by name; numbers where the model takes numbers."""
        from lm_audio.conditioners.number import NumberConditioner
        from lm_audio.stages.stage import Stage

        numbers = {
            name
            for stage in model.stages.values()
            if isinstance(stage, Stage)
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
    """Makes sound from a text, or from nothing."""

    prompt: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="PROMPT")] = None
    """What the sound should be like."""
    duration: float = 5.0
    """Seconds."""
    num_samples: int = 1
    """How many clips, with the seeds seed, seed + 1 and so on."""
    model: Annotated[ModelOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=ModelOptions)
    request: Annotated[RequestOptions, tyro.conf.OmitArgPrefixes] = field(
        default_factory=RequestOptions
    )
    sampling: Annotated[SamplingOptions, tyro.conf.OmitArgPrefixes] = field(
        default_factory=SamplingOptions
    )

    def run(self) -> None:
        seeds = self.request.seeds(self.num_samples)
        paths = self.request.paths(_slug(self.prompt or "sound"), seeds)
        model = _load(self.model)
        with _making("generating", self.duration * len(seeds)) as progress:
            clips = model.generate(
                [self.prompt] * len(seeds),
                duration=self.duration,
                seed=seeds,
                sampling=self.sampling.of(model),
                negative=self.request.negative,
                conditions=self.request.conditions(model),
                progress=progress,
            )
        self.request.deliver(clips, paths)


@dataclass(frozen=True, kw_only=True)
class Continue:
    """Continues audio: its own samples, then new sound."""

    audio: tyro.conf.Positional[Path]
    """Any WAV, FLAC, OGG, Opus or MP3 file."""
    duration: float = 5.0
    """Seconds of new sound."""
    text: str | None = None
    """What the sound should be like."""
    model: Annotated[ModelOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=ModelOptions)
    request: Annotated[RequestOptions, tyro.conf.OmitArgPrefixes] = field(
        default_factory=RequestOptions
    )
    sampling: Annotated[SamplingOptions, tyro.conf.OmitArgPrefixes] = field(
        default_factory=SamplingOptions
    )

    def run(self) -> None:
        from audio_tokenizers.audio_files import audio_info

        audio_info(self.audio)  # what is wrong with it is told before the model is loaded
        (seed,) = self.request.seeds(1)
        (path,) = self.request.paths(f"{_slug(self.audio.stem)}-continued", [seed])
        model = _load(self.model)
        with _making("continuing", self.duration) as progress:
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
        self.request.deliver([clip], [path])


@dataclass(frozen=True, kw_only=True)
class Inpaint:
    """Makes a span of audio anew; all other samples are kept."""

    audio: tyro.conf.Positional[Path]
    """Any WAV, FLAC, OGG, Opus or MP3 file."""
    start: float
    """Seconds from its beginning."""
    end: float
    """Seconds from its beginning."""
    text: str | None = None
    """What the sound should be like."""
    num_candidates: int = 4
    """How many fillings to choose from."""
    model: Annotated[ModelOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=ModelOptions)
    request: Annotated[RequestOptions, tyro.conf.OmitArgPrefixes] = field(
        default_factory=RequestOptions
    )
    sampling: Annotated[SamplingOptions, tyro.conf.OmitArgPrefixes] = field(
        default_factory=SamplingOptions
    )

    def run(self) -> None:
        from audio_tokenizers.audio_files import audio_info

        audio_info(self.audio)
        (seed,) = self.request.seeds(1)
        (path,) = self.request.paths(f"{_slug(self.audio.stem)}-inpainted", [seed])
        model = _load(self.model)
        with _making("inpainting", self.end - self.start) as progress:
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
        self.request.deliver([clip], [path])


def _load(options: ModelOptions) -> "AudioPipeline":
    """Loads the model, and says which one, its size and how long that took."""
    began = time.perf_counter()
    model = options.load()
    took = time.perf_counter() - began
    stages: Any = model.stages.values()  # each kind has its own model
    count = sum(weight.numel() for stage in stages for weight in stage.model.parameters())
    name = options.model or "the model in this package"
    print(f"loaded {name}: {in_words(count)} parameters in {took:.1f} s", flush=True)
    return model


@contextmanager
def _making(what: str, seconds: float) -> Iterator[Callable[[float], None]]:
    """Shows progress, and in the end how long it took to make so many seconds of sound."""
    began = time.perf_counter()
    with share_bar(what) as progress:
        yield progress
    took = time.perf_counter() - began
    factor = took / seconds
    print(f"made {seconds:.2f} s of sound in {took:.1f} s: a real-time factor of {factor:.2f}")


def _each(path: Path, seeds: Sequence[int]) -> list[Path]:
    """The file for the clip of each seed: the one that was named, or files with the seeds added."""
    if len(seeds) == 1:
        return [path]
    return [path.with_stem(f"{path.stem}-{seed}") for seed in seeds]


def _slug(text: str) -> str:
    """A text as a part of a file name."""
    words = re.findall(r"\w+", text.lower())
    return "-".join(words)[:LONGEST_SLUG].rstrip("-") or "sound"


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"Got --condition {name}={value}; the model takes a number.") from None
