"""A stage with a diffusion or flow model: denoises latents window by window.

Each window keeps the end of the previous one. Known frames (the overlap, a prompt, the surroundings
of an inpainted span) are put back at each level, with that level's noise, so that the others fit.

Results do not depend on other tracks in the batch: random numbers belong to the item, and on a CPU
each row is a separate network pass, because the bits of a larger pass depend on its size.

Shapes: B batch, D latent width, T frames of a window.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.tokens import AlignedTokens
from lm_audio.generation.blend import slerp
from lm_audio.generation.noise_schedule import Levels, NoiseSchedule, Predicts, estimate
from lm_audio.generation.solvers import Steps, solve
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
from lm_audio.networks.condition import Condition, Fused, Known, between, joined
from lm_audio.sampling import Denoising, gaussians
from lm_audio.signals import Signal

_GOLDEN = (5**0.5 - 1) / 2  # its multiples are spread evenly

Network = Callable[..., Tensor]
"""Maps noisy latents [B, D, T], times [B] and a `Fused` to an output [B, D, T]. One that sees
known frames also takes `known`, a `Known`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DiffusionStage:
    """A denoising network, its noise schedule and conditioners, and its default settings.

    Args:
        predicts: the quantity that the network outputs.
        window_frames: the maximum number of frames per window.
        overlap_frames: frames of a window that the next one keeps.
        source: an earlier stage; each window gets its values of the same time as a condition.
        sees_known: whether the network was trained with known frames as an input.
        source_of: makes the source's values from conditions, by name, for what its track does not
            have: negative prompts and the later parts of a story. Without it, guidance keeps the
            source.
    """

    name: str
    network: Network
    predicts: Predicts
    schedule: NoiseSchedule
    conditioners: Conditioners
    makes: Signal
    window_frames: int
    overlap_frames: int
    sampling: Denoising
    source: Source | None = None
    sees_known: bool = False
    source_of: Callable[[Mapping[str, Any]], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.makes.kind != "latents":
            raise ValueError(f"The {self.name} stage must make latents, got {self.makes}.")
        if not 0 <= self.overlap_frames < self.window_frames:
            raise ValueError(
                f"overlap_frames of the {self.name} stage must be from 0 to "
                f"{self.window_frames - 1}, got {self.overlap_frames}."
            )
        if self.predicts == "epsilon" and self.schedule.starts_without_signal:
            raise ValueError(
                f"The {self.name} stage cannot predict epsilon with a {self.schedule.kind} "
                "schedule, which starts without signal. Use another prediction or schedule."
            )

    @property
    def conditions(self) -> tuple[str, ...]:
        """The names of the conditions that users may give."""
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
    def first_codebook(self) -> int:
        return 0

    @property
    def device(self) -> torch.device:
        modules = [x for x in (self.network, self.conditioners) if isinstance(x, nn.Module)]
        tensors = [x for module in modules for x in (*module.parameters(), *module.buffers())]
        return tensors[0].device if tensors else torch.device("cpu")

    def new_batch(self, *, rows_per_pass: int | None = None) -> StageBatch:
        return DiffusionBatch(self, rows_per_pass=rows_per_pass)

    @torch.inference_mode()
    def check(self, track: Track) -> None:
        """Raises ValueError for too many steps or conditions that cannot be embedded."""
        self.schedule.levels(_denoising(track).steps)
        track.embed(self.conditioners)

    def span(self, track: Track) -> tuple[int, int]:
        """The frames of the next window of a track; a loop has one only."""
        start = track.window_start(self.window_frames, self.overlap_frames)
        _, end = track.part_at(track.num_done, self.makes.rate)
        return start, min(start + self.window_frames, end)

    def ready(self, track: Track) -> bool:
        """Whether the source has the values that the next window of a track needs."""
        source = track.source
        if source is None or source.done:
            return True
        return not source.open_end and self._source_span(track)[1] <= source.num_done

    @torch.inference_mode()
    def window(self, track: Track) -> "Window":
        """The next window of a track, at its first level."""
        start, stop = self.span(track)
        denoising = _denoising(track)
        levels = self.schedule.levels(denoising.steps)
        varied = track.variation
        if varied is not None:
            strength = varied.strength
            if track.story is not None:
                now = self._moment(track, stop)
                strength = track.story.between(lambda turn: turn.strength, strength, now)
            levels = levels.last(max(1, round(strength * denoising.steps)))

        def noise(step: str) -> Tensor:
            return self._noise(track, step, start, stop).to(self.device)

        values = track.values[:, start:stop].to(self.device)
        first = noise("start")
        if varied is None:
            x = first * (levels.alpha[0] ** 2 + levels.sigma[0] ** 2) ** 0.5
        else:
            original = varied.values[:, start:stop].to(self.device)
            x = levels.alpha[0] * original + levels.sigma[0] * first
        return Window(
            track=track,
            start=start,
            levels=levels,
            values=values.nan_to_num(),
            known=is_known(values),
            noise=first,
            rows=self._rows(track, start, stop),
            steps=solve(denoising, x, levels, fresh=lambda i: noise(str(i))),
        )

    def _noise(self, track: Track, step: str, start: int, stop: int) -> Tensor:
        """Noise [D, T] for a step, of the seed of the story's part; it turns in transitions."""
        stream = f"{self.name}/{track.candidate}/{step}"

        def of(seed: int) -> Tensor:
            return gaussians(seed, stream, start, stop - start, self.makes.width)

        story = track.story
        if story is None or all(turn.seed is None for turn in story.turns):
            return of(track.seed)
        seeds = [track.seed if turn.seed is None else turn.seed for turn in story.turns]
        seeds.append(seeds[-1])
        moments = [track.moment(frame, self.makes.rate) for frame in range(start, stop)]
        pairs = [(seeds[part], seeds[part + 1]) for part, _ in moments]
        made = {seed: of(seed) for pair in pairs for seed in pair}
        before, after = (
            torch.stack([made[pair[k]][:, i] for i, pair in enumerate(pairs)], dim=1)
            for k in range(2)
        )
        return slerp(before, after, torch.tensor([share for _, share in moments]))

    def _moment(self, track: Track, stop: int) -> tuple[int, float]:
        """The story's part in the middle of the new frames of a window."""
        return track.moment((track.num_done + stop) // 2, self.makes.rate)

    def _rows(self, track: Track, start: int, stop: int) -> list["Row"]:
        """The branches of guidance, each of them once for each prompt of a blend that it has.

        Between two parts of a story there is one prompt, or a blend if their lengths differ. The
        weights follow the time since the end of the audio prompt.
        """
        asked = track.conditions.keys() | track.negative.keys()
        given = [name for name in self.conditioners.fuse if name in asked]
        if self.source is not None and self._guides_source(track, given):
            given.append(self.source.condition)
        seconds = [
            float(max(0, frame - track.num_given) / self.makes.rate) for frame in range(start, stop)
        ]
        now, turned = self._moment(track, stop)
        rows = []
        for branch, (dropped, weights) in enumerate(
            guidance_rows(_denoising(track), given, seconds)
        ):
            shares = {now: 1.0}
            if "text" not in dropped and track.blend is not None:
                shares = dict(enumerate(track.blend.shares))
            elif "text" not in dropped and turned:
                shares = {now: 1 - turned, now + 1: turned}
            fused = [(self._fused(track, dropped, part), share) for part, share in shares.items()]
            if len(fused) == 2 and track.blend is None:
                mixed = between(fused[0][0], fused[1][0], turned)
                fused = fused if mixed is None else [(mixed, 1.0)]
            for one, share in fused:
                scaled = share * torch.tensor(weights, device=self.device)
                rows.append(Row(fused=one, weights=scaled, share=share, branch=branch))
        return rows

    def _fused(self, track: Track, dropped: Collection[str], part: int) -> Fused:
        """The conditions of a branch in a part of the story or of the blend."""
        conditions = {
            name: self._condition(track, name, dropped=name in dropped, part=part)
            for name in self.conditioners.fuse
        }
        return self.conditioners.fused(conditions)

    def _guides_source(self, track: Track, given: Sequence[str]) -> bool:
        """Whether guidance drops the source's values, too."""
        if isinstance(_denoising(track).guidance_scale, Mapping):
            return True
        is_given = track.source is not None and track.source.num_given > 0
        return self.source_of is not None and (bool(given) or is_given)

    def _condition(
        self, track: Track, name: str, *, dropped: bool, part: int
    ) -> Condition | Tensor:
        """A condition in a part of the story or of the blend; all of a blend share a source."""
        conditioner = self.conditioners[name]
        if self.source is None or name != self.source.condition:
            return track.condition(self.conditioners, name, dropped=dropped, part=part)
        later = track.story is not None and part > 0
        if dropped or (later and self.source_of is not None):
            values = self._replaced(track, dropped=dropped, part=part)
        else:
            values = self._source_values(track)
        if not isinstance(conditioner, AlignedTokens):
            return conditioner([values])
        start, stop = self.span(track)
        return conditioner([values], frames=torch.arange(start, stop, device=self.device))

    def _replaced(self, track: Track, *, dropped: bool, part: int) -> Tensor | None:
        """The values in place of the source's, for conditions that its track does not have."""
        if self.source_of is None:
            return None
        return self.source_of(track.values_of(dropped=dropped, part=part))

    def _source_values(self, track: Track) -> Tensor | None:
        """The values of the source that the next window needs."""
        if track.source is None:
            return None
        start, stop = self._source_span(track)
        return track.source.values[:, start:stop].to(self.device)

    def _source_span(self, track: Track) -> tuple[int, int]:
        """The frames of the source that the next window needs: all vectors, aligned tokens from the
        start on, or what is at the same time."""
        source = track.source
        assert source is not None
        if source.is_vector:
            return 0, source.num_frames
        start, stop = self.span(track)
        if (aligned := aligned_tokens(self.conditioners, self.source)) is not None:
            return 0, min(source.num_frames, aligned.num_source_needed(stop - 1))
        return source_span(track, self.makes.rate, start, stop)


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One branch of guidance: its conditions, B = 1, and its weight [T] in the output.

    Args:
        share: of the prompt in its branch; 1 without a blend.
        branch: the index of the branch.
    """

    fused: Fused
    weights: Tensor
    share: float = 1.0
    branch: int = 0


@dataclass(kw_only=True, eq=False)
class Window:
    """Frames of a track that are being denoised.

    Args:
        values, known: [D, T], 0 if unknown, and the mask [T] of known frames.
        noise: [D, T], added to the known frames.
        x, level: the noisy latents [D, T] to evaluate next, and their level.
    """

    track: Track
    start: int
    levels: Levels
    values: Tensor
    known: Tensor
    noise: Tensor
    rows: list[Row]
    steps: Steps

    def __post_init__(self) -> None:
        self.take(*next(self.steps))

    @property
    def done(self) -> bool:
        return self.level == self.levels.num_steps

    @property
    def active(self) -> list[Row]:
        """The branches to evaluate next: outside the interval of guidance, that of the prompts."""
        low, high = _denoising(self.track).guidance_interval
        is_guided = low <= self.level / self.levels.num_steps < high
        return self.rows if is_guided else self.rows[-self._num_prompts :]

    @property
    def _num_prompts(self) -> int:
        """The rows of the branch with all prompts, the last one."""
        return sum(row.branch == self.rows[-1].branch for row in self.rows)

    def guided(self, outputs: Sequence[Tensor]) -> Tensor:
        """The output [D, T] that the active branches add up to."""
        first, *others = (
            row.share * output
            for row, output in zip(
                self.rows[-self._num_prompts :], outputs[-self._num_prompts :], strict=True
            )
        )
        prompted = sum(others, start=first)
        if len(outputs) < len(self.rows):
            return prompted
        total = torch.zeros_like(self.x)
        for row, output in zip(self.rows, outputs, strict=True):
            total = total + row.weights * output
        share = _denoising(self.track).guidance_rescale
        if share and len(outputs) > self._num_prompts:
            total = total * (1 - share + share * prompted.std() / total.std().clamp(min=1e-8))
        return total

    @property
    def shift(self) -> int:
        """How far to roll a loop, so that its joint is elsewhere in each pass of the network."""
        T = self.x.shape[1]
        return round(self.level * T * _GOLDEN) % T if self.track.loop else 0

    def take(self, x: Tensor, level: int) -> None:
        """Accepts latents from the solver and replaces the known frames."""
        alpha, sigma = self.levels.alpha[level], self.levels.sigma[level]
        at_end = level == self.levels.num_steps
        known = self.values if at_end else alpha * self.values + sigma * self.noise
        self.x, self.level = torch.where(self.known, known, x), level


class DiffusionBatch:
    """Denoises windows of tracks together, each at its own level."""

    def __init__(self, stage: DiffusionStage, *, rows_per_pass: int | None = None) -> None:
        self._stage = stage
        self._rows_per_pass = 1 if stage.device.type == "cpu" else rows_per_pass
        self._windows: list[Window] = []
        self._waiting: list[Track] = []  # for values of their source

    def add(self, track: Track) -> None:
        if not track.done:
            self._waiting.append(track)

    def remove(self, track: Track) -> None:
        self._waiting = [one for one in self._waiting if one is not track]
        self._windows = [window for window in self._windows if window.track is not track]

    def waiting(self) -> bool:
        return not all(self._stage.ready(track) for track in self._waiting)

    @torch.inference_mode()
    def step(self) -> bool:
        """Evaluates the network once for each window."""
        ready = [track for track in self._waiting if self._stage.ready(track)]
        self._waiting = [track for track in self._waiting if track not in ready]
        self._windows += [self._stage.window(track) for track in ready]
        windows = list(self._windows)
        for window, output in zip(windows, self._outputs(windows), strict=True):
            now = estimate(
                output,
                window.x,
                alpha=window.levels.alpha[window.level],
                sigma=window.levels.sigma[window.level],
                predicts=self._stage.predicts,
            )
            window.take(*window.steps.send(now))
            self._report(window)
        return bool(windows)

    def _outputs(self, windows: Sequence[Window]) -> list[Tensor]:
        """The guided output [D, T] of each window; rows of equal length share passes."""
        jobs = [(window, row) for window in windows for row in window.active]
        outputs: dict[int, Tensor] = {}  # by index in jobs
        for length in dict.fromkeys(window.x.shape[1] for window in windows):
            places = [i for i, (window, _) in enumerate(jobs) if window.x.shape[1] == length]
            size = self._rows_per_pass or len(places)
            for first in range(0, len(places), size):
                batch = places[first : first + size]
                made = self._evaluate([jobs[i] for i in batch])
                outputs.update(zip(batch, made, strict=True))
        guided, place = [], 0
        for window in windows:
            rows = window.active
            guided.append(window.guided([outputs[place + i] for i in range(len(rows))]))
            place += len(rows)
        return guided

    def _evaluate(self, jobs: Sequence[tuple[Window, Row]]) -> Iterable[Tensor]:
        x = torch.stack([window.x.roll(window.shift, dims=1) for window, _ in jobs])
        levels = [window.levels.time[window.level] for window, _ in jobs]
        times = torch.tensor(levels, device=x.device)
        given = {"known": _known([window for window, _ in jobs])} if self._stage.sees_known else {}
        conditions = joined([_rolled(row.fused, window.shift) for window, row in jobs])
        outputs = self._stage.network(x, times, conditions, **given).float()
        shifts = [window.shift for window, _ in jobs]
        return [row.roll(-shift, dims=1) for row, shift in zip(outputs, shifts, strict=True)]

    def _report(self, window: Window) -> None:
        """Writes a finished window to its track; until then, only progress."""
        track, stop = window.track, window.start + window.x.shape[1]
        if not window.done:
            share = window.level / window.levels.num_steps
            track.in_work = share * (stop - track.num_done)
            return
        if not window.x.isfinite().all():
            raise ValueError(
                f"The {self._stage.name} stage diverged to values that are not finite. Use more "
                "steps, a lower guidance scale or another solver."
            )
        track.in_work = 0.0
        values = window.x.to(track.values.device)
        behind = leading(is_known(track.values[:, stop:]))  # given frames
        track.learn(values, start=window.start, num_done=stop + behind)
        self.remove(track)
        self.add(track)


def _denoising(track: Track) -> Denoising:
    assert isinstance(track.sampling, Denoising)
    return track.sampling


def _rolled(condition: Fused, shift: int) -> Fused:
    """Conditions whose sum [1, T, D] is rolled along with the frames."""
    if not shift or condition.sum is None or condition.sum.shape[1] == 1:
        return condition
    return replace(condition, sum=condition.sum.roll(shift, dims=1))


def _known(windows: Sequence["Window"]) -> Known:
    """The known frames of B windows of equal length, rolled along with the noisy ones."""
    return Known(
        values=torch.stack([window.values.roll(window.shift, dims=1) for window in windows]),
        mask=torch.stack([window.known.roll(window.shift) for window in windows]),
    )
