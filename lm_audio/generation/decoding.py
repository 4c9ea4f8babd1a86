"""The decode loop: sequences that join, take steps together and leave at any time.

What a sequence gets does not depend on its company: prompts are taken in one by one, each row of a
step is computed as it would be alone, and random numbers belong to the sequence.

Shapes: I sequences, R rows of all their branches, J streams, S steps, D width, V vocabulary.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from lm_audio.generation.graphs import GraphedSteps, bucket
from lm_audio.generation.sequence import Row, Sequence
from lm_audio.generation.step_state import StepState
from lm_audio.networks.token_lm import TokenLM


class DecodingBatch:
    """The sequences that one model is decoding.

    Args:
        rows_per_pass: how many rows go through the model at once, all by default. Fewer need less
            memory and give the same tokens.
    """

    def __init__(self, model: TokenLM, *, rows_per_pass: int | None = None) -> None:
        self._model = model
        self._cache = model.transformer.new_cache()
        self._graphs: GraphedSteps | None = None
        if self._cache.device.type == "cuda":
            self._graphs = GraphedSteps(model, self._cache)
        self._rows_per_pass = rows_per_pass
        self._slots: list[_Slot] = []
        self._state: StepState | None = None  # of all slots, made anew when they change

    def position(self, sequence: Sequence) -> int:
        """How many steps at the start of the sequence are decided."""
        return self._slot(sequence).step

    def done(self, sequence: Sequence) -> bool:
        return self._slot(sequence).done

    def tokens(self, sequence: Sequence) -> Tensor:
        """The tokens [J, S], -1 where they are not decided."""
        slot = self._slot(sequence)
        if self._state is not None:
            return self._state.tokens_of(self._slots.index(slot), sequence.tokens.shape[1])
        return slot.tokens

    @torch.inference_mode()
    def join(self, *sequences: Sequence) -> None:
        """Takes in the prompts of sequences and the steps known at their starts."""
        self._drop_state()
        rows = [(row, x.tokens.shape[1]) for x in sequences for row in x.rows]
        longest = max((S + _prefix_length(row) for row, S in rows), default=0)
        room = longest if self._graphs is None else bucket(longest)
        self._cache.reserve(self._cache.num_rows + len(rows), room, 0)
        for sequence in sequences:
            first = sequence.num_known  # the last known column goes into the first step, not here
            start = sequence.tokens.new_full((len(sequence.tokens), 1), sequence.start_token)
            inputs = torch.cat([start, sequence.tokens], dim=1)[None, :, :first]
            for row in sequence.rows:
                fused = replace(row.fused, sum=row.sums(0, first))
                self._model.prefill(inputs, fused=fused, cache=self._cache)
            offsets = [_prefix_length(row) for row in sequence.rows]
            self._slots.append(_Slot(sequence, sequence.tokens, first, offsets))

    @torch.inference_mode()
    def leave(self, sequence: Sequence) -> None:
        """Gives up a sequence, decided or not."""
        self._drop_state()
        i = self._slots.index(self._slot(sequence))
        start = sum(len(slot.offsets) for slot in self._slots[:i])
        self._cache.close_rows(start, start + len(self._slots.pop(i).offsets))

    @torch.inference_mode()
    def step(self, ready: Iterable[Sequence] | None = None) -> None:
        """Decides the next step of the sequences that are ready, all by default."""
        wanted = self._slots if ready is None else [self._slot(sequence) for sequence in ready]
        moving = [slot for slot in wanted if not slot.done]
        if not moving:
            return
        if self._state is None:
            self._state = StepState.of(
                [slot.sequence for slot in self._slots],
                tokens=[slot.tokens for slot in self._slots],
                steps=[slot.step for slot in self._slots],
                offsets=[slot.offsets for slot in self._slots],
            )
        all_move = len(moving) == len(self._slots)
        moves = None if all_move else [slot in moving for slot in self._slots]
        self._state.decide(self._logits(self._state, moving), moves=moves)
        for slot in moving:
            slot.step += 1

    def _logits(self, state: StepState, moving: "Collection[_Slot]") -> Tensor:
        """The logits [R, J, V] of the step that each row is at."""
        tokens, positions = state.inputs()
        length = 1 + max(offset + slot.step for slot in self._slots for offset in slot.offsets)
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

    def _sums(self, moving: "Collection[_Slot]") -> Tensor | None:
        """What is added to the inputs of this step, whatever it is for rows that wait: [R, D]."""
        rows = [(slot, row) for slot in self._slots for row in slot.sequence.rows]
        still = [row.fused.sum for _, row in rows]
        total = None if still[0] is None else torch.cat([x[0] for x in still if x is not None])
        aligned = rows[0][1].aligned
        if aligned is None:
            return total
        ahead = [row.tokens_ahead(slot.step if slot in moving else None) for slot, row in rows]
        added = aligned.embed(torch.stack(ahead))
        return added if total is None else added + total

    def _drop_state(self) -> None:
        for slot in self._slots:
            slot.tokens = self.tokens(slot.sequence).clone()
        self._state = None

    def _slot(self, sequence: Sequence) -> "_Slot":
        return next(slot for slot in self._slots if slot.sequence is sequence)


@dataclass(eq=False)
class _Slot:
    """A sequence on its way."""

    sequence: Sequence
    tokens: Tensor  # [J, S]
    step: int
    offsets: list[int]  # how many positions of a row come before its step 0

    @property
    def done(self) -> bool:
        return self.step >= self.sequence.stop


def _prefix_length(row: Row) -> int:
    return 0 if row.fused.prepend is None else row.fused.prepend.embeddings.shape[1]
