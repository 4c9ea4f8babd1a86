"""A stage: a token language model and what it conditions on.

Shapes: J streams of the model, S steps after the pattern, V vocabulary.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.tokens import AlignedTokens
from lm_audio.generation.track import Run, Source, StageBatch, check_temperatures
from lm_audio.generation.window import Window
from lm_audio.networks.token_lm import TokenLM
from lm_audio.patterns import Pattern
from lm_audio.sampling import RandomNumbers, Sampling


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """A stage is data: a model, its pattern and conditioners, and how it is sampled by default.

    Args:
        start_token: before the first step, and in cells that the pattern leaves empty.
        context: the frames of a window, as many as the model has learned to keep together.
        keep: how many of them the next window begins with.
        end_token: by which the model ends a clip, if it does.
        num_choices: how many of the tokens that a head tells apart may be picked; all by default.
        repeats: False for de-duplicated tokens, none of which follows itself.
        token_kind: which tokens of an audio prompt are its own.
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
    start_token: int
    end_token: int | None = None
    num_choices: int | None = None
    repeats: bool = True
    source: Source | None = None
    token_kind: Literal["semantic", "acoustic"] = "acoustic"
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
    def num_tokens(self) -> int:
        """How many tokens each codebook has, without one that ends a clip."""
        vocab_size = self.model.config.vocab_size
        without_end = vocab_size if self.end_token is None else self.end_token
        return self.pattern.codebook_size or without_end

    @property
    def conditions(self) -> tuple[str, ...]:
        """The names of what a user may give."""
        source = self.source.condition if self.source is not None else None
        return tuple(name for name in self.conditioners.fuse if name != source)

    @property
    def may_end(self) -> bool:
        return self.end_token is not None

    @property
    def device(self) -> torch.device:
        return self.model.heads.weight.device

    def new_batch(self, *, rows_per_pass: int | None = None) -> StageBatch:
        from lm_audio.generation.token_batch import TokenBatch  # it works on stages, so knows them

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

    def window(self, run: Run) -> Window:
        """The next window of a run, to be decoded when its source is ready for it."""
        start = self.window_start(run)
        return self._window(run, start, min(start + self.context, run.num_frames))

    def _window(self, run: Run, start: int, stop: int) -> Window:
        layout = self.pattern.layout(stop - start)
        frames = start + layout.latest_frames()
        layout = layout.to(self.device)
        window = Window(stage=self, run=run, start=start, stop=stop, layout=layout, frames=frames)
        unknown = (window.known() < 0).any(dim=0)
        return replace(window, first_step=int(unknown.int().argmax()))

    def likelihood(self, run: Run, first: int, last: int) -> float:
        """The mean log-likelihood of the run's tokens of these frames, given those before them."""
        return float(self.likelihoods(run, first, last).mean())

    @torch.inference_mode()
    def likelihoods(self, run: Run, first: int, last: int) -> Tensor:
        """The log-likelihood of each of the run's tokens of these frames, step by step."""
        last = min(last, run.num_frames)
        window = self._window(run, max(0, last - self.context), last)
        tokens = window.known()[None]  # [1, J, S]
        inputs = torch.cat(
            [torch.full_like(tokens[..., :1], self.start_token), tokens[..., :-1]], dim=-1
        )
        row = window.full_row()
        fused = replace(row.fused, sum=row.sums(0, tokens.shape[2]))
        logits = self.model(inputs, fused=fused).float()[0]  # [J, S, V]
        token, allowed = torch.arange(logits.shape[-1], device=logits.device), window.allowed()
        outside = (token < allowed[..., :1]) | (token >= allowed[..., 1:])
        scores = logits.masked_fill(outside, -torch.inf).log_softmax(dim=-1)
        frame = window.start + window.layout.frame
        judged = (window.layout.frame >= 0) & (frame >= first)
        return scores[judged].gather(1, tokens[0][judged][:, None])[:, 0]

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
