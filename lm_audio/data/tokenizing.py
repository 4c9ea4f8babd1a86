"""Turns audio into the streams of a shard: acoustic tokens, semantic tokens, 16-bit samples.

Clips are encoded one at a time, so that tokens do not depend on other clips; on a CPU batches would
not be faster. For parallel processes, see `shard_workers`.

Shapes: C channels, N samples, K codebooks or channels, T frames.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import torch
from torch import Tensor

from audio_tokenizers.acoustic.registry import load_codec
from audio_tokenizers.cache import TokenCache
from audio_tokenizers.identity import hash_tensor
from audio_tokenizers.protocol import AcousticTokenizer, SemanticTokenizer
from audio_tokenizers.resampling import check_sample_rate
from audio_tokenizers.semantic.tokenizer import load_feature_tokenizer
from lm_audio.data.shards import Stream, acoustic_identity, samples_stream
from lm_audio.patterns import interleave_channels

FULL_SCALE = 2**15
"""The value of 1.0 in the stream "samples"; 16-bit files are preserved exactly."""

LEAST = {
    "num_channels": 1, "max_seconds": 1, "examples_per_shard": 1, "num_mixed": 0,
    "passage_seconds": 1, "fill_seconds": 0, "seed": 0,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TokenizingConfig:
    """The streams to make, and their settings.

    Args:
        codec: a name, a path or a hub id for the stream "acoustic", or None.
        num_codebooks: codebooks per channel, coarsest first; all by default.
        semantic: the folder of a feature tokenizer for the stream "semantic", or None.
        sample_rate: of the stream "samples", or None.
        num_channels: the codec's own, or 1, by default; 2 with a mono codec interleaves the tokens
            of both channels, as `patterns.interleave_channels` does.
        max_seconds: longer recordings are split into equal parts.
        num_mixed: the number of mixtures with other clips to add per training clip.
        passage_seconds: joins training clips of one speaker, with short pauses, to passages of at
            least this duration; None disables it.
        fill_seconds: repeats the sound of training clips that end in silence, up to at least this
            duration; None disables it.
        cache: a folder of tokens from earlier runs, or None; it does not change the result.
    """

    codec: str | None = None
    num_codebooks: int | None = None
    semantic: str | None = None
    sample_rate: int | None = None
    num_channels: int | None = None
    max_seconds: float = 60.0
    examples_per_shard: int = 500
    num_mixed: int = 0
    passage_seconds: float | None = None
    fill_seconds: float | None = None
    seed: int = 0
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.codec is None and self.semantic is None and self.sample_rate is None:
            raise ValueError(
                "No stream to make. Give a codec, a semantic tokenizer or a sample rate."
            )
        if self.codec is None and self.num_codebooks is not None:
            raise ValueError(
                f"num_codebooks={self.num_codebooks} has no effect without a codec. Remove it."
            )
        if self.sample_rate is not None:
            check_sample_rate(self.sample_rate)
        if self.codec is None and self.sample_rate is None and self.num_channels is not None:
            raise ValueError(
                f"num_channels={self.num_channels} does not apply to semantic tokens. Remove it."
            )
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")


class Tokenizers:
    """The loaded tokenizers of a config, and the metadata of their streams.

    Args:
        device: of the models; the streams are returned on the CPU.
    """

    def __init__(self, config: TokenizingConfig, *, device: str = "cpu") -> None:
        self.device = device
        self.codec = None if config.codec is None else load_codec(config.codec, device=device)
        self.semantic = (
            None
            if config.semantic is None
            else load_feature_tokenizer(config.semantic, device=device)
        )
        own_channels = 1 if self.codec is None else self.codec.num_channels
        self.num_channels = config.num_channels or own_channels
        self.num_codebooks = config.num_codebooks
        self._sample_rate = config.sample_rate
        self._cache = None if config.cache is None else TokenCache(config.cache)
        self.streams: dict[str, Stream] = {}
        if self.codec is not None:
            _check_codec(self.codec, config)
            self.streams["acoustic"] = _acoustic_stream(self.codec, config)
        if self.semantic is not None:
            self.streams["semantic"] = _semantic_stream(self.semantic)
        if config.sample_rate is not None:
            self.streams["samples"] = samples_stream(
                config.sample_rate, num_channels=self.num_channels
            )

    @property
    def sample_rates(self) -> set[int]:
        """The sample rates that `encode` needs."""
        rates = {self._sample_rate} if self._sample_rate is not None else set()
        rates |= {each.sample_rate for each in (self.codec, self.semantic) if each is not None}
        return rates

    @torch.no_grad()
    def encode(self, samples: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Turns a clip [C, N], float32, given at each of `sample_rates`, into streams [K, T]."""
        streams = {}
        if self.codec is not None:
            rows = samples[self.codec.sample_rate].unflatten(0, (-1, self.codec.num_channels))
            encode = partial(self.codec.encode, num_codebooks=self.num_codebooks)
            tokens = self._tokens("acoustic", rows, encode)  # rows: [token sets, codec's C, N]
            streams["acoustic"] = interleave_channels(tokens[None])[0]
        if self.semantic is not None:
            clip = samples[self.semantic.sample_rate][None]
            streams["semantic"] = self._tokens("semantic", clip, self.semantic.encode)[0]
        if self._sample_rate is not None:
            scaled = (samples[self._sample_rate] * FULL_SCALE).round()
            streams["samples"] = scaled.clamp(-FULL_SCALE, FULL_SCALE - 1).to(torch.int16)
        return streams

    def _tokens(self, name: str, samples: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Tokens [B, K, T] of samples [B, C, N] for a stream, cached if possible."""

        def compute() -> dict[str, Tensor]:
            return {"tokens": encode(samples.to(self.device)).cpu()}

        if self._cache is None:
            return compute()["tokens"]
        stream = self.streams[name]
        key: list[str | int] = [hash_tensor(samples), stream.identity, stream.num_codebooks]
        return self._cache.get(key, compute)["tokens"]


def _check_codec(codec: AcousticTokenizer, config: TokenizingConfig) -> None:
    own, channels = codec.num_channels, config.num_channels
    if channels not in (None, own) and (own, channels) != (1, 2):
        choice = "1 or 2" if own == 1 else f"{own}"
        raise ValueError(f"num_channels must be {choice} for this codec, got {channels}.")
    if not 1 <= (config.num_codebooks or 1) <= codec.num_codebooks:
        raise ValueError(
            f"num_codebooks must be between 1 and {codec.num_codebooks} for this codec, got "
            f"{config.num_codebooks}."
        )


def _acoustic_stream(codec: AcousticTokenizer, config: TokenizingConfig) -> Stream:
    token_sets = (config.num_channels or codec.num_channels) // codec.num_channels
    return Stream(
        rate=Fraction(codec.sample_rate, codec.hop_length),
        num_codebooks=token_sets * (config.num_codebooks or codec.num_codebooks),
        num_tokens=codec.codebook_size,
        identity=acoustic_identity(codec.identity, token_sets=token_sets),
    )


def _semantic_stream(semantic: SemanticTokenizer) -> Stream:
    return Stream(
        rate=Fraction(semantic.frame_rate).limit_denominator(1000),
        num_codebooks=1,
        num_tokens=semantic.num_tokens,
        identity=semantic.identity,
    )
