"""Mimi, the codec of Moshi: 24 kHz mono, 12.5 Hz, 1 semantic and 31 acoustic codebooks, causal.

Wraps `transformers.MimiModel` and gives the same tokens and samples, bit for bit, with one
exception: in transformers 4 each step attends to all earlier ones. The model was trained with a
window of 250 steps (10 s), which applies here and in transformers 5.

Shapes: B batch, C channels, N samples, K codebooks, T frames, D width, H heads.
Paper: Défossez et al., Moshi: a speech-text foundation model, arXiv 2410.00037.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from audio_tokenizers import protocol
from audio_tokenizers.acoustic import inputs
from audio_tokenizers.acoustic.stream_layers import (
    ChainStream,
    StreamLayer,
    padded_conv_stream,
    seanet_stream,
    trimmed_conv_stream,
)
from audio_tokenizers.acoustic.streaming import DecoderStream, EncoderStream
from audio_tokenizers.identity import hash_model
from audio_tokenizers.weights import load_transformers

if TYPE_CHECKING:
    from transformers import MimiModel

# Settings that change tokens or samples but not the names and shapes of the weights.
_SETTINGS = (
    "sampling_rate", "upsampling_ratios", "dilation_growth_rate", "use_causal_conv", "pad_mode",
    "trim_right_ratio", "sliding_window", "hidden_act", "num_attention_heads",
    "num_key_value_heads", "head_dim", "norm_eps", "upsample_groups",
)  # fmt: skip


def load_mimi(source: str | Path) -> "MimiTokenizer":
    """Loads Mimi from a transformers folder or hub id."""
    from transformers import MimiModel

    return MimiTokenizer(load_transformers(MimiModel, source, kind="mimi"))


class MimiTokenizer:
    """Mimi as an acoustic tokenizer; the first codebook carries the semantic tokens.

    Args:
        model: modified: set to evaluation mode, without gradients.
    """

    def __init__(self, model: "MimiModel") -> None:
        self.model: Any = model.train(False).requires_grad_(False)
        self._parts = _parts(model)
        kind = _rotary(self._parts.encoder_transformer).rope_type
        if kind != "default":
            raise ValueError(f"Got rotary positions of type {kind}; expected default, as in Mimi.")

    @cached_property  # the weights are frozen, and hashing them takes time
    def identity(self) -> str:
        """Names the codec, its settings and its weights; equal identities give equal tokens."""
        config = self.model.config
        # transformers 4 and 5 keep this one, and group the weights, each in their own way.
        in_4 = hasattr(config, "rope_theta")
        theta = config.rope_theta if in_4 else config.rope_parameters["rope_theta"]
        settings = [*(getattr(config, name) for name in _SETTINGS), float(theta)]
        parts = {**vars(self._parts), "quantizer": self.model.quantizer}
        weights = {
            f"{part}.{name}": weight
            for part, module in parts.items()
            for name, weight in module.state_dict().items()
        }
        digest = hash_model(json.dumps(settings, default=list), weights)
        return f"mimi-{self.sample_rate}-{digest}"

    @property
    def sample_rate(self) -> int:
        return self.model.config.sampling_rate

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.model.config.frame_size

    @property
    def frame_rate(self) -> float:
        return self.sample_rate / self.hop_length

    @property
    def num_codebooks(self) -> int:
        return self.model.config.num_quantizers

    @property
    def codebook_size(self) -> int:
        return self.model.config.codebook_size

    @property
    def num_channels(self) -> int:
        return self.model.config.audio_channels

    def to(self, device: torch.device | str) -> "MimiTokenizer":
        """Moves the weights, and returns this tokenizer."""
        self.model.to(device)
        for module in self.model.modules():
            if hasattr(module, "embed_sum"):
                module._embed = None  # a cache of entries, which `to` leaves behind
        return self

    @torch.no_grad()
    def encode(self, samples: Tensor, *, num_codebooks: int | None = None) -> Tensor:
        """Turns samples [B, C, N], float32 at `sample_rate`, into tokens [B, K, T], int64."""
        inputs.check_samples(samples, num_channels=self.num_channels)
        K = self._check_num_codebooks(num_codebooks)
        parts = self._parts
        x = _transform(parts.encoder_transformer, parts.encoder(samples))
        return self.quantize(parts.downsample(x), K)

    def gains(self, samples: Tensor) -> None:
        """None: Mimi does not normalise its input."""
        inputs.check_samples(samples, num_channels=self.num_channels)

    @torch.no_grad()
    def decode(
        self, tokens: Tensor, *, num_samples: int | None = None, gains: Tensor | None = None
    ) -> Tensor:
        """Turns tokens [B, K, T], with K from 1 to `num_codebooks`, into samples [B, C, N]."""
        inputs.check_tokens(
            tokens, num_codebooks=self.num_codebooks, codebook_size=self.codebook_size
        )
        inputs.check_no_gains(gains)
        available = tokens.shape[2] * self.hop_length
        N = inputs.check_num_samples(num_samples, available=available)
        parts = self._parts
        x = _transform(parts.decoder_transformer, parts.upsample(self.dequantize(tokens)))
        return parts.decoder(x)[..., :N]

    def encoder_stream(self, *, num_codebooks: int | None = None) -> protocol.EncoderStream:
        """Encodes piece by piece, with the tokens of `encode`."""
        K = self._check_num_codebooks(num_codebooks)
        parts = self._parts
        layers: list[StreamLayer] = [
            seanet_stream(parts.encoder.layers),
            TransformerStream(parts.encoder_transformer),
            padded_conv_stream(parts.downsample),
        ]
        return EncoderStream(
            ChainStream(layers),
            lambda latents: self.quantize(latents, K),
            num_channels=self.num_channels,
            num_codebooks=K,
        )

    def decoder_stream(self, *, gains: Tensor | None = None) -> protocol.DecoderStream:
        """Decodes piece by piece, with the samples of `decode`."""
        inputs.check_no_gains(gains)
        parts = self._parts
        layers: list[StreamLayer] = [
            trimmed_conv_stream(parts.upsample),
            TransformerStream(parts.decoder_transformer),
            seanet_stream(parts.decoder.layers),
        ]
        return DecoderStream(
            ChainStream(layers),
            self.dequantize,
            num_channels=self.num_channels,
            num_codebooks=self.num_codebooks,
            codebook_size=self.codebook_size,
            hop_length=self.hop_length,
        )

    def quantize(self, latents: Tensor, num_codebooks: int) -> Tensor:
        """The split residual quantiser: latents [B, D, T] to tokens [B, K, T]."""
        return self.model.quantizer.encode(latents, num_codebooks).transpose(0, 1)

    def dequantize(self, tokens: Tensor) -> Tensor:
        """Sums the codebook entries of tokens [B, K, T]: latents [B, D, T]."""
        return self.model.quantizer.decode(tokens)

    def _check_num_codebooks(self, num_codebooks: int | None) -> int:
        return inputs.check_num_codebooks(
            num_codebooks,
            available=self.num_codebooks,
            least=self.model.config.num_semantic_quantizers,
        )


class TransformerStream:
    """Mimi's transformer, with the keys and values of its window as state."""

    def __init__(self, transformer: Any) -> None:
        self._layers = transformer.layers
        self._rotary = _rotary(transformer)
        self._window: int = transformer.config.sliding_window
        self._caches: list[tuple[Tensor, Tensor] | None] = [None] * len(self._layers)
        self._length = 0

    def step(self, x: Tensor, *, last: bool) -> Tensor:  # noqa: ARG002
        """Takes the next x [B, D, N >= 0], returns the same number of steps."""
        N = x.shape[2]
        if N == 0:
            return x
        x = x.transpose(1, 2)  # [B, N, D]
        positions = torch.arange(self._length, self._length + N, device=x.device)
        rotation = self._rotary(x, positions[None])
        num_cached = min(self._length, self._window - 1)
        keys = torch.arange(self._length - num_cached, self._length + N, device=x.device)
        mask = window_mask(positions, keys, window=self._window)
        for i, layer in enumerate(self._layers):
            y = self._attend(i, layer.input_layernorm(x), rotation, mask)
            x = x + layer.self_attn_layer_scale(y)
            x = x + layer.mlp_layer_scale(layer.mlp(layer.post_attention_layernorm(x)))
        self._length += N
        return x.transpose(1, 2)

    def _attend(self, i: int, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        attention = self._layers[i].self_attn
        B, N, _ = x.shape
        q, k, v = (
            project(x).view(B, N, -1, attention.head_dim).transpose(1, 2)  # [B, H, N, D / H]
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        q, k = rotate(q, *rotation), rotate(k, *rotation)
        if (cache := self._caches[i]) is not None:
            k, v = torch.cat([cache[0], k], dim=2), torch.cat([cache[1], v], dim=2)
        keep = max(0, k.shape[2] - self._window + 1)
        self._caches[i] = k[:, :, keep:].clone(), v[:, :, keep:].clone()
        repeats = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=attention.scaling)
        return attention.o_proj(y.transpose(1, 2).reshape(B, N, -1))


def window_mask(queries: Tensor, keys: Tensor, *, window: int) -> Tensor:
    """The mask of keys for each query by position: the query's own and the window - 1 before."""
    distance = queries[:, None] - keys[None, :]
    return (distance >= 0) & (distance < window)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates pairs from the two halves of x [B, H, N, D] by the angles of their positions."""
    first, second = x.chunk(2, dim=-1)
    return x * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]


def _transform(transformer: Any, x: Tensor) -> Tensor:
    """Runs a transformer over x [B, D, N]."""
    x = x.transpose(1, 2)  # [B, N, D]
    N, window = x.shape[1], transformer.config.sliding_window
    mask = None
    if window < N:  # which transformers 4 leaves out
        positions = torch.arange(N, device=x.device)
        mask = window_mask(positions, positions, window=window).expand(len(x), 1, N, N)
    return transformer(x, attention_mask=mask)[0].transpose(1, 2)


def _rotary(transformer: Any) -> Any:
    """The rotary embedding of a transformer, which some versions store in each layer."""
    shared = getattr(transformer, "rotary_emb", None)
    return shared or transformer.layers[0].self_attn.rotary_emb


@dataclass(frozen=True, kw_only=True)
class _Parts:
    encoder: Any
    encoder_transformer: Any
    downsample: Any
    upsample: Any
    decoder_transformer: Any
    decoder: Any


def _parts(model: Any) -> _Parts:
    """The parts of the model, which recent versions of transformers group into two modules."""
    if hasattr(model.encoder, "encoder_seanet"):
        return _Parts(
            encoder=model.encoder.encoder_seanet,
            encoder_transformer=model.encoder.encoder_transformer,
            downsample=model.encoder.downsample,
            upsample=model.decoder.upsample,
            decoder_transformer=model.decoder.decoder_transformer,
            decoder=model.decoder.decoder_seanet,
        )
    return _Parts(
        encoder=model.encoder,
        encoder_transformer=model.encoder_transformer,
        downsample=model.downsample,
        upsample=model.upsample,
        decoder_transformer=model.decoder_transformer,
        decoder=model.decoder,
    )
