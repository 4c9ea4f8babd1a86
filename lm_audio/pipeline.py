"""From a prompt to sound: stages of token language models, then a renderer.

Shapes: C channels, N samples, K codebooks, T frames.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

from torch import Tensor

from audio_tokenizers.protocol import SemanticTokenizer
from lm_audio.clip import Clip
from lm_audio.families.audiocraft.exporting import export_model
from lm_audio.generation.clip_job import Making
from lm_audio.generation.inpainting import inpaint
from lm_audio.generation.plan import make_runs
from lm_audio.generation.prompt import Prompt, read_prompt, tail_length
from lm_audio.generation.request import (
    AudioLike,
    Request,
    as_audio,
    as_list,
    check_single,
    is_batch,
    make_requests,
)
from lm_audio.generation.session import Session
from lm_audio.generation.track import AnyStage
from lm_audio.model import Model, ModelCard
from lm_audio.renderers.protocol import Renderer
from lm_audio.sampling import Sampling
from lm_audio.saving.folder import push_model, save_model
from lm_audio.threads import dismissing, dismissing_between

DEFAULT_SECONDS = 5.0
MOST_AT_ONCE = 32  # clips; more of them wait until others are done

Samplings = Sampling | Mapping[str, Sampling] | None
"""One for all stages, or by the name of the stage; None: the stages' own."""


class Settings(TypedDict, total=False):
    """What the signatures below share, for type checkers."""

    sampling: Samplings
    negative: str | None
    conditions: Mapping[str, Any] | None
    rows_per_pass: int | None
    progress: Callable[[float], None] | None


class GenerateSettings(Settings, total=False):
    tokens: Mapping[str, Tensor] | None


