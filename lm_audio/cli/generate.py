"""The verbs that make sound: generate, continue, inpaint, vary."""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from lm_audio.cli.arguments import Arg
from lm_audio.cli.console import counted, in_words, quiet_libraries, waiting_for
from lm_audio.cli.inputs import (
    audio_source,
    conversion,
    number_of,
    plain_text,
    read_samples,
    stem,
)
from lm_audio.cli.manifest import Settings, earlier_seed, only_run, tidy_manifest
from lm_audio.cli.outputs import OutputOptions, read_prompts
from lm_audio.generation.blend import Blend, parse_blend
from lm_audio.generation.story import Story, parse
from lm_audio.version import __version__

if TYPE_CHECKING:
    from audio_tokenizers.audio_files import AudioInfo
    from lm_audio.clip import Clip
    from lm_audio.pipeline import AudioPipeline
    from lm_audio.sampling import AnySampling

# What needs torch is imported where it runs, so that --help and checks are fast.

DTYPES = ("float32", "bfloat16", "float16", "int8", "auto")
Seconds = Annotated[float, Arg("SECONDS", at_least=0.01, at_most=86_400)]
AudioPath = Annotated[Path, Arg("AUDIO", positional=True)]
Place = Annotated[float, Arg("SECONDS", at_least=0)]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Model"""

    model: Annotated[str | None, Arg("MODEL")] = None
    """Folder, name from `lm-audio models`, or Hugging Face repo ID (default: the bundled model)."""
    device: Annotated[str | None, Arg("DEVICE")] = None
    """Device to run on, such as cpu, cuda or cuda:1 (default: cuda if available, otherwise cpu)."""
    dtype: Annotated[str, Arg("TYPE", choices=DTYPES)] = "float32"
    """Precision of the language models: float32 (full precision), bfloat16, float16, int8
    (CPU only), or auto, which picks the fastest precision that passes an accuracy check on the
    model."""
    text_encoder: Annotated[str | None, Arg("MODEL")] = None
    """Folder or Hugging Face repo ID of the text encoder, for checkpoints that do not include
    one."""

    judge: Annotated[str | None, Arg("MODEL")] = None
    """Folder or Hugging Face repo ID of the CLAP model that scores candidates for --best-of
    (default: the one bundled with the model, if any)."""

    def load(self, *, quiet: bool = False) -> "AudioPipeline":
        quiet_libraries()
        from lm_audio.loading import load

        with waiting_for(self.model or "the default model", quiet=quiet):
            return load(
                self.model,
                device=self.device,
                dtype=self.dtype,
                text_encoder=self.text_encoder,
                judge=self.judge,
            )


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Sampling (defaults depend on the model)"""

    guidance_scale: Annotated[float | None, Arg("X", at_least=0)] = None
    """Classifier-free guidance scale; higher values make the audio follow the prompt more
    closely; 1 disables guidance."""
    temperature: Annotated[float | None, Arg("X", at_least=0)] = None
    """Sampling temperature; 0 means greedy decoding."""
    top_k: Annotated[int | None, Arg("K", at_least=0, at_most=10**6)] = None
    """Sample from the K most likely tokens (0 to disable)."""
    top_p: Annotated[float | None, Arg("P", at_least=0, at_most=1)] = None
    """Nucleus sampling: keep the smallest set of tokens whose total probability is at least P
    (0 to disable)."""
    min_p: Annotated[float | None, Arg("P", at_least=0, at_most=1)] = None
    """Drop tokens less than P times as likely as the most likely one (0 to disable)."""
    repetition_penalty: Annotated[float | None, Arg("X", at_least=0.01)] = None
    """Values above 1 make recent tokens less likely."""
    steps: Annotated[int | None, Arg("N", at_least=1, at_most=1000)] = None
    """Number of denoising steps, or of decoding steps per codebook for masked models such as
    MAGNeT; more steps take longer and usually sound better."""
    solver: Annotated[str | None, Arg("NAME")] = None
    """Denoising solver: ddim, dpm++2m, dpm++2m-sde, dpm++2s-ancestral, ipndm, lms, euler, heun or
    ping-pong."""
    eta: Annotated[float | None, Arg("X", at_least=0, at_most=1)] = None
    """Share of new noise in each step of the ddim solver, from 0 to 1."""

    def of(self, model: "AudioPipeline") -> "dict[str, AnySampling]":
        """The changed settings of each stage, by name."""
        from lm_audio.sampling import adjusted

        given = {name: value for name, value in asdict(self).items() if value is not None}
        return adjusted({name: stage.sampling for name, stage in model.stages.items()}, given)


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """Generation"""

    seed: Annotated[int | None, Arg("N", at_least=0)] = None
    """Random seed; on a given machine, the same seed and settings give the same clip (default:
    random, printed)."""
    negative: Annotated[str | None, Arg("TEXT")] = None
    """Negative prompt: what the audio should not contain."""
    condition: Annotated[tuple[str, ...], Arg("NAME=VALUE")] = ()
    """Extra model input, such as voice=v2/en_speaker_6. Can be repeated."""
    melody: Annotated[str | None, Arg("FILE")] = None
    """Audio file whose melody the new audio should follow, for models that accept a melody."""
    raw: bool = False
    """Skip loudness normalisation and limiting."""

    def first_seed(self) -> int:
        return secrets.randbelow(2**32) if self.seed is None else self.seed

    def pairs(self) -> dict[str, str]:
        """The conditions by name, as text."""
        values: dict[str, str] = {}
        for given in self.condition:
            name, equals, value = given.partition("=")
            if not (name and equals):
                raise ValueError(f"--condition takes NAME=VALUE; got {given!r}.")
            if name == "text":
                raise ValueError("--condition cannot set the text; give it as the prompt.")
            if name in values:
                raise ValueError(f"--condition {name} was given twice.")
            values[name] = value
        if self.melody is not None:
            if "melody" in values:
                raise ValueError("--melody and --condition melody= cannot be combined.")
            values["melody"] = self.melody
        return values

    def conditions(self, model: "AudioPipeline") -> dict[str, Any]:
        """The conditions by name; numbers where the model takes numbers."""
        from lm_audio.conditioners.number import NumberConditioner
        from lm_audio.generation.token_stage import TokenStage

        numbers = {
            name
            for stage in model.stages.values()
            if isinstance(stage, TokenStage)
            for name, conditioner in stage.conditioners.items()
            if isinstance(conditioner, NumberConditioner)
        }
        return {
            name: number_of(name, value) if name in numbers else value
            for name, value in self.pairs().items()
        }


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """What all verbs that make a clip share."""

    request: RequestOptions = field(default_factory=RequestOptions)
    out: OutputOptions = field(default_factory=OutputOptions)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    model: ModelOptions = field(default_factory=ModelOptions)


