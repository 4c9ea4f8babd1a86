"""Augmentation: mixes two clips and their captions, joins clips, trims silent ends.

Mixing follows AudioGen (arXiv 2209.15352): overlapping clips at a signal-to-noise ratio drawn
uniformly from -5 to 5 dB teach a model scenes without recordings.

Randomness comes from the given generator, `np.random.default_rng([seed, number])` for the example
of that number, so that examples are independent. Shapes: C channels, N samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PAUSE = 0.3  # seconds
SILENCE = 10 ** (-45 / 20)  # of the peak
WORTH_CUTTING = 0.5  # seconds
PEAK = 0.99
# In the overlap, the power of a clip counts as at least this share of its total: otherwise the
# noise after a bark would be raised to the level of the other clip, and the bark with it.
LOWEST_SHARE = 0.5
# Clips are sequential if their starts are this share of the mixture apart and they end in order.
APART = 0.25
BACKGROUND_DB = 2.0


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Two clips as one.

    Args:
        samples: [C, N], peak at most 0.99.
        snr: the level of the first clip relative to the second, in dB.
        first: the range of samples of the first clip.
        second: the range of the second clip; one of the two starts at 0.
    """

    samples: Tensor
    snr: float
    first: tuple[int, int]
    second: tuple[int, int]


def mix(
    first: Tensor,
    second: Tensor,
    *,
    rng: np.random.Generator,
    snr: tuple[float, float] = (-5.0, 5.0),
    min_overlap: float = 0.5,
    max_samples: int | None = None,
) -> Mixture:
    """Mixes two clips [C, N], of one rate; their lengths may differ, and one may be mono.

    The ratio is that of their powers in the overlap, unless one is nearly silent there.

    Args:
        snr: the range of the ratio, in dB.
        min_overlap: the minimum overlap, as a share of the shorter clip.
        max_samples: the maximum length, at least that of each clip; None for no limit.
    """
    first, second = _same_channels(first, second)
    lengths = first.shape[1], second.shape[1]
    if not 0 < min_overlap <= 1:
        raise ValueError(f"min_overlap must be above 0 and at most 1, got {min_overlap}.")
    if max_samples is not None and max_samples < max(lengths):
        raise ValueError(
            f"The clips have {lengths[0]} and {lengths[1]} samples, but max_samples is "
            f"{max_samples}. Crop the clips first."
        )
    overlap = max(1, round(min_overlap * min(lengths)))
    earliest, latest = overlap - lengths[1], lengths[0] - overlap
    if max_samples is not None:
        earliest, latest = (
            max(earliest, lengths[0] - max_samples),
            min(latest, max_samples - lengths[1]),
        )
    offset = int(rng.integers(earliest, latest + 1))  # of the second from the first
    ratio = float(rng.uniform(*snr))

    begin, end = max(0, offset), min(lengths[0], offset + lengths[1])
    powers = [
        max(_power(part), LOWEST_SHARE * _power(whole))
        for part, whole in (
            (first[:, begin:end], first),
            (second[:, begin - offset : end - offset], second),
        )
    ]
    gain = (powers[0] / powers[1]) ** 0.5 * 10 ** (-ratio / 20) if min(powers) > 0 else 1.0
    at_first, at_second = max(0, -offset), max(0, offset)
    num_samples = max(at_first + lengths[0], at_second + lengths[1])
    samples = F.pad(first, (at_first, num_samples - at_first - lengths[0]))
    samples = samples + gain * F.pad(second, (at_second, num_samples - at_second - lengths[1]))
    return Mixture(
        samples=peak_safe(samples),
        snr=ratio,
        first=(at_first, at_first + lengths[0]),
        second=(at_second, at_second + lengths[1]),
    )


def mixed_conditions(
    first: Mapping[str, str | float | list[str]],
    second: Mapping[str, str | float | list[str]],
    mixture: Mixture,
    *,
    rng: np.random.Generator,
    num_captions: int = 4,
) -> dict[str, str | float | list[str]]:
    """The conditions of a mixture: captions of both clips joined in several ways, if both have any.

    Other conditions do not apply: a mixture has no single label, speaker or tempo.
    """
    texts = [_texts(conditions.get("text")) for conditions in (first, second)]
    if not all(texts):
        return {}
    joined = []
    for _ in range(num_captions):
        one, other = (captions[int(rng.integers(len(captions)))] for captions in texts)
        joined.append(join_captions(one, other, mixture, rng=rng))
    return {"text": list(dict.fromkeys(joined))}


