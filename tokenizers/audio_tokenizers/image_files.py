"""Sound in PNG files, as spectrogram images with Riffusion's EXIF tags.

Images without tags are read with Riffusion's usual settings.

Shapes: C channels, N samples.
"""

import io
from dataclasses import replace
from typing import Any

import soundfile
import torch
from torch import Tensor

from audio_tokenizers.containers import BinarySource, LongAudioError
from audio_tokenizers.png import MAGIC, MOST_PIXELS, PackedPng, Png, PngError, encode_png, read_png
from audio_tokenizers.resampling import check_sample_rate, resample
from audio_tokenizers.spectrogram_image import (
    FULL_SCALE,
    USUAL_MAXIMUM,
    ImageSettings,
    ImageSound,
    mel_magnitudes,
    to_image,
)

# EXIF tags, Riffusion's but the last one, which keeps durations exact.
_TAGS = {
    "sample_rate": 11_000, "stereo": 11_005, "step_ms": 11_010, "window_ms": 11_020,
    "padded_ms": 11_030, "num_mels": 11_040, "low": 11_050, "high": 11_060, "power": 11_070,
}  # fmt: skip
_MAXIMUM, _NUM_SAMPLES = 11_080, 11_090
_LONGEST_FFT = 1 << 18
_COLUMNS = 1024  # at once


def encode_image(samples: Tensor, sample_rate: int, *, comment: str | None = None) -> bytes:
    """The file of samples [C, N], mono or stereo, resampled to Riffusion's rate."""
    if len(samples) > 2:
        raise ValueError(f"A .png file supports 1 or 2 channels, got {len(samples)}.")
    settings = ImageSettings(stereo=len(samples) == 2)
    longest = MOST_PIXELS // settings.num_mels * settings.step_ms / 1000
    if samples.shape[1] > longest * sample_rate:
        seconds = samples.shape[1] / sample_rate
        raise ValueError(f"A .png file is limited to {longest:.0f} s, got {seconds:.0f} s.")
    sound = resample(samples.float().cpu(), sample_rate, settings.sample_rate)
    mel = mel_magnitudes(sound, settings)
    maximum = float(mel.max()) or 1.0
    pixels = (255 * to_image(mel, settings, maximum=maximum)).to(torch.uint8).permute(1, 2, 0)
    tags: dict[int, float] = {tag: getattr(settings, name) for name, tag in _TAGS.items()}
    tags |= {_MAXIMUM: maximum * FULL_SCALE, _NUM_SAMPLES: sound.shape[1]}
    return encode_png(Png(pixels=pixels.numpy(), exif=tags, comment=comment or ""))


def image_as_wav(
    file: BinarySource, name: str, *, max_seconds: float | None = None
) -> io.BytesIO | None:
    """A WAV file of the sound of a PNG file, with its comment; None for other files."""
    file.seek(0)
    is_png = file.read(len(MAGIC)) == MAGIC
    file.seek(0)
    if not is_png:
        return None
    try:
        image = read_png(file.read())
        settings = _settings(image, name)
        if max_seconds is not None and image.width * settings.step_ms > 1000 * max_seconds:
            raise LongAudioError(f"{name} is longer than the maximum of {max_seconds:g} s.")
        pixels = torch.from_numpy(image.pixels()).permute(2, 0, 1)
    except PngError as error:
        raise ValueError(f"{name} {error}.") from None
    maximum = image.exif.get(_MAXIMUM, 0.0) / FULL_SCALE
    stream = ImageSound(settings, maximum=maximum if maximum > 0 else USUAL_MAXIMUM)
    made = [stream.push(columns.float() / 255) for columns in pixels.split(_COLUMNS, dim=2)]
    samples = torch.cat([*made, stream.finish()], dim=1)
    samples = samples[:, : int(image.exif.get(_NUM_SAMPLES, 0)) or None]
    samples = samples / samples.abs().max().clamp(min=1.0)
    wav = io.BytesIO()
    with soundfile.SoundFile(
        wav, "w", settings.sample_rate, len(samples), subtype="FLOAT", format="WAV"
    ) as target:
        if image.comment:
            target.comment = image.comment
        target.write(samples.T.contiguous().numpy())
    wav.seek(0)
    return wav


def _settings(image: PackedPng, name: str) -> ImageSettings:
    """The settings in the tags, for what they state; the height states the number of bands."""
    height = image.height
    found = {key: image.exif[tag] for key, tag in _TAGS.items() if tag in image.exif}
    whole = ("sample_rate", "step_ms", "window_ms", "padded_ms", "num_mels")
    given: dict[str, Any] = {key: int(x) if key in whole else x for key, x in found.items()}
    given["stereo"] = bool(given.get("stereo", False))
    try:
        settings = replace(ImageSettings(num_mels=height), **given)
        check_sample_rate(settings.sample_rate)
    except ValueError as error:
        raise ValueError(f"{name} is no spectrogram image: {error}") from None
    if settings.num_mels != height or settings.fft_length > _LONGEST_FFT:
        raise ValueError(
            f"{name} is no spectrogram image: its tags state {settings.num_mels} bands and windows "
            f"of {settings.padded_ms} ms, its height is {height} pixels."
        )
    return settings