@dataclass(frozen=True, kw_only=True)
class Generate(ClipOptions):
    """Generate audio from one or more prompts, or unconditionally."""

    EXAMPLES: ClassVar = (
        'lm-audio generate "a dog barking" -o dog.wav',
        'lm-audio generate "rain on a roof" --duration 10 --seed 7 --num-clips 3 -o rain/',
        "lm-audio generate --prompts prompts.txt -o clips/",
        'lm-audio generate "church bells" --guidance-scale 5 --negative wind --play',
        'lm-audio generate --story "0: rain; 10: thunder" --duration 20 -o storm.wav',
        'lm-audio generate --blend "3: rain; 1: wind" --model cvssp/audioldm2 -o weather.wav',
    )

    prompt: Annotated[str | None, Arg("PROMPT", positional=True)] = None
    """Description of the audio. If it starts with a dash, put it last, after --."""
    story: Annotated[str | None, Arg("TEXT")] = None
    """Sequence of prompts, each with its start time, used instead of PROMPT:
    "SECONDS: PROMPT; SECONDS: PROMPT"."""
    blend: Annotated[str | None, Arg("TEXT")] = None
    """Prompts with relative weights, used instead of PROMPT: "WEIGHT: PROMPT; WEIGHT: PROMPT". For
    diffusion models only."""
    prompts: Annotated[Path | None, Arg("FILE")] = None
    """File with one prompt per line, or - for stdin; lines that start with # are ignored. With -o
    FOLDER, rerun the command to resume: clips already listed in the folder's manifest.jsonl are
    not generated again."""
    duration: Seconds = 5.0
    """Length of the clip, in seconds."""
    loop: bool = False
    """Make a clip that loops seamlessly, for models that support it."""
    num_clips: Annotated[int, Arg("N", at_least=1)] = 1
    """Number of clips per prompt; each uses the next seed."""
    best_of: Annotated[int, Arg("N", at_least=1, at_most=64)] = 1
    """For each clip, generate N candidates and keep the one that best matches the prompt."""
    batch_size: Annotated[int, Arg("N", at_least=1)] = 8
    """Number of clips generated at once. Does not affect the results."""

    def run(self) -> None:
        given: dict[str, object] = {"PROMPT": self.prompt, "--story": self.story}
        given |= {"--blend": self.blend, "--prompts": self.prompts}
        if len(names := [name for name, value in given.items() if value is not None]) > 1:
            raise ValueError(f"{names[0]} and {names[1]} cannot be combined.")
        self.request.pairs()
        texts: list[str | None] = [plain_text(self.prompt)]
        if (several := self._several()) is not None:
            texts = [str(several)]
        if self.prompts is not None:
            texts = [*read_prompts(self.prompts)]
        folder = None if self.prompts is None else self._checked_folder()
        with only_run(folder):
            try:
                self._run(texts)
            finally:
                if folder is not None:
                    tidy_manifest(folder)

    def _several(self) -> Story | Blend | None:
        """The prompts that one clip follows, if there are several."""
        if self.story is not None:
            return parse(self.story)
        return None if self.blend is None else parse_blend(self.blend)

    def _checked_folder(self) -> Path | None:
        self.out.places([""], [0])
        return self.out.folder

    def _run(self, texts: list[str | None]) -> None:
        first = self._first_seed(texts)
        seeds = range(first, first + self.num_clips)
        wanted = [(text, seed) for text in texts for seed in seeds]
        places = self.out.places([text or "sound" for text, _ in wanted], [s for _, s in wanted])
        settings = [self._settings(text, seed) for text, seed in wanted]
        left = self.out.missing(places, settings)
        screen = self.out.screen
        if not left:
            what = f"{counted(len(wanted), 'clip')} with these settings"
            print(f"Nothing to do: {self.out.folder} already has {what}.", file=screen)
            return
        if len(left) < len(wanted):
            done = counted(len(wanted) - len(left), "clip")
            print(f"Resuming: {done} of {len(wanted)} already in {self.out.folder}.", file=screen)
        model = _load(self.model, self.out)
        with self.out.making("generating", self.duration * len(left)) as progress:
            for start in range(0, len(left), self.batch_size):
                some = left[start : start + self.batch_size]
                clips = model.generate(
                    [self._several() or wanted[i][0] for i in some],
                    duration=self.duration,
                    seed=[wanted[i][1] for i in some],
                    sampling=self.sampling.of(model),
                    negative=self.request.negative,
                    conditions=self.request.conditions(model),
                    raw=self.request.raw,
                    loop=self.loop,
                    best_of=self.best_of,
                    progress=partial(_share_of, progress, start, len(some), len(left)),
                )
                self.out.deliver(clips, [places[i] for i in some], [settings[i] for i in some])

    def _first_seed(self, texts: list[str | None]) -> int:
        """The seed that was given, or that of the run to resume, or a random one."""
        if self.request.seed is None and self.prompts is not None and self.out.folder is not None:
            earlier = earlier_seed(self.out.folder, [self._settings(text, 0) for text in texts])
            if earlier is not None:
                return earlier
        return self.request.first_seed()

    def _settings(self, text: str | None, seed: int) -> Settings:
        name = {Story: "story", Blend: "blend"}.get(type(self._several()), "prompt")
        return _settings(
            self,
            "generate",
            **{name: text},
            seed=seed,
            duration=self.duration,
            loop=self.loop or None,
            best_of=None if self.best_of == 1 else self.best_of,
        )


