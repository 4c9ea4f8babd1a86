"""Codes audio in chunks of fixed length with a small overlap, as in EnCodec's 48 kHz model.

Chunks are independent, so streams equal offline calls to the bit. A stream holds one chunk back,
since the last one is shorter.

Shapes: B batch, C channels, N samples, K codebooks, T frames.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from audio_tokenizers.acoustic import inputs
from audio_tokenizers.acoustic.streaming import StreamProgress


class ChunkCodec(Protocol):
    """Encodes and decodes single chunks."""

    @property
    def num_channels(self) -> int: ...

    @property
    def num_codebooks(self) -> int: ...

    @property
    def codebook_size(self) -> int: ...

    @property
    def chunk_length(self) -> int | None:
        """Samples in a full chunk."""

    @property
    def chunk_stride(self) -> int:
        """Samples between the starts of consecutive chunks."""

    @property
    def full_chunk_frames(self) -> int:
        """Frames of a full chunk."""

    def chunk_frames(self, num_frames: int) -> list[int]:
        """The frames of each chunk, given their total."""

    def encode_chunk(self, samples: Tensor, num_codebooks: int) -> tuple[Tensor, Tensor | None]:
        """One chunk [B, C, N] as tokens [B, K, T], and its gains [B, 1]."""

    def decode_chunk(self, tokens: Tensor, gain: Tensor | None) -> Tensor:
        """One chunk of tokens [B, K, T], with gains [B, 1], as samples [B, C, N]."""


class ChunkedEncoderStream:
    """Encodes piece by piece; stores one chunk, and a gain per chunk so far."""

    def __init__(self, codec: ChunkCodec, num_codebooks: int) -> None:
        assert codec.chunk_length is not None
        self._codec = codec
        self._num_codebooks = num_codebooks
        self._length = codec.chunk_length
        self._waiting: Tensor | None = None  # [B, C, N], from the start of the next chunk
        self._gains: list[Tensor] = []
        self._progress = StreamProgress()

    @property
    def gains(self) -> Tensor | None:
        """Gains of the chunks encoded so far: [B, chunks], or None before the first."""
        return torch.cat(self._gains, dim=1) if self._gains else None

    @torch.no_grad()
    def push(self, samples: Tensor) -> Tensor:
        """Takes the next samples [B, C, N >= 0], returns final tokens [B, K, T >= 0]."""
        inputs.check_samples(samples, num_channels=self._codec.num_channels, allow_empty=True)
        self._progress.advance(samples)
        return self._encode(samples, least=self._length)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Ends the waveform and returns the remaining tokens: [B, K, T >= 0]."""
        rest = self._progress.end(self._codec.num_channels, torch.float32)
        return self._encode(rest, least=1)

    def _encode(self, samples: Tensor, *, least: int) -> Tensor:
        """Encodes chunks while at least `least` samples are waiting."""
        waiting = samples if self._waiting is None else torch.cat([self._waiting, samples], dim=2)
        tokens = [samples.new_zeros(len(samples), self._num_codebooks, 0, dtype=torch.int64)]
        while waiting.shape[2] >= least:
            chunk, gain = self._codec.encode_chunk(
                waiting[..., : self._length], self._num_codebooks
            )
            tokens.append(chunk)
            self._gains += [] if gain is None else [gain]
            waiting = waiting[..., self._codec.chunk_stride :]
        self._waiting = waiting.clone()
        return torch.cat(tokens, dim=2)


