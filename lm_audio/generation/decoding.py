"""The decode loop, with continuous batching: sequences join and leave at any step.

Results do not depend on the rest of the batch: prompts are prefilled one by one, each row of a step
is computed as it would be alone, and random numbers belong to the sequence.

Shapes: I sequences, R rows of all their branches, J streams, S steps, D width, V vocabulary.
"""

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import Tensor

from lm_audio.generation.graphs import GraphedSteps, bucket
from lm_audio.generation.step import Sequence, StepState
from lm_audio.networks.token_lm import TokenLM

SomeSequence = TypeVar("SomeSequence", bound=Sequence)


class DecodingBatch(Generic[SomeSequence]):
    """The sequences that one model is decoding.

    Args:
        rows_per_pass: rows per forward pass, all by default. Fewer need less memory and give the
            same tokens.
    """

    def __init__(self, model: TokenLM, *, rows_per_pass: int | None = None) -> None:
        self.sequences: list[SomeSequence] = []
        self._model = model
        self._cache = model.transformer.new_cache()
        self._graphs: GraphedSteps | None = None
        if self._cache.device.type == "cuda":
            self._graphs = GraphedSteps(model, self._cache)
        self._rows_per_pass = rows_per_pass
        self._state: StepState | None = None  # of all sequences, rebuilt when they change

    def tokens(self, sequence: SomeSequence) -> Tensor:
        """The tokens [J, S], -1 where undecided."""
        if self._state is None:
            return sequence.tokens
        return self._state.tokens_of(sequence.place, sequence.tokens.shape[1])

    @torch.inference_mode()
    def join(self, *sequences: SomeSequence) -> None:
        """Adds sequences: prefills their prompts and their known first steps."""
        self._drop_state()
        rows = [(row, x.tokens.shape[1]) for x in sequences for row in x.rows]
        longest = max((S + row.prefix_length for row, S in rows), default=0)
        room = longest if self._graphs is None else bucket(longest)
        self._cache.reserve(self._cache.num_rows + len(rows), room, 0)
        for sequence in sequences:
            first = sequence.step  # the last known column goes into the first step, not here
            start = sequence.tokens.new_full((len(sequence.tokens), 1), sequence.start_token)
            inputs = torch.cat([start, sequence.tokens], dim=1)[None, :, :first]
            for row in sequence.rows:
                fused = replace(row.fused, sum=row.sums(0, first))
                self._model.prefill(inputs, fused=fused, cache=self._cache)
            sequence.place = len(self.sequences)
            self.sequences.append(sequence)

    @torch.inference_mode()
    def leave(self, sequence: SomeSequence) -> None:
        """Removes a sequence, finished or not."""
        self._drop_state()
        start = sum(len(x.rows) for x in self.sequences[: sequence.place])
        self._cache.close_rows(start, start + len(sequence.rows))
        del self.sequences[sequence.place]
        for i, other in enumerate(self.sequences):
            other.place = i

    @torch.inference_mode()
    def decode(self, ready: Collection[SomeSequence] | None = None) -> None:
        """Decides the next step of the sequences that are ready, all by default."""
        wanted = self.sequences if ready is None else ready
        moving = {x.place for x in wanted if not x.done}
        if not moving:
            return
        if self._state is None:
            self._state = StepState.of(self.sequences)
        all_move = len(moving) == len(self.sequences)
        moves = None if all_move else [i in moving for i in range(len(self.sequences))]
        self._state.decide(self._logits(self._state, moving), moves=moves)
        for i in moving:
            self.sequences[i].step += 1

    def _logits(self, state: StepState, moving: Collection[int]) -> Tensor:
        """The logits [R, J, V] of each row's current step."""
        tokens, positions = state.inputs()
        length = 1 + max(x.step + row.prefix_length for x in self.sequences for row in x.rows)
        sums = self._sums(moving)
        R = len(positions)
        size = self._rows_per_pass or R
        passes = []
        for start in range(0, R, size):
            rows = slice(start, min(start + size, R))
            step = self._graphs or partial(self._model.step, cache=self._cache)
            logits = step(
                tokens[rows],
                sums=None if sums is None else sums[rows],
                rows=rows,
                positions=positions[rows],
                length=length,
            )
            passes.append(logits)
        return passes[0] if len(passes) == 1 else torch.cat(passes)

    def _sums(self, moving: Collection[int]) -> Tensor | None:
        """The sums added to the inputs of this step, arbitrary for waiting rows: [R, D]."""
        rows = [(x, row) for x in self.sequences for row in x.rows]
        constant = [row.fused.sum for _, row in rows]
        total = None
        if constant[0] is not None:
            total = torch.cat([x[0] for x in constant if x is not None])
        aligned = rows[0][1].aligned
        if aligned is None:
            return total
        ahead = [row.row_lookahead(x.step if x.place in moving else None) for x, row in rows]
        added = aligned.embed(torch.stack(ahead))
        return added if total is None else added + total

    def _drop_state(self) -> None:
        for sequence in self.sequences:
            sequence.tokens = self.tokens(sequence).clone()
        self._state = None
