"""A codec on real clips: reconstruction quality, bit rate and codebook usage.

Shapes: C channels, N samples, K codebooks, T frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.protocol import AcousticTokenizer
from lm_audio.evaluation.clips import ClipFile, write_clips
from lm_audio.evaluation.metrics.codebooks import bitrate, count_tokens
from lm_audio.evaluation.report import Better, Measurement, mean_of, missing
from measuring.signal_quality import mel_distance, pesq, si_sdr, stoi, visqol


@dataclass(frozen=True, kw_only=True)
class SignalMetric:
    """A metric of a reconstruction [N] and the original [N]; `measure` returns None if undefined.

    Args:
        package: a package that it requires.
        reason: why it is not measured, or empty.
    """

    name: str
    implementation: str
    measure: Callable[[Tensor, Tensor], float | None]
    better: Better = "higher"
    package: str = ""
    reason: str = ""


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
    """Encodes and decodes clips; returns the written reconstructions and the tokens [K, T]."""
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
    """Compares reconstructions with their originals, in mono at the codec's sample rate.

    Args:
        speech: whether the clips are speech; PESQ and STOI require it.
    """
    metrics = signal_metrics(sample_rate, speech=speech, visqol_mode=visqol_mode)
    reasons = {metric.name: metric.reason or _lacks(metric.package) for metric in metrics}
    available = [metric for metric in metrics if not reasons[metric.name]]
    scores: dict[str, list[float | None]] = {metric.name: [] for metric in available}
    for clips in pairs:
        answer, truth = _aligned(*clips, sample_rate=sample_rate)
        for metric in available:
            scores[metric.name].append(metric.measure(answer, truth))
    return [
        *(_mean_of_known(metric, scores[metric.name]) for metric in available),
        *(missing(name, reason=reason) for name, reason in reasons.items() if reason),
    ]


def signal_metrics(
    sample_rate: int, *, speech: bool, visqol_mode: Literal["audio", "speech"] | None
) -> list[SignalMetric]:
    """All signal metrics; those that are not requested carry the reason."""
    not_speech = "" if speech else "only for speech; pass --speech"
    no_visqol = "" if visqol_mode else "not requested; pass --visqol audio or speech"
    return [
        SignalMetric(
            name="SI-SDR (dB)",
            implementation="torchmetrics scale_invariant_signal_distortion_ratio",
            measure=lambda answer, truth: float(si_sdr(answer[None], truth[None])),
        ),
        SignalMetric(
            name="mel distance",
            implementation="our own: mean |difference| of natural-log mels, 80 bands, 1024/256",
            measure=lambda answer, truth: float(
                mel_distance(answer[None], truth[None], sample_rate=sample_rate)
            ),
            better="lower",
        ),
        SignalMetric(
            name="PESQ",
            implementation="pesq, wide band",
            measure=partial(pesq, sample_rate=sample_rate),
            package="pesq",
            reason=not_speech,
        ),
        SignalMetric(
            name="STOI",
            implementation="pystoi",
            measure=partial(stoi, sample_rate=sample_rate),
            package="pystoi",
            reason=not_speech,
        ),
        SignalMetric(
            name="ViSQOL",
            implementation=f"visqol-python, mode {visqol_mode}",
            measure=partial(visqol, sample_rate=sample_rate, mode=visqol_mode or "audio"),
            package="visqol",
            reason=no_visqol,
        ),
    ]


def _lacks(package: str) -> str:
    return f"the package {package} is not installed" if package and not find_spec(package) else ""


def _aligned(answer: ClipFile, truth: ClipFile, *, sample_rate: int) -> tuple[Tensor, Tensor]:
    """Both in mono [N], cut to the same length."""
    pair = [clip.audio(sample_rate).samples[0] for clip in (answer, truth)]
    N = min(len(samples) for samples in pair)
    return pair[0][:N], pair[1][:N]


def _mean_of_known(metric: SignalMetric, values: Sequence[float | None]) -> Measurement:
    known = [value for value in values if value is not None]
    left_out = len(values) - len(known)
    return mean_of(
        known,
        metric=metric.name,
        implementation=metric.implementation,
        better=metric.better,
        note=f"without {left_out} clips that have no speech" if left_out else "",
    )


def measure_codebooks(
    codec: AcousticTokenizer, tokens: Sequence[Tensor], *, num_codebooks: int
) -> list[Measurement]:
    """The bit rate and codebook usage of tokens [K, T]."""
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
