"""Protocols of tokenizers, the interface between waveforms, tokens and language models.

Shapes: B batch, C channels, N samples, K codebooks, T frames, D width.
"""

from typing import Protocol

from torch import Tensor


class EncoderStream(Protocol):
    """Encodes a waveform of any length piece by piece, in constant memory."""

    @property
    def gains(self) -> Tensor | None:
        """Gains of the chunks encoded so far: [B, chunks], or None for a codec without gains."""

    def push(self, samples: Tensor) -> Tensor:
        """Takes the next samples [B, C, N >= 0], returns final tokens [B, K, T >= 0]."""

    def finish(self) -> Tensor:
        """Ends the waveform and returns the remaining tokens: [B, K, T >= 0]."""


class DecoderStream(Protocol):
    """Decodes tokens piece by piece; the pieces concatenate to what `decode` returns."""

    def push(self, tokens: Tensor) -> Tensor:
        """Takes the next tokens [B, K, T >= 0], returns final samples [B, C, N >= 0]."""

    def finish(self) -> Tensor:
        """Ends the tokens and returns the remaining samples: [B, C, N >= 0]."""


class AcousticTokenizer(Protocol):
    """A neural codec: waveform to K parallel streams of tokens, and back to the waveform."""

    @property
    def identity(self) -> str:
        """Names the codec, its settings and its weights; equal identities give equal tokens."""

    @property
    def sample_rate(self) -> int: ...

    @property
    def hop_length(self) -> int:
        """Samples per frame."""

    @property
    def frame_rate(self) -> float: ...

    @property
    def num_codebooks(self) -> int: ...

    @property
    def codebook_size(self) -> int: ...

    @property
    def num_channels(self) -> int: ...

    def to(self, device: str) -> object:
        """Moves the codec to a device, in place."""

    def encode(self, samples: Tensor, *, num_codebooks: int | None = None) -> Tensor:
        """Turns samples [B, C, N], float32 at `sample_rate`, into tokens [B, K, T], int64.

        Args:
            num_codebooks: number of codebooks to use, coarsest first; all by default.
        """

    def gains(self, samples: Tensor) -> Tensor | None:
        """Gains [B, chunks] for `decode` if the codec normalises its input, else None."""

    def decode(
        self, tokens: Tensor, *, num_samples: int | None = None, gains: Tensor | None = None
    ) -> Tensor:
        """Turns tokens [B, K, T], with K from 1 to `num_codebooks`, into samples [B, C, N].

        Args:
            num_samples: exact length to restore; all samples of the T frames by default.
            gains: the result of `gains`, for a codec that normalises; 1 by default.
        """

    def encoder_stream(self, *, num_codebooks: int | None = None) -> EncoderStream: ...

    def decoder_stream(self, *, gains: Tensor | None = None) -> DecoderStream: ...


class LatentStream(Protocol):
    """Samples to latents, or latents to samples, piece by piece."""

    def push(self, values: Tensor, /) -> Tensor:
        """Takes the next values [B, C or D, N or T >= 0], returns final results."""

    def finish(self) -> Tensor:
        """Ends the values and returns the remaining results."""


class LatentCodec(AcousticTokenizer, Protocol):
    """A codec that also shows its continuous latents."""

    @property
    def latent_size(self) -> int:
        """D, the number of latent dimensions."""

    def latents(self, samples: Tensor) -> Tensor:
        """Turns samples [B, C, N], float32 at `sample_rate`, into latents [B, D, T], float32."""

    def decode_latents(self, latents: Tensor, *, num_samples: int | None = None) -> Tensor:
        """Turns latents [B, D, T] into samples [B, C, N]."""

    def latents_of(self, tokens: Tensor) -> Tensor:
        """Turns tokens [B, K, T] into the latents [B, D, T] that they stand for."""

    def tokens_of(self, latents: Tensor, *, num_codebooks: int | None = None) -> Tensor:
        """Turns latents [B, D, T] into the nearest tokens [B, K, T]."""

    def latent_stream(self) -> LatentStream: ...

    def sample_stream(self) -> LatentStream: ...


class SemanticTokenizer(Protocol):
    """A masked audio model with a codebook: waveform to one stream of tokens; cannot decode."""

    @property
    def identity(self) -> str:
        """Names the model, layer, codebook and weights; equal identities give equal tokens."""

    @property
    def sample_rate(self) -> int: ...

    @property
    def frame_rate(self) -> float: ...

    @property
    def num_tokens(self) -> int: ...

    def encode(self, samples: Tensor) -> Tensor:
        """Turns samples [B, C, N], float32 at `sample_rate`, into tokens [B, 1, T], int64."""

    def features(self, samples: Tensor, layer: int) -> Tensor:
        """The model's activations after `layer` (0: its input): [B, T, D], float32."""
