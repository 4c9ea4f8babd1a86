"""The renderer of latents: an autoencoder's decoder makes a spectrogram, and a vocoder the sound.

The autoencoder sees windows of fixed length, since it attends to all of its input; neighbouring
windows overlap, and their spectrograms are cross-faded. The last window ends with the clip. The
vocoder runs in a stream, exactly. So a clip of one window is a plain decoding, longer ones need
constant memory, and a stream gives the same samples as a single call.

Shapes: D latent width, T latent frames, M mel bands, C channels, N samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from audio_tokenizers.acoustic.streaming import StreamProgress
from audio_tokenizers.identity import hash_model
from lm_audio.renderers.blocks import render_whole
from lm_audio.renderers.log_mel import LogMel
from lm_audio.signals import Signal

LATENTS = "latents"
"""The content of the signal."""
_BLOCK = 128  # mel frames per step of the vocoder, fixed so that pushes do not change samples


class Spectrograms(Protocol):
    """An autoencoder of spectrograms, such as `Autoencoder2d`."""

    config: Any

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]: ...

    def decode(self, latents: Tensor) -> Tensor: ...


class Windowed(Protocol):
    """A renderer whose autoencoder sees windows."""

    @property
    def window_frames(self) -> int: ...

    @property
    def overlap_frames(self) -> int: ...


class VocoderStream(Protocol):
    def step(self, mel: Tensor, *, last: bool) -> Tensor:
        """Takes the next frames [1, M, T >= 0], which may be the last; returns sound [1, N]."""


class Vocoder(Protocol):
    """Turns spectrograms into sound; its config states `num_mels`, `sample_rate`, `hop_length`."""

    config: Any

    def stream(self) -> VocoderStream: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentRenderer:
    """Latents to samples.

    Args:
        autoencoder: of images of spectrograms, [1, 1, T, M].
        mel_first: the images are [1, 1, M, T].
        scale: the stored latents are the autoencoder's times this.
        window_frames: latent frames that the autoencoder sees at once.
        overlap_frames: frames that are cross-faded with the window before.
        log_mel: makes the spectrograms of audio prompts; None for a model that takes no audio.
    """

    autoencoder: nn.Module
    vocoder: nn.Module
    scale: float
    window_frames: int
    overlap_frames: int
    log_mel: LogMel | None = None
    mel_first: bool = False

    def __post_init__(self) -> None:
        factor, num_mels = self._shape.factor, self._voice.num_mels
        if self._shape.channels != 1 or num_mels % factor:
            raise ValueError(
                f"The autoencoder needs one channel and a divisor of the vocoder's {num_mels} mel "
                f"bands as its factor, got {self._shape.channels} and {factor}."
            )
        if not 0 <= 2 * self.overlap_frames <= self.window_frames:
            raise ValueError(
                f"overlap_frames must be from 0 to half of the window of {self.window_frames}, got "
                f"{self.overlap_frames}."
            )
        mel = self.log_mel
        expected = (self._voice.sample_rate, self._voice.num_mels, self._voice.hop_length)
        if mel and (mel.sample_rate, mel.num_mels, mel.hop_length) != expected:
            raise ValueError("The spectrograms of audio prompts do not match the vocoder's.")

    @property
    def _shape(self) -> Any:
        return self.autoencoder.config

    @property
    def _voice(self) -> Any:
        return self.vocoder.config

    @property
    def signal(self) -> Signal:
        return Signal(
            kind="latents",
            content=LATENTS,
            rate=Fraction(self.sample_rate, self.hop_length),
            width=self._shape.latent_channels * self.num_columns,
        )

    @property
    def num_columns(self) -> int:
        """Latents per frame and channel, from low to high frequencies."""
        return int(self._voice.num_mels // self._shape.factor)

    @property
    def encoder(self) -> "LatentEncoder | None":
        return None if self.log_mel is None else LatentEncoder(self, self.log_mel)

    @cached_property
    def identity(self) -> str:
        settings = f"{self._shape}{self._voice}{self.scale}{self.window_frames}"
        settings += f"{self.overlap_frames}{self.log_mel}{'mel first' * self.mel_first}"
        weights = {
            f"{name}.{key}": weight
            for name, module in (("autoencoder", self.autoencoder), ("vocoder", self.vocoder))
            for key, weight in module.state_dict().items()
        }
        return f"latent-{hash_model(settings, weights)}"

    @property
    def sample_rate(self) -> int:
        return int(self._voice.sample_rate)

    @property
    def num_channels(self) -> int:
        return 1

    @property
    def hop_length(self) -> int:
        return int(self._voice.hop_length * self._shape.factor)

    def num_frames(self, num_samples: int) -> int:
        return -(-num_samples // self.hop_length)

    def stream(self) -> "LatentStream":
        return LatentStream(self)

    def render(self, values: Tensor, *, num_samples: int | None = None) -> Tensor:
        return render_whole(self, values, num_samples)

    def to_mel(self, values: Tensor) -> Tensor:
        """The spectrogram [M, T * factor] of latents [D, T], at most one window."""
        weight = next(self.autoencoder.parameters())
        autoencoder: Spectrograms = self.autoencoder  # type: ignore[assignment]
        image = autoencoder.decode(self.to_grid(values[None].to(weight)) / self.scale)[0, 0]
        return (image if self.mel_first else image.T).float()

    def from_mel(self, mel: Tensor) -> Tensor:
        """Latents [D, T] of a spectrogram [M, T * factor], at most one window."""
        weight = next(self.autoencoder.parameters())
        autoencoder: Spectrograms = self.autoencoder  # type: ignore[assignment]
        image = mel if self.mel_first else mel.T
        mean, _ = autoencoder.encode(image[None, None].to(weight))
        return self.from_grid(mean.float() * self.scale)[0]

    def to_grid(self, values: Tensor) -> Tensor:
        """Latents [B, D, T] as the autoencoder's images [B, channels, T, columns], or mel first."""
        grid = values.unflatten(1, (-1, self.num_columns))
        return grid if self.mel_first else grid.transpose(2, 3)

    def from_grid(self, grid: Tensor) -> Tensor:
        """The inverse of `to_grid`."""
        return (grid if self.mel_first else grid.transpose(2, 3)).flatten(1, 2)


