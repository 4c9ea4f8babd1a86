"""Mixtures have the ratio and overlap that were drawn; their captions say nothing untrue."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from lm_audio.data.augmentation import (
    Mixture,
    filled,
    join_captions,
    mix,
    mixed_conditions,
    without_silent_ends,
)


def noise(seed: int, num_samples: int, *, num_channels: int = 1, level: float = 0.1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return level * torch.randn(num_channels, num_samples, generator=generator)


def gains(mixture: Mixture, first: Tensor, second: Tensor) -> list[float]:
    """How much of each clip is in the mixture, by least squares over the overlap."""
    begin, end = overlap(mixture)
    parts = [
        clip.expand(len(mixture.samples), -1)[:, begin - start : end - start].flatten()
        for clip, (start, _) in ((first, mixture.first), (second, mixture.second))
    ]
    both = mixture.samples[:, begin:end].flatten()
    solution = torch.linalg.lstsq(torch.stack(parts, dim=1).double(), both[:, None].double())
    return solution.solution[:, 0].tolist()


def overlap(mixture: Mixture) -> tuple[int, int]:
    begins, ends = zip(mixture.first, mixture.second, strict=True)
    return max(begins), min(ends)


def measured_snr(mixture: Mixture, first: Tensor, second: Tensor) -> float:
    begin, end = overlap(mixture)
    powers = [
        (gain * clip.expand(len(mixture.samples), -1)[:, begin - start : end - start])
        .square()
        .sum()
        for gain, clip, (start, _) in zip(
            gains(mixture, first, second),
            (first, second),
            (mixture.first, mixture.second),
            strict=True,
        )
    ]
    return 10 * torch.log10(powers[0] / powers[1]).item()


@pytest.mark.parametrize("lengths", [(8_000, 8_000), (8_000, 3_000), (3_000, 8_001)])
@pytest.mark.parametrize("level", [0.001, 0.9])
def test_the_ratio_in_the_overlap_is_the_one_drawn(lengths: tuple[int, int], level: float) -> None:
    first, second = noise(0, lengths[0], level=level), noise(1, lengths[1])
    ratios, offsets = [], set()
    for number in range(40):
        mixture = mix(first, second, rng=np.random.default_rng([7, number]))
        assert measured_snr(mixture, first, second) == pytest.approx(mixture.snr, abs=1e-3)
        begin, end = overlap(mixture)
        assert end - begin >= min(lengths) // 2
        assert min(mixture.first[0], mixture.second[0]) == 0
        assert mixture.samples.shape == (1, max(mixture.first[1], mixture.second[1]))
        assert mixture.samples.abs().max() <= 0.99 + 1e-6
        ratios.append(mixture.snr)
        offsets.add(mixture.second[0] - mixture.first[0])
    assert min(ratios) < -4 < 4 < max(ratios)
    assert all(-5 <= ratio <= 5 for ratio in ratios)
    assert len(offsets) > 30


def test_what_is_not_in_the_overlap_stays_as_it_was() -> None:
    first, second = noise(0, 1_000), noise(1, 1_000)
    for number in range(20):
        mixture = mix(first, second, rng=np.random.default_rng(number))
        begin, end = mixture.first
        alone = slice(0, mixture.second[0]) if begin == 0 else slice(mixture.second[1], end)
        torch.testing.assert_close(
            mixture.samples[:, alone], first[:, alone.start - begin : alone.stop - begin]
        )


def test_the_ratio_of_clips_with_channels_is_that_of_all_of_them() -> None:
    mono, stereo = noise(0, 4_000), noise(1, 4_000, num_channels=2)
    stereo[1] *= 3
    mixture = mix(mono, stereo, rng=np.random.default_rng(0))
    assert mixture.samples.shape[0] == 2
    assert measured_snr(mixture, mono, stereo) == pytest.approx(mixture.snr, abs=1e-3)
    assert mix(stereo, mono, rng=np.random.default_rng(0)).samples.shape[0] == 2


def test_a_mixture_is_no_longer_than_it_may_be() -> None:
    first, second = noise(0, 1_000), noise(1, 700)
    longest = 0
    for number in range(50):
        mixture = mix(first, second, rng=np.random.default_rng(number), max_samples=1_100)
        longest = max(longest, mixture.samples.shape[1])
    assert 1_050 < longest <= 1_100
    exact = mix(first, first, rng=np.random.default_rng(0), max_samples=1_000)
    assert exact.first == exact.second == (0, 1_000)


def test_silence_is_not_raised_to_the_level_of_sound() -> None:
    bark = noise(0, 1_000)
    bark[:, 200:] *= 1e-4  # a bark, then the noise of the room
    other = noise(1, 1_000)
    for number in range(50):
        mixture = mix(other, bark, rng=np.random.default_rng(number))
        gain, bark_gain = gains(mixture, other, bark)
        assert bark_gain / gain < 10  # to raise the noise to the other's level takes 10,000
    silent = mix(torch.zeros(1, 100), noise(0, 100), rng=np.random.default_rng(0))
    assert torch.isfinite(silent.samples).all()
    assert silent.samples.abs().max() > 0


def mixture_of(first: tuple[int, int], second: tuple[int, int], snr: float) -> Mixture:
    num_samples = max(first[1], second[1])
    return Mixture(samples=torch.zeros(1, num_samples), snr=snr, first=first, second=second)


@pytest.mark.parametrize(
    ("first", "second", "snr", "told"),
    [
        ((0, 100), (0, 100), 0.0, set()),
        ((0, 100), (0, 100), 4.0, {"A dog barks with rain in the background"}),
        ((0, 100), (0, 100), -4.0, {"Rain with a dog barks in the background"}),
        ((0, 80), (40, 120), 0.0, {"A dog barks followed by rain", "A dog barks, then rain"}),
        ((40, 120), (0, 80), 0.0, {"Rain followed by a dog barks", "Rain, then a dog barks"}),
        ((0, 120), (60, 100), 0.0, set()),  # the second begins later and ends earlier
    ],
)
def test_captions_say_what_is_true(
    first: tuple[int, int], second: tuple[int, int], snr: float, told: set[str]
) -> None:
    mixture = mixture_of(first, second, snr)
    captions = {
        join_captions("A dog barks.", "Rain", mixture, rng=np.random.default_rng(n))
        for n in range(200)
    }
    always = {
        "A dog barks and rain",
        "A dog barks, rain",
        "A dog barks together with rain",
        "Rain and a dog barks",
        "Rain, a dog barks",
        "Rain together with a dog barks",
    }
    assert captions == always | told


def test_names_keep_their_capitals_in_joined_captions() -> None:
    mixture = mixture_of((0, 9), (0, 9), 0.0)
    captions = [
        join_captions("TV noise", "I sing", mixture, rng=np.random.default_rng(n)) for n in range(9)
    ]
    assert all("TV noise" in caption and "I sing" in caption for caption in captions)


def test_a_mixture_has_captions_and_no_other_condition() -> None:
    mixture = mixture_of((0, 9), (0, 9), 0.0)
    dog = {"text": ["a dog barks", "barking"], "label": "dog", "tempo": 92.0}
    rng = np.random.default_rng(0)
    mixed = mixed_conditions(dog, {"text": "rain"}, mixture, rng=rng, num_captions=8)
    assert mixed.keys() == {"text"}
    texts = mixed["text"]
    assert isinstance(texts, list)
    assert 2 < len(set(texts)) == len(texts) <= 8
    assert all("rain" in text and "bark" in text for text in texts)
    assert mixed_conditions(dog, {"label": "rain"}, mixture, rng=rng) == {}


def test_mistakes_are_told() -> None:
    rng = np.random.default_rng(0)
    two, three = noise(0, 100, num_channels=2), noise(0, 100, num_channels=3)
    with pytest.raises(ValueError, match=r"must have equally many channels, .* got 2 and 3"):
        mix(two, three, rng=rng)
    with pytest.raises(ValueError, match=r"Cannot mix a clip without samples"):
        mix(two, two[:, :0], rng=rng)
    with pytest.raises(ValueError, match=r"min_overlap must be above 0 and at most 1, got 0"):
        mix(two, two, rng=rng, min_overlap=0)
    with pytest.raises(ValueError, match=r"have 100 and 100 samples, but max_samples is 99"):
        mix(two, two, rng=rng, max_samples=99)


def between_silences(*seconds: float, level: float = 0.1) -> Tensor:
    """Silence, sound, silence, each so long, at 1000 Hz."""
    first, sound, last = (round(1000 * each) for each in seconds)
    signs = level * noise(0, sound).sign()
    return torch.cat([torch.zeros(1, first), signs, torch.zeros(1, last)], dim=1)


@pytest.mark.parametrize("level", [1.0, 1e-3])
def test_silent_ends_become_half_a_pause(level: float) -> None:
    clip = between_silences(2.0, 0.7, 1.0, level=level)
    assert torch.equal(without_silent_ends(clip, 1000), clip[:, 2000 - 150 : 2700 + 150])
    short = between_silences(0.1, 0.5, 0.0)
    assert torch.equal(without_silent_ends(short, 1000), short)
    silent = torch.zeros(1, 500)
    assert torch.equal(without_silent_ends(silent, 1000), silent)


def test_a_clip_that_ends_in_silence_is_heard_again_and_again() -> None:
    clip = between_silences(0.15, 0.7, 2.15)
    sound = clip[:, :1000]  # with half a pause at each end
    again = filled(clip, 1000, seconds=5.0, rng=np.random.default_rng(0))
    assert again.shape == (1, 5000)
    assert torch.equal(again[:, :1000], sound)
    matches = (again[0].unfold(0, 1000, 1) == sound[0]).all(dim=1).nonzero()[:, 0].tolist()
    assert len(matches) >= 3
    pauses = [b - a - 1000 for a, b in itertools.pairwise(matches)]
    assert all(0 <= pause <= 600 for pause in pauses)
    assert len(set(pauses)) > 1
    longer = filled(
        between_silences(0.15, 0.7, 7.15), 1000, seconds=5.0, rng=np.random.default_rng(0)
    )
    assert longer.shape == (1, 8000)
    assert longer[:, -2000:].any()


def test_a_clip_without_silence_to_cut_off_stays_as_it_is() -> None:
    clip = between_silences(0.3, 2.0, 0.3)
    assert filled(clip, 1000, seconds=5.0, rng=np.random.default_rng(0)) is clip