@dataclass(frozen=True, kw_only=True)
class Continue(ClipOptions):
    """Extend an audio file with generated audio."""

    EXAMPLES: ClassVar = (
        "lm-audio continue piano.wav --duration 10 -o longer.wav",
        'lm-audio continue walk.m4a --text "footsteps on gravel" --seed 3',
        "sox in.wav -t wav - | lm-audio continue - -o - > out.wav",
    )

    audio: AudioPath
    """Audio file, or - for stdin. Formats other than WAV, FLAC, OGG, Opus and MP3 need ffmpeg."""
    duration: Seconds = 5.0
    """Length of the new audio, in seconds."""
    text: Annotated[str | None, Arg("TEXT")] = None
    """Prompt for the new audio."""
    overwrite: bool = False
    """Allow the output to replace the input file."""

    def run(self) -> None:
        from audio_tokenizers.audio_files import audio_info

        source = audio_source(self.audio)
        _edit(
            self,
            audio_info(source),
            source,
            given={"text": plain_text(self.text), "duration": self.duration},
            seconds=self.duration,
            make=lambda model, audio, **options: model.continue_from(audio, **options),
        )


@dataclass(frozen=True, kw_only=True)
class Vary(ClipOptions):
    """Make a variation of an audio file. Needs a diffusion model, such as cvssp/audioldm2."""

    EXAMPLES: ClassVar = (
        "lm-audio vary drums.wav --model cvssp/audioldm2 -o other.wav",
        'lm-audio vary hum.wav --strength 0.7 --text "a violin" --model cvssp/audioldm2',
        "lm-audio vary a.wav --towards b.wav --share 0.3 --model maestro-150k -o between.wav",
    )

    audio: AudioPath
    """Audio file, or - for stdin. Formats other than WAV, FLAC, OGG, Opus and MP3 need ffmpeg."""
    strength: Annotated[float, Arg("X", at_least=0.01, at_most=1)] = 0.4
    """How much to change the audio, from 0.01 to 1; 1 keeps almost nothing of the original."""
    towards: Annotated[Path | None, Arg("FILE")] = None
    """Audio file to mix in, for a sound between the two."""
    share: Annotated[float | None, Arg("X", at_least=0, at_most=1)] = None
    """Share of the --towards audio, from 0 to 1 (default: 0.5)."""
    text: Annotated[str | None, Arg("TEXT")] = None
    """Prompt for the new audio."""
    overwrite: bool = False
    """Allow the output to replace the input file."""

    def run(self) -> None:
        from audio_tokenizers.audio_files import audio_info

        source = audio_source(self.audio)
        info = audio_info(source)
        other: dict[str, Any] = {}
        if self.towards is not None:
            audio_info(self.towards)  # a missing file ends here, before the model is loaded
            other = {"towards": str(self.towards), "share": self.share}
        elif self.share is not None:
            raise ValueError("--share has no effect without --towards.")
        _edit(
            self,
            info,
            source,
            given={"text": plain_text(self.text), "strength": self.strength, **other},
            seconds=info.duration,
            make=lambda model, audio, **options: model.vary(audio, **options),
        )