class LatentEncoder:
    """Samples to latents: the autoencoder's means, in windows that are cross-faded."""

    def __init__(self, renderer: LatentRenderer, log_mel: LogMel) -> None:
        self._renderer = renderer
        self._log_mel = log_mel

    @torch.inference_mode()
    def encode(self, samples: Tensor) -> Tensor:
        """Turns samples [1, N], float32 at the renderer's rate, into latents [D, T]."""
        if samples.ndim != 2 or len(samples) != 1:
            raise ValueError(f"Expected samples of shape [1, N], got {list(samples.shape)}.")
        renderer = self._renderer
        samples = nn.functional.pad(samples, (0, -samples.shape[1] % renderer.hop_length))
        mel = self._log_mel(samples)[0]
        factor = renderer._shape.factor
        windows = Windows(
            renderer, renderer.from_mel, rows=renderer.signal.width, inputs_per_frame=factor
        )
        return torch.cat([windows.push(mel), windows.finish()], dim=1)

    def prompt_frames(self, num_samples: int) -> int:
        return num_samples // self._renderer.hop_length


class LatentStream:
    """Renders in a stream; holds the latents of a window at most."""

    def __init__(self, renderer: LatentRenderer) -> None:
        self._renderer = renderer
        num_mels, factor = renderer._voice.num_mels, renderer._shape.factor
        self._windows = Windows(renderer, renderer.to_mel, rows=num_mels, outputs_per_frame=factor)
        vocoder: Vocoder = renderer.vocoder  # type: ignore[assignment]
        self._vocoder = vocoder.stream()
        self._mel = torch.zeros(num_mels, 0)  # waits for a whole block
        self._samples_left = 0
        self._progress = StreamProgress()

    @torch.inference_mode()
    def push(self, values: Tensor) -> Tensor:
        """Takes the next latents [D, T >= 0], returns the samples [1, N >= 0] that are final."""
        width = self._renderer.signal.width
        if values.ndim != 2 or len(values) != width:
            raise ValueError(f"Expected latents of shape [{width}, T], got {list(values.shape)}.")
        self._progress.advance(values[None])
        self._samples_left += values.shape[1] * self._renderer.hop_length
        return self._sound(self._windows.push(values), last=False)

    @torch.inference_mode()
    def finish(self) -> Tensor:
        self._progress.end(1, torch.float32)
        return self._sound(self._windows.finish(), last=True)

    def _sound(self, mel: Tensor, *, last: bool) -> Tensor:
        weight = next(self._renderer.vocoder.parameters())
        mel = torch.cat([self._mel.to(weight), mel.to(weight)], dim=1)
        whole = mel.shape[1] // _BLOCK * _BLOCK
        self._mel = mel[:, whole:].clone()
        made = [
            self._vocoder.step(block[None], last=False)
            for block in mel[:, :whole].split(_BLOCK, dim=1)
        ]
        if last:
            made.append(self._vocoder.step(self._mel[None], last=True))
        samples = torch.cat([weight.new_zeros(1, 0), *made], dim=1)[:, : self._samples_left]
        self._samples_left -= samples.shape[1]
        return samples.float()


