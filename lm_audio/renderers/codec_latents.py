"""Renders the continuous latents of a codec with its decoder, at once or in a stream.

Models of latents work with standardised values: each dimension has mean 0 and deviation 1 over the
training data. This renderer converts between them and the codec's.

Shapes: C channels, N samples, D latent width of all channels, K codebooks, T frames.
"""

from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from audio_tokenizers.identity import hash_model
from audio_tokenizers.protocol import LatentCodec
from lm_audio.renderers.blocks import BlockStream, block_frames, render_whole
from lm_audio.signals import Signal

LATENTS = "latents"
"""The content of a renderer's continuous input signal."""


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
        return render_whole(self, values, num_samples)

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


class CodecLatentStream(BlockStream):
    """Renders standardised latents in a stream."""

    def __init__(self, renderer: CodecLatentRenderer) -> None:
        decoder = renderer.codec.sample_stream()
        frames = block_frames(renderer.codec.frame_rate)
        super().__init__(renderer, decoder, block_frames=frames)
        self._renderer = renderer

    def _rows(self, block: Tensor) -> Tensor:
        return self._renderer.rounded(self._renderer.original(block))