@dataclass(frozen=True, kw_only=True)
class Inpaint(ClipOptions):
    """Regenerate a span of an audio file.

    The rest of the audio stays as it is, apart from conversion to the model's sample rate and
    channel count.
    """

    EXAMPLES: ClassVar = (
        "lm-audio inpaint song.wav --start 12.5 --end 14 -o inpainted.wav",
        'lm-audio inpaint street.mp3 --start 1 --end 3 --text "a car horn" --num-candidates 8',
    )

    audio: AudioPath
    """Audio file, or - for stdin. Formats other than WAV, FLAC, OGG, Opus and MP3 need ffmpeg."""
    start: Place
    """Start of the span, in seconds."""
    end: Place
    """End of the span, in seconds."""
    text: Annotated[str | None, Arg("TEXT")] = None
    """Prompt for the new audio."""
    num_candidates: Annotated[int, Arg("N", at_least=1)] = 4
    """Number of candidates to generate. The one with the smoothest transition into the audio
    after the span is kept."""
    overwrite: bool = False
    """Allow the output to replace the input file."""

    def run(self) -> None:
        from audio_tokenizers.audio_files import audio_info

        source = audio_source(self.audio)
        info = audio_info(source)
        if not self.start < self.end:
            raise ValueError(
                f"--end must be greater than --start; got {self.end:g} and {self.start:g}."
            )
        if self.end > info.duration + 0.001:
            raise ValueError(
                f"The span from {self.start:g} to {self.end:g} s is not within the "
                f"{info.duration:.2f} s of {self.audio}."
            )
        span = {"start": self.start, "end": self.end, "num_candidates": self.num_candidates}
        _edit(
            self,
            info,
            source,
            given={"text": plain_text(self.text), **span},
            seconds=self.end - self.start,
            make=lambda model, audio, **options: model.inpaint(audio, **options),
        )


