"""A window: some frames of a run, laid out for the decode loop.

Shapes: K codebooks, J streams of the model, S steps after the pattern.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lm_audio.generation.guidance import branches
from lm_audio.generation.sequence import Row, Sequence
from lm_audio.generation.track import Run
from lm_audio.networks.condition import Fused
from lm_audio.patterns import Layout
from lm_audio.sampling import RandomNumbers

if TYPE_CHECKING:
    from lm_audio.generation.lm_stage import Stage


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """Some frames of a run, laid out.

    Args:
        frames: [S], the latest frame that stands in each step; on the CPU, where it is asked for.
        first_step: the first one to decide.
    """

    stage: "Stage"
    run: Run
    start: int
    stop: int
    layout: Layout
    frames: Tensor
    first_step: int = 0

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
        return self.layout.build(tokens, empty=self.stage.start_token)[0]

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
            start_token=stage.start_token,
            tokens=tokens,
            rows=self.rows(),
            uniforms=random.uniforms(0, S, J).to(tokens.device),
            temperature=per_codebook[self.layout.codebook.clamp(min=0)],
            allowed=self.allowed(),
            sampling=sampling,
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
