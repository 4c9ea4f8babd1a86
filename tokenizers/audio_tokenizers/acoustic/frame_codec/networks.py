"""The frame codec's networks: waveform to latents, and latents to waveform."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio_tokenizers.acoustic.frame_codec.layers import (
    OVERLAP,
    FrameStack,
    RowLinear,
    band_interpolation,
    noise_spectrum,
    overlap_add,
    row_linear,
)
from audio_tokenizers.spectra import mel_filterbank, windows_of_hops

MAX_LOG_MAGNITUDE = 6.0
# Silent windows before the first and after the last, so that all hops are covered by OVERLAP.
ENDS = (0, 0, OVERLAP - 1, OVERLAP // 2)


@dataclass(frozen=True, kw_only=True)
class FrameCodecConfig:
    sample_rate: int = 24_000
    hop_length: int = 480
    spectra_per_frame: int = 2
    num_mels: int = 100
    phase_bins: int = 128
    """The lowest bins of the spectrum that the encoder sees with their phase; 3.2 kHz here."""
    encoder_width: int = 256
    encoder_layers: int = 8
    decoder_width: int = 384
    decoder_layers: int = 8
    kernel_size: int = 7
    lookahead: int = 2
    code_width: int = 64
    num_codebooks: int = 8
    codebook_size: int = 1024
    noise_bands: int = 32

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
        encoder_width=32,
        encoder_layers=2,
        decoder_width=48,
        decoder_layers=2,
        code_width=16,
        num_codebooks=4,
        codebook_size=64,
        num_mels=40,
        phase_bins=32,
        noise_bands=8,
    )


class Encoder(nn.Module):
    """Waveform to frames of log-mels, and of low bins with their phase, to latents."""

    window: Tensor
    filterbank: Tensor

    def __init__(self, config: FrameCodecConfig) -> None:
        super().__init__()
        self.config = config
        length = OVERLAP * config.spectrum_hop
        bank = mel_filterbank(
            num_mels=config.num_mels, num_bins=config.num_bins, sample_rate=config.sample_rate
        )
        self.register_buffer("window", torch.hann_window(length), persistent=False)
        self.register_buffer("filterbank", bank, persistent=False)
        self.stack = FrameStack(
            in_width=config.spectra_per_frame * (config.num_mels + 2 * config.phase_bins),
            width=config.encoder_width,
            num_layers=config.encoder_layers,
            kernel_size=config.kernel_size,
            lookahead=config.lookahead,
        )
        self.project = RowLinear(config.encoder_width, config.code_width)

    @property
    def margin(self) -> int:
        """Samples that a frame's windows reach beyond it, on each side."""
        return (OVERLAP - 1) * self.config.spectrum_hop // 2

    def forward(self, samples: Tensor) -> Tensor:
        """samples: [B, 1, N] -> latents [B, T, D]"""
        num_frames = samples.shape[2] // self.config.hop_length
        frames = self.frames(F.pad(samples, (self.margin, self.margin)), num_frames)
        state = self.stack.start(frames)
        h, state = self.stack(frames, state)
        return self.project(torch.cat([h, self.stack.finish(state)], dim=1))

    def frames(self, padded: Tensor, num_frames: int) -> Tensor:
        """Samples [B, 1, N] with both margins -> log-mels and low bins with phase [B, T, D]."""
        if num_frames == 0:
            return padded.new_zeros(padded.shape[0], 0, self.stack.in_width)
        blocks = padded[:, 0].unflatten(1, (-1, self.config.spectrum_hop))
        windows = windows_of_hops(blocks, overlap=OVERLAP) * self.window
        spectrum = torch.view_as_real(torch.fft.rfft(windows.float())[..., :-1])  # [B, J, bins, 2]
        power = spectrum.square().sum(-1)
        mels = row_linear(power.sqrt(), self.filterbank).clamp(min=1e-5).log()
        low = slice(self.config.phase_bins)
        # Divided by the fourth root of power: the phase, and the root of the magnitude.
        phases = spectrum[:, :, low] * (power[:, :, low, None] + 1e-4).pow(-0.25)
        values = torch.cat([(mels + 4) / 4, 0.5 * phases.flatten(2)], dim=2)  # [B, J, ...]
        return values.unflatten(1, (-1, self.config.spectra_per_frame)).flatten(2)


