"""A stage: a token language model, what it conditions on, and the windows that it works in.

Shapes: K codebooks, T frames, J streams of the model, S steps after the pattern, D width.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from lm_audio.conditioners.fuser import Conditioners, Fused
from lm_audio.conditioners.tokens import AlignedTokens
from lm_audio.generation.guidance import branches
from lm_audio.generation.sequence import Row, Sequence
from lm_audio.models.token_lm import TokenLM
from lm_audio.patterns import Layout, Pattern
from lm_audio.sampling import RandomNumbers, Sampling
from lm_audio.stages.run import Run, Source, StageBatch, check_temperatures


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """A stage is data: a model, its pattern and conditioners, and how it is sampled by default.

    Args:
        start: the token before the first step, and in cells that the pattern leaves empty.
        context: the frames of a window, as many as the model has learned to keep together.
        keep: how many of them the next window begins with.
        end: the token by which the model ends a clip, if it does.
        num_choices: how many of the tokens that a head tells apart may be picked; all by default.
        repeats: False for de-duplicated tokens, none of which follows itself.
        prompt: which tokens of an audio prompt are this stage's own.
        first_codebook: where its codebooks begin among those of the renderer.
    """

    name: str
    model: TokenLM
    pattern: Pattern
    conditioners: Conditioners
    frame_rate: Fraction
    context: int
    keep: int
    sampling: Sampling
    start: int
    end: int | None = None
    num_choices: int | None = None
    repeats: bool = True
    source: Source | None = None
    prompt: Literal["semantic", "acoustic"] = "acoustic"
    first_codebook: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.keep < self.context:
            raise ValueError(
                f"The {self.name} stage keeps {self.keep} of {self.context} frames; keep fewer."
            )

    @property
    def num_codebooks(self) -> int:
        return self.pattern.num_codebooks

    @property
    def conditions(self) -> tuple[str, ...]:
        """The names of what a user may give."""
        source = self.source.condition if self.source is not None else None
        return tuple(name for name in self.conditioners.fuse if name != source)

    @property
    def may_end(self) -> bool:
        return self.end is not None

    @property
    def device(self) -> torch.device:
        return self.model.heads.weight.device

    def new_batch(self, *, rows_per_pass: int | None = None) -> StageBatch:
        from lm_audio.stages.token_batch import TokenBatch  # it works on stages, so knows them

        return TokenBatch(self, rows_per_pass=rows_per_pass)

    @torch.inference_mode()
    def check(self, run: Run) -> None:
        """Raises ValueError for what the user gave wrongly, before any work is done."""
        RandomNumbers(run.seed, self.name)
        check_temperatures(run.sampling, stage=self.name, num_codebooks=self.num_codebooks)
        for given in (run.values, run.negative):
            for name in given.keys() & self.conditioners.fuse.keys():
                self.conditioners[name]([given[name]])

    def window_start(self, run: Run) -> int:
        """Where the window that decides the run's next frame begins."""
        stride = self.context - self.keep
        return max(0, -(-(run.num_done + 1 - self.context) // stride)) * stride

    def window(self, run: Run) -> "Window":
        """The next window of a run, to be decoded when its source is ready for it."""
        start = self.window_start(run)
        return self._window(run, start, min(start + self.context, run.num_frames))

    def _window(self, run: Run, start: int, stop: int) -> "Window":
        layout = self.pattern.layout(stop - start)
        latest = layout.frame.amax(dim=0)  # [S]; -1 where all cells are empty: as the step before
        filled = torch.where(latest < 0, 0, torch.arange(len(latest))).cummax(dim=0).values
        frames = start + latest[filled].clamp(min=0)
        layout = layout.to(self.device)
        window = Window(stage=self, run=run, start=start, stop=stop, layout=layout, frames=frames)
        unknown = (window.known() < 0).any(dim=0)
        return replace(window, first=int(unknown.int().argmax()))

    @torch.inference_mode()
    def likelihood(self, run: Run, first: int, last: int) -> float:
        """The mean log-likelihood of the run's tokens of these frames, given those before them."""
        last = min(last, run.num_frames)
        window = self._window(run, max(0, last - self.context), last)
        tokens = window.known()[None]  # [1, J, S]
        inputs = torch.cat([torch.full_like(tokens[..., :1], self.start), tokens[..., :-1]], dim=-1)
        row = window.full_row()
        fused = replace(row.fused, sum=row.sums(0, tokens.shape[2]))
        logits = self.model(inputs, fused=fused).float()[0]  # [J, S, V]
        token, allowed = torch.arange(logits.shape[-1], device=logits.device), window.allowed()
        outside = (token < allowed[..., :1]) | (token >= allowed[..., 1:])
        scores = logits.masked_fill(outside, -torch.inf).log_softmax(dim=-1)
        frame = window.start + window.layout.frame
        judged = (window.layout.frame >= 0) & (frame >= first)
        return float(scores[judged].gather(1, tokens[0][judged][:, None]).mean())

    def source_span(self, run: Run, start: int, stop: int) -> tuple[int, int]:
        """The source's frames that go before a window of these frames.

        They are those that last into the window's time, where the source knows its times. Else
        both runs are the same time in equal frames, and the span is in proportion.
        """
        source = run.source
        assert source is not None
        if source.starts is None:
            first = start * source.num_frames // run.num_frames
            return first, -(-stop * source.num_frames // run.num_frames)
        begin, end = float(start / self.frame_rate), float(stop / self.frame_rate)
        first = max(0, bisect_right(source.starts, begin) - 1)
        return first, bisect_left(source.starts, end)

    @property
    def aligned(self) -> AlignedTokens | None:
        """The conditioner that adds the source's tokens frame by frame, if that is its way."""
        found = self.conditioners[self.source.condition] if self.source is not None else None
        return found if isinstance(found, AlignedTokens) else None

    @cached_property
    def still_conditioners(self) -> Conditioners:
        """Those whose conditions are whole before a window begins."""
        fuse = {
            name: way
            for name, way in self.conditioners.fuse.items()
            if self.conditioners[name] is not self.aligned
        }
        return Conditioners({name: self.conditioners[name] for name in fuse}, fuse)


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """Some frames of a run, laid out.

    Args:
        frames: [S], the latest frame that stands in each step; on the CPU, where it is asked for.
        first: the first step to decide.
    """

    stage: Stage
    run: Run
    start: int
    stop: int
    layout: Layout
    frames: Tensor
    first: int = 0

    def ready(self, step: int) -> bool:
        """Whether the source has what this step and those before it need."""
        source, stage = self.run.source, self.stage
        if source is None or source.done:
            return True
        if source.open_end:
            return False
        if stage.aligned is not None:
            frame = int(self.frames[: step + 1].max())
            return stage.aligned.needed(frame) <= source.num_done
        return stage.source_span(self.run, self.start, self.stop)[1] <= source.num_done

    def known(self) -> Tensor:
        """The tokens [J, S], -1 where they are to be decided."""
        tokens = self.run.tokens[None, :, self.start : self.stop].to(self.stage.device)
        return self.layout.build(tokens, empty=self.stage.start)[0]

    @torch.inference_mode()
    def sequence(self) -> Sequence:
        """What the decode loop needs to know."""
        stage, sampling, tokens = self.stage, self.run.sampling, self.known()
        J, S = tokens.shape
        random = RandomNumbers(self.run.seed, f"{stage.name}/{self.run.variant}/{self.start}")
        temperature = sampling.temperature
        if not isinstance(temperature, tuple):
            temperature = (temperature,) * stage.num_codebooks
        per_codebook = torch.tensor(temperature, dtype=torch.float32, device=tokens.device)
        steps_per_frame = max(1, S // (self.stop - self.start))
        penalised = sampling.repetition_penalty != 1
        return Sequence(
            start=stage.start,
            tokens=tokens,
            rows=self.rows(),
            uniforms=random.uniforms(0, S, J).to(tokens.device),
            temperature=per_codebook[self.layout.codebook.clamp(min=0)],
            allowed=self.allowed(),
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            penalty=sampling.repetition_penalty,
            penalty_window=sampling.repetition_window * steps_per_frame if penalised else 0,
            repeats=stage.repeats,
        )

    def allowed(self) -> Tensor:
        """The lowest token of each cell and one past the highest: [J, S, 2]."""
        stage, low = self.stage, self.layout.offset
        most = stage.num_choices or stage.model.config.vocab_size
        size = stage.pattern.codebook_size or most
        return torch.stack([low, (low + size).clamp(max=most)], dim=-1)

    def rows(self) -> tuple[Row, ...]:
        """The branches of guidance."""
        stage, run = self.stage, self.run
        source = stage.source.condition if stage.source is not None else None
        asked = run.values.keys() | run.negative.keys()
        prompts = [name for name in stage.conditioners.fuse if name in asked]
        scale = run.sampling.guidance_scale
        given = [*prompts, source] if isinstance(scale, Mapping) and source else prompts
        new = (self.frames - run.num_given).clamp(min=0).tolist()
        seconds = [float(frame / stage.frame_rate) for frame in new]
        return tuple(
            self._row(branch.dropped, torch.tensor(branch.weights, device=stage.device))
            for branch in branches(run.sampling, given, seconds)
        )

    def fused(self, dropped: frozenset[str] = frozenset()) -> Fused:
        """What goes before and beside the window, without the conditions that are dropped."""
        stage, run = self.stage, self.run
        values: dict[str, list[Any]] = {}
        for name in stage.still_conditioners.fuse:
            value = run.values.get(name)
            if stage.source is not None and name == stage.source.condition:
                value = self._source_tokens()
            values[name] = [run.negative.get(name) if name in dropped else value]
        return stage.still_conditioners(values)

    def ahead(self, step: int) -> Tensor:
        """The source's tokens that an aligned condition adds to a step."""
        assert self.stage.aligned is not None
        assert self.run.source is not None
        tokens = self.run.source.tokens[0]
        return self.stage.aligned.ahead(tokens, int(self.frames[step])).to(self.stage.device)

    def full_row(self) -> Row:
        """The row that has all its conditions."""
        return self._row(frozenset(), torch.ones(len(self.frames), device=self.stage.device))

    def _row(self, dropped: frozenset[str], weights: Tensor) -> Row:
        stage, fused = self.stage, self.fused(dropped)
        is_kept = stage.source is not None and stage.source.condition not in dropped
        is_given = stage.aligned is not None and self.run.source is not None
        ahead = self.ahead if is_kept and is_given else None
        return Row(fused=fused, weights=weights, aligned=stage.aligned, ahead=ahead)

    def _source_tokens(self) -> Tensor | None:
        source = self.run.source
        if source is None:
            return None
        start, stop = self.stage.source_span(self.run, self.start, self.stop)
        return source.tokens[:, start:stop].to(self.stage.device)