def _edit(
    verb: Continue | Vary | Inpaint,
    info: "AudioInfo",
    source: Any,
    *,
    given: Mapping[str, Any],
    seconds: float,
    make: "Callable[..., Clip]",
) -> None:
    """Makes and delivers a clip from an audio file; `make` gets the model, audio and settings."""
    name, past, making = {
        Continue: ("continue", "continued", "continuing"),
        Vary: ("vary", "varied", "varying"),
        Inpaint: ("inpaint", "inpainted", "inpainting"),
    }[type(verb)]
    verb.request.pairs()
    seed = verb.request.first_seed()
    kept = None if verb.overwrite else verb.audio
    places = verb.out.places([f"{stem(verb.audio)} {past}"], [seed], source=kept)
    settings = _settings(verb, name, audio=str(verb.audio), seed=seed, **given)
    model = _load(verb.model, verb.out)
    notice = conversion(
        verb.audio, info, sample_rate=model.sample_rate, num_channels=model.num_channels
    )
    if notice is not None:
        print(notice, file=verb.out.screen)
    with verb.out.making(making, seconds) as progress:
        clip = make(
            model,
            read_samples(source, model),
            **given,
            seed=seed,
            sampling=verb.sampling.of(model),
            negative=verb.request.negative,
            conditions=verb.request.conditions(model),
            raw=verb.request.raw,
            progress=progress,
        )
        verb.out.deliver([clip], places, [settings])


def _settings(verb: ClipOptions, name: str, **given: Any) -> Settings:
    """All that reproduces a clip; options that were not given are the model's own."""
    options = {
        **given,
        "negative": verb.request.negative,
        "condition": list(verb.request.condition) or None,
        "raw": verb.request.raw or None,
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


def _load(options: ModelOptions, out: OutputOptions) -> "AudioPipeline":
    """Loads the model and prints its name, size and loading time."""
    start = time.perf_counter()
    model = options.load(quiet=out.quiet)
    took = time.perf_counter() - start

    from lm_audio.model import num_stage_parameters

    count = in_words(sum(num_stage_parameters(stage) for stage in model.stages.values()))
    name = options.model or "the default model"
    facts = f"{count} parameters, {model.dtype}"
    print(f"Loaded {name} ({facts}) in {took:.1f} s", file=out.screen, flush=True)
    return model
