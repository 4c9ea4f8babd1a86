"""The page's spectrogram, against one written with numpy."""

import numpy as np

from tests.lm_audio.app.visit import Visit, needs_browser

pytestmark = needs_browser

RATE, LENGTH, COLUMNS, BANDS = 24_000, 1024, 12, 40


def mel(hertz: float) -> float:
    return 2595 * float(np.log10(1 + hertz / 700))


def naive(samples: np.ndarray) -> np.ndarray:
    """Levels [columns, bands] from 0 to 255 over 80 dB."""
    edges = 700 * (10 ** (np.linspace(0, mel(RATE / 2), BANDS + 2) / 2595) - 1)
    hertz = np.arange(LENGTH // 2) * RATE / LENGTH
    weights = np.zeros((BANDS, LENGTH // 2))
    for band, (low, centre, high) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        rising, falling = (hertz - low) / (centre - low), (high - hertz) / (high - centre)
        weights[band] = np.clip(np.minimum(rising, falling), 0, None)
        if not weights[band].any():
            weights[band, round(centre * LENGTH / RATE)] = 1
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(LENGTH) / LENGTH)
    padded = np.pad(samples, LENGTH)
    power = np.zeros((COLUMNS, BANDS))
    for column in range(COLUMNS):
        first = int((column + 0.5) * len(samples) / COLUMNS) + LENGTH // 2
        spectrum = np.fft.rfft(padded[first : first + LENGTH] * window)[:-1]
        power[column] = weights @ np.abs(spectrum) ** 2
    decibels = 10 * np.log10(power + 1e-20)
    return np.clip(255 * (1 + (decibels - decibels.max()) / 80), 0, 255)


def test_the_spectrogram_is_that_of_numpy(page: Visit) -> None:
    time = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * (200 + 4000 * time) * time)
    noise = np.random.default_rng(0).standard_normal(RATE)
    samples = (3000 * tone + 30 * noise).round().astype(np.int16)
    sound = f"s.Sound.of({RATE}, 1, Int16Array.from({samples.tolist()}))"
    levels = page.call(
        "spectrogram.js",
        f"import('/studio/sound.js').then(s => Array.from(m.spectrogram({sound}, "
        f"{{columns: {COLUMNS}, bands: {BANDS}}}).levels))",
    )
    found = np.array(levels).reshape(COLUMNS, BANDS)
    np.testing.assert_allclose(found, naive(samples / 2**15), atol=1.5)