def passage_conditions(
    parts: Sequence[Mapping[str, str | float | list[str]]],
) -> dict[str, str | float | list[str]]:
    """The conditions of joined clips: their common values, and their captions.

    Transcripts, and captions that quote them, are omitted.
    """
    first, *others = parts
    common = {
        key: value
        for key, value in first.items()
        if key not in ("text", "transcript") and all(other.get(key) == value for other in others)
    }
    captions = dict.fromkeys(
        caption
        for conditions in parts
        for caption in _texts(conditions.get("text"))
        if "transcript" not in conditions or str(conditions["transcript"]) not in caption
    )
    return {"text": list(captions), **common} if captions else common


def without_silent_ends(samples: Tensor, sample_rate: int) -> Tensor:
    """Trims silence at both ends of a clip [C, N] to half a short pause."""
    levels = samples.abs().amax(dim=0)
    loud = (levels > SILENCE * levels.max()).nonzero()[:, 0]
    if not len(loud):
        return samples
    kept = round(PAUSE / 2 * sample_rate)
    return samples[:, max(0, int(loud[0]) - kept) : int(loud[-1]) + 1 + kept]


def filled(
    samples: Tensor, sample_rate: int, *, seconds: float, rng: np.random.Generator
) -> Tensor:
    """Repeats the sound of a clip [C, N] in place of trailing silence, up to a minimum length.

    A clip without silence to trim is unchanged, because its repetition would start with a jump.
    """
    sound = without_silent_ends(samples, sample_rate)
    length = max(samples.shape[1], round(seconds * sample_rate))
    if samples.shape[1] - sound.shape[1] < WORTH_CUTTING * sample_rate:
        return samples
    parts = [sound]
    while sum(part.shape[1] for part in parts) < length:
        pause = round(rng.uniform(0, 2 * PAUSE) * sample_rate)
        parts += [torch.zeros(len(samples), pause), sound]
    return torch.cat(parts, dim=1)[:, :length]


def join_captions(first: str, second: str, mixture: Mixture, *, rng: np.random.Generator) -> str:
    """One caption for both clips, with a random wording that is true of the mixture."""
    first, second = (caption.strip().rstrip(".") for caption in (first, second))
    pair, reverse = (first, second), (second, first)
    either = pair if rng.integers(2) else reverse
    wordings = [(wording, either) for wording in ("{} and {}", "{}, {}", "{} together with {}")]
    if abs(mixture.snr) >= BACKGROUND_DB:
        wordings.append(("{} with {} in the background", pair if mixture.snr > 0 else reverse))
    distance = APART * mixture.samples.shape[1]
    begin, end = (b - a for a, b in zip(mixture.first, mixture.second, strict=True))
    if min(abs(begin), abs(end)) >= distance and begin * end > 0:
        in_order = pair if begin > 0 else reverse
        wordings += [("{} followed by {}", in_order), ("{}, then {}", in_order)]
    wording, (before, after) = wordings[int(rng.integers(len(wordings)))]
    return wording.format(before, _uncapitalised(after))


def peak_safe(samples: Tensor) -> Tensor:
    """Samples of any shape, attenuated to a peak of at most 0.99."""
    peak = samples.abs().max().item() if samples.numel() else 0.0
    return samples * (PEAK / peak) if peak > PEAK else samples


def _same_channels(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    counts = [len(first), len(second)]
    if counts[0] != counts[1] and 1 not in counts:
        raise ValueError(
            f"Clips must have equally many channels, or one must be mono, got {counts[0]} and "
            f"{counts[1]}."
        )
    if not (first.shape[1] and second.shape[1]):
        raise ValueError("Cannot mix a clip without samples.")
    return first.expand(max(counts), -1), second.expand(max(counts), -1)


def _power(samples: Tensor) -> float:
    return samples.double().square().mean().item()


def _texts(value: str | float | list[str] | None) -> list[str]:
    if value is None:
        return []
    return value if isinstance(value, list) else [str(value)]


def _uncapitalised(caption: str) -> str:
    """A caption within a sentence: "A dog" as "a dog", but "TV noise" and "I sing" as they are."""
    word = caption.split(" ", 1)[0]
    is_name = word == "I" or word[1:] != word[1:].lower()
    return caption if is_name else caption[:1].lower() + caption[1:]
