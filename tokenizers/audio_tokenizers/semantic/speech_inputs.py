"""What goes into public self-supervised speech models: 16 kHz mono, as waveform or log-mels.

Shapes: B batch, C channels, N samples, T frames.
"""

import torch
from torch import Tensor

SAMPLE_RATE = 16_000


def mix_to_mono(samples: Tensor) -> Tensor:
    """Samples [B, C, N], float32, to their means over channels: [B, N]."""
    if samples.ndim != 3 or 0 in samples.shape:
        raise ValueError(
            f"Got samples of shape {list(samples.shape)}; expected [B, C, N] with no empty axis."
        )
    if samples.dtype != torch.float32:
        raise ValueError(
            f"Got samples of type {samples.dtype}; expected torch.float32, convert them."
        )
    return samples.mean(1)


def standardize_samples(mono: Tensor) -> Tensor:
    """Each row of samples [B, N] with zero mean and unit variance."""
    variance, mean = torch.var_mean(mono, dim=1, correction=0, keepdim=True)
    return (mono - mean) / (variance + 1e-7).sqrt()


class LogMelSpectra:
    """Input of w2v-BERT: log-mel spectra as Kaldi makes them, normalised, two to a frame.

    The arithmetic of `transformers.SeamlessM4TFeatureExtractor` on whole batches and on any device.
    A last spectrum without a partner is dropped: there it is padded and masked.
    """

    hop_length = 320
    field = 560
    num_mels = 80

    def __init__(self) -> None:
        from transformers.audio_utils import mel_filter_bank, window_function

        bank = mel_filter_bank(
            num_frequency_bins=257,
            num_mel_filters=self.num_mels,
            min_frequency=20,
            max_frequency=SAMPLE_RATE // 2,
            sampling_rate=SAMPLE_RATE,
            norm=None,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )
        self.bank = torch.from_numpy(bank)  # [bins, mels], float64
        self.window = torch.from_numpy(window_function(400, "povey", periodic=False))

    def __call__(self, mono: Tensor) -> Tensor:
        """Samples [B, N] to [B, T, 2 * mels], float32."""
        device = mono.device
        if device.type == "mps":  # it has no float64
            mono = mono.cpu()
        if mono.shape[1] < self.field:
            return mono.new_zeros(mono.shape[0], 0, 2 * self.num_mels)
        frames = mono.unfold(1, 400, 160)  # [B, T', 400]
        pieces = frames.split(1000, dim=1)
        spectra = torch.cat([self._log_mels(piece) for piece in pieces], dim=1)  # [B, T', mels]
        variance, mean = torch.var_mean(spectra, dim=1, keepdim=True)
        spectra = (spectra - mean) / (variance + 1e-7).sqrt()
        even = spectra[:, : spectra.shape[1] // 2 * 2]
        return even.unflatten(1, (-1, 2)).flatten(2).float().to(device)

    def _log_mels(self, frames: Tensor) -> Tensor:
        x = frames.double() * 2**15
        x = x - x.mean(-1, keepdim=True)
        previous = torch.cat([x[..., :1], x[..., :-1]], dim=-1)
        x = (x - 0.97 * previous) * self.window.to(x.device)
        power = torch.fft.rfft(x, n=512).abs().square()
        return (power @ self.bank.to(x.device)).clamp(min=1.192092955078125e-07).log()
