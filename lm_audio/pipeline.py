"""From prompt to audio: a model's stages, then its renderer.

Shapes: C channels, N samples, K codebooks, T frames.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Unpack, overload

from torch import Tensor

from audio_tokenizers.audio_files import channel_layout
from audio_tokenizers.protocol import SemanticTokenizer
from lm_audio.clip import Clip
from lm_audio.families.abilities import check_abilities
from lm_audio.families.audiocraft.exporting import export_model
from lm_audio.generation.clip_job import ClipJob, make_tracks
from lm_audio.generation.inpainting import inpaint
from lm_audio.generation.keywords import (
    BatchSettings,
    GenerateSettings,
    Settings,
    StreamSettings,
    UpsampleSettings,
    VarySettings,
    check_settings,
)
from lm_audio.generation.prompt import Prompt, read_prompt, tail_length
from lm_audio.generation.request import (
    AudioLike,
    PromptLike,
    Request,
    as_audio,
    as_list,
    as_long,
    check_single,
    is_batch,
    make_requests,
    name_of,
)
from lm_audio.generation.session import Session
from lm_audio.generation.settings import Verb, clip_settings
from lm_audio.generation.takes import best_of, takes_of
from lm_audio.generation.track import Stage
from lm_audio.generation.upsampling import upsample
from lm_audio.model import Model, ModelCard, size_of
from lm_audio.renderers.protocol import Renderer
from lm_audio.saving.folder import push_model, save_model
from lm_audio.system import releases_omp_threads, releases_omp_threads_between

DEFAULT_SECONDS = 5.0


class AudioPipeline:
    """Generates audio with a loaded model. Holds no request state: calls may run in parallel."""

    def __init__(
        self,
        model: Model,
        *,
        dtype: str = "float32",
        source: str | None = None,
        text_encoder: str | None = None,
    ) -> None:
        self.model = model
        self.dtype = dtype  # of the language models
        # What `load` was given, so that clips can name it.
        self.source, self._text_encoder = source, text_encoder

    def __repr__(self) -> str:
        stages = ", ".join(f"{name} ({size_of(stage)})" for name, stage in self.stages.items())
        return (
            f"AudioPipeline({self.card.name or 'unnamed'}: {stages}; {self.sample_rate} Hz "
            f"{channel_layout(self.num_channels)}; {self.dtype} on {self.model.stages[0].device})"
        )

    @staticmethod
    def from_pretrained(
        source: str | Path | None = None,
        *,
        device: str | None = None,
        dtype: str = "float32",
        text_encoder: str | Path | None = None,
        judge: str | Path | None = None,
    ) -> "AudioPipeline":
        """`lm_audio.load` under its name in transformers and diffusers."""
        # Users expect this alias here. It points up a layer; import-linter has an exception.
        from lm_audio.loading import load

        return load(source, device=device, dtype=dtype, text_encoder=text_encoder, judge=judge)

    @property
    def stages(self) -> dict[str, Stage]:
        """The stages by name, in cascade order."""
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
        """The model's inputs by name: `text` is the prompt, all others go into `conditions`."""
        names = [name for stage in self.model.stages for name in stage.conditions]
        return tuple(dict.fromkeys(names))

    def notice(self, prompt: str | None) -> str | None:
        """One sentence if the model was not trained on prompts like this one, else None.

        `generate` and the other methods issue it as a warning. Also None for models whose card does
        not list their training prompts.
        """
        check = self.model.prompt_check
        return None if prompt is None or check is None else check.notice(prompt)

    @overload
    def generate(
        self,
        prompt: PromptLike = None,
        *,
        duration: float = DEFAULT_SECONDS,
        seed: int | None = None,
        **settings: Unpack[GenerateSettings],
    ) -> Clip: ...

    @overload
    def generate(
        self,
        prompt: PromptLike | Sequence[PromptLike] = None,
        *,
        duration: float | Sequence[float] = DEFAULT_SECONDS,
        seed: int | Sequence[int] | None = None,
        **settings: Unpack[GenerateSettings],
    ) -> list[Clip]: ...

    def generate(
        self,
        prompt: PromptLike | Sequence[PromptLike] = None,
        *,
        duration: float | Sequence[float] = DEFAULT_SECONDS,
        seed: int | Sequence[int] | None = None,
        **settings: Unpack[GenerateSettings],
    ) -> Clip | list[Clip]:
        """Generates audio from a text prompt, or unconditionally. Lists of inputs give lists.

        Args:
            prompt: a text; a story of prompts that change with time, such as
                `[(0.0, "calm piano"), (15.0, "a storm breaks")]`; or a blend of prompts with their
                shares, such as `{"rain": 3, "wind": 1}`.
            duration: seconds, exact to the sample.
            seed: the same seed gives the same clip, alone or in any batch; None draws one.
            **settings: sampling, negative, conditions, raw, overlap, loop, tokens, best_of,
                rows_per_pass, progress; see `GenerateSettings`.
        """
        check_settings("generate", settings, GenerateSettings)
        requests = self._requests(prompt, duration=duration, seed=seed, settings=settings)
        count = settings.get("best_of", 1)
        takes = takes_of(requests, count)
        judge = self.model.required_judge if count > 1 else None
        clips = self._make([self.start(take) for take in takes], settings)
        if judge is not None:
            clips = best_of(clips, requests, judge)
        return clips if is_batch(prompt, duration, seed) else clips[0]

    def stream(
        self,
        prompt: PromptLike = None,
        *,
        duration: float = DEFAULT_SECONDS,
        seed: int | None = None,
        **settings: Unpack[StreamSettings],
    ) -> Iterator[Tensor]:
        """Yields the clip that `generate` returns in chunks of samples [C, N] as they are made.

        Args:
            **settings: sampling, negative, conditions, raw, overlap, loop, tokens; see
                `StreamSettings`.
        """
        check_settings("stream", settings, StreamSettings)
        check_single(prompt=prompt, duration=duration, seed=seed)
        (request,) = self._requests(prompt, duration=duration, seed=seed, settings=settings)
        return self._stream(self.start(request))  # bad input raises here, not at the first chunk

    @overload
    def continue_from(  # type: ignore[overload-overlap]  # anything but a list gives one clip
        self,
        audio: AudioLike,
        *,
        duration: float = DEFAULT_SECONDS,
        text: PromptLike = None,
        seed: int | None = None,
        **settings: Unpack[BatchSettings],
    ) -> Clip: ...

    @overload
    def continue_from(
        self,
        audio: AudioLike | Sequence[AudioLike],
        *,
        duration: float | Sequence[float] = DEFAULT_SECONDS,
        text: PromptLike | Sequence[PromptLike] = None,
        seed: int | Sequence[int] | None = None,
        **settings: Unpack[BatchSettings],
    ) -> list[Clip]: ...

    def continue_from(
        self,
        audio: AudioLike | Sequence[AudioLike],
        *,
        duration: float | Sequence[float] = DEFAULT_SECONDS,
        text: PromptLike | Sequence[PromptLike] = None,
        seed: int | Sequence[int] | None = None,
        **settings: Unpack[BatchSettings],
    ) -> Clip | list[Clip]:
        """Continues audio: returns its own samples, then `duration` seconds of new audio.

        Args:
            **settings: sampling, negative, conditions, raw, overlap, rows_per_pass, progress; see
                `BatchSettings`.
        """
        check_settings("continue_from", settings, BatchSettings)
        audios = as_list(audio)
        count = len(audios) if is_batch(audio) else None
        requests = self._requests(
            text, duration=duration, seed=seed, settings=settings, count=count
        )
        prompts = [
            as_audio(one, sample_rate=self.sample_rate, num_channels=self.num_channels)
            for one in audios
        ]
        if len(audios) == 1:
            audios, prompts = audios * len(requests), prompts * len(requests)
        jobs = [
            self.start(replace(request, audio=name_of(one)), samples)
            for request, one, samples in zip(requests, audios, prompts, strict=True)
        ]
        clips = self._make(jobs, settings)
        return clips if is_batch(audio, duration, text, seed) else clips[0]

    def vary(
        self,
        audio: AudioLike,
        *,
        strength: float = 0.4,
        towards: AudioLike | None = None,
        share: float | None = None,
        text: str | None = None,
        seed: int | None = None,
        **settings: Unpack[VarySettings],
    ) -> Clip:
        """A variation of audio, of the same length; for diffusion models.

        Args:
            strength: how much to change, above 0 and at most 1; 1 keeps almost nothing.
            towards: other audio to mix in; cut or padded with silence to the length.
            share: of the other audio, from 0 to 1; 0.5 by default.
            **settings: sampling, negative, conditions, raw, overlap, progress; see `VarySettings`.
        """
        check_settings("vary", settings, VarySettings)
        check_single(audio=audio, towards=towards, text=text, seed=seed)
        samples = as_audio(audio, sample_rate=self.sample_rate, num_channels=self.num_channels)
        duration = samples.shape[1] / self.sample_rate
        if strength is None:
            raise ValueError("strength must be above 0 and at most 1, got None.")
        requests = self._requests(text, duration=duration, seed=seed, settings=settings)
        request = replace(requests[0], strength=strength, audio=name_of(audio))
        job = self.start(replace(request, towards=towards, share=share), samples)
        return self._make([job], settings)[0]

    @releases_omp_threads
    def upsample(
        self, audio: AudioLike, *, seed: int | None = None, **settings: Unpack[UpsampleSettings]
    ) -> Clip:
        """Audio at the model's rate, with new sound above its old band; for cascades of waveforms.

        Args:
            **settings: from_rate, text, noise_level, sampling, progress; see `UpsampleSettings`.
        """
        check_settings("upsample", settings, UpsampleSettings)
        check_single(audio=audio, seed=seed)
        given: dict[str, Any] = {"loaded": self.loaded(), "name": self.card.name, **settings}
        return upsample(audio, self.model.stages, seed=seed, **given)

    @releases_omp_threads
    def inpaint(
        self,
        audio: AudioLike,
        *,
        start: float,
        end: float,
        text: str | None = None,
        seed: int | None = None,
        num_candidates: int = 4,
        progress: Callable[[float], None] | None = None,
        **settings: Unpack[Settings],
    ) -> Clip:
        """Regenerates the audio from `start` to `end` seconds; all other samples are kept.

        Args:
            num_candidates: candidates per stage; the one that makes the audio after the span most
                likely is kept.
            progress: called with the completed fraction, from 0 to 1.
            **settings: sampling, negative, conditions, raw; see `Settings`.
        """
        check_settings("inpaint", settings, Settings)
        check_single(audio=audio, text=text, seed=seed)
        samples = as_audio(audio, sample_rate=self.sample_rate, num_channels=self.num_channels)
        duration = samples.shape[1] / self.sample_rate
        (request,) = self._requests(text, duration=duration, seed=seed, settings=settings)
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
        made_with = clip_settings(
            "inpaint",
            request,
            stages=self.model.stages,
            loaded=self.loaded(),
            audio=name_of(audio),
            start=float(start),
            end=float(end),
            num_candidates=num_candidates,
        )
        return replace(clip, model=self.card.name, settings=made_with)

    def save(self, folder: str | Path, *, half: bool = False) -> None:
        """Writes the model for `load` atomically.

        Args:
            half: store float16, half the size; codec and tokenizers keep their precision.
        """
        save_model(self.model, folder, half=half)

    def push_to_hub(self, repo_id: str, *, private: bool = True, half: bool = False) -> str:
        """Uploads the model to the Hugging Face hub as "owner/name" and returns its URL."""
        return push_model(self.model, repo_id, private=private, half=half)

    push = push_to_hub  # its old name

    def export(
        self,
        folder: str | Path,
        *,
        layout: Literal["transformers", "audiocraft"] = "transformers",
        t5_name: str | None = None,
    ) -> None:
        """Exports a MusicGen-shaped model for transformers or audiocraft, atomically.

        Args:
            t5_name: the public T5 of the model, which audiocraft downloads by name.
        """
        export_model(self.model, folder, layout=layout, t5_name=t5_name)

    @releases_omp_threads
    def start(self, request: Request, samples: Tensor | None = None) -> ClipJob:
        """Validates and plans a clip, for a session.

        Args:
            samples: [C, N], the start of the clip, or the audio to vary if there is a strength.
        """
        check_abilities(self.model, request)
        before, tail, prompt, towards = 0, 0, None, None
        if request.strength is not None:
            assert samples is not None
            if request.towards is not None:
                towards = self._prompt(as_long(request.towards, samples, self.sample_rate))
            prompt, samples = self._prompt(samples), None
        elif samples is not None:
            tail = tail_length(samples.shape[1], stages=self.model.stages, renderer=self.renderer)
            before = samples.shape[1] - tail
            prompt = self._prompt(samples[:, before:])
        tracks = make_tracks(
            request,
            stages=self.model.stages,
            renderer=self.renderer,
            output_stages=self.model.output_stages,
            num_samples=tail + request.num_samples,
            prompt=prompt,
            towards=towards,
            first=before,
            whole=before + tail + request.num_samples,
        )
        verb: Verb = "generate" if samples is None else "continue"
        if request.strength is not None:
            verb = "vary"
        settings = clip_settings(
            verb,
            request,
            stages=[stage for stage in self.model.stages if stage.name in tracks],
            loaded=self.loaded(),
            audio=request.audio,
            duration=None if verb == "vary" else request.num_samples / self.sample_rate,
        )
        return ClipJob(
            request,
            tracks=tracks,
            output_stages=self.model.output_stages,
            renderer=self.renderer,
            prompt=samples,
            prompt_tail=tail,
            model=self.card.name,
            settings=settings,
        )

    def session(self, *, rows_per_pass: int | None = None) -> Session:
        """A continuous batch for clips that need all stages; clips join and leave at any step."""
        return Session(self.model.stages, rows_per_pass=rows_per_pass)

    def _requests(
        self,
        prompt: PromptLike | Sequence[PromptLike],
        *,
        duration: float | Sequence[float],
        seed: int | Sequence[int] | None,
        settings: Mapping[str, Any],
        count: int | None = None,
    ) -> list[Request]:
        requests = make_requests(
            prompt,
            duration=duration,
            seed=seed,
            sample_rate=self.sample_rate,
            count=count,
            **{name: settings[name] for name in StreamSettings.__annotations__ if name in settings},
        )
        for text in dict.fromkeys(text for request in requests for text in request.texts):
            if notice := self.notice(text):
                warnings.warn(notice, stacklevel=3)
        return requests

    def loaded(self) -> dict[str, str | None]:
        """The settings of `load`, as those of a clip."""
        device = str(self.model.stages[0].device)
        loaded = {"model": self.source, "device": device, "dtype": self.dtype}
        return {**loaded, "text_encoder": self._text_encoder}

    def _prompt(self, samples: Tensor) -> Prompt:
        return read_prompt(
            samples,
            stages=self.model.stages,
            renderer=self.renderer,
            semantic_tokenizer=self.semantic_tokenizer,
            device=self.model.stages[0].device,
        )

    @releases_omp_threads
    def _make(self, jobs: list[ClipJob], settings: Mapping[str, Any]) -> list[Clip]:
        """Makes all clips in batches."""
        session = self._session(jobs[0], settings.get("rows_per_pass"))
        progress = settings.get("progress")
        pieces: dict[ClipJob, list[Tensor]] = {job: [] for job in jobs}
        for sound in session.sound(jobs):
            for job, samples in sound:
                pieces[job].append(samples)
            if progress is not None:
                progress(sum(job.progress for job in jobs) / len(jobs))
        return [job.clip(pieces[job]) for job in jobs]

    @releases_omp_threads_between
    def _stream(self, job: ClipJob) -> Iterator[Tensor]:
        for sound in self._session(job).sound([job]):
            for _, piece in sound:
                if piece.shape[1]:
                    yield piece

    def _session(self, job: ClipJob, rows_per_pass: int | None = None) -> Session:
        """A session with the stages that this clip, and the others of its call, need."""
        stages = [self.stages[name] for name in job.tracks]
        return Session(stages, rows_per_pass=rows_per_pass)