class AudioPipeline:
    """A loaded model, at work. It holds no state of requests: calls may run side by side."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @property
    def stages(self) -> dict[str, AnyStage]:
        """By name, in the order in which they condition each other."""
        return {stage.name: stage for stage in self.model.stages}

    @property
    def renderer(self) -> Renderer:
        return self.model.renderer

    @property
    def semantic_tokenizer(self) -> SemanticTokenizer | None:
        return self.model.semantic_tokenizer

    @property
    def card(self) -> ModelCard:
        return self.model.card

    @property
    def sample_rate(self) -> int:
        return self.renderer.sample_rate

    @property
    def num_channels(self) -> int:
        return self.renderer.num_channels

    @property
    def conditions(self) -> tuple[str, ...]:
        """What the model takes: `text` is the prompt, all others go into `conditions`."""
        names = [name for stage in self.stages.values() for name in stage.conditions]
        return tuple(dict.fromkeys(names))

    @overload
    def generate(
        self,
        prompt: str | None = None,
        *,
        duration: float = DEFAULT_SECONDS,
        seed: int | None = None,
        **settings: Unpack[GenerateSettings],
    ) -> Clip: ...

    @overload
    def generate(
        self,
        prompt: str | Sequence[str | None] | None = None,
        *,
        duration: float | Sequence[float] = DEFAULT_SECONDS,
        seed: int | Sequence[int] | None = None,
        **settings: Unpack[GenerateSettings],
    ) -> list[Clip]: ...

    def generate(
        self,
        prompt: str | Sequence[str | None] | None = None,
        *,
        duration: float | Sequence[float] = DEFAULT_SECONDS,
        seed: int | Sequence[int] | None = None,
        sampling: Samplings = None,
        negative: str | None = None,
        conditions: Mapping[str, Any] | None = None,
        tokens: Mapping[str, Tensor] | None = None,
        rows_per_pass: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Clip | list[Clip]:
        """Makes sound from text, or from nothing; lists of prompts, durations or seeds give lists.

        Args:
            duration: seconds, exact to the sample.
            seed: the same one gives the same clip, alone or in any list; None draws one.
            negative: what the sound should not be like, for models with guidance.
            conditions: others than text, by name, such as a label or a voice.
            tokens: [K, T] of stages that are not to be run, by their name.
            rows_per_pass: how many rows of the batch go through a model at once; fewer need less
                memory and give the same tokens.
            progress: called with the share that is done, from 0 to 1.
        """
        requests = make_requests(
            prompt,
            duration=duration,
            seed=seed,
            sample_rate=self.sample_rate,
            negative=negative,
            conditions=conditions,
            sampling=sampling,
            tokens=tokens,
        )
        makings = [self.begin(request) for request in requests]
        clips = self._finish(makings, rows_per_pass=rows_per_pass, progress=progress)
        return clips if is_batch(prompt, duration, seed) else clips[0]

    def stream(
        self,
        prompt: str | None = None,
        *,
        duration: float = DEFAULT_SECONDS,
        seed: int | None = None,
        sampling: Samplings = None,
        negative: str | None = None,
        conditions: Mapping[str, Any] | None = None,
        tokens: Mapping[str, Tensor] | None = None,
    ) -> Iterator[Tensor]:
        """Gives samples [C, N] as they are made: in pieces, those of the clip `generate` gives."""
        check_single(prompt=prompt, duration=duration, seed=seed)
        (request,) = make_requests(
            prompt,
            duration=duration,
            seed=seed,
            sample_rate=self.sample_rate,
            negative=negative,
            conditions=conditions,
            sampling=sampling,
            tokens=tokens,
        )
        return self._pieces(self.begin(request))  # mistakes are told now, not at the first piece

    @overload
    def continue_from(  # type: ignore[overload-overlap]  # whatever is no list gives one clip
        self,
        audio: AudioLike,
        *,
        duration: float = DEFAULT_SECONDS,
        text: str | None = None,
        seed: int | None = None,
        **settings: Unpack[Settings],
    ) -> Clip: ...

    @overload
    def continue_from(
        self,
        audio: AudioLike | Sequence[AudioLike],
        *,
        duration: float | Sequence[float] = DEFAULT_SECONDS,
        text: str | Sequence[str | None] | None = None,
        seed: int | Sequence[int] | None = None,
        **settings: Unpack[Settings],
    ) -> list[Clip]: ...

    def continue_from(
        self,
        audio: AudioLike | Sequence[AudioLike],
        *,
        duration: float | Sequence[float] = DEFAULT_SECONDS,
        text: str | Sequence[str | None] | None = None,
        seed: int | Sequence[int] | None = None,
        sampling: Samplings = None,
        negative: str | None = None,
        conditions: Mapping[str, Any] | None = None,
        rows_per_pass: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Clip | list[Clip]:
        """Continues audio: a clip of its own samples, then `duration` seconds of new sound."""
        audios = as_list(audio)
        requests = make_requests(
            text,
            duration=duration,
            seed=seed,
            sample_rate=self.sample_rate,
            negative=negative,
            conditions=conditions,
            sampling=sampling,
            count=len(audios) if is_batch(audio) else None,
        )
        prompts = [
            as_audio(one, sample_rate=self.sample_rate, num_channels=self.num_channels)
            for one in audios
        ]
        prompts = prompts * len(requests) if len(prompts) == 1 else prompts
        makings = [self.begin(*pair) for pair in zip(requests, prompts, strict=True)]
        clips = self._finish(makings, rows_per_pass=rows_per_pass, progress=progress)
        return clips if is_batch(audio, duration, text, seed) else clips[0]

    @dismissing
    def inpaint(
        self,
        audio: AudioLike,
        *,
        start: float,
        end: float,
        text: str | None = None,
        seed: int | None = None,
        sampling: Samplings = None,
        negative: str | None = None,
        conditions: Mapping[str, Any] | None = None,
        num_candidates: int = 4,
        progress: Callable[[float], None] | None = None,
    ) -> Clip:
        """Makes the sound from `start` to `end` seconds anew; all other samples are kept.

        Args:
            num_candidates: how many fillings each stage makes; it keeps the one that the sound
                after the span follows best.
        """
        check_single(audio=audio, text=text, seed=seed)
        samples = as_audio(audio, sample_rate=self.sample_rate, num_channels=self.num_channels)
        (request,) = make_requests(
            text,
            duration=samples.shape[1] / self.sample_rate,
            seed=seed,
            sample_rate=self.sample_rate,
            negative=negative,
            conditions=conditions,
            sampling=sampling,
        )
        clip = inpaint(
            request,
            samples,
            start=start,
            end=end,
            stages=self.model.stages,
            renderer=self.renderer,
            output_stages=self.model.output_stages,
            read=self._prompt,
            num_candidates=num_candidates,
            progress=progress,
        )
        return replace(clip, model=self.model.card.name)

    def save(self, folder: str | Path, *, half: bool = False) -> None:
        """Writes the model for `load`, whole or not at all.

        Args:
            half: store float16, half the size; codec and tokenizers keep their values.
        """
        save_model(self.model, folder, half=half)

    def push(self, repo_id: str, *, private: bool = True, half: bool = False) -> str:
        """Writes the model to the Hugging Face hub, as "owner/name", and returns its address."""
        return push_model(self.model, repo_id, private=private, half=half)

    def export(
        self,
        folder: str | Path,
        *,
        layout: Literal["transformers", "audiocraft"],
        t5_name: str | None = None,
    ) -> None:
        """Writes a model of MusicGen's shape as others load it, whole or not at all.

        Args:
            t5_name: the public T5 that reads its text, which audiocraft fetches by its name.
        """
        export_model(self.model, folder, layout=layout, t5_name=t5_name)

    def _prompt(self, samples: Tensor) -> Prompt:
        return read_prompt(
            samples,
            stages=self.model.stages,
            renderer=self.renderer,
            semantic_tokenizer=self.model.semantic_tokenizer,
            device=self.model.stages[0].device,
        )

    @dismissing
    def begin(self, request: Request, samples: Tensor | None = None) -> Making:
        """Plans a clip that begins with these samples [C, N]; a session makes it."""
        tail, prompt = 0, None
        if samples is not None:
            tail = tail_length(samples.shape[1], stages=self.model.stages, renderer=self.renderer)
            prompt = self._prompt(samples[:, samples.shape[1] - tail :])
        runs = make_runs(
            request,
            stages=self.model.stages,
            renderer=self.renderer,
            output_stages=self.model.output_stages,
            num_samples=tail + request.num_samples,
            prompt=prompt,
        )
        return Making(
            request,
            runs=runs,
            output_stages=self.model.output_stages,
            renderer=self.renderer,
            prompt=samples,
            prompt_tail=tail,
        )

    @dismissing
    def _finish(
        self,
        makings: list[Making],
        *,
        rows_per_pass: int | None,
        progress: Callable[[float], None] | None,
    ) -> list[Clip]:
        """Makes all clips, many at a time; one that is done makes room for the next."""
        if rows_per_pass is not None and not (isinstance(rows_per_pass, int) and rows_per_pass > 0):
            raise ValueError(
                f"Got rows_per_pass={rows_per_pass!r}; give a whole number of at least 1, or None."
            )
        session = self._session(makings[0], rows_per_pass=rows_per_pass)
        sound: dict[Making, list[Tensor]] = {making: [] for making in makings}
        coming = list(makings)
        while coming or len(session):
            while coming and len(session) < MOST_AT_ONCE:
                session.add(coming.pop(0))
            for making, samples in session.step():
                sound[making].append(samples)
            if progress is not None:
                progress(sum(making.progress for making in makings) / len(makings))
        return [self.finished(making, sound[making]) for making in makings]

    def finished(self, making: Making, sound: Sequence[Tensor]) -> Clip:
        """The clip of all the sound that came of it."""
        return replace(making.clip(sound), model=self.model.card.name)

    def session(self, *, rows_per_pass: int | None = None) -> Session:
        """A batch for clips that need all stages, which join and leave it at any step."""
        return Session(self.model.stages, rows_per_pass=rows_per_pass)

    def _session(self, making: Making, *, rows_per_pass: int | None = None) -> Session:
        """For this clip, and for those of the same call, which need the same stages."""
        stages = [self.stages[name] for name in making.runs]
        return Session(stages, rows_per_pass=rows_per_pass)

    @dismissing_between
    def _pieces(self, making: Making) -> Iterator[Tensor]:
        session = self._session(making)
        session.add(making)
        while len(session):
            for _, piece in session.step():
                if piece.shape[1]:
                    yield piece
