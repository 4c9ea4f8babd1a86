"""A stage with a masked token model: decides all frames of a window in parallel, in few rounds.

The codebooks are decided one after the other, each in rounds (`unmasking.py`). Known frames (the
overlap with the previous window, a prompt, both sides of an inpainted span) are never masked, so
the others fit them. MAGNeT (arXiv 2401.04577) and SoundStorm (arXiv 2305.09636) are such stages.

Results do not depend on other tracks in the batch: random numbers belong to the item, and on a CPU
each row is a separate network pass, because the bits of a larger pass depend on its size.

Shapes: B batch, K codebooks, T frames of a window, V vocabulary, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.tokens import AlignedTokens
from lm_audio.generation.step import guidance_rows
from lm_audio.generation.track import (
    Source,
    StageBatch,
    Track,
    aligned_tokens,
    is_known,
    leading,
    own_conditions,
    source_span,
)
from lm_audio.generation.unmasking import (
    Rounds,
    annealed_guidance,
    annealed_temperature,
    masked_shares,
    predict,
    rounds_of,
)
from lm_audio.networks.condition import Condition, Fused, joined
from lm_audio.networks.token_lm import TokenLM
from lm_audio.sampling import Unmasking, uniforms
from lm_audio.signals import ACOUSTIC, Signal

_LEAST = 1e-30  # of a probability whose logarithm is taken


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedStage:
    """A masked token model and its conditioners, and its default settings.

    Args:
        model: two-sided; the token after its vocabulary is the mask.
        window_frames: the maximum number of frames per window.
        overlap_frames: frames of a window that the next one keeps.
        span: neighbouring frames that are masked together.
        reach: the largest distance in frames between which codebooks after the first attend; None
            for all.
        whole_windows: models made for one length only: the last window extends beyond the end of
            the track, and what lies there is dropped.
        token_kind: the content of the stage's output signal.
        first_codebook: the index of its first codebook in the renderer's input.
    """

    name: str
    model: TokenLM
    conditioners: Conditioners
    frame_rate: Fraction
    window_frames: int
    overlap_frames: int
    sampling: Unmasking
    span: int = 1
    reach: int | None = None
    whole_windows: bool = False
    source: Source | None = None
    token_kind: str = ACOUSTIC
    first_codebook: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_frames < self.window_frames:
            raise ValueError(
                f"overlap_frames of the {self.name} stage must be less than its window_frames, "
                f"{self.window_frames}, got {self.overlap_frames}."
            )
        if self.model.config.transformer.causal:
            raise ValueError(f"The {self.name} stage needs a two-sided model. Set causal=False.")
        if self.span < 1 or (self.reach is not None and self.reach < 0):
            raise ValueError(
                f"span must be at least 1 and reach at least 0, got {self.span} and {self.reach}."
            )
        if self.whole_windows and self.source is not None:  # which may not reach beyond the end
            raise ValueError(f"The {self.name} stage has a source, so whole_windows must be False.")
        rounds_of(self.sampling, self.num_codebooks)

    @property
    def makes(self) -> Signal:
        return Signal(
            kind="tokens",
            content=self.token_kind,
            rate=self.frame_rate,
            width=self.num_codebooks,
            num_tokens=self.num_tokens,
        )

    @property
    def num_codebooks(self) -> int:
        return self.model.config.num_streams

    @property
    def num_tokens(self) -> int:
        return self.model.config.vocab_size

    @property
    def mask_token(self) -> int:
        return self.model.config.vocab_size

    @property
    def conditions(self) -> tuple[str, ...]:
        """The conditions that a user may give, by name."""
        return own_conditions(self.conditioners, self.source)

    @property
    def deduplicated(self) -> bool:
        return False

    @property
    def may_end(self) -> bool:
        return False

    @property
    def two_sided(self) -> bool:
        return True

    @property
    def device(self) -> torch.device:
        return self.model.heads.weight.device

    @property
    def aligned(self) -> AlignedTokens | None:
        """The conditioner that adds the source's tokens frame by frame, if there is one."""
        return aligned_tokens(self.conditioners, self.source)

    def new_batch(self, *, rows_per_pass: int | None = None) -> StageBatch:
        return MaskedBatch(self, rows_per_pass=rows_per_pass)

    @torch.inference_mode()
    def check(self, track: Track) -> None:
        """Raises ValueError for a wrong number of steps or conditions that cannot be embedded."""
        rounds_of(_settings(track), self.num_codebooks)
        track.embed(self.conditioners)

    @torch.inference_mode()
    def likelihoods(self, track: Track, first: int, last: int) -> Tensor:
        """The log-likelihood of each of the track's tokens in these frames, codebook by codebook.

        Each is that in the first round: given all codebooks before, and the frames around.
        """
        last = min(last, track.num_frames)
        start = max(0, last - self.window_frames)
        span = slice(first - start, last - start)
        window = self._window(track, start, track.num_frames, hidden=span)
        truth = track.values[:, first:last].to(self.device)
        found = []
        for k in range(self.num_codebooks):
            window.codebook = k
            row = Row(window=window, fused=self.fused(window, frozenset()), weights=window.known)
            logits = self.evaluate([row])[0, k, span].float()
            found.append(logits.log_softmax(dim=-1).gather(1, truth[k][:, None])[:, 0])
            window.tokens[k, span] = truth[k]
        return torch.cat(found)

    def evaluate(self, rows: "Sequence[Row]") -> Tensor:
        """The logits [B, K, T, V] of rows of equal shape."""
        tokens = torch.stack([row.window.tokens for row in rows])
        reach = rows[0].window.reach
        return self.model(
            tokens,
            fused=joined([row.fused for row in rows]),
            reach=None if reach is None else torch.full_like(tokens[:, 0, 0], reach),
        )

    def window(self, track: Track) -> "Window":
        """The next window of a track, at its first round."""
        start = track.window_start(self.window_frames, self.overlap_frames)
        part, end = track.part_at(track.num_done, self.frame_rate)
        window = self._window(track, start, end)
        window.part = part
        return window

    def ready(self, window: "Window") -> bool:
        """Whether the source has all values that the window needs."""
        source = window.track.source
        if source is None or source.done:
            return True
        if source.open_end:
            return False
        if self.aligned is not None:
            return self.aligned.num_source_needed(window.stop - 1) <= source.num_done
        first_and_last = source_span(window.track, self.frame_rate, window.start, window.stop)
        return first_and_last[1] <= source.num_done

    def fused(self, window: "Window", dropped: frozenset[str]) -> Fused:
        """The fused conditions of a window, without the dropped ones."""
        made: dict[str, Condition | Tensor] = {}
        for name in self.conditioners.fuse:
            if self.source is not None and name == self.source.condition:
                made[name] = self._source_condition(window, dropped=name in dropped)
            else:
                made[name] = window.track.condition(
                    self.conditioners, name, dropped=name in dropped, part=window.part
                )
        return self.conditioners.fused(made)

    def _window(
        self, track: Track, start: int, end: int, *, hidden: slice | None = None
    ) -> "Window":
        """The window from `start` to at most `end`, with these of its frames taken as unknown."""
        stop = min(start + self.window_frames, end)
        values = track.values[:, start:stop].to(self.device)
        known = is_known(values)
        if hidden is not None:
            known[hidden] = False
        tokens = torch.where(known, values, self.mask_token)
        if self.whole_windows:
            beyond = start + self.window_frames - stop
            tokens = torch.nn.functional.pad(tokens, (0, beyond), value=self.mask_token)
            known = torch.nn.functional.pad(known, (0, beyond))
        return Window(stage=self, track=track, start=start, stop=stop, tokens=tokens, known=known)

    def _source_condition(self, window: "Window", *, dropped: bool) -> Condition | Tensor:
        """The source's tokens: added to the frames, or as a prefix."""
        source = window.track.source
        if (aligned := self.aligned) is not None:
            given = None if dropped or source is None else source.values.to(self.device)
            rows = aligned.stack([None]) if given is None else given[:1]
            frames = window.start + torch.arange(window.tokens.shape[1], device=self.device)
            return aligned.frames(rows, frames)
        assert self.source is not None
        conditioner = self.conditioners[self.source.condition]
        if dropped or source is None:
            return conditioner([None])
        first, last = source_span(window.track, self.frame_rate, window.start, window.stop)
        return conditioner([source.values[:, first:last].to(self.device)])


