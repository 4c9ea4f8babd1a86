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
    """The lowest bands that are one bin of the spectrum each; up to 1.6 kHz here."""
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
                f"hop_length {self.hop_length} does not divide into {self.spectra_per_frame} "
                "spectra of an even length; choose a multiple of twice their number."
            )
        if not 0 <= self.lookahead < self.kernel_size:
            raise ValueError(
                f"lookahead {self.lookahead} must be from 0 to kernel_size - 1 = "
                f"{self.kernel_size - 1}."
            )
        if not 2 <= self.linear_bands < self.num_bands <= self.num_bins:
            raise ValueError(
                f"linear_bands {self.linear_bands} and num_bands {self.num_bands} must be such "
                f"that 2 <= linear_bands < num_bands <= {self.num_bins}, the number of bins."
            )
        last = self.linear_bands - 1
        widening = ((self.num_bins - 1) / last) ** (1 / (self.num_bands - self.linear_bands))
        if last * widening < self.linear_bands:
            raise ValueError(
                f"linear_bands {self.linear_bands} and num_bands {self.num_bands} leave bands "
                "narrower than a bin; choose more linear_bands or a smaller num_bands."
            )

    @property
    def spectrum_hop(self) -> int:
        return self.hop_length // self.spectra_per_frame

    @property
    def num_bins(self) -> int:
        """Bins from 0 Hz up to, without, Nyquist."""
        return OVERLAP * self.spectrum_hop // 2


def tiny() -> FrameCodecConfig:
    """For tests and first runs of a recipe."""
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
        """Levels [B, J, bands], about as large as 1 -> the stack's input [B, T, ...]."""
        return ((levels + 4) / 2).unflatten(1, (-1, self.spectra_per_frame)).flatten(2)


class Decoder(nn.Module):
    """Latents to levels of bands, and to the texture of each."""

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
