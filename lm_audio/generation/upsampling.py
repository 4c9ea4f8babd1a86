"""Raises the sample rate of sound with the cascaders of a model, in constant memory.

A cascader makes the window that it would make in a clip: the result does not depend on the pieces
in which the sound arrives.

Shapes: C channels, N samples, T frames.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio_tokenizers.audio_files import audio_info, stream_audio
from audio_tokenizers.resampling import StreamResampler, resampled_length
from lm_audio.clip import Clip
from lm_audio.conditioners.aligned_signal import AlignedSignal
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.request import (
    AudioLike,
    Request,
    as_audio,
    check_request,
    make_requests,
    name_of,
    samples_of,
    sampling_of,
)
from lm_audio.generation.settings import clip_settings
from lm_audio.generation.track import Embedded, Stage, Track, unknown_values
from lm_audio.networks.unet1d import LEVEL
from lm_audio.sampling import AnySampling

_BLOCK_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Raising:
    """How to raise the rate of sound.

    Args:
        stages: cascaders, each following the one before.
        request: the seed, the conditions and the settings of the stages.
    """

    stages: Sequence[DiffusionStage]
    request: Request

    @property
    def from_rate(self) -> int:
        return source_rate(self.stages[0])

    @property
    def sample_rate(self) -> int:
        return int(self.stages[-1].makes.rate)

    @property
    def num_channels(self) -> int:
        """Of the model; one of mono raises each channel of sound by itself."""
        return self.stages[-1].makes.width

    def settings(self, loaded: Mapping[str, str | None], *, audio: str | None) -> dict[str, Any]:
        """What reproduces the sound.

        Args:
            loaded: what `load` was given.
            audio: the name of the file.
        """
        conditions = dict(self.request.conditions)
        level = conditions.pop(LEVEL, None)
        return clip_settings(
            "upsample",
            replace(self.request, conditions=conditions),
            stages=self.stages,
            loaded=loaded,
            audio=audio,
            from_rate=self.from_rate,
            noise_level=level,
        )

    def pieces(self, sound: Iterable[Tensor], *, sample_rate: int) -> Iterator[Tensor]:
        """The raised sound in pieces [C, N], of sound in pieces [C, N] of another rate.

        Each channel gets the same noise, so that equal channels stay equal.
        """
        chains: list[_Chain] = []
        for samples in sound:
            width = self.num_channels
            if len(samples) % width:
                raise ValueError(
                    f"Sound must have {width} channels for this model, got {len(samples)}."
                )
            if not chains:
                chains = [_Chain(self, sample_rate) for _ in range(0, len(samples), width)]
            parts = samples.split(width)
            yield torch.cat([chain.push(x) for chain, x in zip(chains, parts, strict=True)])
        if chains:
            yield torch.cat([chain.finish() for chain in chains])


def raising(
    stages: Sequence[Stage],
    *,
    sample_rate: int,
    from_rate: int | None = None,
    text: str | None = None,
    noise_level: float | None = None,
    seed: int | None = None,
    sampling: AnySampling | Mapping[str, AnySampling] | None = None,
) -> Raising:
    """How a model raises sound of this rate; raises ValueError for settings that it cannot follow.

    Args:
        stages: of the model.
        from_rate: as for `raising_stages`.
        noise_level: of noise on the sound, which hides its details from the first cascader; the
            default of the model if None.
    """
    chosen = raising_stages(stages, sample_rate=sample_rate, from_rate=from_rate)
    level = {} if noise_level is None else {LEVEL: noise_level}
    (request,) = make_requests(
        text, duration=1.0, seed=seed, sample_rate=sample_rate, conditions=level, sampling=sampling
    )
    check_request(request, chosen, chosen, seconds=1.0)
    made = Raising(stages=chosen, request=request)
    for stage in chosen:
        track = _track(stage, request, unknown_values(stage.makes, 1, stage.device))
        stage.check(track)
    return made


def upsample(
    audio: AudioLike,
    stages: Sequence[Stage],
    *,
    loaded: Mapping[str, str | None],
    name: str | None = None,
    progress: Callable[[float], None] | None = None,
    **settings: Any,
) -> Clip:
    """Audio at the rate of a model, of the same duration.

    Args:
        loaded: what `load` was given; name: of the model.
        settings: those of `raising`.
    """
    sample_rate, duration = _facts(audio)
    how = raising(stages, sample_rate=sample_rate, **settings)
    pieces = []
    for samples in how.pieces(_sound(audio, how.num_channels), sample_rate=sample_rate):
        pieces.append(samples)
        if progress is not None:
            done = sum(piece.shape[1] for piece in pieces) / how.sample_rate
            progress(min(1.0, done / duration))
    return Clip(
        samples=torch.cat(pieces, dim=1),
        sample_rate=how.sample_rate,
        tokens=None,
        stage_values={},
        seed=how.request.seed,
        prompt=settings.get("text"),
        model=name,
        settings=how.settings(loaded, audio=name_of(audio)),
    )


def raising_stages(
    stages: Sequence[Stage], *, sample_rate: int, from_rate: int | None = None
) -> list[DiffusionStage]:
    """The cascaders that raise sound of this rate, the last ones of a model.

    Args:
        from_rate: that of the first cascader's source; by default the highest that keeps all of the
            sound, or else the lowest.
    """
    cascaders = [stage for stage in stages if isinstance(stage, DiffusionStage) and _raises(stage)]
    if not cascaders:
        raise ValueError(
            "This model does not raise the sample rate of sound. Use a cascade of waveforms, such "
            "as one from recipes/train_cascade.py --stage cascader."
        )
    rates, made = [source_rate(stage) for stage in cascaders], int(cascaders[-1].makes.rate)
    choices = ", ".join(map(str, rates))
    if from_rate is None and sample_rate >= made:
        raise ValueError(
            f"The audio already has {sample_rate} Hz, and this model raises to {made} Hz. To treat "
            f"it as sound of a lower rate, give that (from_rate or --from-rate): {choices}."
        )
    if from_rate is None:
        from_rate = max((rate for rate in rates if rate <= sample_rate), default=rates[0])
    if from_rate not in rates:
        raise ValueError(
            f"No stage of this model raises sound from {from_rate} Hz. Choose one of: {choices}."
        )
    return cascaders[rates.index(from_rate) :]


def source_rate(stage: DiffusionStage) -> int:
    """The rate of the sound that a cascader follows."""
    return int(stage.makes.rate * _signal(stage).ratio)


class _Chain:
    """The cascaders, one after the other, for the channels of one model."""

    def __init__(self, raising: Raising, sample_rate: int) -> None:
        width = raising.num_channels
        self._rate, self._num_samples = sample_rate, 0
        self._resampler = StreamResampler(sample_rate, raising.from_rate, num_channels=width)
        self._windows = [_Windows(stage, raising.request) for stage in raising.stages]

    def push(self, samples: Tensor) -> Tensor:
        self._num_samples += samples.shape[1]
        values = self._resampler.push(samples.cpu().float())
        for windows in self._windows:
            values = windows.push(values)
        return values

    def finish(self) -> Tensor:
        values = self._resampler.finish()
        for windows in self._windows:
            rate = int(windows.stage.makes.rate)
            values = windows.finish(
                values, num_frames=resampled_length(self._num_samples, self._rate, rate)
            )
        return values


class _Windows:
    """One cascader: takes the values that it follows, returns those of decided windows."""

    def __init__(self, stage: DiffusionStage, request: Request) -> None:
        self.stage, self._request = stage, request
        self._embedded: Embedded = {}
        self._signal = _signal(stage)
        self._given = torch.zeros(self._signal.dim, 0)  # the source's values from _first on
        self._first = 0
        self._kept = torch.zeros(stage.makes.width, 0)  # the last frames before _done
        self._done = 0

    def push(self, values: Tensor) -> Tensor:
        return self._advance(values, None)

    def finish(self, values: Tensor, *, num_frames: int) -> Tensor:
        return self._advance(values, num_frames)

    def _advance(self, values: Tensor, num_frames: int | None) -> Tensor:
        self._given = torch.cat([self._given, values], dim=1)
        made = [self._kept[:, :0]]
        while (span := self._span(num_frames)) is not None:
            made.append(self._window(*span))
        return torch.cat(made, dim=1)

    def _span(self, num_frames: int | None) -> tuple[int, int] | None:
        """The next window, as that of a whole track; None while values for it are missing."""
        window, overlap = self.stage.window_frames, self.stage.overlap_frames
        stride = window - overlap
        start = max(0, -(-(self._done + 1 - window) // stride)) * stride
        stop = start + window
        if num_frames is not None:
            return (start, min(stop, num_frames)) if self._done < num_frames else None
        known = self._first + self._given.shape[1]
        return (start, stop) if self._signal.span(start, stop)[1] <= known else None

    def _window(self, start: int, stop: int) -> Tensor:
        """The new frames of a window."""
        first = max(0, self._signal.span(start, stop)[0])
        self._given, self._first = self._given[:, first - self._first :], first
        request = self._request
        source = Track(values=self._given, seed=request.seed, sampling=None, origin=self._first)
        values = unknown_values(self.stage.makes, stop - start, self.stage.device)
        num_kept = self._done - start
        if num_kept:
            values[:, :num_kept] = self._kept[:, -num_kept:].to(values)
        track = _track(
            self.stage, request, values, source=source, origin=start, embedded=self._embedded
        )
        batch = self.stage.new_batch()
        batch.add(track)
        while batch.step():
            pass
        made = track.values.cpu()
        self._kept, self._done = made[:, -self.stage.overlap_frames :], stop
        return made[:, num_kept:]


def _track(stage: DiffusionStage, request: Request, values: Tensor, **given: Any) -> Track:
    return Track(
        values=values,
        seed=request.seed,
        sampling=sampling_of(stage, request),
        conditions={k: v for k, v in request.conditions.items() if k in stage.conditions},
        **given,
    )


def _raises(stage: DiffusionStage) -> bool:
    source = stage.source
    return source is not None and isinstance(stage.conditioners[source.condition], AlignedSignal)


def _signal(stage: DiffusionStage) -> AlignedSignal:
    assert stage.source is not None
    signal = stage.conditioners[stage.source.condition]
    assert isinstance(signal, AlignedSignal)
    return signal


def _facts(audio: AudioLike) -> tuple[int, float]:
    """The sample rate and the seconds of audio."""
    if isinstance(audio, str | Path):
        info = audio_info(audio)
        return info.sample_rate, info.duration
    samples, rate = samples_of(audio)
    return rate, samples.shape[1] / rate


def _sound(audio: AudioLike, num_channels: int) -> Iterator[Tensor]:
    """Pieces [C, N] of audio at its own rate, with the channels of a model.

    Args:
        num_channels: 1 keeps the channels of the audio.
    """
    if isinstance(audio, str | Path):
        kept = None if num_channels == 1 else num_channels
        return stream_audio(audio, num_channels=kept, block_seconds=_BLOCK_SECONDS)
    samples, rate = samples_of(audio)
    if num_channels > 1:
        samples = as_audio((samples, rate), sample_rate=rate, num_channels=num_channels)
    return iter(samples.split(max(1, round(_BLOCK_SECONDS * rate)), dim=1))
