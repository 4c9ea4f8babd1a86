"""Building blocks of synthetic sounds: envelopes, noises, tones, resonators. All are [N], float64.

No content is generated above the Nyquist frequency, so every sample rate works.
"""

from collections.abc import Callable, Iterable

import numpy as np

Gain = Callable[[np.ndarray], np.ndarray]  # frequencies in Hz -> factors


def num_samples(seconds: float, sample_rate: int) -> int:
    return max(1, round(seconds * sample_rate))


def times(seconds: float, sample_rate: int) -> np.ndarray:
    return np.arange(num_samples(seconds, sample_rate)) / sample_rate


def add(mix: np.ndarray, sound: np.ndarray, *, at: int) -> None:
    """Adds a sound in place; samples outside the mix are dropped."""
    begin, end = max(0, at), min(len(mix), at + len(sound))
    if begin < end:
        mix[begin:end] += sound[begin - at : end - at]


def filtered(samples: np.ndarray, gain: Gain, *, sample_rate: int) -> np.ndarray:
    """The same length, each frequency multiplied by its gain, without any delay."""
    length = len(samples)
    size = 1 << (2 * length - 1).bit_length()
    spectrum = np.fft.rfft(samples, size)
    spectrum *= gain(np.fft.rfftfreq(size, 1 / sample_rate))
    return np.fft.irfft(spectrum, size)[:length]


def convolved(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """The samples through a causal response, cut to their own length."""
    length = len(samples)
    response = response[:length]
    size = 1 << (length + len(response) - 1).bit_length()
    return np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)[:length]


def band(low: float, high: float, *, order: int = 2) -> Gain:
    """Passes what lies between two frequencies, with slopes of 6 dB per octave and order."""

    def gain(frequencies: np.ndarray) -> np.ndarray:
        f = np.maximum(frequencies, 1e-3)
        return 1 / np.sqrt((1 + (low / f) ** (2 * order)) * (1 + (f / high) ** (2 * order)))

    return gain


def resonances(
    centres: Iterable[float], widths: Iterable[float], gains: Iterable[float], *, floor: float = 0.0
) -> Gain:
    """Peaks as of formants, `widths` in Hz, upon a floor."""
    peaks = list(zip(centres, widths, gains, strict=True))

    def gain(frequencies: np.ndarray) -> np.ndarray:
        total = np.full_like(frequencies, floor)
        for centre, width, height in peaks:
            total += height / (1 + ((frequencies - centre) / (width / 2)) ** 2)
        return total

    return gain


