"""A step of the decode loop: its sequences, and the guidance and sampling that pick their tokens.

Classifier-free guidance with one scale s is the unconditional logits plus s times the difference
that the prompts make. With a scale per condition, conditions are added one by one, each to those
before it (double guidance):

    without all + s1 (with the first - without all) + s2 (with both - with the first) + ...

which is a weighted sum of rows. Rows of weight 0 are skipped: scale 1 needs no second row, and
neither does a request without prompts.

Nothing in `StepState` synchronises with the device.

Shapes: I sequences, R rows of all their branches, J streams, S steps, V vocabulary, D width.
"""

from collections.abc import Callable, Collection, Mapping
from collections.abc import Sequence as List
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lm_audio.conditioners.tokens import NO_TOKEN, AlignedTokens
from lm_audio.networks.condition import Fused
from lm_audio.sampling import AnySampling, Sampling, SamplingTensors, choose, sampling_tensors


def guidance_rows(
    sampling: AnySampling, given: Collection[str], seconds: List[float]
) -> list[tuple[frozenset[str], tuple[float, ...]]]:
    """The rows that these conditions need: the dropped conditions and the weights at each step.

    Args:
        given: the conditions that have a value and may be dropped, in order.
        seconds: the time of each step, for the schedule.
    """
    scale = sampling.guidance_scale
    if isinstance(scale, Mapping):
        groups = [([name], value) for name, value in scale.items() if name in given]
    else:
        groups = [(list(given), scale)] if given else []
    found = []
    for i in range(len(groups) + 1):
        dropped = frozenset(name for names, _ in groups[i:] for name in names)
        weights = []
        for t in seconds:
            before = sampling.scale_at(groups[i - 1][1], t) if i else 1.0
            after = sampling.scale_at(groups[i][1], t) if i < len(groups) else 0.0
            weights.append(before - after)
        if any(weights) or not seconds:
            found.append((dropped, tuple(weights)))
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One branch of guidance.

    Args:
        fused: the prompts of this branch, B = 1; its sum, if any, is the same for all steps.
        weights: [S], the weight of its logits at each step.
        aligned: adds tokens of an earlier stage to each step; the same in all rows of a batch.
        lookahead: returns the tokens [look-ahead + 1] to add to a step, once the step is ready;
            None if they are dropped.
    """

    fused: Fused
    weights: Tensor
    aligned: AlignedTokens | None = None
    lookahead: Callable[[int], Tensor] | None = None

    @property
    def prefix_length(self) -> int:
        """The number of positions before step 0."""
        return 0 if self.fused.prepend is None else self.fused.prepend.embeddings.shape[1]

    def sums(self, start: int, stop: int) -> Tensor | None:
        """The sum added to the inputs of these steps: [1, stop - start, D], or None."""
        if start == stop:
            return None
        sums = self.fused.sum
        if self.aligned is None:
            return None if sums is None else sums.expand(-1, stop - start, -1)
        ahead = torch.stack([self.row_lookahead(step) for step in range(start, stop)])
        added = self.aligned.embed(ahead)[None]
        return added if sums is None else added + sums

    def row_lookahead(self, step: int | None) -> Tensor:
        """The tokens to add to a step, [look-ahead + 1]; `NO_TOKEN` if there is no step."""
        assert self.aligned is not None
        if self.lookahead is None or step is None:
            return torch.full((self.aligned.look_ahead + 1,), NO_TOKEN, device=self.weights.device)
        return self.lookahead(step)


@dataclass(kw_only=True, eq=False)
class Sequence:
    """The known and unknown steps of J streams, and their state in a batch.

    Args:
        start_token: fills the column before the first step.
        tokens: [J, S], int64; -1 is to be sampled. While decoding, use `batch.tokens` instead.
        uniforms: [J, S], a random number for each token.
        temperature, allowed: [J, S] and [J, S, 2], lowest token and one past the highest.
        sampling: all other sampling settings.
        rows: the branches of guidance, set before it joins a batch.
        penalty_window: the repetition penalty's window in steps; 0 disables it.
        deduplicated: no token may repeat the one before.
        step: the number of decided steps at the start; `last_step` is one past the last unknown.
        place: the index of the sequence in the batch.
    """

    start_token: int
    tokens: Tensor
    uniforms: Tensor
    temperature: Tensor
    allowed: Tensor
    sampling: Sampling
    rows: tuple[Row, ...] = ()
    penalty_window: int = 0
    deduplicated: bool = False
    step: int = field(init=False)
    last_step: int = field(init=False)
    place: int = field(init=False, default=-1)

    def __post_init__(self) -> None:
        unknown = (self.tokens < 0).any(dim=0).nonzero()
        self.step = int(unknown[0]) if len(unknown) else self.tokens.shape[1]
        self.last_step = int(unknown[-1]) + 1 if len(unknown) else 0

    @property
    def done(self) -> bool:
        return self.step >= self.last_step


@dataclass(kw_only=True, eq=False)
class StepState:
    """The tokens so far, the current step of each sequence, and its sampling settings."""

    tokens: Tensor  # [I, J, 1 + S], the start column first; -1 is not decided
    step: Tensor  # [I]
    owner: Tensor  # [R], the sequence of each row
    rows: Tensor  # [I, G], the rows of each sequence, padded with its first row at weight 0
    offset: Tensor  # [R]
    weights: Tensor  # [I, G, S]
    uniforms: Tensor  # [I, J, S]
    temperature: Tensor  # [I, J, S]
    allowed: Tensor  # [I, J, S, 2]
    settings: SamplingTensors  # except the temperature, which may vary by step
    window: Tensor  # [I], of the repetition penalty
    longest_window: int
    deduplicated: Tensor | None  # [I]; None: all may repeat

    @staticmethod
    def of(sequences: List[Sequence]) -> "StepState":
        """Combines sequences, each at its current step."""
        device, J = sequences[0].tokens.device, sequences[0].tokens.shape[0]
        started = [
            torch.cat([x.tokens.new_full((J, 1), x.start_token), x.tokens], dim=1)
            for x in sequences
        ]

        def per_step(values: List[Tensor]) -> Tensor:
            return pad_sequence([x.movedim(1, 0) for x in values], batch_first=True).movedim(1, 2)

        deduplicated = [x.deduplicated for x in sequences]
        offsets = [row.prefix_length for x in sequences for row in x.rows]
        owners = [i for i, x in enumerate(sequences) for _ in x.rows]
        return StepState(
            tokens=per_step(started),
            step=torch.tensor([x.step for x in sequences], device=device),
            owner=torch.tensor(owners, device=device),
            offset=torch.tensor(offsets, device=device),
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
            deduplicated=torch.tensor(deduplicated, device=device) if any(deduplicated) else None,
        )

    def tokens_of(self, i: int, num_steps: int) -> Tensor:
        """The tokens [J, S] of one sequence."""
        return self.tokens[i, :, 1 : 1 + num_steps]

    def inputs(self) -> tuple[Tensor, Tensor]:
        """The last decided tokens [R, J] and their positions [R], for each row."""
        tokens = self._at(self.tokens, self.step)
        return tokens[self.owner], self.offset + self.step[self.owner]

    def decide(self, logits: Tensor, *, moves: List[bool] | None) -> None:
        """Decides the current step of each sequence from logits [R, J, V].

        Args:
            moves: False for sequences that do not advance; None: all do.
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
        last = self.tokens.shape[2] - 1  # the final position of a finished sequence
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
        if self.deduplicated is None:
            return logits
        last = self._at(self.tokens, self.step)[..., None]  # [I, J, 1]
        forbidden = self.deduplicated[:, None, None] & (last < logits.shape[-1])
        index = last.clamp(max=logits.shape[-1] - 1)
        kept = logits.gather(2, index).masked_fill(forbidden, -torch.inf)
        return logits.scatter(2, index, kept)

    def _recent(self, vocab_size: int) -> Tensor:
        """The tokens [I, J, W] that the repetition penalty applies to; -1: none."""
        back = torch.arange(self.longest_window, device=self.step.device)
        column = self.step[:, None] - back  # [I, W], the last decided one first
        index = column.clamp(min=0)[:, None].expand(-1, self.tokens.shape[1], -1)
        tokens = self.tokens.gather(2, index)
        none = (column < 1) | (back >= self.window[:, None])
        return tokens.masked_fill(none[:, None] | (tokens >= vocab_size), -1)

    @staticmethod
    def _at(table: Tensor, step: Tensor) -> Tensor:
        """The entries [I, J, ...] of a table [I, J, S, ...] at a step [I] of each sequence."""
        step = step.clamp(max=table.shape[2] - 1)  # for finished sequences
        index = step.view(-1, 1, 1, *[1] * (table.dim() - 3))
        index = index.expand(-1, table.shape[1], 1, *table.shape[3:])
        return table.gather(2, index).squeeze(2)


def _rows(sequences: List[Sequence]) -> Tensor:
    """The rows [I, G] of each sequence, padded with its first row."""
    most = max(len(x.rows) for x in sequences)
    rows, first = [], 0
    for sequence in sequences:
        own = list(range(first, first + len(sequence.rows)))
        rows.append(own + own[:1] * (most - len(own)))
        first += len(own)
    return torch.tensor(rows)


def _weights(sequences: List[Sequence]) -> Tensor:
    """The weights [I, G, S] of their rows, 0 for padding."""
    most = max(len(x.rows) for x in sequences)
    longest = max(x.tokens.shape[1] for x in sequences)
    weights = sequences[0].rows[0].weights.new_zeros(len(sequences), most, longest)
    for i, sequence in enumerate(sequences):
        for g, row in enumerate(sequence.rows):
            weights[i, g, : len(row.weights)] = row.weights
    return weights
