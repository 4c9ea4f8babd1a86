"""Measures loudness and peaks of a model's clips, and the seams of its continuations.

    python recipes/default_model/check_levels.py
    python recipes/default_model/check_levels.py --prompts rain.wav hum.wav --clips-per-kind 2

Makes clips of each kind of sound that the model knows and reads them back from 16-bit files:
integrated loudness by pyloudnorm, true peaks by resampling to eight times the rate. Streams must
equal whole clips to the bit, and continuations must leave the samples of their prompt alone.
About 15 minutes on two CPU cores. Needs the extra eval.
"""

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyloudnorm
import torch
from numpy.typing import NDArray
from scipy.signal import resample_poly
from tqdm import tqdm

import lm_audio
from audio_tokenizers.audio_files import read_audio
from lm_audio.cli.recipe import run_recipe
from lm_audio.clip import Clip
from lm_audio.pipeline import AudioPipeline
from lm_audio.renderers.limiter import CEILING, Limiter
from lm_audio.renderers.loudness import DEEPEST, TARGET

Samples = NDArray[np.float32]
SILENCE = -46.0  # LUFS; quieter clips count as silence
BATCH = 16
STEP_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Config:
    model: str | None = None
    """Model name or folder; the model in the package by default."""
    kinds: tuple[str, ...] = ()
    """Prompts of clips; the kinds that the model knows by default."""
    clips_per_kind: int = 8
    """Clips per prompt, with seeds 0, 1, ..."""
    seconds: float = 5.0
    """Duration of a clip."""
    prompts: tuple[Path, ...] = ()
    """Audio files to continue; their first 3 s are the prompt."""
    continuations: int = 4
    """Continuations per audio file."""


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Of one clip as saved: LUFS, and dBTP; and the loudness as the model made it.

    Args:
        reachable: LUFS where the limiter reduces the highest peak as far as it may.
    """

    loudness: float
    peak: float
    raw_loudness: float
    reachable: float


def main(config: Config) -> list[Levels]:
    model = lm_audio.load(config.model)
    known = model.card.known
    kinds = config.kinds or (known.first_examples if known is not None else ("",))
    found = list(measure_clips(model, kinds, config)) if config.clips_per_kind else []
    if found:
        report(found)
    for path in config.prompts:
        print(f"{path.name}: {measure_seams(model, path, config)}", flush=True)
    return found


def measure_clips(model: AudioPipeline, kinds: Sequence[str], config: Config) -> Iterator[Levels]:
    pairs = [(kind, seed) for kind in kinds for seed in range(config.clips_per_kind)]
    for start in tqdm(range(0, len(pairs), BATCH), desc="clips", unit="batch"):
        prompts, seeds = zip(*pairs[start : start + BATCH], strict=True)
        made, raw = (
            model.generate(list(prompts), duration=config.seconds, seed=list(seeds), raw=raw)
            for raw in (False, True)
        )
        streamed = model.stream(prompts[0], duration=config.seconds, seed=seeds[0])
        if not torch.equal(torch.cat(list(streamed), dim=1), made[0].samples):
            raise RuntimeError(f"The stream of {prompts[0]!r}, seed {seeds[0]}, differs.")
        for clip, unlevelled in zip(made, raw, strict=True):
            samples, rate = saved(clip), clip.sample_rate
            yield Levels(
                loudness=loudness(samples, rate),
                peak=true_peak(samples),
                raw_loudness=loudness(unlevelled.samples.numpy(), rate),
                reachable=reachable_loudness(unlevelled.samples, rate),
            )


def report(found: Sequence[Levels]) -> None:
    audible = [one for one in found if one.raw_loudness > SILENCE]
    errors = np.array([one.loudness - TARGET for one in audible])
    peaks = np.array([one.peak for one in found])
    ceiling = 20 * math.log10(CEILING)
    low, middle, high = np.quantile(errors, [0.05, 0.5, 0.95])
    print(
        f"{len(found)} clips: {int((peaks > ceiling).sum())} with true peaks above {ceiling:.0f} "
        f"dBTP (highest {peaks.max():.2f}).\n{len(audible)} of them are louder than {SILENCE} LUFS "
        f"as made: {int((np.abs(errors) <= 2).sum())} within 2 LU of {TARGET} LUFS; 5 %, 50 % and "
        f"95 % of the errors: {low:+.2f}, {middle:+.2f}, {high:+.2f} LU."
    )
    outside = [one for one in audible if abs(one.loudness - TARGET) > 2]
    limited = [one for one in outside if one.reachable < TARGET - 2]
    print(
        f"{len(outside)} outside, {len(limited)} of them because of their peaks: with "
        f"{DEEPEST:.0f} dB of limiting they reach {_span([one.reachable for one in limited])} LUFS."
    )


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f}" if values else "-"


def reachable_loudness(samples: torch.Tensor, rate: int) -> float:
    """LUFS of samples [C, N] at the gain at which the limiter reduces their highest peak as far as
    it may."""
    highest = max(float(samples.abs().max()), 1e-9)
    limiter = Limiter(rate, num_channels=len(samples))
    loud = samples * (CEILING * 10 ** (DEEPEST / 20) / highest)
    limited = torch.cat([limiter.push(loud), limiter.finish()], dim=1)
    return loudness(limited.numpy(), rate)


def measure_seams(model: AudioPipeline, path: Path, config: Config) -> str:
    """Whether files keep the prompt's samples, and how the level steps at the seam, in dB."""
    audio = read_audio(path, sample_rate=model.sample_rate, num_channels=model.num_channels)
    prompt = audio.samples[:, : 3 * model.sample_rate]
    prompt = (prompt * 32768).round().clamp(-32768, 32767) / 32768
    count = config.continuations
    clips = model.continue_from(
        [(prompt, model.sample_rate)] * count, duration=2.0, seed=list(range(count))
    )
    N, near = prompt.shape[1], round(STEP_SECONDS * model.sample_rate)
    kept = sum(np.array_equal(saved(clip)[:, :N], prompt.numpy()) for clip in clips)
    steps = [
        power(clip.samples[:, N : N + near]) - power(clip.samples[:, N - near : N])
        for clip in clips
    ]
    return f"{kept} of {count} prompts kept; steps " + ", ".join(f"{x:+.1f}" for x in steps)


def saved(clip: Clip) -> Samples:
    """The samples [C, N] of a clip as they are in its file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.wav"
        clip.save(path)
        return read_audio(path).samples.numpy()


def loudness(samples: Samples, rate: int) -> float:
    meter = pyloudnorm.Meter(rate, filter_class="DeMan")
    return float(meter.integrated_loudness(samples.T.astype(np.float64)))


def true_peak(samples: Samples) -> float:
    padded = np.pad(samples.astype(np.float64), ((0, 0), (64, 64)))
    return 20 * math.log10(max(float(np.abs(resample_poly(padded, 8, 1, axis=1)).max()), 1e-9))


def power(samples: torch.Tensor) -> float:
    return float(10 * samples.square().mean().clamp(min=1e-12).log10())


if __name__ == "__main__":
    run_recipe(main, Config, description=__doc__)