def noise(seconds: float, gain: Gain, *, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Noise with a spectrum, of standard deviation 1."""
    white = rng.standard_normal(num_samples(seconds, sample_rate))
    sound = filtered(white, gain, sample_rate=sample_rate)
    return sound / max(float(sound.std()), 1e-12)


def wander(
    seconds: float, *, rate: float, sample_rate: int, rng: np.random.Generator
) -> np.ndarray:
    """A smooth random curve within 0..1 that turns about `rate` times a second."""
    points = rng.random(int(seconds * rate) + 4)
    position = np.arange(num_samples(seconds, sample_rate)) / sample_rate * rate + rng.random()
    index = position.astype(int)
    weight = 0.5 - 0.5 * np.cos(np.pi * (position - index))
    return points[index] * (1 - weight) + points[index + 1] * weight


def tone(
    frequency: np.ndarray,
    amplitudes: Iterable[float] = (1.0,),
    *,
    sample_rate: int,
    phase: float = 0.0,
) -> np.ndarray:
    """Harmonics of a moving frequency [N]; the amplitude of the first one comes first."""
    angle = 2 * np.pi * np.cumsum(frequency) / sample_rate + phase
    sound = np.zeros_like(angle)
    for number, amplitude in enumerate(amplitudes, 1):
        audible = frequency * number < 0.47 * sample_rate
        if not audible.any():
            break
        sound += amplitude * np.sin(number * angle) * audible
    return sound


def saw(num_harmonics: int = 30, *, tilt: float = 1.0) -> np.ndarray:
    """Amplitudes that fall with the number of the harmonic to the power of `tilt`."""
    return np.arange(1, num_harmonics + 1) ** -tilt


def square(num_harmonics: int = 30, *, tilt: float = 1.0) -> np.ndarray:
    """Odd harmonics alone."""
    return saw(num_harmonics, tilt=tilt) * (np.arange(num_harmonics) % 2 == 0)


def glide(points: Iterable[tuple[float, float]], seconds: float, sample_rate: int) -> np.ndarray:
    """A frequency that moves through (time, Hz) in straight lines of pitch."""
    when, what = zip(*points, strict=True)
    return np.exp(np.interp(times(seconds, sample_rate), when, np.log(what)))


def modes(
    frequencies: np.ndarray,
    decays: np.ndarray,
    amplitudes: np.ndarray,
    *,
    sample_rate: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """What a struck body rings like: a sum of dying sines; `decays` are seconds to 1/e."""
    time = times(5 * float(np.max(decays)), sample_rate)
    sound = np.zeros_like(time)
    for frequency, decay, amplitude in zip(frequencies, decays, amplitudes, strict=True):
        if frequency < 0.47 * sample_rate:
            end = num_samples(6 * decay, sample_rate)
            part, phase = time[:end], rng.uniform(0, 2 * np.pi)
            sound[:end] += (
                amplitude * np.exp(-part / decay) * np.sin(2 * np.pi * frequency * part + phase)
            )
    return sound * np.minimum(1, time / 0.0003)


def burst(
    decay: float, gain: Gain, *, attack: float = 0.0005, sample_rate: int, rng: np.random.Generator
) -> np.ndarray:
    """Noise that comes at once and dies with a time constant; peak about 1."""
    sound = noise(6 * decay + attack, gain, sample_rate=sample_rate, rng=rng)
    sound *= decaying(len(sound), decay, attack=attack, sample_rate=sample_rate)
    return sound / max(float(np.abs(sound).max()), 1e-12)


def decaying(length: int, decay: float, *, attack: float, sample_rate: int) -> np.ndarray:
    """An envelope that rises in `attack` seconds and falls with a time constant."""
    time = np.arange(length) / sample_rate
    return np.minimum(1, time / attack) * np.exp(-np.maximum(0, time - attack) / decay)


def held(length: int, *, attack: float, release: float, sample_rate: int) -> np.ndarray:
    """An envelope that rises, stays at 1 and falls at the end."""
    time = np.arange(length) / sample_rate
    return np.clip(np.minimum(time / attack, (length / sample_rate - time) / release), 0, 1)


def beats(
    seconds: float, period: float, *, jitter: float, rng: np.random.Generator, start: float = 0.1
) -> list[float]:
    """Times of a rhythm made by hand: each step differs by `jitter` of the period."""
    found, now = [], start
    while now < seconds - 0.05:
        found.append(now)
        now += period * max(0.2, 1 + jitter * rng.standard_normal())
    return found


def poisson(seconds: float, rate: float, *, rng: np.random.Generator) -> np.ndarray:
    """Times of independent events, `rate` of them a second."""
    return np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds)))


def at_level(samples: np.ndarray, *, decibels: float, fade: float, sample_rate: int) -> np.ndarray:
    """[N], float32: the loudest 50 ms have this level, and no sample is above -0.5 dB."""
    block = num_samples(0.05, sample_rate)
    padded = np.pad(samples, (0, -len(samples) % block)).reshape(-1, block)
    loudest = np.sqrt(np.square(padded).mean(axis=1).max())
    scaled = samples * (10 ** (decibels / 20) / max(loudest, 1e-12))
    scaled *= min(1.0, 0.944 / max(float(np.abs(scaled).max()), 1e-12))
    ramp = num_samples(fade, sample_rate)
    edge = np.linspace(0, 1, ramp, endpoint=False)
    scaled[:ramp] *= edge[: len(scaled)]
    scaled[-ramp:] *= edge[::-1][-len(scaled) :]
    return scaled.astype(np.float32)
