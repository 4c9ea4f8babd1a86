"""The renderer of latents whose autoencoder makes sound directly, such as Oobleck.

Both directions run through the layers of the autoencoder piece by piece, exactly and in constant
memory; blocks have a fixed size, so that samples do not depend on how latents are pushed.

Shapes: B batch, D latent width, T latent frames, C channels, N samples.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio_tokenizers.acoustic.stream_layers import StreamLayer
from audio_tokenizers.identity import hash_model
from lm_audio.renderers.blocks import BlockStream, render_whole
from lm_audio.renderers.latent import LATENTS
from lm_audio.signals import Signal

_ENCODED_SECONDS = 2.0  # per step of the encoder, at least


class WaveformAutoencoder(Protocol):
    """Its config states `num_channels`, `sample_rate`, `hop_length` and `latent_width`.

    Args:
        block_seconds: decoded in each step of a stream.
    """

    config: Any
    block_seconds: float

    def encoder_stream(self) -> StreamLayer:
        """From samples [B, C, N] to the means of the latents, perhaps with more channels."""

    def decoder_stream(self) -> StreamLayer:
        """From latents [B, D, T] to samples [B, C, N]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WaveformLatentRenderer:
    """Latents to samples.

    Args:
        autoencoder: an `nn.Module` that is a `WaveformAutoencoder`.
    """

    autoencoder: Any

    @property
    def _shape(self) -> Any:
        return self.autoencoder.config

    @property
    def signal(self) -> Signal:
        rate = Fraction(self.sample_rate, self.hop_length)
        return Signal(kind="latents", content=LATENTS, rate=rate, width=self._shape.latent_width)

    @property
    def encoder(self) -> "WaveformLatentEncoder":
        return WaveformLatentEncoder(self)

    @cached_property
    def identity(self) -> str:
        weights = self.autoencoder.state_dict()
        return f"waveform-latents-{hash_model(str(self._shape), weights)}"

    @property
    def sample_rate(self) -> int:
        return int(self._shape.sample_rate)

    @property
    def num_channels(self) -> int:
        return int(self._shape.num_channels)

    @property
    def hop_length(self) -> int:
        return int(self._shape.hop_length)

    def num_frames(self, num_samples: int) -> int:
        return -(-num_samples // self.hop_length)

    def stream(self) -> "WaveformLatentStream":
        return WaveformLatentStream(self)

    def render(self, values: Tensor, *, num_samples: int | None = None) -> Tensor:
        return render_whole(self, values, num_samples)

    @property
    def dtype(self) -> torch.dtype:
        parameters: nn.Module = self.autoencoder
        return next(parameters.parameters()).dtype


@dataclass(frozen=True, eq=False)
class WaveformLatentEncoder:
    """Samples to latents: the means, without random numbers."""

    renderer: WaveformLatentRenderer

    @torch.inference_mode()
    def encode(self, samples: Tensor) -> Tensor:
        """Turns samples [C, N], float32 at the renderer's rate, into latents [D, T]."""
        renderer = self.renderer
        if samples.ndim != 2 or len(samples) != renderer.num_channels:
            raise ValueError(
                f"Expected samples of shape [{renderer.num_channels}, N], got "
                f"{list(samples.shape)}."
            )
        hop, width = renderer.hop_length, renderer.signal.width
        samples = F.pad(samples, (0, -samples.shape[1] % hop)).to(renderer.dtype)
        seconds = max(_ENCODED_SECONDS, renderer.autoencoder.block_seconds)
        size = max(1, round(seconds * renderer.sample_rate / hop)) * hop
        pieces = samples[None].split(size, dim=2) if samples.shape[1] else ()
        stream = renderer.autoencoder.encoder_stream()
        made = [
            stream.step(piece, last=i == len(pieces) - 1)[0, :width]
            for i, piece in enumerate(pieces)
        ]
        return torch.cat([samples.new_zeros(width, 0), *made], dim=1).float()

    def prompt_frames(self, num_samples: int) -> int:
        return num_samples // self.renderer.hop_length


class WaveformLatentStream(BlockStream):
    """Renders latents in a stream."""

    def __init__(self, renderer: WaveformLatentRenderer) -> None:
        seconds = renderer.autoencoder.block_seconds
        frames = max(1, round(seconds * float(renderer.signal.rate)))
        super().__init__(renderer, _Decoder(renderer), block_frames=frames)
        self._dtype = renderer.dtype

    def _rows(self, block: Tensor) -> Tensor:
        return block[None].to(self._dtype)


class _Decoder:
    """Exactly T hops of samples; decoders with odd rates make a few less."""

    def __init__(self, renderer: WaveformLatentRenderer) -> None:
        self._layers: StreamLayer = renderer.autoencoder.decoder_stream()
        self._hop = renderer.hop_length
        self._empty: Tensor | None = None
        self._samples_left = 0

    @torch.inference_mode()
    def push(self, rows: Tensor, /) -> Tensor:
        self._samples_left += rows.shape[2] * self._hop
        self._empty = rows[..., :0]
        return self._made(self._layers.step(rows, last=False))

    @torch.inference_mode()
    def finish(self) -> Tensor:
        assert self._empty is not None
        samples = self._made(self._layers.step(self._empty, last=True))
        return F.pad(samples, (0, self._samples_left))

    def _made(self, samples: Tensor) -> Tensor:
        self._samples_left -= samples.shape[2]
        return samples.float()
