"""What a step needs to know of all sequences, as tensors: nothing in here asks the device.

Shapes: I sequences, R rows of all their branches, J streams, S steps, V vocabulary.
"""

from collections.abc import Sequence as List
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lm_audio.generation.sequence import Sequence
from lm_audio.sampling import SamplingTensors, choose, sampling_tensors


@dataclass(kw_only=True, eq=False)
class StepState:
    """The tokens so far, where each sequence stands, and how its tokens are picked."""

    tokens: Tensor  # [I, J, 1 + S], the start column first; -1 is not decided
    step: Tensor  # [I]
    owner: Tensor  # [R], the sequence of each row
    rows: Tensor  # [I, G], the rows of each sequence; those it lacks are its first, of weight 0
    offset: Tensor  # [R]
    weights: Tensor  # [I, G, S]
    uniforms: Tensor  # [I, J, S]
    temperature: Tensor  # [I, J, S]
    allowed: Tensor  # [I, J, S, 2]
    settings: SamplingTensors  # but for the temperature, which may differ from step to step
    window: Tensor  # [I], of the repetition penalty
    longest_window: int
    repeats: Tensor | None  # [I]; None: all may repeat

    @staticmethod
    def of(
        sequences: List[Sequence],
        *,
        tokens: List[Tensor],
        steps: List[int],
        offsets: List[List[int]],
    ) -> "StepState":
        """Puts sequences together, whose tokens [J, S] are decided up to `steps`."""
        device, J = tokens[0].device, tokens[0].shape[0]
        started = [
            torch.cat([known.new_full((J, 1), sequence.start_token), known], dim=1)
            for sequence, known in zip(sequences, tokens, strict=True)
        ]

        def per_step(values: List[Tensor]) -> Tensor:
            return pad_sequence([x.movedim(1, 0) for x in values], batch_first=True).movedim(1, 2)

        repeats = [x.repeats for x in sequences]
        owners = [i for i, x in enumerate(sequences) for _ in x.rows]
        return StepState(
            tokens=per_step(started),
            step=torch.tensor(steps, device=device),
            owner=torch.tensor(owners, device=device),
            offset=torch.tensor([x for row in offsets for x in row], device=device),
            rows=_rows(sequences).to(device),
            weights=_weights(sequences),
            uniforms=per_step([x.uniforms for x in sequences]),
            temperature=per_step([x.temperature for x in sequences]),
            allowed=per_step([x.allowed for x in sequences]),
            settings=sampling_tensors(
                [replace(x.sampling, temperature=1.0) for x in sequences],
                num_codebooks=J,
                device=device,
            ),
            window=torch.tensor([x.penalty_window for x in sequences], device=device),
            longest_window=max(x.penalty_window for x in sequences),
            repeats=None if all(repeats) else torch.tensor(repeats, device=device),
        )

    def tokens_of(self, i: int, num_steps: int) -> Tensor:
        """The tokens [J, S] of one sequence."""
        return self.tokens[i, :, 1 : 1 + num_steps]

    def inputs(self) -> tuple[Tensor, Tensor]:
        """The last decided tokens [R, J] and their positions [R], for each row."""
        tokens = self._at(self.tokens, self.step)
        return tokens[self.owner], self.offset + self.step[self.owner]

    def decide(self, logits: Tensor, *, moves: List[bool] | None) -> None:
        """Decides the step that each sequence is at, from logits [R, J, V].

        Args:
            moves: False for the sequences that stay where they are; None: all move.
        """
        logits = self._guided(logits.float())
        picked = choose(
            self._without_repeats(logits),
            self._at(self.uniforms, self.step),
            replace(self.settings, temperature=self._at(self.temperature, self.step)),
            allowed=self._at(self.allowed, self.step),
            recent=self._recent(logits.shape[-1]) if self.longest_window else None,
        )
        here = self._at(self.tokens, self.step + 1)
        decided = torch.where(here < 0, picked, here)
        moved = torch.ones_like(self.step)
        if moves is not None:
            moved = torch.tensor(moves, device=logits.device).long()
            decided = torch.where(moved[:, None] > 0, decided, here)
        last = self.tokens.shape[2] - 1  # where a sequence that has all its steps stays
        index = (self.step + 1).clamp(max=last)[:, None, None].expand(-1, decided.shape[1], 1)
        self.tokens.scatter_(2, index, decided[..., None])
        self.step = self.step + moved

    def _guided(self, logits: Tensor) -> Tensor:
        """The weighted sum [I, J, V] of each sequence's rows, always in the same order."""
        weights = self._at(self.weights, self.step)[..., None, None]  # [I, G, 1, 1]
        total = logits[self.rows[:, 0]] * weights[:, 0]
        for g in range(1, self.rows.shape[1]):
            total = total + logits[self.rows[:, g]] * weights[:, g]
        return total

    def _without_repeats(self, logits: Tensor) -> Tensor:
        if self.repeats is None:
            return logits
        last = self._at(self.tokens, self.step)[..., None]  # [I, J, 1]
        forbidden = ~self.repeats[:, None, None] & (last < logits.shape[-1])
        index = last.clamp(max=logits.shape[-1] - 1)
        kept = logits.gather(2, index).masked_fill(forbidden, -torch.inf)
        return logits.scatter(2, index, kept)

    def _recent(self, vocab_size: int) -> Tensor:
        """The tokens [I, J, W] that the repetition penalty looks at; -1: none."""
        back = torch.arange(self.longest_window, device=self.step.device)
        column = self.step[:, None] - back  # [I, W], the last decided one first
        index = column.clamp(min=0)[:, None].expand(-1, self.tokens.shape[1], -1)
        tokens = self.tokens.gather(2, index)
        none = (column < 1) | (back >= self.window[:, None])
        return tokens.masked_fill(none[:, None] | (tokens >= vocab_size), -1)

    @staticmethod
    def _at(table: Tensor, step: Tensor) -> Tensor:
        """The entries [I, J, ...] of a table [I, J, S, ...] at a step [I] of each sequence."""
        step = step.clamp(max=table.shape[2] - 1)  # for sequences that have all their steps
        index = step.view(-1, 1, 1, *[1] * (table.dim() - 3))
        index = index.expand(-1, table.shape[1], 1, *table.shape[3:])
        return table.gather(2, index).squeeze(2)


def _rows(sequences: List[Sequence]) -> Tensor:
    """The rows [I, G] of each sequence; those it lacks are its first."""
    most = max(len(x.rows) for x in sequences)
    rows, first = [], 0
    for sequence in sequences:
        own = list(range(first, first + len(sequence.rows)))
        rows.append(own + own[:1] * (most - len(own)))
        first += len(own)
    return torch.tensor(rows)


def _weights(sequences: List[Sequence]) -> Tensor:
    """The weights [I, G, S] of their rows, 0 for those that they lack."""
    most = max(len(x.rows) for x in sequences)
    longest = max(x.tokens.shape[1] for x in sequences)
    weights = sequences[0].rows[0].weights.new_zeros(len(sequences), most, longest)
    for i, sequence in enumerate(sequences):
        for g, row in enumerate(sequence.rows):
            weights[i, g, : len(row.weights)] = row.weights
    return weights
