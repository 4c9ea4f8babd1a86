"""The renderer of latents of spectrogram images: an autoencoder makes the image, Griffin-Lim sound.

As in `latent.py`, the autoencoder sees windows of fixed length whose images are cross-faded, and
the sound is found in a stream: long clips need constant memory. Phases are found on the CPU, where
sums have a fixed order.

Shapes: D latent width, T latent frames, H image height, W image width, C channels, N samples.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from audio_tokenizers.acoustic.streaming import StreamProgress
from audio_tokenizers.identity import hash_model
from audio_tokenizers.spectrogram_image import (
    USUAL_MAXIMUM,
    ImageSettings,
    ImageSound,
    image_magnitudes,
    mel_magnitudes,
    to_image,
)
from lm_audio.renderers.blocks import render_whole
from lm_audio.renderers.latent import LATENTS, Spectrograms, Windows
from lm_audio.signals import Signal

_COLOURS = 3
_AROUND = 8  # latent frames beside a loop that its image is decoded with


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageRenderer:
    """Latents to samples.

    Args:
        autoencoder: of images [1, 3, H, W] within -1..1.
        scale: the stored latents are the autoencoder's times this.
        window_frames: latent frames that the autoencoder sees at once.
        overlap_frames: frames that are cross-faded with the window before.
    """

    autoencoder: nn.Module
    image: ImageSettings
    scale: float
    window_frames: int
    overlap_frames: int

    def __post_init__(self) -> None:
        factor, height = self._shape.factor, self.image.num_mels
        if self._shape.channels != _COLOURS or height % factor:
            raise ValueError(
                f"The autoencoder needs {_COLOURS} channels and a divisor of {height} mel bands "
                f"as its factor, got {self._shape.channels} and {factor}."
            )
        if not 0 <= 2 * self.overlap_frames <= self.window_frames:
            raise ValueError(
                f"overlap_frames must be from 0 to half of the window of {self.window_frames}, got "
                f"{self.overlap_frames}."
            )

    @property
    def _shape(self) -> Any:
        return self.autoencoder.config

    @property
    def _weight(self) -> Tensor:
        return next(self.autoencoder.parameters())

    @property
    def num_rows(self) -> int:
        """Latents per frame and channel, from high to low frequencies."""
        return int(self.image.num_mels // self._shape.factor)

    @property
    def signal(self) -> Signal:
        return Signal(
            kind="latents",
            content=LATENTS,
            rate=Fraction(self.sample_rate, self.hop_length),
            width=self._shape.latent_channels * self.num_rows,
        )

    @property
    def encoder(self) -> "ImageEncoder":
        return ImageEncoder(self)

    @cached_property
    def identity(self) -> str:
        settings = f"{self._shape}{self.image}{self.scale}{self.window_frames}{self.overlap_frames}"
        return f"image-{hash_model(settings, self.autoencoder.state_dict())}"

    @property
    def sample_rate(self) -> int:
        return self.image.sample_rate

    @property
    def num_channels(self) -> int:
        return self.image.num_channels

    @property
    def hop_length(self) -> int:
        return int(self.image.hop_length * self._shape.factor)

    def num_frames(self, num_samples: int) -> int:
        return -(-num_samples // self.hop_length)

    def stream(self) -> "ImageStream":
        return ImageStream(self)

    def render(self, values: Tensor, *, num_samples: int | None = None) -> Tensor:
        return render_whole(self, values, num_samples)

    @torch.inference_mode()
    def render_loop(self, values: Tensor, *, num_samples: int) -> Tensor:
        """The samples [C, N] of a loop of latents [D, T]: phases fit around the joint, too."""
        T, factor = values.shape[1], self._shape.factor
        frames = torch.arange(-_AROUND, T + _AROUND, device=values.device) % T
        image = self.to_image(values[:, frames])[..., _AROUND * factor :]
        columns = -(-num_samples // self.image.hop_length)
        magnitudes = image_magnitudes(image[..., :columns], self.image, maximum=USUAL_MAXIMUM)
        return self.image.griffin_lim.circle(magnitudes, num_samples)

    def to_image(self, values: Tensor) -> Tensor:
        """The image [3, H, W] within 0..1 of latents [D, T], at most about a window."""
        grid = values.to(self._weight).unflatten(0, (-1, self.num_rows))[None]
        autoencoder: Spectrograms = self.autoencoder  # type: ignore[assignment]
        return (autoencoder.decode(grid / self.scale)[0].float().cpu() / 2 + 0.5).clamp(0, 1)

    def from_image(self, image: Tensor) -> Tensor:
        """The latents [D, T] of an image [3, H, W] within 0..1, at most a window."""
        autoencoder: Spectrograms = self.autoencoder  # type: ignore[assignment]
        mean, _ = autoencoder.encode(2 * image.to(self._weight)[None] - 1)
        return (mean[0].float() * self.scale).flatten(0, 1)


class ImageEncoder:
    """Samples to latents: the autoencoder's means, in windows that are cross-faded.

    The loudest place is black, as in Riffusion's training.
    """

    def __init__(self, renderer: ImageRenderer) -> None:
        self._renderer = renderer

    @torch.inference_mode()
    def encode(self, samples: Tensor) -> Tensor:
        """Turns samples [C, N], float32 at the renderer's rate, into latents [D, T]."""
        renderer, settings = self._renderer, self._renderer.image
        if samples.ndim != 2 or len(samples) != settings.num_channels:
            raise ValueError(
                f"Expected samples of shape [{settings.num_channels}, N], got "
                f"{list(samples.shape)}."
            )
        samples = nn.functional.pad(samples, (0, -samples.shape[1] % renderer.hop_length))
        mel = mel_magnitudes(samples, settings)
        image = to_image(mel, settings, maximum=float(mel.max()) or 1.0)
        windows = Windows(
            renderer,
            renderer.from_image,
            rows=renderer.signal.width,
            inputs_per_frame=renderer._shape.factor,
        )
        return torch.cat([windows.push(image), windows.finish()], dim=1)

    def prompt_frames(self, num_samples: int) -> int:
        return num_samples // self._renderer.hop_length


class ImageStream:
    """Renders in a stream; holds the latents of a window at most."""

    def __init__(self, renderer: ImageRenderer) -> None:
        self._renderer = renderer
        self._windows = Windows(
            renderer,
            lambda values: renderer.to_image(values).flatten(0, 1),
            rows=_COLOURS * renderer.image.num_mels,
            outputs_per_frame=renderer._shape.factor,
        )
        self._sound = ImageSound(renderer.image)
        self._progress = StreamProgress()

    @torch.inference_mode()
    def push(self, values: Tensor) -> Tensor:
        """Takes the next latents [D, T >= 0], returns the samples [C, N >= 0] that are final."""
        width = self._renderer.signal.width
        if values.ndim != 2 or len(values) != width:
            raise ValueError(f"Expected latents of shape [{width}, T], got {list(values.shape)}.")
        self._progress.advance(values[None])
        return self._sound.push(self._windows.push(values).cpu().unflatten(0, (_COLOURS, -1)))

    @torch.inference_mode()
    def finish(self) -> Tensor:
        self._progress.end(1, torch.float32)
        last = self._sound.push(self._windows.finish().cpu().unflatten(0, (_COLOURS, -1)))
        return torch.cat([last, self._sound.finish()], dim=1)
