"""Distances between reconstructions and originals: SI-SDR, mel distance, PESQ, STOI and ViSQOL.

Shapes: B batch, N samples.
"""

import tempfile
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.resampling import resample
from audio_tokenizers.spectra import mel_filterbank

_INSTALL = "install it with: pip install 'lm-audio[eval]'."
MEL_FLOOR = 1e-5


def si_sdr(answer: Tensor, truth: Tensor) -> Tensor:
    """The scale-invariant signal-to-distortion ratio in dB of rows [B, N]: [B] (arXiv 1811.02508).

    Equal to torchmetrics' `scale_invariant_signal_distortion_ratio` without `zero_mean`.
    """
    _check_pair(answer, truth)
    answer, truth = answer.double(), truth.double()
    tiny = torch.finfo(torch.float32).eps
    energy = truth.square().sum(dim=-1, keepdim=True)
    target = ((answer * truth).sum(dim=-1, keepdim=True) + tiny) / (energy + tiny) * truth
    noise = target - answer
    ratio = (target.square().sum(dim=-1) + tiny) / (noise.square().sum(dim=-1) + tiny)
    return 10 * ratio.log10()


def mel_distance(
    answer: Tensor, truth: Tensor, *, sample_rate: int, num_mels: int = 80, window: int = 1024
) -> Tensor:
    """The mean absolute difference of log-mel spectra, in nats, of rows [B, N]: [B].

    Our own definition: periodic Hann windows, a quarter of a window apart, magnitudes, unit
    triangles, natural logarithms above a floor of 1e-5.
    """
    _check_pair(answer, truth)
    bank = mel_filterbank(num_mels=num_mels, num_bins=window // 2, sample_rate=sample_rate)
    pair = torch.cat([answer, truth]).float()
    pair = F.pad(pair, (0, max(0, window - pair.shape[1])))
    spectrum = torch.stft(
        pair, window, window // 4, window=torch.hann_window(window), center=False,
        return_complex=True,
    )  # fmt: skip
    mels = (bank @ spectrum[:, :-1].abs()).clamp(min=MEL_FLOOR).log()  # [2B, bands, frames]
    first, second = mels.chunk(2)
    return (first - second).abs().mean(dim=(1, 2))


def pesq(answer: Tensor, truth: Tensor, *, sample_rate: int) -> float | None:
    """Wide-band PESQ (ITU-T P.862.2) of speech [N], by the package pesq, at 16 kHz.

    None if it detects no utterance.
    """
    if not truth.any():
        return None
    try:
        import pesq as package
    except ModuleNotFoundError as error:
        raise ValueError(f"PESQ needs the package pesq; {_INSTALL}") from error
    a, b = (resample(x, sample_rate, 16_000).numpy() for x in (answer, truth))
    try:
        return float(package.pesq(16_000, b, a, "wb"))
    except (package.NoUtterancesError, package.BufferTooShortError):
        return None


def stoi(answer: Tensor, truth: Tensor, *, sample_rate: int, extended: bool = False) -> float:
    """The short-time objective intelligibility of speech [N], by the package pystoi, at 10 kHz."""
    try:
        from pystoi import stoi as package
    except ModuleNotFoundError as error:
        raise ValueError(f"STOI needs the package pystoi; {_INSTALL}") from error
    return float(package(truth.numpy(), answer.numpy(), sample_rate, extended=extended))


def visqol(
    answer: Tensor, truth: Tensor, *, sample_rate: int, mode: Literal["audio", "speech"] = "audio"
) -> float:
    """The MOS-LQO of ViSQOL 3 (arXiv 2004.09584) for samples [N], by the package visqol-python."""
    try:
        from visqol import VisqolApi
    except ModuleNotFoundError as error:
        raise ValueError(
            "ViSQOL needs the package visqol-python; install it with: pip install visqol-python."
        ) from error
    rate = {"audio": 48_000, "speech": 16_000}[mode]
    judge = VisqolApi()
    judge.create(mode=mode)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("truth.wav", "answer.wav")]
        for path, samples in zip(paths, (truth, answer), strict=True):
            write_audio(path, resample(samples[None], sample_rate, rate), rate)
        return float(judge.measure(*map(str, paths)).moslqo)


def _check_pair(answer: Tensor, truth: Tensor) -> None:
    if answer.ndim != 2 or answer.shape != truth.shape:
        raise ValueError(
            f"Got samples of shape {list(answer.shape)} and {list(truth.shape)}; expected equal "
            "shapes [B, N]; cut both to the same length."
        )