@dataclass(kw_only=True, eq=False)
class Window:
    """Frames of a track that are being decided.

    Args:
        stop: one past the last frame that belongs to the track and to its part of a story;
            windows may be longer.
        part: the index of that part.
        tokens, known: [K, T], the mask token if undecided, and whether frames [T] are known.
    """

    stage: MaskedStage
    track: Track
    start: int
    stop: int
    tokens: Tensor
    known: Tensor
    part: int = 0
    codebook: int = -1
    num_steps_done: int = 0
    _fused: dict[frozenset[str], Fused] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings = _settings(self.track)
        self.num_rounds = rounds_of(self.settings, len(self.tokens))
        self._seconds = [0.0] * len(self.known)
        if self.settings.guidance_schedule:
            first, rate = self.start - self.track.num_given, self.stage.frame_rate
            self._seconds = [float(max(0, first + t) / rate) for t in range(len(self.known))]
        self._next_codebook()

    @property
    def done(self) -> bool:
        return self.codebook == len(self.tokens)

    @property
    def reach(self) -> int | None:
        return self.stage.reach if self.codebook else None

    def rows(self) -> "list[Row]":
        """The branches of guidance in this round, whose weights may be annealed."""
        track, stage = self.track, self.stage
        settings = annealed_guidance(self.settings, self.rounds.share)
        named = track.conditions.keys() | track.negative.keys()
        given = [name for name in stage.conditioners.fuse if name in named]
        if isinstance(settings.guidance_scale, Mapping) and stage.source is not None:
            given.append(stage.source.condition)
        rows = []
        for dropped, weights in guidance_rows(settings, given, self._seconds):
            if dropped not in self._fused:
                self._fused[dropped] = stage.fused(self, dropped)
            weight = torch.tensor(weights, device=stage.device)
            rows.append(Row(window=self, fused=self._fused[dropped], weights=weight))
        return rows

    def decide(self, logits: Tensor) -> None:
        """Decides the masked frames of this round from guided logits [T, V]."""
        rounds, k, settings = self.rounds, self.codebook, self.settings
        masked, T = rounds.masked, len(self.known)
        stream = f"{self.stage.name}/{self.track.candidate}/{k}/{rounds.round}"
        numbers = uniforms(self.track.seed, stream, self.start, T, 1)[0].to(logits.device)
        tokens, confidence = predict(
            logits[masked],
            numbers[masked],
            settings,
            temperature=annealed_temperature(settings, rounds, self.num_rounds[k]),
        )
        self.tokens[k, masked] = tokens
        if settings.noise:
            numbers = uniforms(self.track.seed, f"{stream}/noise", self.start, T, 1)[0]
            numbers = numbers.to(logits.device)[masked].clamp(min=_LEAST)
            scale = settings.noise * rounds.rounds_left / self.num_rounds[k]
            confidence = confidence.clamp(min=_LEAST).log() - scale * (-numbers.log()).log()
        every = confidence.new_zeros(T)
        every[masked] = confidence
        rounds.keep(every)
        self.num_steps_done += 1
        if rounds.done:
            self._next_codebook()
        else:
            self.tokens[k, self.rounds.masked] = self.stage.mask_token

    def _next_codebook(self) -> None:
        """Begins the next codebook with unknown frames."""
        while self.codebook + 1 < len(self.tokens):
            self.codebook += 1
            shares = masked_shares(self.settings.schedule, self.num_rounds[self.codebook])
            self.rounds = Rounds(self.known, span=self.stage.span, shares=shares)
            if not self.rounds.done:
                return
        self.codebook = len(self.tokens)


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One branch of guidance: its conditions, B = 1, and its weight [T] in the logits."""

    window: Window
    fused: Fused
    weights: Tensor

    @property
    def shape(self) -> tuple[int, int, int | None]:
        """Rows of equal shape may share a network pass."""
        prefix = 0 if self.fused.prepend is None else self.fused.prepend.embeddings.shape[1]
        return prefix, len(self.weights), self.window.reach


class MaskedBatch:
    """Decides windows of tracks together, each at its own round."""

    def __init__(self, stage: MaskedStage, *, rows_per_pass: int | None = None) -> None:
        self._stage = stage
        self._rows_per_pass = 1 if stage.device.type == "cpu" else rows_per_pass
        self._windows: list[Window] = []

    def add(self, track: Track) -> None:
        if not track.done:
            self._windows.append(self._stage.window(track))

    def remove(self, track: Track) -> None:
        self._windows = [window for window in self._windows if window.track is not track]

    def waiting(self) -> bool:
        return not all(self._stage.ready(window) for window in self._windows)

    @torch.inference_mode()
    def step(self) -> bool:
        """Takes one round with each window that is ready."""
        ready = [window for window in self._windows if self._stage.ready(window)]
        for window, logits in zip(ready, self._logits(ready), strict=True):
            window.decide(logits)
            self._report(window)
        return bool(ready)

    def _logits(self, windows: Sequence[Window]) -> list[Tensor]:
        """The guided logits [T, V] of each window's codebook."""
        rows = [row for window in windows for row in window.rows()]
        guided: dict[Window, Tensor] = {}
        for shape in dict.fromkeys(row.shape for row in rows):
            alike = [row for row in rows if row.shape == shape]
            size = self._rows_per_pass or len(alike)
            for first in range(0, len(alike), size):
                batch = alike[first : first + size]
                for row, logits in zip(batch, self._stage.evaluate(batch), strict=True):
                    part = row.weights[:, None] * logits[row.window.codebook].float()
                    total = guided.get(row.window)
                    guided[row.window] = part if total is None else total + part
        return [guided[window] for window in windows]

    def _report(self, window: Window) -> None:
        """Writes a finished window to its track; until then, only progress."""
        track, stop = window.track, window.stop
        if not window.done:
            share = window.num_steps_done / sum(window.num_rounds)
            track.in_work = share * (stop - track.num_done)
            return
        track.in_work = 0.0
        values = window.tokens[:, : stop - window.start].to(track.values.device)
        behind = leading(is_known(track.values[:, stop:]))  # given frames
        track.learn(values, start=window.start, num_done=stop + behind)
        self.remove(track)
        self.add(track)


def _settings(track: Track) -> Unmasking:
    assert isinstance(track.sampling, Unmasking)
    return track.sampling
