"""The frame codec's networks: bands to latents, and latents to bands."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from audio_tokenizers.acoustic.frame_codec.bands import FLOOR
from audio_tokenizers.acoustic.frame_codec.layers import OVERLAP, FrameStack, RowLinear

LOUDEST = 4.0  # as a logarithm: a sine at full scale is at 2.4


@dataclass(frozen=True, kw_only=True)
class FrameCodecConfig:
    sample_rate: int = 24_000
    hop_length: int = 960
    spectra_per_frame: int = 4
    num_bands: int = 128
    linear_bands: int = 64
    """Number of lowest bands with one bin each; up to 1.6 kHz by default."""
    encoder_width: int = 256
    encoder_layers: int = 6
    decoder_width: int = 320
    decoder_layers: int = 6
    kernel_size: int = 7
    lookahead: int = 2
    code_width: int = 96
    num_codebooks: int = 12
    codebook_size: int = 1024
    phase_iterations: int = 16

    def __post_init__(self) -> None:
        if self.hop_length % (2 * self.spectra_per_frame):
            raise ValueError(
                f"hop_length must be a multiple of {2 * self.spectra_per_frame}, twice "
                f"spectra_per_frame, got {self.hop_length}."
            )
        if not 0 <= self.lookahead < self.kernel_size:
            raise ValueError(
                f"lookahead must be from 0 to kernel_size - 1 = {self.kernel_size - 1}, got "
                f"{self.lookahead}."
            )
        if not 2 <= self.linear_bands < self.num_bands <= self.num_bins:
            raise ValueError(
                f"Expected 2 <= linear_bands < num_bands <= {self.num_bins}, the number of bins, "
                f"got linear_bands={self.linear_bands} and num_bands={self.num_bands}."
            )
        last = self.linear_bands - 1
        widening = ((self.num_bins - 1) / last) ** (1 / (self.num_bands - self.linear_bands))
        if last * widening < self.linear_bands:
            raise ValueError(
                f"Got linear_bands={self.linear_bands} and num_bands={self.num_bands}, which make "
                "bands narrower than a bin; increase linear_bands or decrease num_bands."
            )

    @property
    def spectrum_hop(self) -> int:
        return self.hop_length // self.spectra_per_frame

    @property
    def num_bins(self) -> int:
        """Number of bins from 0 Hz, excluding Nyquist."""
        return OVERLAP * self.spectrum_hop // 2


def tiny() -> FrameCodecConfig:
    """A tiny config for tests and first runs of a recipe."""
    return FrameCodecConfig(
        hop_length=480,
        spectra_per_frame=2,
        encoder_width=32,
        encoder_layers=2,
        decoder_width=48,
        decoder_layers=2,
        code_width=16,
        num_codebooks=4,
        codebook_size=64,
        num_bands=40,
        linear_bands=16,
        phase_iterations=4,
    )


class Encoder(nn.Module):
    """Levels of bands to latents."""

    def __init__(self, config: FrameCodecConfig) -> None:
        super().__init__()
        self.spectra_per_frame = config.spectra_per_frame
        self.stack = FrameStack(
            in_width=config.spectra_per_frame * config.num_bands,
            width=config.encoder_width,
            num_layers=config.encoder_layers,
            kernel_size=config.kernel_size,
            lookahead=config.lookahead,
        )
        self.project = RowLinear(config.encoder_width, config.code_width)

    def forward(self, levels: Tensor) -> Tensor:
        """levels: [B, J, bands] -> latents [B, T, D]"""
        frames = self.frames(levels)
        h, state = self.stack(frames, self.stack.start(frames))
        return self.project(torch.cat([h, self.stack.finish(state)], dim=1))

    def frames(self, levels: Tensor) -> Tensor:
        """Levels [B, J, bands] -> the stack's input [B, T, ...], scaled to about 1."""
        return ((levels + 4) / 2).unflatten(1, (-1, self.spectra_per_frame)).flatten(2)


class Decoder(nn.Module):
    """Latents to the level and texture of each band."""

    def __init__(self, config: FrameCodecConfig) -> None:
        super().__init__()
        self.spectra_per_frame = config.spectra_per_frame
        self.stack = FrameStack(
            in_width=config.code_width,
            width=config.decoder_width,
            num_layers=config.decoder_layers,
            kernel_size=config.kernel_size,
            lookahead=config.lookahead,
        )
        self.head = RowLinear(config.decoder_width, 3 * config.spectra_per_frame * config.num_bands)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """latents: [B, T, D] -> levels, roughness and noisiness, [B, J, bands] each"""
        h, state = self.stack(latents, self.stack.start(latents))
        return self.bands(torch.cat([h, self.stack.finish(state)], dim=1))

    def bands(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h: [B, T, width] -> levels, roughness and noisiness, [B, J, bands] each"""
        values = self.head(h).float().unflatten(-1, (self.spectra_per_frame, -1)).flatten(1, 2)
        levels, roughness, noisiness = values.chunk(3, dim=-1)
        levels = (2 * levels - 4).clamp(math.log(FLOOR), LOUDEST)
        return levels, roughness.sigmoid(), noisiness.sigmoid()
