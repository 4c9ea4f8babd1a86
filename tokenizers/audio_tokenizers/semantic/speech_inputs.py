"""Inputs of public self-supervised models: 16 kHz mono, as waveform or log-mels.

Shapes: B batch, C channels, N samples, T frames.
"""

import torch
from torch import Tensor

SAMPLE_RATE = 16_000


def measure_level(inputs: Tensor, *, correction: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation along axis 1, which is kept; the deviation is never 0."""
    variance, mean = torch.var_mean(inputs, dim=1, correction=correction, keepdim=True)
    return mean, (variance + 1e-7).sqrt()


class LogMelSpectra:
    """Kaldi's log-mel spectra, before normalisation; by default the input of w2v-BERT.

    Same arithmetic as `transformers.SeamlessM4TFeatureExtractor`, for batches and on any device.

    Args:
        window: povey or hann.
        full_scale: the value of samples of 1.
    """

    hop_length = 160
    window_length = 400

    def __init__(
        self, *, num_mels: int = 80, window: str = "povey", full_scale: float = 2**15
    ) -> None:
        from transformers.audio_utils import mel_filter_bank, window_function

        self.num_mels, self.full_scale = num_mels, full_scale
        bank = mel_filter_bank(
            num_frequency_bins=257,
            num_mel_filters=num_mels,
            min_frequency=20,
            max_frequency=SAMPLE_RATE // 2,
            sampling_rate=SAMPLE_RATE,
            norm=None,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )
        self.bank = torch.from_numpy(bank)  # [bins, mels], float64
        self.window = torch.from_numpy(window_function(self.window_length, window, periodic=False))

    def __call__(self, mono: Tensor) -> Tensor:
        """Samples [B, N], with N of 400 or more, to [B, spectra, mels], float32."""
        frames = mono.unfold(1, self.window_length, self.hop_length)  # [B, spectra, 400]
        spectra = mono.new_empty(*frames.shape[:2], self.num_mels)
        for start in range(0, frames.shape[1], 1000):
            piece = slice(start, start + 1000)
            spectra[:, piece] = self._log_mels(frames[:, piece])
        return spectra

    def _log_mels(self, frames: Tensor) -> Tensor:
        # mps has no float64
        work = torch.device("cpu") if frames.device.type == "mps" else frames.device
        x = frames.to(work).double() * self.full_scale
        x = x - x.mean(-1, keepdim=True)
        previous = torch.cat([x[..., :1], x[..., :-1]], dim=-1)
        x = (x - 0.97 * previous) * self.window.to(work)
        power = torch.fft.rfft(x, n=512).abs().square()
        return (power @ self.bank.to(work)).clamp(min=1.192092955078125e-07).log()
