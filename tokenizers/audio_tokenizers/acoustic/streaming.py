"""Streams samples to tokens and back in constant memory, with the results of a single call.

The layers, and how exact they are, are in `stream_layers`.

Shapes: B batch, C channels, N samples, K codebooks, T frames, D width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from audio_tokenizers.acoustic import inputs
from audio_tokenizers.acoustic.stream_layers import ROW_BLOCK, StreamLayer


class EncoderStream:
    """Encodes piece by piece through streaming layers.

    Args:
        layers: from samples [B, C, N] to latents [B, D, T].
        quantize: from latents [B, D, T] to tokens [B, K, T], each frame by itself.
        whole_frames: pad the end with zeros to a multiple of this many samples.
    """

    gains: Tensor | None = None

    def __init__(
        self,
        layers: StreamLayer,
        quantize: Callable[[Tensor], Tensor],
        *,
        num_channels: int,
        num_codebooks: int,
        whole_frames: int = 1,
    ) -> None:
        self._layers = layers
        self._quantize = quantize
        self._num_channels = num_channels
        self._num_codebooks = num_codebooks
        self._whole_frames = whole_frames
        self._num_samples = 0
        self._progress = StreamProgress()

    @torch.no_grad()
    def push(self, samples: Tensor) -> Tensor:
        """Takes the next samples [B, C, N >= 0], returns final tokens [B, K, T >= 0]."""
        inputs.check_samples(samples, num_channels=self._num_channels, allow_empty=True)
        self._progress.advance(samples)
        self._num_samples += samples.shape[2]
        return self._step(samples, last=False)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Ends the waveform and returns the remaining tokens: [B, K, T >= 0]."""
        rest = self._progress.end(self._num_channels, torch.float32)
        if self._num_samples == 0:
            return rest.new_zeros(len(rest), self._num_codebooks, 0, dtype=torch.int64)
        return self._step(F.pad(rest, (0, -self._num_samples % self._whole_frames)), last=True)

    def _step(self, samples: Tensor, *, last: bool) -> Tensor:
        latents = self._layers.step(samples, last=last)
        B, _, T = latents.shape
        if T == 0:
            return latents.new_zeros(B, self._num_codebooks, 0, dtype=torch.int64)
        return self._quantize(F.pad(latents, (0, -T % ROW_BLOCK)))[..., :T]


class DecoderStream:
    """Decodes piece by piece through streaming layers.

    Args:
        layers: from latents [B, D, T] to samples [B, C, N].
        dequantize: from tokens [B, K, T] to latents [B, D, T], each frame by itself.
        hop_length: samples per frame; the end is zero-padded if the layers return fewer.
    """

    def __init__(
        self,
        layers: StreamLayer,
        dequantize: Callable[[Tensor], Tensor],
        *,
        num_channels: int,
        num_codebooks: int,
        codebook_size: int,
        hop_length: int,
    ) -> None:
        self._layers = layers
        self._dequantize = dequantize
        self._num_channels = num_channels
        self._num_codebooks = num_codebooks
        self._codebook_size = codebook_size
        self._hop_length = hop_length
        self._to_come = 0
        self._empty_latents: Tensor | None = None
        self._progress = StreamProgress()

    @torch.no_grad()
    def push(self, tokens: Tensor) -> Tensor:
        """Takes the next tokens [B, K, T >= 0], returns final samples [B, C, N >= 0]."""
        inputs.check_tokens(
            tokens,
            num_codebooks=self._num_codebooks,
            codebook_size=self._codebook_size,
            allow_empty=True,
        )
        self._progress.advance(tokens)
        B, _, T = tokens.shape
        if T == 0:
            return torch.zeros(B, self._num_channels, 0, device=tokens.device)
        latents = self._dequantize(tokens)
        self._empty_latents = latents[..., :0]
        samples = self._layers.step(latents, last=False)
        self._to_come += T * self._hop_length - samples.shape[2]
        return samples

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Ends the tokens and returns the remaining samples: [B, C, N >= 0]."""
        rest = self._progress.end(self._num_channels, torch.float32)
        if self._empty_latents is None:
            return rest
        samples = self._layers.step(self._empty_latents, last=True)
        return F.pad(samples, (0, self._to_come - samples.shape[2]))


class StreamProgress:
    """Checks that the pieces of a stream match, and that none follows its end."""

    def __init__(self) -> None:
        self._like: Tensor | None = None
        self._ended = False

    def advance(self, x: Tensor) -> None:
        """Records a piece x: samples [B, C, N] or tokens [B, K, T]."""
        if self._ended:
            raise ValueError("Got a piece after the end of the stream; start a new stream.")
        if self._like is None:
            self._like = x.new_zeros(*x.shape[:2], 0)
        if len(x) != len(self._like):
            raise ValueError(
                f"Got a batch of {len(x)}; this stream began with a batch of {len(self._like)}."
            )
        if x.shape[1] != self._like.shape[1]:
            raise ValueError(
                f"Got {x.shape[1]} codebooks; this stream began with {self._like.shape[1]}."
            )

    def end(self, num_channels: int, dtype: torch.dtype) -> Tensor:
        """Records the end and returns an empty piece [B, C, 0]; B is 1 for an empty stream."""
        if self._ended:
            raise ValueError("The stream has already ended; start a new stream.")
        self._ended = True
        like = torch.zeros(1, 1, 0) if self._like is None else self._like
        return like.new_zeros(len(like), num_channels, 0, dtype=dtype)