class Decoder(nn.Module):
    """Latents to spectra, tonal and noise, to waveform."""

    window: Tensor
    bands: Tensor

    def __init__(self, config: FrameCodecConfig) -> None:
        super().__init__()
        self.config = config
        self.stack = FrameStack(
            in_width=config.code_width,
            width=config.decoder_width,
            num_layers=config.decoder_layers,
            kernel_size=config.kernel_size,
            lookahead=config.lookahead,
        )
        bins = config.num_bins
        # The log level, the real and imaginary part, the log noise.
        self.sizes = (bins, bins, bins, config.noise_bands)
        self.head = RowLinear(config.decoder_width, config.spectra_per_frame * sum(self.sizes))
        # Start at the level of quiet sounds, half of it noise.
        starts = zip(self.sizes, (-2.0, 0.0, 0.0, -0.7), strict=True)
        bias = torch.cat([torch.full((size,), start) for size, start in starts])
        self.head.bias.data.copy_(bias.repeat(config.spectra_per_frame))
        window = torch.hann_window(OVERLAP * config.spectrum_hop)
        # Squared Hann windows at a quarter of their length apart add up to OVERLAP * 3 / 8.
        self.register_buffer("window", window / (OVERLAP * 3 / 8), persistent=False)
        bands = band_interpolation(num_bands=config.noise_bands, num_bins=config.num_bins)
        self.register_buffer("bands", bands, persistent=False)

    @property
    def margin(self) -> int:
        """Samples that a window reaches beyond its hop, on each side."""
        return (OVERLAP - 1) * self.config.spectrum_hop // 2

    def forward(self, latents: Tensor, *, noise_starts: Sequence[int | None]) -> list[Tensor]:
        """latents: [B, T, D] -> waveforms [B, 1, N], one for each start of the noise."""
        state = self.stack.start(latents)
        h, state = self.stack(latents, state)
        spectra = self.spectra(torch.cat([h, self.stack.finish(state)], dim=1))
        length = latents.shape[1] * self.config.hop_length
        return [
            overlap_add(F.pad(self.windows(*spectra, start), ENDS), overlap=OVERLAP).flatten(1)[
                :, None, self.margin :
            ][:, :, :length]
            for start in noise_starts
        ]

    def spectra(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """h: [B, T, width] -> the tonal spectrum and gains of noise, [B, J, bins] each."""
        values = self.head(h).float().unflatten(-1, (self.config.spectra_per_frame, -1))
        log_level, real, imaginary, log_noise = values.flatten(1, 2).split(self.sizes, dim=-1)
        level = log_level.clamp(max=MAX_LOG_MAGNITUDE).exp()
        noise_gains = level * row_linear(log_noise, self.bands).clamp(max=1.0).exp()
        return torch.complex(level * real, level * imaginary), noise_gains

    def windows(self, tonal: Tensor, noise_gains: Tensor, first_spectrum: int | None) -> Tensor:
        """Spectra [B, J, bins], of which the first has this number, -> sound [B, J, window].

        Without a number there is no noise.
        """
        B, J, num_bins = tonal.shape
        if J == 0:  # an FFT of nothing is an error
            return noise_gains.new_zeros(B, 0, self.window.shape[0])
        spectrum = tonal
        if first_spectrum is not None:
            spectrum = tonal + noise_gains * noise_spectrum(
                first=first_spectrum, num_spectra=J, num_bins=num_bins, device=tonal.device
            )
        return torch.fft.irfft(F.pad(spectrum, (0, 1))) * self.window  # no Nyquist
