"""Tokens of an earlier stage as a condition: a prefix, or aligned in time with the frames.

Shapes: B batch, K codebooks, T frames, F chosen frames, L condition length, D width.
"""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

from lm_audio.conditioners.condition import Null, NullKind
from lm_audio.networks.condition import Condition, stack

NO_TOKEN = -1
"""The placeholder in rows of aligned tokens beyond their end, or if dropped."""


class TokenConditioner(nn.Module):
    """Embeds token sequences, frame by frame and within a frame codebook by codebook.

    It adds no positions: the model that they are prepended to does.

    Args:
        num_tokens: of each codebook; codebooks have separate embeddings.
        deduplicate: remove frames equal to the one before.
    """

    def __init__(
        self,
        num_tokens: int,
        dim: int,
        *,
        num_codebooks: int = 1,
        deduplicate: bool = False,
        null: NullKind = "learned",
    ) -> None:
        super().__init__()
        _check_sizes(num_tokens=num_tokens, num_codebooks=num_codebooks)
        self.num_tokens = num_tokens
        self.num_codebooks = num_codebooks
        self.deduplicate = deduplicate
        self.dim = dim
        self.null = Null(null, dim)
        self.embedding = nn.Embedding(num_codebooks * num_tokens, dim)

    def forward(self, values: Sequence[Tensor | None]) -> Condition:
        """Embeds B values, tokens [K, T] each with its own T, to T * K entries each."""
        return stack([self.null.embedding if v is None else self._embed(v) for v in values])

    def _embed(self, tokens: Tensor) -> Tensor:
        _check_tokens(tokens, num_tokens=self.num_tokens, num_codebooks=self.num_codebooks)
        tokens = tokens.to(self.embedding.weight.device)
        if self.deduplicate:
            tokens = torch.unique_consecutive(tokens, dim=1)
        first = torch.arange(self.num_codebooks, device=tokens.device) * self.num_tokens
        return self.embedding((tokens + first[:, None]).T.flatten())  # [T * K, D]


class AlignedTokens(nn.Module):
    """Adds tokens of an earlier stage to the frames of a later one at the same time.

    Frame t gets E_0[token u] + E_1[token u + 1] + ... with u = floor(t * ratio), up to
    `look_ahead` tokens ahead; each E_i has a row for missing tokens.

    Args:
        ratio: token rate over frame rate; exact, so that long audio does not drift.
    """

    def __init__(
        self, num_tokens: int, dim: int, *, look_ahead: int, ratio: Fraction | int
    ) -> None:
        super().__init__()
        _check_sizes(num_tokens=num_tokens)
        if look_ahead < 0:
            raise ValueError(f"look_ahead must be at least 0, got {look_ahead}.")
        if not isinstance(ratio, Fraction | int) or ratio <= 0:
            raise ValueError(f"ratio must be a positive Fraction or int, got {ratio!r}.")
        self.num_tokens = num_tokens
        self.look_ahead = look_ahead
        self.ratio = Fraction(ratio)
        self.dim = dim
        self.embedding = nn.Embedding((look_ahead + 1) * (num_tokens + 1), dim)

    def forward(self, values: Sequence[Tensor | None], *, frames: Tensor | None = None) -> Tensor:
        """The embeddings to add to frames for B values, tokens [1, T] of any T: [B, F, D].

        Args:
            frames: as in `frames`; by default all frames of the longest value.
        """
        tokens = self.stack(values)
        if frames is None:
            T = max(1, self.num_frames(tokens.shape[1]))
            frames = torch.arange(T, device=tokens.device)
        return self.frames(tokens, frames)

    def stack(self, values: Sequence[Tensor | None]) -> Tensor:
        """Values, tokens [1, T] of any T or None, padded to rows [B, T] for `frames`."""
        for value in values:
            if value is not None:
                _check_tokens(value, num_tokens=self.num_tokens, num_codebooks=1)
        T = max((value.shape[1] for value in values if value is not None), default=0)
        rows = torch.full((len(values), T), NO_TOKEN, device=self.embedding.weight.device)
        for row, value in zip(rows, values, strict=True):
            if value is not None:
                row[: value.shape[1]] = value[0]
        return rows

    def frames(self, tokens: Tensor, frames: Tensor) -> Tensor:
        """The embeddings to add to the given frames: [B, F, D].

        Args:
            tokens: [B, T], `NO_TOKEN` if missing; the range is not checked.
            frames: [F], or [B, F] for different frames per row; any int64, including negative.
        """
        B, T = tokens.shape
        ratio = self.ratio
        first = torch.div(frames * ratio.numerator, ratio.denominator, rounding_mode="floor")
        ahead = torch.arange(self.look_ahead + 1, device=tokens.device)
        index = (first[..., None] + ahead).expand(B, -1, -1)  # [B, F, look_ahead + 1]
        padded = nn.functional.pad(tokens, (1, 1), value=NO_TOKEN)  # [B, T + 2]
        index = (index + 1).clamp(0, T + 1)
        return self.embed(padded.gather(1, index.flatten(1)).view_as(index))

    def lookahead(self, tokens: Tensor, frame: int) -> Tensor:
        """The tokens [look_ahead + 1] of all tokens [T] that belong to a frame."""
        first = frame * self.ratio.numerator // self.ratio.denominator
        found = tokens[first : first + self.look_ahead + 1]
        return nn.functional.pad(found, (0, self.look_ahead + 1 - len(found)), value=NO_TOKEN)

    def embed(self, ahead: Tensor) -> Tensor:
        """The embedding of a frame's tokens [..., look_ahead + 1]: [..., D]."""
        rows = torch.where(ahead == NO_TOKEN, self.num_tokens, ahead)
        rows = rows + torch.arange(self.look_ahead + 1, device=rows.device) * (self.num_tokens + 1)
        x = self.embedding(rows[..., 0])
        for i in range(1, self.look_ahead + 1):  # one by one: the same sum for any number of frames
            x = x + self.embedding(rows[..., i])
        return x

    def num_source_needed(self, frame: int) -> int:
        """The number of leading tokens that this frame needs."""
        first = frame * self.ratio.numerator // self.ratio.denominator
        return max(0, first + self.look_ahead + 1)

    def num_frames(self, num_tokens: int) -> int:
        """The number of frames that start within this many tokens."""
        return -(-num_tokens * self.ratio.denominator // self.ratio.numerator)


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}.")


def _check_tokens(tokens: Tensor, *, num_tokens: int, num_codebooks: int) -> None:
    is_tokens = isinstance(tokens, Tensor) and tokens.dtype == torch.int64 and tokens.dim() == 2
    if not is_tokens or len(tokens) != num_codebooks or not tokens.numel():
        got = f"{tokens.dtype} {list(tokens.shape)}" if isinstance(tokens, Tensor) else repr(tokens)
        raise ValueError(
            f"Expected int64 tokens [{num_codebooks}, T] with T >= 1, or None, got {got}."
        )
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= num_tokens:
        raise ValueError(f"Tokens must be between 0 and {num_tokens - 1}, got {low} to {high}.")