class Windows:
    """Applies a function to overlapping windows of a stream and cross-fades the results.

    Args:
        apply: maps a window [..., T] to a result [rows, T'] of as many latent frames.
        inputs_per_frame, outputs_per_frame: time steps of inputs and results per latent frame.
    """

    def __init__(
        self,
        renderer: Windowed,
        apply: Callable[[Tensor], Tensor],
        *,
        rows: int,
        inputs_per_frame: int = 1,
        outputs_per_frame: int = 1,
    ) -> None:
        self._apply = apply
        self._size = renderer.window_frames * inputs_per_frame
        self._stride = self._size - renderer.overlap_frames * inputs_per_frame
        self._inputs, self._outputs = inputs_per_frame, outputs_per_frame
        self._held: Tensor | None = None  # from the start of the last window on
        self._tail: Tensor | None = None  # the end of its result, to be cross-faded
        self._rows = rows

    def push(self, x: Tensor) -> Tensor:
        """Adds inputs [..., T >= 0] and returns results that are final."""
        held = x if self._held is None else torch.cat([self._held, x], dim=-1)
        made = []
        while held.shape[-1] >= (self._size if self._tail is None else self._stride + self._size):
            held = held if self._tail is None else held[..., self._stride :]
            made.append(self._keep_end(self._faded(self._apply(held[..., : self._size]))))
        self._held = held.clone()
        return torch.cat(made, dim=-1) if made else self._nothing(x)

    def finish(self) -> Tensor:
        """The remaining results; the last window ends with the inputs."""
        held = self._held
        if held is None or held.shape[-1] == 0:
            return self._nothing(torch.zeros(0, 0) if held is None else held)
        if self._tail is not None and held.shape[-1] == self._size:
            return self._tail
        last = held[..., -self._size :]
        begun = 0 if self._tail is None else self._stride - (held.shape[-1] - last.shape[-1])
        result = self._apply(last)[..., begun // self._inputs * self._outputs :]
        return self._faded(result)

    def _keep_end(self, result: Tensor) -> Tensor:
        """A whole window's result without its end, which is kept for the next one."""
        overlap = (self._size - self._stride) // self._inputs * self._outputs
        final = result.shape[-1] - overlap
        self._tail = result[..., final:].clone()
        return result[..., :final]

    def _faded(self, result: Tensor) -> Tensor:
        if self._tail is None or self._tail.shape[-1] == 0:
            return result
        n = self._tail.shape[-1]
        share = (torch.arange(n, device=result.device) + 0.5) / n
        mixed = torch.lerp(self._tail, result[..., :n], share)
        return torch.cat([mixed, result[..., n:]], dim=-1)

    def _nothing(self, x: Tensor) -> Tensor:
        return torch.zeros(self._rows, 0, device=x.device)
