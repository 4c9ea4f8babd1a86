"""A stage with a token language model: its windows, and its batch of tracks.

Shapes: K codebooks, J streams of the model, S steps after the pattern, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.melody import MelodyConditioner
from lm_audio.conditioners.tokens import AlignedTokens
from lm_audio.generation.decoding import DecodingBatch
from lm_audio.generation.step import Row, Sequence, guidance_rows
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
from lm_audio.networks.condition import Condition, Fused
from lm_audio.networks.token_lm import TokenLM
from lm_audio.patterns import Layout, Pattern
from lm_audio.sampling import Sampling, uniforms
from lm_audio.signals import ACOUSTIC, Signal


@dataclass(kw_only=True, eq=False)
class Window(Sequence):
    """A range of frames of a track, laid out as a sequence for the decode loop.

    Args:
        start, stop: the range of frames, within one part of a story.
        part: the index of that part.
        frames: [S], the latest frame in each step, on the CPU.
    """

    track: Track
    start: int
    stop: int
    layout: Layout
    frames: Tensor
    part: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class LMStage:
    """A token language model, its pattern and conditioners, and its default sampling.

    Args:
        start_token: precedes the first step, and fills empty cells of the pattern.
        window_frames: frames per window, the context that the model was trained with.
        overlap_frames: frames of a window that the next one starts with.
        end_token: the token that ends a clip, if the model has one.
        num_choices: the number of tokens that may be sampled; by default the whole vocabulary.
        deduplicated: no token repeats the one before, so tokens have no fixed duration.
        token_kind: the content of the stage's output signal.
        first_codebook: the index of its first codebook in the renderer's input.
    """

    name: str
    model: TokenLM
    pattern: Pattern
    conditioners: Conditioners
    frame_rate: Fraction
    window_frames: int
    overlap_frames: int
    sampling: Sampling
    start_token: int
    end_token: int | None = None
    num_choices: int | None = None
    deduplicated: bool = False
    source: Source | None = None
    token_kind: str = ACOUSTIC
    first_codebook: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_frames < self.window_frames:
            raise ValueError(
                f"overlap_frames of the {self.name} stage must be less than its window_frames, "
                f"{self.window_frames}, got {self.overlap_frames}."
            )

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
        return self.pattern.num_codebooks

    @property
    def num_tokens(self) -> int:
        """Tokens per codebook, without an end token."""
        vocab_size = self.model.config.vocab_size
        without_end = vocab_size if self.end_token is None else self.end_token
        return self.pattern.codebook_size or without_end

    @property
    def conditions(self) -> tuple[str, ...]:
        """The conditions that a user may give, by name."""
        return own_conditions(self.conditioners, self.source)

    @property
    def may_end(self) -> bool:
        return self.end_token is not None

    @property
    def two_sided(self) -> bool:
        return False

    @property
    def follows_stories(self) -> bool:
        """Whether its text may change with time, which needs tokens of a fixed duration."""
        return not self.deduplicated

    @property
    def device(self) -> torch.device:
        return self.model.heads.weight.device

    def new_batch(self, *, rows_per_pass: int | None = None) -> StageBatch:
        return LMBatch(self, rows_per_pass=rows_per_pass)

    @torch.inference_mode()
    def check(self, track: Track) -> None:
        """Reads and embeds the conditions; raises ValueError if one is invalid."""
        for name, value in track.conditions.items():
            melody = self.conditioners[name] if name in self.conditioners.fuse else None
            if isinstance(melody, MelodyConditioner):  # each window takes another part of it
                track.conditions = {**track.conditions, name: melody.read(value)}
        track.embed(self.conditioners)
        if not self.follows_stories and "text" in self.conditions and track.story is not None:
            raise ValueError(
                f"The {self.name} stage cannot follow a story, because its tokens have no fixed "
                "duration. Use one prompt."
            )

    def trim(self, track: Track) -> None:
        """A hook for stages that find a track's length during generation, to end it there."""

    def window_start(self, track: Track) -> int:
        """The first frame of the window that decides the track's next frame."""
        return track.window_start(self.window_frames, self.overlap_frames)

    def window(self, track: Track) -> Window:
        """The next window of a track, to be decoded once its source is ready."""
        start = self.window_start(track)
        part, end = track.part_at(track.num_done, self.frame_rate)
        window = self._window(track, start, min(start + self.window_frames, end))
        window.part = part
        return window

    def ready(self, window: Window) -> bool:
        """Whether the source has the values for all steps of the window up to the next."""
        source = window.track.source
        if source is None or source.done:
            return True
        if source.open_end:
            return False
        if self.aligned is not None:
            frame = int(window.frames[: window.step + 1].max())
            return self.aligned.num_source_needed(frame) <= source.num_done
        return self.source_span(window.track, window.start, window.stop)[1] <= source.num_done

    @torch.inference_mode()
    def open(self, window: Window) -> None:
        """Adds the guidance rows; their conditions are complete once the window is ready."""
        track = window.track
        source = self.source.condition if self.source is not None else None
        named = track.conditions.keys() | track.negative.keys()
        prompts = [name for name in self.conditioners.fuse if name in named]
        sampling = track.sampling
        assert isinstance(sampling, Sampling)
        scale = sampling.guidance_scale
        given = [*prompts, source] if isinstance(scale, Mapping) and source else prompts
        new = (window.frames - track.num_given).clamp(min=0).tolist()
        seconds = [float(frame / self.frame_rate) for frame in new]
        window.rows = tuple(
            self._row(window, dropped, torch.tensor(weights, device=self.device))
            for dropped, weights in guidance_rows(sampling, given, seconds)
        )

    def likelihood(self, track: Track, first: int, last: int) -> float:
        """The mean log-likelihood of the track's tokens in these frames, given those before."""
        return float(self.likelihoods(track, first, last).mean())

    @torch.inference_mode()
    def likelihoods(self, track: Track, first: int, last: int) -> Tensor:
        """The log-likelihood of each of the track's tokens in these frames, in step order."""
        last = min(last, track.num_frames)
        window = self._window(track, max(0, last - self.window_frames), last)
        tokens = window.tokens[None]  # [1, J, S]
        inputs = torch.cat(
            [torch.full_like(tokens[..., :1], self.start_token), tokens[..., :-1]], dim=-1
        )
        row = self._row(window, frozenset(), torch.ones(len(window.frames), device=self.device))
        fused = replace(row.fused, sum=row.sums(0, tokens.shape[2]))
        logits = self.model(inputs, fused=fused).float()[0]  # [J, S, V]
        token, allowed = torch.arange(logits.shape[-1], device=logits.device), window.allowed
        outside = (token < allowed[..., :1]) | (token >= allowed[..., 1:])
        scores = logits.masked_fill(outside, -torch.inf).log_softmax(dim=-1)
        frame = window.start + window.layout.frame
        judged = (window.layout.frame >= 0) & (frame >= first)
        return scores[judged].gather(1, tokens[0][judged][:, None])[:, 0]

    def source_span(self, track: Track, start: int, stop: int) -> tuple[int, int]:
        """The source's frames that precede a window of these frames as its prefix."""
        return source_span(track, self.frame_rate, start, stop)

    @property
    def aligned(self) -> AlignedTokens | None:
        """The conditioner that adds the source's tokens frame by frame, if there is one."""
        return aligned_tokens(self.conditioners, self.source)

    @torch.inference_mode()
    def _window(self, track: Track, start: int, stop: int) -> Window:
        layout = self.pattern.layout(stop - start)
        frames = start + layout.latest_frames()
        layout = layout.to(self.device)
        known = track.values[None, :, start:stop].to(self.device)
        tokens = layout.build(known, empty=self.start_token)[0]  # [J, S]
        J, S = tokens.shape
        sampling = track.sampling
        assert isinstance(sampling, Sampling)
        temperature = sampling.temperature
        if not isinstance(temperature, tuple):
            temperature = (temperature,) * self.num_codebooks
        per_codebook = torch.tensor(temperature, dtype=torch.float32, device=self.device)
        steps_per_frame = max(1, S // (stop - start))
        penalised = sampling.repetition_penalty != 1
        stream = f"{self.name}/{track.candidate}/{start}"
        return Window(
            track=track,
            start=start,
            stop=stop,
            layout=layout,
            frames=frames,
            start_token=self.start_token,
            tokens=tokens,
            uniforms=uniforms(track.seed, stream, 0, S, J).to(self.device),
            temperature=per_codebook[layout.codebook.clamp(min=0)],
            allowed=self._allowed(layout),
            sampling=sampling,
            penalty_window=sampling.repetition_window * steps_per_frame if penalised else 0,
            deduplicated=self.deduplicated,
        )

    def _allowed(self, layout: Layout) -> Tensor:
        """The lowest allowed token of each cell, and one past the highest: [J, S, 2]."""
        low, most = layout.offset, self.num_choices or self.model.config.vocab_size
        size = self.pattern.codebook_size or most
        return torch.stack([low, (low + size).clamp(max=most)], dim=-1)

    def _row(self, window: Window, dropped: frozenset[str], weights: Tensor) -> Row:
        aligned, source = self.aligned, self.source
        is_kept = source is not None and source.condition not in dropped
        lookahead = None
        if aligned is not None and is_kept and (followed := window.track.source) is not None:

            def lookahead(step: int) -> Tensor:
                return aligned.lookahead(followed.values[0], int(window.frames[step])).to(
                    self.device
                )

        return Row(
            fused=self._fused(window, dropped),
            weights=weights,
            aligned=aligned,
            lookahead=lookahead,
        )

    def _fused(self, window: Window, dropped: frozenset[str]) -> Fused:
        """The fused conditions of a window, without the dropped ones."""
        made: dict[str, Condition] = {}
        for name in self.conditioners.fuse:
            conditioner = self.conditioners[name]
            if conditioner is self.aligned:
                continue
            if self.source is not None and name == self.source.condition:
                made[name] = conditioner([None if name in dropped else self._source_tokens(window)])
            elif isinstance(conditioner, MelodyConditioner) and window.start:
                melody = None if name in dropped else window.track.conditions.get(name)
                start = float(window.start / self.frame_rate)
                made[name] = conditioner([melody], start=start)
            else:
                made[name] = window.track.condition(
                    self.conditioners, name, dropped=name in dropped, part=window.part
                )
        return self.conditioners.fused(made)

    def _source_tokens(self, window: Window) -> Tensor | None:
        source = window.track.source
        if source is None:
            return None
        start, stop = self.source_span(window.track, window.start, window.stop)
        return source.values[:, start:stop].to(self.device)


class LMBatch(DecodingBatch[Window]):
    """Opens windows of tracks, decodes them together, and writes the tokens to the tracks."""

    def __init__(self, stage: LMStage, *, rows_per_pass: int | None = None) -> None:
        super().__init__(stage.model, rows_per_pass=rows_per_pass)
        self._stage = stage
        self._waiting: list[Window] = []  # for the source values of their first step

    def add(self, track: Track) -> None:
        self._stage.trim(track)
        if not track.done:
            self._waiting.append(self._stage.window(track))

    def remove(self, track: Track) -> None:
        self._waiting = [window for window in self._waiting if window.track is not track]
        for window in [window for window in self.sequences if window.track is track]:
            self.leave(window)

    def waiting(self) -> bool:
        self._open_ready()
        return bool(self._waiting) or len(self._ready()) < len(self.sequences)

    def step(self) -> bool:
        self._open_ready()
        ready = self._ready()
        self.decode(ready)
        for window in ready:
            self._collect(window)
        return bool(ready)

    def _open_ready(self) -> None:
        for window in list(self._waiting):
            self._stage.trim(window.track)
            if window.stop > window.track.num_frames:
                self._waiting.remove(window)
                self.add(window.track)
        ready = [window for window in self._waiting if self._stage.ready(window)]
        for window in ready:
            self._stage.open(window)
        if ready:
            self.join(*ready)
            self._waiting = [window for window in self._waiting if window not in ready]

    def _ready(self) -> list[Window]:
        return [window for window in self.sequences if self._stage.ready(window)]

    def _collect(self, window: Window) -> None:
        track, layout = window.track, window.layout
        tokens = layout.revert(self.tokens(window)[None])[0]
        before, finished = track.num_done, window.done
        done = leading(is_known(tokens)) if finished else layout.complete_frames(window.step)
        track.learn(
            tokens.to(track.values.device), start=window.start, num_done=window.start + done
        )
        end = self._stage.end_token
        made = track.values[0, before : track.num_done]
        if end is not None and (ends := (made == end)).any():
            track.end(before + int(ends.int().argmax()))
        if finished or track.done:
            self.leave(window)
            self.add(track)
