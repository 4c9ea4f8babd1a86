"""Training batches of a stage: crops of tokens in its codebook pattern, and conditions.

Shapes: B batch, K codebooks, T frames, J streams of the model, S steps after the pattern.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lm_audio.conditioners.dropout import drop
from lm_audio.data.batches import Batches, Crop
from lm_audio.data.shards import Shards
from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.masked_stage import MaskedStage
from lm_audio.generation.token_stage import TokenStage
from lm_audio.generation.track import Stage
from lm_audio.training.masking import mask

IGNORED = -100
"""The target of a cell that is empty or padding."""


@dataclass(frozen=True, kw_only=True)
class Dropout:
    """Condition dropout probabilities.

    Args:
        joint: of dropping all user conditions at once, for guidance.
        each: by condition name, including the source's.
    """

    joint: float = 0.1
    each: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingBatch:
    """Inputs and targets of B crops.

    Args:
        inputs: [B, J, S], the input of each step.
        targets: [B, J, S], `IGNORED` for cells without loss.
        codebook: [B, J, S], the codebook of each target; -1 if none.
        frames: [B, S], for conditions that are added frame by frame.
        conditions: B values of each condition.
        mask: [B, S], False on padding, which only two-sided models see; None for causal ones.
        reach: [B], how far frames attend; None if there is no limit.
    """

    inputs: Tensor
    targets: Tensor
    codebook: Tensor
    frames: Tensor
    conditions: Mapping[str, Sequence[Any | None]]
    mask: Tensor | None = None
    reach: Tensor | None = None

    def counts(self, num_codebooks: int) -> Tensor:
        """The number of targets of each codebook: [K], float32."""
        return torch.bincount(self.codebook[self.codebook >= 0], minlength=num_codebooks).float()

    def to(self, device: torch.device) -> "TrainingBatch":
        """Moves the tensors of the model; conditioners move their own values."""
        tensors = {x: value for x, value in vars(self).items() if isinstance(value, Tensor)}
        moved: Any = {x: value.to(device, non_blocking=True) for x, value in tensors.items()}
        return replace(self, **moved)


class StageBatches(Sequence[TrainingBatch]):
    """The endless batches of a stage; batch n is always the same (`lm_audio.data.batches`).

    Args:
        source: the stage whose tokens condition this one, if one does.
        tokens: the maximum per batch, including padding.
        dropout: None for evaluation, which drops nothing and uses the first caption.
    """

    def __init__(
        self,
        stage: TokenStage,
        shards: Shards,
        *,
        source: TokenStage | None = None,
        tokens: int,
        seed: int,
        dropout: Dropout | None,
    ) -> None:
        if (stage.source is None) != (source is None):
            raise ValueError(
                f"The {stage.name} stage {'needs' if source is None else 'has no'} source."
            )
        if isinstance(stage, LMStage) and stage.end_token is not None:
            raise ValueError(f"The {stage.name} stage has an end token, so it cannot be trained.")
        for each in (stage, source):
            if each is not None:
                _check_stream(each, shards)
        names = stage.conditioners.fuse
        if dropout is not None and (unknown := dropout.each.keys() - names.keys()):
            raise ValueError(
                f"Unknown condition {min(unknown)!r} to drop. The {stage.name} stage has: "
                f"{', '.join(names) or 'none'}."
            )
        self.stage, self.shards, self.source, self.dropout = stage, shards, source, dropout
        self.seed = seed
        rate = shards.streams[stage.token_kind].rate
        longest = int(stage.window_frames * rate / stage.frame_rate)
        most = min(longest, int(shards.lengths(stage.token_kind).max(initial=0)))
        if tokens < most * stage.num_codebooks:
            raise ValueError(
                f"A crop of {most} frames and {stage.num_codebooks} codebooks exceeds a batch of "
                f"{tokens} tokens. Use at least {most * stage.num_codebooks} "
                "(--tokens-per-batch), or a shorter context."
            )
        self.crops = Batches(
            shards.lengths(stage.token_kind),
            longest=longest,
            frames=tokens // stage.num_codebooks,
            seed=seed,
        )

    def __len__(self) -> int:
        return len(self.crops)

    @property
    def identities(self) -> dict[str, str]:
        """The identities of the tokenizers of the stage and its source, by kind."""
        stages = [self.stage] if self.source is None else [self.stage, self.source]
        return {each.token_kind: self.shards.identities[each.token_kind] for each in stages}

    def __getitem__(self, number: int) -> TrainingBatch:  # type: ignore[override]  # no slices
        crops, stage = self.crops[number], self.stage
        if isinstance(stage, MaskedStage):
            return self._masked(stage, crops, number)
        inputs, targets, codebooks, frames = [], [], [], []
        for crop in crops:
            tokens = _tokens(stage, self.shards, crop.index, crop.start, crop.stop)
            if stage.deduplicated:
                tokens = torch.unique_consecutive(tokens, dim=1)[:, : stage.window_frames]
            layout = stage.pattern.layout(tokens.shape[1])
            sequence = layout.build(tokens[None], empty=stage.start_token)[0]  # [J, S]
            inputs.append(F.pad(sequence[:, :-1], (1, 0), value=stage.start_token))
            targets.append(sequence.masked_fill(layout.codebook < 0, IGNORED))
            codebooks.append(layout.codebook)
            frames.append(self._behind(crop) + layout.latest_frames())
        return TrainingBatch(
            inputs=_padded(inputs, stage.start_token),
            targets=_padded(targets, IGNORED),
            codebook=_padded(codebooks, -1),
            frames=pad_sequence(frames, batch_first=True),
            conditions=self._conditions(crops, number),
        )

    def _masked(self, stage: MaskedStage, crops: list[Crop], number: int) -> TrainingBatch:
        """A batch of crops with masked tokens, which are the targets."""
        random = np.random.default_rng([self.seed, number, 2])
        masked, frames = [], []
        for place, crop in enumerate(crops):
            tokens = _tokens(stage, self.shards, crop.index, crop.start, crop.stop)
            codebook = (number * len(crops) + place) % stage.num_codebooks  # each one equally often
            masked.append(
                mask(
                    tokens,
                    codebook=codebook,
                    span=stage.span,
                    schedule=stage.sampling.schedule,
                    random=random,
                )
            )
            frames.append(self._behind(crop) + torch.arange(tokens.shape[1]))
        codebooks = torch.tensor([one.codebook for one in masked])
        reach = None
        if stage.reach is not None:
            reach = torch.where(codebooks > 0, stage.reach, stage.window_frames)
        rows = torch.arange(stage.num_codebooks)[:, None]
        return TrainingBatch(
            inputs=_padded([one.inputs(stage.mask_token) for one in masked], stage.mask_token),
            targets=_padded([one.targets(IGNORED) for one in masked], IGNORED),
            codebook=_padded([torch.where(one.judged, rows, -1) for one in masked], -1),
            frames=pad_sequence(frames, batch_first=True),
            conditions=self._conditions(crops, number),
            mask=pad_sequence([torch.ones_like(x).bool() for x in frames], batch_first=True),
            reach=reach,
        )

    def _conditions(self, crops: list[Crop], number: int) -> Mapping[str, Sequence[Any | None]]:
        return given_conditions(
            self.shards,
            crops,
            self.stage,
            source_tokens=self.source_tokens,
            dropout=self.dropout,
            seed=self.seed,
            number=number,
        )

    def source_tokens(self, crop: Crop) -> Tensor | None:
        """The source's tokens for a crop: [K, T]; aligned ones start at its origin.

        None if there are none, as in a clip that is shorter than one token.
        """
        assert self.source is not None
        streams = self.shards.streams
        ratio = streams[self.source.token_kind].rate / streams[self.stage.token_kind].rate
        first, last = (crop.start - self._behind(crop)) * ratio // 1, -(-crop.stop * ratio // 1)
        if self.stage.aligned is not None:
            last += self.stage.aligned.look_ahead
        tokens = _tokens(self.source, self.shards, crop.index, int(first), int(last))
        return tokens if tokens.numel() else None

    def _behind(self, crop: Crop) -> int:
        """The number of frames from the start of the last aligned token to the crop."""
        aligned = self.stage.aligned
        return 0 if aligned is None else crop.start % aligned.ratio.denominator


def given_conditions(
    shards: Shards,
    crops: Sequence[Crop],
    stage: Stage,
    *,
    source_tokens: Callable[[Crop], Tensor | None],
    dropout: Dropout | None,
    seed: int,
    number: int,
) -> dict[str, list[Any | None]]:
    """The values of each condition of a batch's crops, some of them dropped.

    Args:
        source_tokens: the condition from an earlier stage, if the stage follows one.
        dropout: None drops nothing and uses the first caption.
        number: of the batch.
    """
    random = np.random.default_rng([seed, number, 1])
    # Independent of `seed_of`, with which recipes seed the model's dropout.
    generator = torch.Generator().manual_seed(int(random.integers(2**63)))
    pick = random if dropout is not None else None
    given = [shards.conditions[crop.index] for crop in crops]
    values = {
        name: [_one(conditions.get(name), pick) for conditions in given]
        for name in stage.conditions
    }
    if dropout is not None:
        each = {name: p for name, p in dropout.each.items() if name in values}
        values = drop(values, each, joint=dropout.joint, generator=generator)
    if stage.source is None:
        return values
    name = stage.source.condition
    followed: dict[str, list[Any | None]] = {name: [source_tokens(crop) for crop in crops]}
    if dropout is not None and name in dropout.each:
        followed = drop(followed, {name: dropout.each[name]}, generator=generator)
    return values | followed


def _tokens(stage: TokenStage, shards: Shards, index: int, start: int, stop: int) -> Tensor:
    """The stage's own tokens [K, T] of an example."""
    rows = slice(stage.first_codebook, stage.first_codebook + stage.num_codebooks)
    return shards.read(index, stage.token_kind, start, stop)[rows].long()


