"""EnCodec: a convolutional codec with a residual vector quantiser.

Wraps `transformers.EncodecModel` and gives the same tokens and samples, bit for bit. See
`encodec_checkpoints` for reading checkpoints and `streaming` for streams.

Shapes: B batch, C channels, N samples, K codebooks, T frames, D width.
Paper: Défossez et al., High Fidelity Neural Audio Compression, arXiv 2210.13438.
"""

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from audio_tokenizers import protocol
from audio_tokenizers.acoustic import inputs
from audio_tokenizers.acoustic.chunked import (
    ChunkedDecoderStream,
    ChunkedEncoderStream,
    overlap_add,
)
from audio_tokenizers.acoustic.stream_layers import seanet_stream
from audio_tokenizers.acoustic.streaming import DecoderStream, EncoderStream
from audio_tokenizers.identity import hash_model

if TYPE_CHECKING:
    from transformers import EncodecModel

_SETTINGS = (
    "sampling_rate", "audio_channels", "normalize", "chunk_length_s", "overlap",
    "upsampling_ratios", "norm_type", "dilation_growth_rate", "use_causal_conv", "pad_mode",
    "trim_right_ratio",
)  # fmt: skip


class EncodecTokenizer:
    """EnCodec as an acoustic tokenizer: 24 kHz, 48 kHz stereo, and the 32 and 16 kHz variants.

    The 48 kHz model codes chunks of one second separately, with 1 % overlap. There the T axis holds
    the frames of all chunks one after the other, and `gains` has one scale per chunk.

    Args:
        model: modified: set to evaluation mode, with weight normalisation folded into plain
            weights, which does not change results.
    """

    def __init__(self, model: "EncodecModel") -> None:
        fold_weight_norm(model)
        self.model: Any = model.train(False).requires_grad_(False)
        config = self.model.config
        self._hop: int = config.hop_length
        self.chunk_length: int | None = config.chunk_length
        self.chunk_stride: int = config.chunk_stride or 1
        if self.chunk_length is not None and self._new_frames < self.full_chunk_frames - 1:
            raise ValueError(
                f"Got an overlap of {config.overlap}; expected at most one or two frames, as in "
                "the 48 kHz model."
            )

    @cached_property  # the weights are frozen, and hashing them takes time
    def identity(self) -> str:
        """Names the codec, its settings and its weights; equal identities give equal tokens."""
        config = self.model.config
        settings = json.dumps([getattr(config, name) for name in _SETTINGS], default=list)
        digest = hash_model(settings, self.model.state_dict())
        return f"encodec-{self.sample_rate}-{digest}"

    @property
    def sample_rate(self) -> int:
        return self.model.config.sampling_rate

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self._hop

    @property
    def frame_rate(self) -> float:
        return self.sample_rate / self._hop

    @property
    def num_codebooks(self) -> int:
        return len(self.model.quantizer.layers)

    @property
    def codebook_size(self) -> int:
        return self.model.config.codebook_size

    @property
    def num_channels(self) -> int:
        return self.model.config.audio_channels

    def to(self, device: torch.device | str) -> "EncodecTokenizer":
        """Moves the weights, and returns this tokenizer."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def encode(self, samples: Tensor, *, num_codebooks: int | None = None) -> Tensor:
        """Turns samples [B, C, N], float32 at `sample_rate`, into tokens [B, K, T], int64."""
        inputs.check_samples(samples, num_channels=self.num_channels)
        K = inputs.check_num_codebooks(num_codebooks, available=self.num_codebooks)
        return torch.cat([self.encode_chunk(x, K)[0] for x in self._chunks(samples)], dim=2)

    @torch.no_grad()
    def gains(self, samples: Tensor) -> Tensor | None:
        """Gains [B, chunks] that `decode` needs, or None if the model does not normalise."""
        inputs.check_samples(samples, num_channels=self.num_channels)
        gains = [chunk_gain(chunk) for chunk in self._chunks(samples)]
        return torch.cat(gains, dim=1) if self.model.config.normalize else None

    @torch.no_grad()
    def decode(
        self, tokens: Tensor, *, num_samples: int | None = None, gains: Tensor | None = None
    ) -> Tensor:
        """Turns tokens [B, K, T], with K from 1 to `num_codebooks`, into samples [B, C, N]."""
        inputs.check_tokens(
            tokens, num_codebooks=self.num_codebooks, codebook_size=self.codebook_size
        )
        frames = self.chunk_frames(tokens.shape[2])
        available = max(i * self.chunk_stride + T * self._hop for i, T in enumerate(frames))
        N = inputs.check_num_samples(num_samples, available=available)
        gains = self.check_gains(gains, shape=(tokens.shape[0], len(frames)))
        chunks = [
            self.decode_chunk(chunk, None if gains is None else gains[:, i : i + 1])
            for i, chunk in enumerate(torch.split(tokens, frames, dim=2))
        ]
        if self.chunk_length is None:
            return chunks[0][..., :N]
        return overlap_add(chunks, stride=self.chunk_stride)[..., :N]

    def encoder_stream(self, *, num_codebooks: int | None = None) -> protocol.EncoderStream:
        """Encodes piece by piece, with the tokens of `encode`."""
        K = inputs.check_num_codebooks(num_codebooks, available=self.num_codebooks)
        if self.chunk_length is not None:
            return ChunkedEncoderStream(self, K)
        self._check_streamable()
        return EncoderStream(
            seanet_stream(self.model.encoder.layers),
            lambda latents: self.quantize(latents, K),
            num_channels=self.num_channels,
            num_codebooks=K,
        )

    def decoder_stream(self, *, gains: Tensor | None = None) -> protocol.DecoderStream:
        """Decodes piece by piece, with the samples of `decode`."""
        if not self.model.config.normalize:
            inputs.check_no_gains(gains)
        if self.chunk_length is not None:
            return ChunkedDecoderStream(self, gains)
        self._check_streamable()
        return DecoderStream(
            seanet_stream(self.model.decoder.layers),
            self.dequantize,
            num_channels=self.num_channels,
            num_codebooks=self.num_codebooks,
            codebook_size=self.codebook_size,
            hop_length=self.hop_length,
        )

    def encode_chunk(self, samples: Tensor, num_codebooks: int) -> tuple[Tensor, Tensor | None]:
        """Encodes one chunk [B, C, N] as a whole: its tokens [B, K, T] and its gains [B, 1]."""
        gain = None
        if self.model.config.normalize:
            gain = chunk_gain(samples)
            samples = samples / gain[:, :, None]
        return self.quantize(self.model.encoder(samples), num_codebooks), gain

    def decode_chunk(self, tokens: Tensor, gain: Tensor | None) -> Tensor:
        """Decodes one chunk of tokens [B, K, T], with gains [B, 1], into samples [B, C, N]."""
        samples: Tensor = self.model.decoder(self.dequantize(tokens))
        return samples if gain is None else samples * gain[:, :, None]

    def quantize(self, latents: Tensor, num_codebooks: int) -> Tensor:
        """The residual quantiser: latents [B, D, T] to tokens [B, K, T]."""
        tokens = []
        for layer in self.model.quantizer.layers[:num_codebooks]:
            indices = layer.encode(latents)
            latents = latents - layer.decode(indices)
            tokens.append(indices)
        return torch.stack(tokens, dim=1)

    def dequantize(self, tokens: Tensor) -> Tensor:
        """Sums the codebook entries of tokens [B, K, T]: latents [B, D, T]."""
        return self.model.quantizer.decode(tokens.transpose(0, 1))

    @property
    def full_chunk_frames(self) -> int:
        """Frames of a full chunk."""
        assert self.chunk_length is not None
        return -(-self.chunk_length // self._hop)

    def chunk_frames(self, num_frames: int) -> list[int]:
        """The frames of each chunk, given their total T.

        The last chunk has at most one stride of new samples, one frame less than a full chunk. So T
        is a multiple of full chunks only if the last two chunks have full - 1 and 1 frames.
        """
        if self.chunk_length is None:
            return [num_frames]
        full = self.full_chunk_frames
        num_full, rest = divmod(num_frames, full)
        if rest:
            return [full] * num_full + [rest]
        if self._new_frames == full:
            return [full] * num_full
        return [full] * (num_full - 1) + [full - 1, 1]

    def check_gains(self, gains: Tensor | None, *, shape: tuple[int, int]) -> Tensor | None:
        """Raises unless gains are absent, or [B, chunks] for a model that normalises."""
        if not self.model.config.normalize:
            inputs.check_no_gains(gains)
        elif gains is not None and tuple(gains.shape) != shape:
            raise ValueError(
                f"Got gains of shape {list(gains.shape)}; expected {list(shape)}, one per chunk of "
                "each waveform."
            )
        return gains

    def _check_streamable(self) -> None:
        config = self.model.config
        if config.normalize or config.norm_type == "time_group_norm":
            raise ValueError(
                "This model normalises whole waveforms and cannot stream; use encode and decode."
            )

    @property
    def _new_frames(self) -> int:
        """Frames of one stride."""
        return -(-self.chunk_stride // self._hop)

    def _chunks(self, samples: Tensor) -> list[Tensor]:
        if self.chunk_length is None:
            return [samples]
        starts = range(0, samples.shape[2], self.chunk_stride)
        return [samples[..., start : start + self.chunk_length] for start in starts]


def chunk_gain(samples: Tensor) -> Tensor:
    """Loudness [B, 1] of samples [B, C, N]: the RMS of their mean over channels."""
    mono = samples.sum(1, keepdim=True) / samples.shape[1]
    loudness = mono.pow(2).mean(dim=-1, keepdim=True).sqrt() + 1e-8  # [B, 1, 1]
    return loudness[:, :, 0]


def fold_weight_norm(model: nn.Module) -> None:
    """Replaces weight-normalised convolutions in a model by plain ones with equal weights.

    Not `remove_parametrizations`: it breaks deep copies of the model, since copies of a
    parametrised module share the class that it edits.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if parametrize.is_parametrized(child, "weight"):
                setattr(parent, name, _plain_conv(child))


def _plain_conv(conv: nn.Module) -> nn.Module:
    kind = nn.Conv1d if isinstance(conv, nn.Conv1d) else nn.ConvTranspose1d
    assert isinstance(conv, kind)
    plain = kind(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size[0],
        stride=conv.stride[0],
        dilation=conv.dilation[0],
        bias=conv.bias is not None,
    )
    plain.load_state_dict({"weight": conv.weight, "bias": conv.bias})
    return plain.to(conv.weight.device)
