"""Samples to latents and back, piece by piece, in constant memory.

Shapes: B batch, C channels, N samples, D latent dimensions, T frames.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from audio_tokenizers.acoustic import inputs
from audio_tokenizers.acoustic.rave.layers import row_product
from audio_tokenizers.acoustic.rave.networks import Decoder, Encoder, gaussian_rows
from audio_tokenizers.acoustic.rave.pqmf import PQMF
from audio_tokenizers.acoustic.streaming import StreamProgress


class Model(Protocol):
    """The parts of a RAVE model that streams use."""

    pqmf: PQMF
    encoder: Encoder
    decoder: Decoder
    latent_mean: Tensor
    latent_pca: Tensor

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def latent_size(self) -> int: ...

    @property
    def num_channels(self) -> int: ...

    @property
    def hop_length(self) -> int: ...


class ToLatents:
    """The encoder's layers as one: samples [B, C, N] to latents [B, D, T]."""

    def __init__(self, codec: Model) -> None:
        self._codec = codec
        self._analysis = codec.pqmf.analysis_stream()
        self._encoder = codec.encoder.stream()
        self._dtype = codec.dtype

    def step(self, x: Tensor, *, last: bool) -> Tensor:
        codec = self._codec
        bands = self._analysis.step(x, last=last).to(self._dtype)
        encoded = self._encoder.step(bands, last=last).float()
        means = encoded[..., : codec.latent_size]
        return row_product(means - codec.latent_mean, codec.latent_pca).transpose(1, 2)


class ToSamples:
    """The decoder's layers as one: latents [B, D', T], D' <= D, to samples [B, C, N]."""

    def __init__(self, codec: Model) -> None:
        self._codec = codec
        self._decoder = codec.decoder.stream()
        self._synthesis = codec.pqmf.synthesis_stream()
        self._dtype = codec.dtype
        self._next = 0

    def step(self, x: Tensor, *, last: bool) -> Tensor:
        codec = self._codec
        filled = with_noise(x, first=self._next, latent_size=codec.latent_size)
        self._next += x.shape[2]
        given = filled.transpose(1, 2)  # [B, T, D]
        latents = row_product(given, codec.latent_pca.T) + codec.latent_mean
        bands = self._decoder.step(latents.to(self._dtype), last=last)
        return self._synthesis.step(bands, last=last)


def with_noise(latents: Tensor, *, first: int, latent_size: int) -> Tensor:
    """Latents [B, D', T] from frame `first` on, with counted noise in dimensions D' to D."""
    B, known, T = latents.shape
    if known == latent_size:
        return latents
    noise = gaussian_rows(first, T, latent_size, device=latents.device)[:, known:].T  # [D - D', T]
    return torch.cat([latents, noise.expand(B, -1, -1)], dim=1)


class LatentStream:
    """Encodes samples to latents; pieces concatenate to what `RaveCodec.latents` returns."""

    def __init__(self, codec: Model) -> None:
        self._codec, self._layers = codec, ToLatents(codec)
        self._progress = StreamProgress()
        self._num_samples = 0

    @torch.no_grad()
    def push(self, samples: Tensor) -> Tensor:
        """Takes the next samples [B, C, N >= 0], returns final latents [B, D, T >= 0]."""
        inputs.check_samples(samples, num_channels=self._codec.num_channels, allow_empty=True)
        self._progress.advance(samples)
        self._num_samples += samples.shape[2]
        return self._layers.step(samples, last=False)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Ends the waveform, filled with silence to a whole frame; returns the last latents."""
        rest = self._progress.end(self._codec.num_channels, torch.float32)
        if self._num_samples == 0:
            return rest.new_zeros(len(rest), self._codec.latent_size, 0)
        rest = F.pad(rest, (0, -self._num_samples % self._codec.hop_length))
        return self._layers.step(rest, last=True)


class SampleStream:
    """Decodes latents; pieces concatenate to what `RaveCodec.decode_latents` returns."""

    def __init__(self, codec: Model) -> None:
        self._codec, self._layers = codec, ToSamples(codec)
        self._progress = StreamProgress()
        self._empty: Tensor | None = None

    @torch.no_grad()
    def push(self, latents: Tensor) -> Tensor:
        """Takes the next latents [B, D', T >= 0], returns final samples [B, C, N >= 0]."""
        most = self._codec.latent_size
        if latents.ndim != 3 or not 1 <= latents.shape[1] <= most:
            raise ValueError(
                f"Got latents of shape {list(latents.shape)}; expected [B, D, T] with D from 1 to "
                f"{most}."
            )
        if latents.dtype != torch.float32:
            raise ValueError(f"Got latents of type {latents.dtype}; expected torch.float32.")
        self._progress.advance(latents)
        if latents.shape[2] == 0:
            return latents.new_zeros(len(latents), self._codec.num_channels, 0)
        self._empty = latents[..., :0]
        return self._layers.step(latents, last=False)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Ends the latents and returns the remaining samples: [B, C, N >= 0]."""
        rest = self._progress.end(self._codec.num_channels, torch.float32)
        return rest if self._empty is None else self._layers.step(self._empty, last=True)
