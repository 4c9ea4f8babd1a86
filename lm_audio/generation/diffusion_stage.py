"""A stage with a diffusion or flow model: denoises latents window by window.

Each window keeps the end of the previous one. Known frames (the overlap, a prompt, the surroundings
of an inpainted span) are put back at each level, with that level's noise, so that the others fit.

Results do not depend on other tracks in the batch: random numbers belong to the item, and on a CPU
each row is a separate network pass, because the bits of a larger pass depend on its size.

Shapes: B batch, D latent width, T frames of a window.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lm_audio.conditioners.aligned_signal import AlignedSignal, LevelConditioner, augmented
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.tokens import AlignedTokens
from lm_audio.generation.denoising_window import (
    Row,
    Window,
    denoising_of,
    in_order,
    known_frames,
    turned,
)
from lm_audio.generation.interpolation import slerp, slerp_frames
from lm_audio.generation.noise_schedule import NoiseSchedule, Predicts, estimate
from lm_audio.generation.solvers import solve
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
from lm_audio.networks.condition import Condition, Fused, between, joined
from lm_audio.sampling import Denoising, gaussians
from lm_audio.signals import Signal

Network = Callable[..., Tensor]
"""Maps noisy latents [B, D, T], times [B] and a `Fused` to an output [B, D, T]. One that sees
known frames also takes `known`, a `Known`."""

Timing = Literal["start", "total"]
"""In seconds: where a window starts, and how long the whole recording is."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DiffusionStage:
    """A denoising network, its noise schedule and conditioners, and its default settings.

    Args:
        predicts: the quantity that the network outputs.
        window_frames: the maximum number of frames per window.
        overlap_frames: frames of a window that the next one keeps.
        multiple_of, min_frames: the lengths that the network takes. A clip's last window is filled
            up with new frames after its end, which are dropped, and a loop with its other end.
        source: an earlier stage; each window gets its values of the same time as a condition.
        sees_known: whether the network was trained with known frames as an input.
        source_of: makes the source's values from conditions, by name, for what its track does not
            have: negative prompts and the later parts of a story. Without it, guidance keeps the
            source.
        timing: conditions, by name, that the stage itself gives. Guidance keeps them.
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
    multiple_of: int = 1
    min_frames: int = 1
    source: Source | None = None
    sees_known: bool = False
    source_of: Callable[[Mapping[str, Any]], Tensor] | None = None
    timing: Mapping[str, Timing] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.makes.kind != "latents":
            raise ValueError(f"The {self.name} stage must make latents, got {self.makes}.")
        if not 0 <= self.overlap_frames < self.window_frames:
            raise ValueError(
                f"overlap_frames of the {self.name} stage must be from 0 to "
                f"{self.window_frames - 1}, got {self.overlap_frames}."
            )
        if self.window_frames != self.filled(self.window_frames):
            raise ValueError(
                f"window_frames of the {self.name} stage must be a multiple of {self.multiple_of} "
                f"and at least {self.min_frames}, got {self.window_frames}."
            )
        if self.predicts == "epsilon" and self.schedule.starts_without_signal:
            raise ValueError(
                f"The {self.name} stage cannot predict epsilon with a {self.schedule.kind} "
                "schedule, which starts without signal. Use another prediction or schedule."
            )

    @property
    def conditions(self) -> tuple[str, ...]:
        """The names of the conditions that users may give."""
        own = own_conditions(self.conditioners, self.source)
        return tuple(name for name in own if name not in self.timing)

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
        self.schedule.levels(denoising_of(track).steps)
        track.embed(self.conditioners)

    def filled(self, num_frames: int) -> int:
        """The least number of frames that the network takes and that covers these."""
        most = max(num_frames, self.min_frames)
        return -(-most // self.multiple_of) * self.multiple_of

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
        filled = self.filled(stop - start)
        length = stop - start if track.loop else filled
        denoising = denoising_of(track)
        levels = self.schedule.levels(denoising.steps)
        varied = track.variation
        if varied is not None:
            strength = varied.strength
            if track.story is not None:
                now = self._moment(track)
                strength = track.story.between(lambda turn: turn.strength, strength, now)
            levels = levels.last(max(1, round(strength * denoising.steps)))

        def noise(step: str) -> Tensor:
            return self._noise(track, step, start, length).to(self.device)

        behind = (0, length - (stop - start))

        def noised(original: Tensor, noise: Tensor) -> Tensor:
            span = nn.functional.pad(original[:, start:stop].to(self.device), behind)
            return levels.alpha[0] * span + levels.sigma[0] * noise

        values = track.values[:, start:stop].to(self.device)
        values = nn.functional.pad(values, behind, value=torch.nan)
        first = noise("start")
        if varied is None:
            x = first * (levels.alpha[0] ** 2 + levels.sigma[0] ** 2) ** 0.5
        else:
            x = noised(varied.values, first)
            if varied.towards is not None:
                x = slerp(x, noised(varied.towards, noise("towards")), varied.share)
        return Window(
            track=track,
            start=start,
            stop=stop,
            filled=filled,
            levels=levels,
            values=values.nan_to_num(),
            known=is_known(values),
            noise=first,
            rows=self._rows(track, start, start + length),
            steps=solve(denoising, x, levels, fresh=lambda i: noise(str(i))),
        )

    def _noise(self, track: Track, step: str, start: int, length: int) -> Tensor:
        """Noise [D, length] for a step, of the seeds of the story's parts if they have some."""
        stream = f"{self.name}/{track.candidate}/{step}"

        def of(seed: int) -> Tensor:
            return gaussians(seed, stream, track.origin + start, length, self.makes.width)

        story = track.story
        if story is None or all(turn.seed is None for turn in story.turns):
            return of(track.seed)
        seeds = [track.seed if turn.seed is None else turn.seed for turn in story.turns]
        moments = [track.moment(frame, self.makes.rate) for frame in range(start, start + length)]
        pairs = [(seeds[part], seeds[min(part + 1, len(seeds) - 1)]) for part, _ in moments]
        made = {seed: of(seed) for pair in pairs for seed in pair}
        before, after = (
            torch.stack([made[pair[k]][:, i] for i, pair in enumerate(pairs)], dim=1)
            for k in range(2)
        )
        return slerp_frames(before, after, torch.tensor([share for _, share in moments]))

    def _moment(self, track: Track) -> tuple[int, float]:
        """The story's part in the middle of the new frames of the next window."""
        return track.moment((track.num_done + self.span(track)[1]) // 2, self.makes.rate)

    def _rows(self, track: Track, start: int, stop: int) -> list["Row"]:
        """The branches of guidance, each of them once for each prompt of a blend that it has.

        Between two parts of a story there is one prompt, or a blend if their lengths differ. The
        weights follow the time since the end of the audio prompt, if guidance does.
        """
        asked = track.conditions.keys() | track.negative.keys()
        asked = asked - {self.level_condition}
        given = [name for name in self.conditioners.fuse if name in asked]
        if self.source is not None and self._guides_source(track, given):
            given.append(self.source.condition)
        frames = range(start, stop if denoising_of(track).guidance_schedule else start + 1)
        seconds = [float(max(0, frame - track.num_given) / self.makes.rate) for frame in frames]
        now, ahead = self._moment(track)
        rows = []
        branches = guidance_rows(denoising_of(track), given, seconds)
        for branch, (dropped, weights) in enumerate(branches):
            shares = {now: 1.0}
            if "text" not in dropped and track.blend is not None:
                shares = dict(enumerate(track.blend.shares))
            elif "text" not in dropped and ahead:
                shares = {now: 1 - ahead, now + 1: ahead}
            fused = [(self._fused(track, dropped, part), share) for part, share in shares.items()]
            if ahead and len(fused) == 2:
                mixed = between(fused[0][0], fused[1][0], ahead)
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
        assert self.source is not None
        if isinstance(self.conditioners[self.source.condition], AlignedSignal):
            return False
        if isinstance(denoising_of(track).guidance_scale, Mapping):
            return True
        is_given = track.source is not None and track.source.num_given > 0
        return self.source_of is not None and (bool(given) or is_given)

    def _condition(
        self, track: Track, name: str, *, dropped: bool, part: int
    ) -> Condition | Tensor:
        """A condition in a part of the story or of the blend; all of a blend share a source."""
        conditioner = self.conditioners[name]
        if name == self.level_condition:
            return conditioner([track.conditions.get(name)])
        if (timing := self.timing.get(name)) is not None:
            return conditioner([self._seconds(track, timing)])
        if self.source is None or name != self.source.condition:
            return track.condition(self.conditioners, name, dropped=dropped, part=part)
        later = track.story is not None and part > 0
        if dropped or (later and self.source_of is not None):
            values = self._replaced(track, dropped=dropped, part=part)
        else:
            values = self._source_values(track)
        if isinstance(conditioner, AlignedSignal):
            return self._aligned(track, conditioner, values)
        if not isinstance(conditioner, AlignedTokens):
            return conditioner([values])
        start, stop = self.span(track)
        return conditioner([values], frames=torch.arange(start, stop, device=self.device))

    @property
    def level_condition(self) -> str | None:
        """The name of the condition with the level of noise on the source's values."""
        fuse = self.conditioners.fuse
        return next((x for x in fuse if isinstance(self.conditioners[x], LevelConditioner)), None)

    def _aligned(self, track: Track, conditioner: AlignedSignal, values: Tensor | None) -> Tensor:
        """The source's values at the frames of the next window, with noise of the level."""
        start, stop = self.span(track)
        frames = torch.arange(start, stop, device=self.device) + track.origin
        if values is None or track.source is None:
            return conditioner([None], frames=frames)
        source, first = track.source, track.source.origin + self._source_span(track)[0]
        if self.level_condition is not None:
            conditioner_of_level = self.conditioners[self.level_condition]
            assert isinstance(conditioner_of_level, LevelConditioner)
            given = conditioner_of_level.level(track.conditions.get(self.level_condition))
            stream = f"{self.name}/{track.candidate}/{self.level_condition}"
            noise = gaussians(track.seed, stream, first, values.shape[1], len(values))
            values = augmented(values, noise.to(values), given)
        if track.loop:  # all values, whose last is followed by the first
            n, (low, high) = source.num_frames, conditioner.span(start, stop)
            values, first = values[:, torch.arange(low, high, device=values.device) % n], low
        return conditioner([values], frames=frames, first=first)

    def _seconds(self, track: Track, timing: Timing) -> float:
        if timing == "start":
            return track.starts_at + float(self.span(track)[0] / self.makes.rate)
        return track.seconds or float(track.num_frames / self.makes.rate)

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
        assert self.source is not None
        if source.is_vector:
            return 0, source.num_frames
        start, stop = self.span(track)
        if isinstance(signal := self.conditioners[self.source.condition], AlignedSignal):
            if track.loop:
                return 0, source.num_frames
            span = signal.span(track.origin + start, track.origin + stop)
            first, last = (min(max(0, x - source.origin), source.num_frames) for x in span)
            return first, last
        if (aligned := aligned_tokens(self.conditioners, self.source)) is not None:
            return 0, min(source.num_frames, aligned.num_source_needed(stop - 1))
        return source_span(track, self.makes.rate, start, stop)


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
        x = torch.stack([in_order(window, window.x) for window, _ in jobs])
        levels = [window.levels.time[window.level] for window, _ in jobs]
        times = torch.tensor(levels, device=x.device)
        given = (
            {"known": known_frames([window for window, _ in jobs])}
            if self._stage.sees_known
            else {}
        )
        conditions = joined([turned(row.fused, window.order) for window, row in jobs])
        outputs = self._stage.network(x, times, conditions, **given).float()
        return [window.restored(row) for (window, _), row in zip(jobs, outputs, strict=True)]

    def _report(self, window: Window) -> None:
        """Writes a finished window to its track; until then, only progress."""
        track, stop = window.track, window.stop
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
        values = window.x[:, : stop - window.start].to(track.values.device)
        behind = leading(is_known(track.values[:, stop:]))  # given frames
        track.learn(values, start=window.start, num_done=stop + behind)
        self.remove(track)
        self.add(track)