class ChunkedDecoderStream:
    """Decodes piece by piece; stores the tokens of one chunk, and the overlap with the next.

    Args:
        gains: [B, chunks], for all chunks of the stream; 1 by default.
    """

    def __init__(self, codec: ChunkCodec, gains: Tensor | None) -> None:
        assert codec.chunk_length is not None
        self._codec = codec
        self._gains = gains
        self._full = codec.full_chunk_frames
        self._waiting: Tensor | None = None  # [B, K, T], from the start of the next chunk
        self._overlap: CrossFade | None = None
        self._num_chunks = 0
        self._progress = StreamProgress()

    @torch.no_grad()
    def push(self, tokens: Tensor) -> Tensor:
        """Takes the next tokens [B, K, T >= 0], returns final samples [B, C, N >= 0]."""
        inputs.check_tokens(
            tokens,
            num_codebooks=self._codec.num_codebooks,
            codebook_size=self._codec.codebook_size,
            allow_empty=True,
        )
        self._progress.advance(tokens)
        waiting = tokens if self._waiting is None else torch.cat([self._waiting, tokens], dim=2)
        samples = [self._empty(tokens)]
        while waiting.shape[2] > self._full:
            samples.append(self._decode(waiting[..., : self._full], last=False))
            waiting = waiting[..., self._full :]
        self._waiting = waiting.clone()
        return torch.cat(samples, dim=2)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Ends the tokens and returns the remaining samples: [B, C, N >= 0]."""
        rest = self._progress.end(self._codec.num_channels, torch.float32)
        samples = [rest]
        if self._waiting is not None and self._waiting.shape[2]:
            frames = self._codec.chunk_frames(self._waiting.shape[2])
            chunks = torch.split(self._waiting, frames, dim=2)
            last = len(chunks) - 1
            samples += [self._decode(chunk, last=i == last) for i, chunk in enumerate(chunks)]
        if self._gains is not None and self._gains.shape[1] != self._num_chunks:
            raise ValueError(
                f"Got gains of {self._gains.shape[1]} chunks; the tokens have {self._num_chunks}."
            )
        return torch.cat(samples, dim=2)

    def _decode(self, tokens: Tensor, *, last: bool) -> Tensor:
        gain = None
        if self._gains is not None:
            gain = self._gains[:, self._num_chunks : self._num_chunks + 1]
            if gain.shape != (len(tokens), 1):
                raise ValueError(
                    f"Got gains of shape {list(self._gains.shape)}; the tokens need more: one per "
                    f"chunk of each of {len(tokens)} waveforms."
                )
        self._num_chunks += 1
        chunk = self._codec.decode_chunk(tokens, gain)
        if self._overlap is None:
            self._overlap = CrossFade(chunk, stride=self._codec.chunk_stride)
        return self._overlap.add(chunk, last=last)

    def _empty(self, tokens: Tensor) -> Tensor:
        shape = (len(tokens), self._codec.num_channels, 0)
        return tokens.new_zeros(shape, dtype=torch.float32)


class CrossFade:
    """Joins chunks that start `stride` samples apart by a weighted mean where they overlap.

    The weights rise to the middle of a full chunk and fall after it.
    """

    def __init__(self, first: Tensor, *, stride: int) -> None:
        ramp = torch.linspace(0, 1, first.shape[2] + 2, device=first.device, dtype=first.dtype)
        self._weight = 0.5 - (ramp[1:-1] - 0.5).abs()  # [N], none of them 0
        self._stride = stride
        self._sum = first.new_zeros(*first.shape[:2], 0)  # [B, C, N], what overlaps the next chunk
        self._total = first.new_zeros(0)  # [N], of the weights

    def add(self, chunk: Tensor, *, last: bool) -> Tensor:
        """Adds a chunk [B, C, N]; returns the samples that no later chunk overlaps."""
        weight = self._weight[: chunk.shape[2]]
        # The last chunk may be shorter than the overlap and so end before the previous one.
        length = max(chunk.shape[2], self._sum.shape[2])
        total, samples = weight.new_zeros(length), chunk.new_zeros(*chunk.shape[:2], length)
        total[: len(self._total)] += self._total
        samples[..., : self._sum.shape[2]] += self._sum
        total[: len(weight)] += weight
        samples[..., : chunk.shape[2]] += weight * chunk
        ready = length if last else self._stride
        self._sum, self._total = samples[..., ready:].clone(), total[ready:].clone()
        return samples[..., :ready] / total[:ready]


def overlap_add(chunks: Sequence[Tensor], *, stride: int) -> Tensor:
    """Joins all chunks [B, C, N'] into [B, C, N], as `CrossFade` does."""
    fade = CrossFade(chunks[0], stride=stride)
    last = len(chunks) - 1
    return torch.cat([fade.add(chunk, last=i == last) for i, chunk in enumerate(chunks)], dim=2)