def _one(value: Any, random: np.random.Generator | None) -> Any:
    """A value; of a list, a random item, or the first without a generator."""
    if not isinstance(value, list):
        return value
    if not value:
        return None
    return value[int(random.integers(len(value))) if random is not None else 0]


def _padded(rows: list[Tensor], value: int) -> Tensor:
    """Rows [J, S] of any S, padded to [B, J, S]."""
    longest = max(row.shape[1] for row in rows)
    return torch.stack([F.pad(row, (0, longest - row.shape[1]), value=value) for row in rows])


def _check_stream(stage: TokenStage, shards: Shards) -> None:
    kind = stage.token_kind
    if kind not in shards.streams:
        raise ValueError(
            f"The {stage.name} stage needs {kind} tokens, but the shards only have "
            f"{', '.join(shards.streams)}. Make them with recipes/tokenize_dataset.py."
        )
    stream = shards.streams[kind]
    rows = stage.first_codebook + stage.num_codebooks
    if rows > stream.num_codebooks or stage.num_tokens != stream.num_tokens:
        raise ValueError(
            f"The {stage.name} stage has {rows} codebooks of {stage.num_tokens} tokens, but the "
            f"shards have {stream.num_codebooks} of {stream.num_tokens}. Use its tokenizer."
        )
    if not stage.deduplicated and stage.frame_rate != stream.rate:
        raise ValueError(
            f"The {stage.name} stage has {float(stage.frame_rate):g} frames per second, but the "
            f"shards have {float(stream.rate):g}. Use its tokenizer."
        )
