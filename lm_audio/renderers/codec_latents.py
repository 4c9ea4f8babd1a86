"""Renders the continuous latents of a codec with its decoder, at once or in a stream.

Models of latents work with standardised values: each dimension has mean 0 and deviation 1 over the
training data. This renderer converts between them and the codec's.

Shapes: C channels, N samples, D latent width of all channels, K codebooks, T frames.
"""

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from audio_tokenizers.acoustic.streaming import StreamProgress
from audio_tokenizers.identity import hash_model
from audio_tokenizers.protocol import LatentCodec
from lm_audio.signals import Signal

LATENTS = "latents"
"""The content of a renderer's continuous input signal."""
BLOCK_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True, eq=False)
class CodecLatentRenderer:
    """A codec's decoder as a renderer of standardised latents.

    Args:
        codec: on the device of the latents. A mono codec renders stereo, one channel above the
            other.
        num_channels: 1 or 2 with a mono codec, else the codec's own.
        mean, deviation: [D] of all channels, of the codec's latents.
        quantize: round latents to the nearest tokens of the codec before decoding, with which the
            decoder was trained: the sound is that of `tokens`. Prompts are rounded, too, as
            training data are.
    """

    codec: LatentCodec
    num_channels: int
    mean: Tensor
    deviation: Tensor
    quantize: bool = True

    def __post_init__(self) -> None:
        own = self.codec.num_channels
        if self.num_channels != own and (own, self.num_channels) != (1, 2):
            raise ValueError(
                f"Expected {'1 or 2' if own == 1 else own} as num_channels for this codec, got "
                f"{self.num_channels}."
            )
        for name in ("mean", "deviation"):
            values = getattr(self, name)
            if values.shape != (self.width,) or not values.isfinite().all():
                raise ValueError(
                    f"{name} must have {self.width} finite values, got {list(values.shape)}."
                )
        if not (self.deviation > 0).all():
            raise ValueError("Deviations must be above 0.")

    @property
    def sets(self) -> int:
        """The number of sets of latents, each decoded by itself."""
        return self.num_channels // self.codec.num_channels

    @property
    def width(self) -> int:
        return self.sets * self.codec.latent_size

    @property
    def signal(self) -> Signal:
        rate = Fraction(self.sample_rate, self.hop_length)
        return Signal(kind="latents", content=LATENTS, rate=rate, width=self.width)

    @property
    def identity(self) -> str:
        """Identifies the codec and the settings; equal identities render equally."""
        scales = {"mean": self.mean, "deviation": self.deviation}
        digest = hash_model(str(self.quantize), scales)
        return f"{self.codec.identity}-{self.num_channels}-latents-{digest}"

    @property
    def encoder(self) -> "CodecLatentEncoder":
        return CodecLatentEncoder(self)

    @property
    def sample_rate(self) -> int:
        return self.codec.sample_rate

    @property
    def hop_length(self) -> int:
        return self.codec.hop_length

    @property
    def block_frames(self) -> int:
        """Frames per decoding step, fixed so that the size of pushes does not change samples."""
        return max(1, round(BLOCK_SECONDS * self.codec.frame_rate))

    def num_frames(self, num_samples: int) -> int:
        """The number of frames that cover `num_samples` samples, the last perhaps in part."""
        return -(-num_samples // self.hop_length)

    def stream(self) -> "CodecLatentStream":
        return CodecLatentStream(self)

    def render(self, values: Tensor, *, num_samples: int | None = None) -> Tensor:
        """Turns latents [D, T] into samples [C, N], float32, equal to those of the stream.

        Args:
            num_samples: trims the result; by default all samples of the T frames.
        """
        stream = self.stream()
        samples = torch.cat([stream.push(values), stream.finish()], dim=1)
        if num_samples is not None and not 0 <= num_samples <= samples.shape[1]:
            raise ValueError(
                f"num_samples is {num_samples}, but these latents render to {samples.shape[1]} "
                "samples."
            )
        return samples[:, :num_samples]

    def standardised(self, rows: Tensor) -> Tensor:
        """The codec's latents, one set per row [sets, D / sets, T], as values [D, T]."""
        mean, deviation = (x.to(rows.device)[:, None] for x in (self.mean, self.deviation))
        return (rows.flatten(0, 1) - mean) / deviation

    def original(self, values: Tensor) -> Tensor:
        """The inverse of `standardised`."""
        mean, deviation = (x.to(values.device)[:, None] for x in (self.mean, self.deviation))
        return (values * deviation + mean).unflatten(0, (self.sets, -1))

    def rounded(self, rows: Tensor) -> Tensor:
        """The codec's latents [sets, D / sets, T] as they are decoded."""
        if not self.quantize or rows.shape[2] == 0:
            return rows
        return self.codec.latents_of(self.codec.tokens_of(rows))

    def tokens(self, values: Tensor) -> Tensor:
        """The codec's tokens [sets, K, T] that are nearest to values [D, T]."""
        return self.codec.tokens_of(self.original(values))


@dataclass(frozen=True, eq=False)
class CodecLatentEncoder:
    """The codec's encoder: samples to the input values of its renderer."""

    renderer: CodecLatentRenderer

    def encode(self, samples: Tensor) -> Tensor:
        """Turns samples [C, N], float32 at the codec's rate, into values [D, T]."""
        renderer = self.renderer
        if samples.ndim != 2 or len(samples) != renderer.num_channels:
            raise ValueError(
                f"Expected samples of shape [{renderer.num_channels}, N], got "
                f"{list(samples.shape)}."
            )
        rows = renderer.codec.latents(samples.unflatten(0, (renderer.sets, -1)))
        return renderer.standardised(renderer.rounded(rows))

    def prompt_frames(self, num_samples: int) -> int:
        """The number of frames that a prompt of `num_samples` samples fills.

        A partly filled last frame does not count: the stages generate it.
        """
        return num_samples // self.renderer.hop_length


class CodecLatentStream:
    """Renders in a stream; buffers the latents of an incomplete block."""

    def __init__(self, renderer: CodecLatentRenderer) -> None:
        self._renderer = renderer
        self._decoder = renderer.codec.sample_stream()
        self._waiting = torch.zeros(renderer.width, 0)  # [D, T < block]
        self._has_begun = False
        self._progress = StreamProgress()

    def push(self, values: Tensor) -> Tensor:
        """Takes the next values [D, T >= 0], returns the samples [C, N >= 0] that are final."""
        if values.ndim != 2 or len(values) != self._renderer.width:
            raise ValueError(
                f"Expected latents of shape [{self._renderer.width}, T], got {list(values.shape)}."
            )
        self._progress.advance(values[None])
        size = self._renderer.block_frames
        waiting = torch.cat([self._waiting.to(values.device), values.float()], dim=1)
        whole = waiting.shape[1] // size * size
        self._waiting = waiting[:, whole:].clone()
        blocks = waiting[:, :whole].split(size, dim=1)
        return torch.cat([self._decode(block) for block in blocks], dim=1)

    def finish(self) -> Tensor:
        """Ends the values and returns the remaining samples: [C, N >= 0]."""
        self._progress.end(self._renderer.num_channels, torch.float32)
        samples = self._decode(self._waiting)
        if not self._has_begun:
            return samples
        return torch.cat([samples, self._decoder.finish().flatten(0, 1)], dim=1)

    def _decode(self, block: Tensor) -> Tensor:
        if block.shape[1] == 0:
            return torch.zeros(self._renderer.num_channels, 0, device=block.device)
        self._has_begun = True
        rows = self._renderer.rounded(self._renderer.original(block))
        return self._decoder.push(rows).flatten(0, 1)  # [C, N]
