"""Renders acoustic tokens with a codec's decoder, in mono or stereo, at once or in a stream.

Shapes: C channels, N samples, K codebooks, T frames.
"""

from fractions import Fraction

from torch import Tensor

from audio_tokenizers.protocol import AcousticTokenizer
from lm_audio.patterns import interleave_channels, split_channels
from lm_audio.renderers.blocks import BlockStream, block_frames, render_whole
from lm_audio.signals import ACOUSTIC, Signal


class CodecRenderer:
    """A codec's decoder as a renderer.

    A mono codec renders stereo from two interleaved sets of tokens, L0 R0 L1 R1 and so on, as in
    MusicGen: each channel is coded separately.

    A codec that normalises its input, as EnCodec does at 48 kHz, would need gains to restore the
    level. Tokens do not contain them, so all chunks are rendered at a gain of 1.

    Args:
        codec: samples and tokens must be on its device.
        num_channels: 1 or 2 with a mono codec; the codec's own by default.
        num_codebooks: the number of codebooks to use, coarsest first; all by default.
    """

    def __init__(
        self,
        codec: AcousticTokenizer,
        *,
        num_channels: int | None = None,
        num_codebooks: int | None = None,
    ) -> None:
        channels = codec.num_channels if num_channels is None else num_channels
        if channels != codec.num_channels and (codec.num_channels, channels) != (1, 2):
            raise ValueError(
                f"Expected {'1 or 2' if codec.num_channels == 1 else codec.num_channels} as "
                f"num_channels for this codec, got {num_channels}."
            )
        codebooks = codec.num_codebooks if num_codebooks is None else num_codebooks
        if not 1 <= codebooks <= codec.num_codebooks:
            raise ValueError(
                f"num_codebooks must be between 1 and {codec.num_codebooks} for this codec, got "
                f"{num_codebooks}."
            )
        self.codec = codec
        self._num_channels = channels
        self.codec_codebooks = codebooks  # of each channel
        self.token_sets = channels // codec.num_channels

    @property
    def identity(self) -> str:
        """Identifies the codec, its weights and settings; equal identities render equally."""
        return f"{self.codec.identity}-{self.num_channels}x{self.codec_codebooks}"

    @property
    def signal(self) -> Signal:
        return Signal(
            kind="tokens",
            content=ACOUSTIC,
            rate=Fraction(self.sample_rate, self.hop_length),
            width=self.num_codebooks,
            num_tokens=self.codebook_size,
        )

    @property
    def encoder(self) -> "CodecEncoder":
        return CodecEncoder(self)

    @property
    def sample_rate(self) -> int:
        return self.codec.sample_rate

    @property
    def num_channels(self) -> int:
        return self._num_channels

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.codec.hop_length

    @property
    def frame_rate(self) -> float:
        return self.codec.frame_rate

    @property
    def num_codebooks(self) -> int:
        """K of its input tokens: twice the codec's for stereo with a mono codec."""
        return self.token_sets * self.codec_codebooks

    @property
    def codebook_size(self) -> int:
        return self.codec.codebook_size

    @property
    def block_frames(self) -> int:
        """Frames per decoding step, fixed so that the size of pushes does not change samples."""
        return block_frames(self.frame_rate)

    def num_frames(self, num_samples: int) -> int:
        """The number of frames that cover `num_samples` samples, the last perhaps in part."""
        return sum(-(-chunk // self.hop_length) for chunk in self.chunks(num_samples))

    def stream(self) -> "CodecStream":
        return CodecStream(self)

    def render(self, tokens: Tensor, *, num_samples: int | None = None) -> Tensor:
        """Turns tokens [K, T] into samples [C, N], float32, equal to those of the stream.

        Args:
            num_samples: trims the result; by default all samples of the T frames.
        """
        return render_whole(self, tokens, num_samples)

    def split(self, tokens: Tensor) -> Tensor:
        """Tokens [K, T] as a batch for the codec: [1 or 2, K of the codec, T]."""
        return split_channels(tokens[None], self.token_sets)[0]

    @property
    def chunk_length(self) -> int | None:
        """Samples per separately coded chunk; None for a codec without chunks."""
        return getattr(self.codec, "chunk_length", None)

    def chunks(self, num_samples: int) -> list[int]:
        """The number of samples in each separately coded chunk."""
        length = self.chunk_length
        if length is None:
            return [num_samples]
        stride = self.codec.chunk_stride  # type: ignore[attr-defined]  # EnCodec at 48 kHz alone
        return [min(length, num_samples - start) for start in range(0, num_samples, stride)]


class CodecEncoder:
    """The codec's encoder: samples to the input tokens of its renderer."""

    def __init__(self, renderer: CodecRenderer) -> None:
        self._renderer = renderer

    def encode(self, samples: Tensor) -> Tensor:
        """Turns samples [C, N], float32 at the codec's rate, into tokens [K, T], int64."""
        if samples.ndim != 2 or len(samples) != self._renderer.num_channels:
            raise ValueError(
                f"Expected samples of shape [{self._renderer.num_channels}, N], got "
                f"{list(samples.shape)}."
            )
        codec = self._renderer.codec
        rows = samples.unflatten(0, (self._renderer.token_sets, -1))  # [token sets, codec's C, N]
        tokens = codec.encode(rows, num_codebooks=self._renderer.codec_codebooks)
        return interleave_channels(tokens[None])[0]

    def prompt_frames(self, num_samples: int) -> int:
        """The number of frames that a prompt of `num_samples` samples fills.

        A partly filled last frame does not count: the stages generate it.
        """
        frames = 0
        for chunk in self._renderer.chunks(num_samples):
            if self._renderer.chunk_length is None or chunk < self._renderer.chunk_length:
                # The next chunk overlaps this one, but its frames must not come yet.
                return frames + chunk // self._renderer.hop_length
            frames += -(-chunk // self._renderer.hop_length)
        return frames


class CodecStream(BlockStream):
    """Renders tokens in a stream."""

    def __init__(self, renderer: CodecRenderer) -> None:
        decoder = renderer.codec.decoder_stream()
        super().__init__(renderer, decoder, block_frames=renderer.block_frames)
        self._split = renderer.split

    def _rows(self, block: Tensor) -> Tensor:
        return self._split(block)  # [token sets, codec's K, T]
