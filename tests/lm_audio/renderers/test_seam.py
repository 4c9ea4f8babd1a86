"""Seams, measured: nothing at a seam stands out from what occurs elsewhere in the clip."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from audio_tokenizers.acoustic.frame_codec import load_frame_codec
from lm_audio.data.synthetic import demo_clip
from lm_audio.pretrained import CODEC_FOLDER
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.renderers.seam import FADE_SECONDS, Continuation, burg, continued, inpainted

RATE = 24_000
SECONDS = 3.0
BEFORE, BEHIND = 960, 1440
MEASURES = ("jump", "click", "energy", "flux")
INAUDIBLE = {"jump": 0.0, "click": 0.0, "energy": 1.0, "flux": 0.0}  # dB where it is a level
Array = np.ndarray
Join = Callable[[Array, Array], Array]


def sine(frequency: float) -> Array:
    time = np.arange(int(SECONDS * RATE)) / RATE
    return 0.3 * np.sin(2 * np.pi * frequency * time) + hiss(0.003)


def hiss(level: float, *, seed: int = 0) -> Array:
    return level * np.random.default_rng(seed).standard_normal(int(SECONDS * RATE))


def speech() -> Array:
    """Pulses of a changing pitch through three formants, louder and softer, with some breath."""
    time = np.arange(int(SECONDS * RATE)) / RATE
    pitch = np.cumsum(120 + 20 * np.sin(2 * np.pi * 1.3 * time)) / RATE
    spectrum = np.fft.rfft(np.diff(np.floor(pitch), prepend=0))
    frequency = np.fft.rfftfreq(len(time), 1 / RATE)
    for centre, width in ((600, 90), (1300, 110), (2600, 160)):
        spectrum = spectrum / (centre**2 - frequency**2 + 1j * width * frequency)
    voice = np.fft.irfft(spectrum, len(time))
    loudness = 0.55 + 0.45 * np.sin(2 * np.pi * 3 * time)
    return 0.4 * voice / np.abs(voice).max() * loudness + hiss(0.003)


SIGNALS: dict[str, Callable[[], Array]] = {
    "tone": lambda: sine(440),
    "hum": lambda: sine(100),
    "noise": lambda: hiss(0.1),
    "music": lambda: demo_clip(sample_rate=RATE)[: int(SECONDS * RATE)].astype(np.float64),
    "speech": speech,
}

# Where a tone has nearly no noise, that of the codec is heard to begin, and no short fade hides it.
CHANGED_NOISE = {("tone", "noisy"), ("hum", "noisy"), ("tone", "embedded")}


def filtered(response: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def apply(x: Array) -> Array:
        spectrum = np.fft.rfft(x) * response(np.fft.rfftfreq(len(x), 1 / RATE))
        return np.fft.irfft(spectrum, len(x))

    return apply


def embedded_codec(x: Array) -> Array:
    renderer = CodecRenderer(load_frame_codec(CODEC_FOLDER))
    samples = torch.from_numpy(x).float()[None]
    return renderer.render(renderer.encoder.encode(samples))[0, : len(x)].double().numpy()


CODECS: dict[str, Callable[[Array], Array]] = {
    "phase": filtered(lambda f: np.exp(-0.25j * np.pi + 0 * f)),
    "delay": lambda x: np.roll(x, 6),
    "dull": filtered(lambda f: 1 / (1 + (f / 10_000) ** 8)),
    "noisy": lambda x: x + hiss(0.03 * x.std(), seed=1),
    "soft": lambda x: 0.9 * x,
    "offset": lambda x: x + 0.02,
    "embedded": embedded_codec,
}


def excerpts_at(x: Array, positions: Array) -> Array:
    """x [N] from 40 ms before each position to 60 ms behind it: [positions, 2400]."""
    return np.stack([x[at - BEFORE : at + BEHIND] for at in positions])


def scores(excerpts: Array, predictor: Array) -> dict[str, Array]:
    """What would be heard in the middle of each excerpt, or in the 30 ms of a fade behind it."""
    P = len(predictor)
    near = sliding_window_view(excerpts[:, BEFORE - P - 2 : BEFORE + 3], P + 1, 1)
    frames = excerpts[:, BEFORE - 720 : BEFORE + 960].reshape(len(excerpts), -1, 240)  # 10 ms
    level = 10 * np.log10((frames**2).mean(2) + 1e-7)
    frames = sliding_window_view(excerpts, 480, 1)[:, BEFORE - 600 : BEFORE + 480 : 120]
    spectra = np.log(np.abs(np.fft.rfft(frames * np.hanning(480))) + 1e-2)
    return {
        "jump": np.abs(np.diff(excerpts[:, BEFORE - 2 : BEFORE + 2])).max(1),
        "click": np.abs(near @ np.append(-predictor, 1)).max(1),
        "energy": np.abs(np.diff(level)).max(1),
        "flux": np.abs(np.diff(spectra, axis=1)).mean(2).max(1),
    }


def linear_predictor(x: Array, order: int = 24) -> Array:
    """By least squares: [order], oldest first."""
    windows = sliding_window_view(x[: RATE // 2], order + 1)
    return np.linalg.lstsq(windows[:, :-1], windows[:, -1], rcond=None)[0]


def share_of_outliers(original: Array, rendered: Array, join: Join) -> dict[str, float]:
    """How many seams of 20 are beyond the 99th percentile of other places, by each measure."""
    rng = np.random.default_rng(0)
    predictor = linear_predictor(original)
    places = rng.integers(BEFORE, len(original) - BEHIND, 300)
    usual = [scores(excerpts_at(x, places), predictor) for x in (original, rendered)]
    seams = rng.integers(RATE, 2 * RATE, 20)
    joined = join(excerpts_at(original, seams), excerpts_at(rendered, seams))
    found = scores(joined, predictor)
    shares = {}
    for measure in MEASURES:
        limit = np.quantile(np.concatenate([each[measure] for each in usual]), 0.99)
        shares[measure] = float((found[measure] > max(limit, INAUDIBLE[measure])).mean())
    return shares


def plain_cut(original: Array, rendered: Array) -> Array:
    """Each row [2400] of original samples up to its middle, then of rendered ones."""
    return np.concatenate([original[:, :BEFORE], rendered[:, BEFORE:]], axis=1)


def smooth_seam(original: Array, rendered: Array) -> Array:
    """The same with a smooth seam; rows are channels to it."""
    prompt, sound = torch.from_numpy(original[:, :BEFORE]), torch.from_numpy(rendered)
    return continued(prompt.float(), sound.float(), sample_rate=RATE).double().numpy()


@pytest.fixture(scope="module")
def pairs() -> dict[tuple[str, str], tuple[Array, Array]]:
    """Each signal, and what each codec makes of it."""
    signals = {name: make() for name, make in SIGNALS.items()}
    return {(s, c): (x, CODECS[c](x)) for s, x in signals.items() for c in CODECS}


# The decoder in the package makes low hums rough and quiet, as its model card says.
OTHER_LEVEL = pytest.mark.xfail(reason="the codec gives hums another level", strict=True)


@pytest.mark.parametrize(
    ("signal", "codec"),
    [
        pytest.param(s, c, marks=OTHER_LEVEL if (s, c) == ("hum", "embedded") else ())
        for s in SIGNALS
        for c in CODECS
    ],
)
def test_no_seam_stands_out_from_the_rest_of_the_clip(
    pairs: dict[tuple[str, str], tuple[Array, Array]], signal: str, codec: str
) -> None:
    shares = share_of_outliers(*pairs[signal, codec], smooth_seam)
    if (signal, codec) in CHANGED_NOISE:
        del shares["flux"]
    assert max(shares.values()) <= 0.1, shares  # two of 20; one in 100 is so by definition


@pytest.mark.parametrize("codec", ["phase", "delay", "embedded"])
@pytest.mark.parametrize("signal", ["tone", "hum", "speech"])
def test_a_plain_cut_stands_out(
    pairs: dict[tuple[str, str], tuple[Array, Array]], signal: str, codec: str
) -> None:
    assert share_of_outliers(*pairs[signal, codec], plain_cut)["click"] >= 0.3


def random_clip(num_samples: int, *, channels: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(channels, num_samples, generator=generator)


def test_a_continuation_keeps_the_prompt_and_soon_the_rendered_samples_to_the_bit() -> None:
    prompt, rendered = random_clip(5_000), random_clip(9_000, seed=1)
    clip = continued(prompt, rendered, sample_rate=RATE)
    assert clip.shape == rendered.shape
    assert torch.equal(clip[:, :5_000], prompt)
    faded = 5_000 + round(FADE_SECONDS * RATE)
    assert torch.equal(clip[:, faded:], rendered[:, faded:])
    assert not torch.equal(clip[:, 5_000:faded], rendered[:, 5_000:faded])


def test_a_rendering_without_error_stays_as_it_is() -> None:
    clip = random_clip(9_000)
    assert torch.equal(continued(clip[:, :5_000], clip, sample_rate=RATE), clip)
    assert torch.equal(inpainted(clip, clip, start=2_000, end=5_000, sample_rate=RATE), clip)


@pytest.mark.parametrize("num_samples", [5_000, 500, 2, 1, 0])
def test_however_rendered_samples_come_the_continuation_is_the_same(num_samples: int) -> None:
    prompt, rendered = random_clip(num_samples), random_clip(8_000, seed=1)
    whole = continued(prompt, rendered, sample_rate=RATE)
    assert whole.isfinite().all()
    for step in (1_000, 487, 37):
        stream = Continuation(prompt, RATE)
        parts = [stream.push(part) for part in rendered.split(step, dim=1)]
        streamed = torch.cat([prompt, *parts, stream.finish()], dim=1)
        assert torch.equal(streamed, whole)


def test_samples_at_uneven_places_are_the_same_too() -> None:
    prompt, rendered = random_clip(5_000), random_clip(6_000, seed=1)
    stream = Continuation(prompt, RATE)
    cuts = [0, 0, 1, 4_999, 5_000, 5_001, 5_001, 5_700, 6_000]
    parts = [stream.push(rendered[:, a:b]) for a, b in pairwise(cuts)]
    assert torch.equal(
        torch.cat([prompt, *parts], dim=1), continued(prompt, rendered, sample_rate=RATE)
    )


def test_the_last_part_of_a_prompt_is_enough() -> None:
    prompt, rendered = random_clip(50_000), random_clip(60_000, seed=1)
    new = Continuation(prompt, RATE).push(rendered)
    assert torch.equal(Continuation(prompt[:, -2_000:], RATE).push(rendered[:, 48_000:]), new)


def test_a_rendering_that_ends_within_the_prompt_adds_nothing() -> None:
    stream = Continuation(random_clip(5_000), RATE)
    assert stream.push(random_clip(4_000)).shape == (2, 0)
    assert stream.finish().shape == (2, 0)


def test_without_a_prompt_the_rendered_samples_stay_as_they_are() -> None:
    rendered = random_clip(3_000)
    assert torch.equal(Continuation(rendered[:, :0], RATE).push(rendered), rendered)


def test_inpainting_keeps_all_samples_outside_the_span_to_the_bit() -> None:
    samples, rendered = random_clip(9_000), random_clip(9_000, seed=1)
    filled = inpainted(samples, rendered, start=3_000, end=6_000, sample_rate=RATE)
    assert torch.equal(filled[:, :3_000], samples[:, :3_000])
    assert torch.equal(filled[:, 6_000:], samples[:, 6_000:])
    fade = round(FADE_SECONDS * RATE)
    middle = slice(3_000 + fade, 6_000 - fade)
    assert torch.equal(filled[:, middle], rendered[:, middle])


def test_the_left_seam_of_a_span_is_that_of_a_continuation_and_the_right_one_its_mirror() -> None:
    samples, rendered = random_clip(9_000), random_clip(9_000, seed=1)
    filled = inpainted(samples, rendered, start=3_000, end=6_000, sample_rate=RATE)
    left = continued(samples[:, :3_000], rendered, sample_rate=RATE)
    right = continued(samples[:, 6_000:].flip(1), rendered.flip(1), sample_rate=RATE).flip(1)
    assert torch.equal(filled[:, :4_500], left[:, :4_500])
    assert torch.equal(filled[:, 4_500:], right[:, 4_500:])


@pytest.mark.parametrize(("start", "end"), [(0, 300), (4_000, 4_001), (4_000, 4_300), (0, 9_000)])
def test_spans_may_be_short_or_reach_the_ends(start: int, end: int) -> None:
    samples, rendered = random_clip(9_000), random_clip(9_000, seed=1)
    filled = inpainted(samples, rendered, start=start, end=end, sample_rate=RATE)
    assert filled.shape == samples.shape
    assert filled.isfinite().all()
    assert torch.equal(filled[:, :start], samples[:, :start])
    assert torch.equal(filled[:, end:], samples[:, end:])


@pytest.mark.parametrize("growth", [1.01, 1.1, 2.0])
def test_a_correction_is_never_larger_than_the_error_was(growth: float) -> None:
    error = (0.5 * growth ** torch.arange(-959.0, 1.0))[None]
    rendered = random_clip(2_000, channels=1)
    clip = continued(rendered[:, :960] + error, rendered, sample_rate=RATE)
    assert (clip - rendered)[:, 960:].abs().max() <= 0.5 + 1e-6


def test_the_error_of_a_tone_goes_on_as_that_tone_and_fades() -> None:
    time = torch.arange(4_000, dtype=torch.float64) / RATE
    error = 0.1 * torch.sin(2 * math.pi * 333 * time)[None]
    rendered = torch.zeros(1, 4_000)
    clip = continued(error[:, :2_000].float(), rendered, sample_rate=RATE)
    length = round(FADE_SECONDS * RATE)
    fade = 0.5 + 0.5 * torch.cos(math.pi * (torch.arange(length) + 0.5) / length)
    expected = error[:, 2_000 : 2_000 + length].float() * fade
    torch.testing.assert_close(clip[:, 2_000 : 2_000 + length], expected, rtol=0, atol=2e-3)


def test_the_predictor_of_an_autoregressive_process_has_its_coefficients() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 20_000, generator=generator, dtype=torch.float64)
    for n in range(2, x.shape[1]):
        x[0, n] += 1.6 * x[0, n - 1] - 0.8 * x[0, n - 2]
    expected = torch.tensor([[0.8, -1.6]], dtype=torch.float64)
    torch.testing.assert_close(burg(x, order=2), expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("num_samples", [70, 960])
def test_the_predictor_is_stable(num_samples: int) -> None:
    walk = random_clip(num_samples, channels=8).double().cumsum(1)
    for taps in burg(walk, order=32):
        poles = np.roots([1, *taps.flip(0).tolist()])
        assert np.abs(poles).max() <= 1 + 1e-9


def test_rendered_samples_of_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \[2, N\], got \[1, 50\]"):
        Continuation(random_clip(10), RATE).push(random_clip(50, channels=1))
    with pytest.raises(ValueError, match=r"shape \[2, N\], got \[1, 50\]"):
        inpainted(random_clip(50), random_clip(50, channels=1), start=1, end=2, sample_rate=RATE)


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (5, 5), (6, 5), (0, 101), (0, 91)])
def test_a_span_outside_the_samples_is_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="within 100 samples and 90 rendered ones"):
        inpainted(random_clip(100), random_clip(90), start=start, end=end, sample_rate=RATE)
