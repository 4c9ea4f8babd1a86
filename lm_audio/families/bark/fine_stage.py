"""Bark's last stage: fills the missing codebooks, one after the other, in overlapping windows.

A two-sided window is filled from some frame to its end; the next window fills its later part again,
with the earlier result as a draft. So a frame is final when no later window overlaps it. The
windows are those of the original, however many coarse tokens are already known.

Shapes: K codebooks, T frames, V vocabulary.
"""

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from lm_audio.families.bark.fine_model import FineModel
from lm_audio.families.bark.parts import BarkSettings
from lm_audio.families.bark.voices import BarkVoices
from lm_audio.generation.track import Source, StageBatch, Track
from lm_audio.sampling import (
    Sampling,
    SamplingTensors,
    choose,
    sampling_tensors,
    uniforms,
)
from lm_audio.signals import ACOUSTIC, Signal


@dataclass(frozen=True, kw_only=True, eq=False)
class FineStage:
    """Predicts all codebooks from the first ones, which an earlier stage made."""

    name: str
    model: FineModel
    frame_rate: Fraction
    sampling: Sampling
    source: Source
    settings: BarkSettings
    voices: BarkVoices

    conditions: tuple[str, ...] = ("voice",)
    deduplicated: bool = False
    may_end: bool = True
    two_sided: bool = False
    first_codebook: int = 0

    @property
    def makes(self) -> Signal:
        return Signal(
            kind="tokens",
            content=ACOUSTIC,
            rate=self.frame_rate,
            width=self.settings.fine_codebooks,
            num_tokens=self.settings.codebook_size,
        )

    @property
    def window_frames(self) -> int:
        return self.settings.fine_window

    @property
    def device(self) -> torch.device:
        return self.model.embedding.weight.device

    def check(self, track: Track) -> None:
        if (voice := track.conditions.get("voice")) is not None:
            self.voices.load(voice)

    def new_batch(self, *, rows_per_pass: int | None = None) -> StageBatch:  # noqa: ARG002
        return FineBatch(self)


class FineBatch:
    """The stage's tracks in progress; each window fills the device, so they take turns."""

    def __init__(self, stage: FineStage) -> None:
        self._stage = stage
        self._work: list[_Work] = []

    def add(self, track: Track) -> None:
        if not track.done:
            self._work.append(_Work(self._stage, track))

    def remove(self, track: Track) -> None:
        self._work = [work for work in self._work if work.track is not track]

    def waiting(self) -> bool:
        return not all(work.ready() for work in self._work)

    def step(self) -> bool:
        ready = [work for work in self._work if work.ready()]
        for work in ready:
            work.step()
        self._work = [work for work in self._work if not work.track.done]
        return bool(ready)


class _Work:
    """A track in progress: the voice's tokens, then its own so far, including drafts."""

    def __init__(self, stage: FineStage, track: Track) -> None:
        assert track.source is not None
        self.track = track
        self._source = track.source
        self._stage = stage
        s = stage.settings
        given = track.conditions.get("voice")
        K = s.fine_codebooks
        history = torch.zeros(K, 0, dtype=torch.int64)
        if given is not None:
            history = stage.voices.load(given).fine[:, -s.fine_hop :]
        self._num_before = history.shape[1]
        length = max(self._num_before + track.num_frames, s.fine_window)
        unknown = torch.full((K, length - self._num_before), s.codebook_size)
        self._tokens = torch.cat([history, unknown], dim=1).to(stage.device)  # [K, T]
        self._num_windows = 0
        assert isinstance(track.sampling, Sampling)
        self._settings = sampling_tensors([track.sampling], num_codebooks=K, device=stage.device)

    @property
    def _length(self) -> int:
        """The number of frames of the voice and of those whose first codebooks are known."""
        return self._num_before + self._source.num_done

    def ready(self) -> bool:
        s = self._stage.settings
        next_end = self._num_windows * s.fine_hop + s.fine_window
        return self._source.done or self._length >= next_end

    @torch.inference_mode()
    def step(self) -> None:
        """Fills the next window and outputs the frames that no later window can change."""
        s, track = self._stage.settings, self.track
        if self._source.done and track.num_frames > self._source.num_frames:
            track.end(self._source.num_frames)
        if track.done:
            return
        if not self._is_last_done():
            self._fill()
            self._num_windows += 1
        num_done = track.num_frames
        if not self._is_last_done():
            next_fill = self._num_before + self._num_windows * s.fine_hop
            num_done = min(next_fill, self._length - s.fine_hop) - self._num_before
        start = track.num_done
        new = self._tokens[:, self._num_before :][:, start:num_done]
        track.learn(new.to(track.values.device), start=start, num_done=num_done)

    def _is_last_done(self) -> bool:
        s = self._stage.settings
        beyond_first = math.ceil((self._length - s.fine_window) / s.fine_hop)
        return self._source.done and self._num_windows > max(0, beyond_first)

    def _fill(self) -> None:
        s, stage = self._stage.settings, self._stage
        known = self._source.values[:, : self._source.num_done]
        self._tokens[: len(known), self._num_before : self._length] = known.to(stage.device)
        length = max(self._length, s.fine_window)
        offset = self._num_windows * s.fine_hop
        start = min(offset, length - s.fine_window)
        first = min(self._num_before + offset, length - s.fine_hop)
        window = self._tokens[:, start : start + s.fine_window]
        free = window[:, first - start :]
        name, begin = f"{stage.name}/{self.track.candidate}", first - self._num_before
        numbers = uniforms(self.track.seed, name, begin, free.shape[1], s.fine_codebooks)
        numbers = numbers.to(stage.device)
        for k in range(len(known), s.fine_codebooks):
            logits = stage.model(window[None], codebook=k)[:, first - start :, : s.codebook_size]
            free[k] = choose(logits, numbers[None, k], self._of_codebook(k, free.shape[1]))[0]

    def _of_codebook(self, k: int, num_frames: int) -> SamplingTensors:
        """The sampling settings of one codebook for each frame, [1, T]."""
        tables: dict[str, Any] = {
            name: table[:, k : k + 1].expand(1, num_frames)
            for name, table in vars(self._settings).items()
            if isinstance(table, Tensor)
        }
        return replace(self._settings, **tables)
