"""DAC, the Descript Audio Codec: 16, 24 and 44.1 kHz, mono.

Wraps `transformers.DacModel` and gives the same tokens and samples, bit for bit. As its feature
extractor does, this pads samples to whole frames.

Shapes: B batch, C channels, N samples, K codebooks, T frames, D width.
Paper: Kumar et al., High-Fidelity Audio Compression with Improved RVQGAN, arXiv 2306.06546.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio_tokenizers import protocol
from audio_tokenizers.acoustic import inputs
from audio_tokenizers.acoustic.stream_layers import (
    ChainStream,
    ConvStream,
    PointwiseStream,
    StreamLayer,
    SumStream,
    TransposedConvStream,
)
from audio_tokenizers.acoustic.streaming import DecoderStream, EncoderStream
from audio_tokenizers.identity import hash_model
from audio_tokenizers.weights import load_transformers

if TYPE_CHECKING:
    from transformers import DacModel


def load_dac(source: str | Path) -> "DacTokenizer":
    """Loads DAC from a transformers folder or hub id."""
    from transformers import DacModel

    return DacTokenizer(load_transformers(DacModel, source, kind="dac"))


class DacTokenizer:
    """DAC as an acoustic tokenizer.

    T frames decode to exactly T * `hop_length` samples. Models with odd ratios return a few samples
    less, which are padded with zeros.

    Args:
        model: modified: set to evaluation mode, without gradients.
    """

    def __init__(self, model: "DacModel") -> None:
        self.model: Any = model.train(False).requires_grad_(False)

    @cached_property  # the weights are frozen, and hashing them takes time
    def identity(self) -> str:
        """Names the codec, its settings and its weights; equal identities give equal tokens."""
        settings = json.dumps([self.sample_rate, list(self.model.config.downsampling_ratios)])
        digest = hash_model(settings, self.model.state_dict())
        return f"dac-{self.sample_rate}-{digest}"

    @property
    def sample_rate(self) -> int:
        return self.model.config.sampling_rate

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.model.config.hop_length

    @property
    def frame_rate(self) -> float:
        return self.sample_rate / self.hop_length

    @property
    def num_codebooks(self) -> int:
        return self.model.config.n_codebooks

    @property
    def codebook_size(self) -> int:
        return self.model.config.codebook_size

    @property
    def num_channels(self) -> int:
        return 1

    def to(self, device: torch.device | str) -> "DacTokenizer":
        """Moves the weights, and returns this tokenizer."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def encode(self, samples: Tensor, *, num_codebooks: int | None = None) -> Tensor:
        """Turns samples [B, 1, N], float32 at `sample_rate`, into tokens [B, K, T], int64."""
        inputs.check_samples(samples, num_channels=1)
        K = inputs.check_num_codebooks(num_codebooks, available=self.num_codebooks)
        samples = F.pad(samples, (0, -samples.shape[2] % self.hop_length))
        return self.quantize(self.model.encoder(samples), K)

    def gains(self, samples: Tensor) -> None:
        """None: DAC does not normalise its input."""
        inputs.check_samples(samples, num_channels=1)

    @torch.no_grad()
    def decode(
        self, tokens: Tensor, *, num_samples: int | None = None, gains: Tensor | None = None
    ) -> Tensor:
        """Turns tokens [B, K, T], with K from 1 to `num_codebooks`, into samples [B, 1, N]."""
        inputs.check_tokens(
            tokens, num_codebooks=self.num_codebooks, codebook_size=self.codebook_size
        )
        inputs.check_no_gains(gains)
        available = tokens.shape[2] * self.hop_length
        N = inputs.check_num_samples(num_samples, available=available)
        samples = self.model.decoder(self.dequantize(tokens))
        return F.pad(samples, (0, available - samples.shape[2]))[..., :N]

    def encoder_stream(self, *, num_codebooks: int | None = None) -> protocol.EncoderStream:
        """Encodes piece by piece, with the tokens of `encode`."""
        K = inputs.check_num_codebooks(num_codebooks, available=self.num_codebooks)
        encoder = self.model.encoder
        layers: list[StreamLayer] = [_conv(encoder.conv1)]
        for block in encoder.block:
            layers += [_residual(unit) for unit in _units(block)]
            layers += [PointwiseStream(block.snake1), _conv(block.conv1)]
        layers += [PointwiseStream(encoder.snake1), _conv(encoder.conv2)]
        return EncoderStream(
            ChainStream(layers),
            lambda latents: self.quantize(latents, K),
            num_channels=1,
            num_codebooks=K,
            whole_frames=self.hop_length,
        )

    def decoder_stream(self, *, gains: Tensor | None = None) -> protocol.DecoderStream:
        """Decodes piece by piece, with the samples of `decode`."""
        inputs.check_no_gains(gains)
        decoder = self.model.decoder
        layers: list[StreamLayer] = [_conv(decoder.conv1)]
        for block in decoder.block:
            margin = block.conv_t1.padding[0]
            layers += [PointwiseStream(block.snake1)]
            layers += [TransposedConvStream(block.conv_t1, trim=(margin, margin))]
            layers += [_residual(unit) for unit in _units(block)]
        layers += [PointwiseStream(decoder.snake1), _conv(decoder.conv2)]
        layers += [PointwiseStream(decoder.tanh)]
        return DecoderStream(
            ChainStream(layers),
            self.dequantize,
            num_channels=1,
            num_codebooks=self.num_codebooks,
            codebook_size=self.codebook_size,
            hop_length=self.hop_length,
        )

    def quantize(self, latents: Tensor, num_codebooks: int) -> Tensor:
        """The residual quantiser: latents [B, D, T] to tokens [B, K, T]."""
        return self.model.quantizer(latents, num_codebooks)[1]

    def dequantize(self, tokens: Tensor) -> Tensor:
        """Sums the codebook entries of tokens [B, K, T]: latents [B, D, T]."""
        return self.model.quantizer.from_codes(tokens)[0]


def _units(block: Any) -> tuple[Any, Any, Any]:
    return block.res_unit1, block.res_unit2, block.res_unit3


def _residual(unit: Any) -> SumStream:
    branch = ChainStream(
        [
            PointwiseStream(unit.snake1),
            _conv(unit.conv1),
            PointwiseStream(unit.snake2),
            _conv(unit.conv2),
        ]
    )
    return SumStream([branch, PointwiseStream(nn.Identity())])


def _conv(conv: nn.Conv1d) -> ConvStream:
    margin = int(conv.padding[0])
    return ConvStream(conv, padding=(margin, margin), mode="constant", whole_strides=False)
