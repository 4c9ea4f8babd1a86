"""A codec on real clips: what comes back, at which rate, and how the codebooks are used.

Shapes: C channels, N samples, K codebooks, T frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.protocol import AcousticTokenizer
from lm_audio.evaluation.clips import ClipFile, write_clips
from lm_audio.evaluation.codebooks import bitrate, count_tokens
from lm_audio.evaluation.report import Measurement, mean_of, missing
from lm_audio.evaluation.signals import mel_distance, pesq, si_sdr, stoi, visqol


@torch.inference_mode()
def reconstruct(
    codec: AcousticTokenizer,
    clips: Sequence[ClipFile],
    folder: Path,
    *,
    num_codebooks: int,
    device: str = "cpu",
    progress: Callable[[], object] = lambda: None,
) -> tuple[list[ClipFile], list[Tensor]]:
    """Writes clips as the codec gives them back; returns them, and their tokens [K, T]."""
    made, tokens = [], []
    for clip in clips:
        audio = clip.audio(codec.sample_rate, num_channels=codec.num_channels)
        samples = audio.samples[None].to(device)
        coded = codec.encode(samples, num_codebooks=num_codebooks)
        answer = codec.decode(coded, num_samples=samples.shape[2], gains=codec.gains(samples))
        path = folder / f"{clip.name}.wav"
        write_audio(path, answer[0].cpu().float(), codec.sample_rate)
        made.append(replace(clip, path=path, start=0.0, duration=None))
        tokens.append(coded[0].cpu())
        progress()
    write_clips(folder, made)
    return made, tokens


def measure_signals(
    pairs: Sequence[tuple[ClipFile, ClipFile]],
    *,
    sample_rate: int,
    speech: bool,
    visqol_mode: Literal["audio", "speech"] | None = None,
) -> list[Measurement]:
    """Reconstructions against their originals, in mono at the rate of the codec.

    Args:
        speech: whether the clips are speech, which PESQ and STOI judge.
    """
    if not pairs:
        return [missing("signals", reason="no clips")]
    signals = [_aligned(answer, truth, sample_rate) for answer, truth in pairs]
    ratios = [float(si_sdr(*pair)) for pair in signals]
    distances = [float(mel_distance(*pair, sample_rate=sample_rate)) for pair in signals]
    found = [
        mean_of(
            ratios,
            metric="SI-SDR (dB)",
            implementation="torchmetrics scale_invariant_signal_distortion_ratio",
            better="higher",
        ),
        mean_of(
            distances,
            metric="mel distance",
            implementation="our own: mean |difference| of natural-log mels, 80 bands, 1024/256",
            better="lower",
        ),
    ]
    if speech:
        found += _speech_quality(signals, sample_rate)
    else:
        reason = "the clips are not said to be speech; give --speech"
        found += [missing(metric, reason=reason) for metric in ("PESQ", "STOI")]
    if visqol_mode is None:
        reason = "it was not asked for; give --visqol audio or --visqol speech"
        return [*found, missing("ViSQOL", reason=reason)]
    scores = [visqol(a[0], b[0], sample_rate=sample_rate, mode=visqol_mode) for a, b in signals]
    implementation = f"visqol-python, mode {visqol_mode}"
    return [
        *found,
        mean_of(scores, metric="ViSQOL", implementation=implementation, better="higher"),
    ]


def _aligned(answer: ClipFile, truth: ClipFile, sample_rate: int) -> tuple[Tensor, Tensor]:
    """Both in mono, [1, N], of one length."""
    pair = [clip.audio(sample_rate).samples for clip in (answer, truth)]
    N = min(samples.shape[1] for samples in pair)
    return pair[0][:, :N], pair[1][:, :N]


def _speech_quality(
    signals: Sequence[tuple[Tensor, Tensor]], sample_rate: int
) -> list[Measurement]:
    scores = [pesq(a[0], b[0], sample_rate=sample_rate) for a, b in signals]
    known = [score for score in scores if score is not None]
    left_out = len(scores) - len(known)
    return [
        mean_of(
            known,
            metric="PESQ",
            implementation="pesq, wide band",
            better="higher",
            note=f"{left_out} clips without an utterance are left out" if left_out else "",
        ),
        mean_of(
            [stoi(a[0], b[0], sample_rate=sample_rate) for a, b in signals],
            metric="STOI",
            implementation="pystoi",
            better="higher",
        ),
    ]


def measure_codebooks(
    codec: AcousticTokenizer, tokens: Sequence[Tensor], *, num_codebooks: int
) -> list[Measurement]:
    """Rate and use of the codebooks that made tokens [K, T]."""
    if not tokens:
        return [missing("bit rate (kb/s)", reason="no clips")]
    use = count_tokens(tokens, codebook_size=codec.codebook_size)
    rate = bitrate(
        frame_rate=codec.frame_rate,
        num_codebooks=num_codebooks,
        codebook_size=codec.codebook_size,
    )
    total = int(use.counts[0].sum())
    values = {
        "bit rate (kb/s)": rate / 1000,
        "bit rate after entropy coding (kb/s)": codec.frame_rate * float(use.entropy.sum()) / 1000,
        "codebook use, mean": float(use.used_share.mean()),
        "codebook use, least": float(use.used_share.min()),
        "codebook perplexity, mean": float(use.perplexity.mean()),
        "codebook perplexity, least": float(use.perplexity.min()),
    }
    return [
        Measurement(
            metric=metric,
            implementation=f"closed form; {num_codebooks} codebooks of {codec.codebook_size}",
            value=value,
            num_items=total,
            better="lower" if metric.startswith("bit rate") else "higher",
        )
        for metric, value in values.items()
    ]
