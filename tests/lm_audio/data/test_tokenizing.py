"""The streams of a clip are what its tokenizers themselves make of it."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audio_tokenizers.acoustic.frame_codec import load_frame_codec
from audio_tokenizers.semantic.tokenizer import load_feature_tokenizer
from lm_audio.data.shards import Stream
from lm_audio.data.tokenizing import Tokenizers, TokenizingConfig
from lm_audio.renderers.codec import CodecRenderer


def sound(seconds: float, rate: int, *, num_channels: int = 1) -> torch.Tensor:
    shape = (num_channels, round(seconds * rate))
    return torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, shape)).float()


def test_each_stream_is_what_its_tokenizer_makes(codec_folder: Path, semantic_folder: Path) -> None:
    config = TokenizingConfig(
        codec=str(codec_folder), semantic=str(semantic_folder), sample_rate=8_000
    )
    tokenizers = Tokenizers(config)
    assert tokenizers.sample_rates == {8_000, 24_000}
    samples = {rate: sound(1.3, rate) for rate in tokenizers.sample_rates}
    streams = tokenizers.encode(samples)
    codec, semantic = load_frame_codec(codec_folder), load_feature_tokenizer(semantic_folder)
    assert torch.equal(streams["acoustic"], codec.encode(samples[24_000][None])[0])
    assert torch.equal(streams["semantic"], semantic.encode(samples[24_000][None])[0])
    assert torch.equal(streams["samples"].float() / 2**15, (samples[8_000] * 2**15).round() / 2**15)
    assert tokenizers.streams == {
        "acoustic": Stream(
            rate=Fraction(50), num_codebooks=4, num_tokens=64, identity=codec.identity
        ),
        "semantic": Stream(
            rate=Fraction(25), num_codebooks=1, num_tokens=8, identity=semantic.identity
        ),
        "samples": Stream(
            rate=Fraction(8_000), num_codebooks=1, num_tokens=None, identity="pcm16-8000"
        ),
    }


def test_cached_tokens_of_every_stream_are_those_without_a_cache(
    codec_folder: Path, semantic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TokenizingConfig(
        codec=str(codec_folder), semantic=str(semantic_folder), num_channels=2, sample_rate=8_000
    )
    samples = {rate: sound(0.5, rate, num_channels=2) for rate in (8_000, 24_000)}
    plain = Tokenizers(config).encode(samples)
    config = replace(config, cache=str(tmp_path / "cache"))
    first = Tokenizers(config).encode(samples)
    tokenizers = Tokenizers(config)
    for tokenizer in (tokenizers.codec, tokenizers.semantic):
        monkeypatch.setattr(tokenizer, "encode", lambda *_, **__: pytest.fail("encoded again"))
    second = tokenizers.encode(samples)
    for name, stream in plain.items():
        assert torch.equal(first[name], stream)
        assert torch.equal(second[name], stream)


def test_stereo_through_a_mono_codec_is_what_its_renderer_makes(codec_folder: Path) -> None:
    config = TokenizingConfig(codec=str(codec_folder), num_channels=2, num_codebooks=3)
    tokenizers = Tokenizers(config)
    samples = sound(0.5, 24_000, num_channels=2)
    tokens = tokenizers.encode({24_000: samples})["acoustic"]
    codec = load_frame_codec(codec_folder)
    assert torch.equal(
        tokens, CodecRenderer(codec, num_channels=2, num_codebooks=3).encoder.encode(samples)
    )
    assert not torch.equal(tokens[0::2], tokens[1::2])
    stream = tokenizers.streams["acoustic"]
    assert stream.num_codebooks == 6
    assert (
        stream.identity != Tokenizers(replace(config, num_channels=1)).streams["acoustic"].identity
    )


def test_samples_of_16_bits_come_out_as_they_were() -> None:
    tokenizers = Tokenizers(TokenizingConfig(sample_rate=8_000))
    whole = torch.arange(-(2**15), 2**15, dtype=torch.int32)[None]
    samples = tokenizers.encode({8_000: whole.float() / 2**15})["samples"]
    assert samples.dtype == torch.int16
    assert torch.equal(samples.int(), whole)
    loud = tokenizers.encode({8_000: torch.tensor([[1.5, -1.5]])})["samples"]
    assert loud.tolist() == [[2**15 - 1, -(2**15)]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "No stream to make"),
        ({"semantic": "x", "num_codebooks": 2}, "num_codebooks=2 has no effect without a codec"),
        ({"semantic": "x", "num_channels": 2}, "num_channels=2 does not apply to semantic tokens"),
        ({"sample_rate": 10}, "sample rate of 10 Hz is out of range"),
        ({"sample_rate": 8_000, "num_channels": 0}, "num_channels must be at least 1, got 0"),
        ({"sample_rate": 8_000, "max_seconds": 0.5}, "max_seconds must be at least 1, got 0.5"),
        (
            {"sample_rate": 8_000, "max_seconds": float("nan")},
            "max_seconds must be at least 1, got nan",
        ),
        (
            {"sample_rate": 8_000, "examples_per_shard": 0},
            "examples_per_shard must be at least 1, got 0",
        ),
        ({"sample_rate": 8_000, "num_mixed": -1}, "num_mixed must be at least 0, got -1"),
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenizingConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_codebooks": 5}, "num_codebooks must be between 1 and 4"),
        ({"num_channels": 3}, "num_channels must be 1 or 2"),
    ],
)
def test_what_a_codec_cannot_do_is_refused(
    codec_folder: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Tokenizers(TokenizingConfig(codec=str(codec_folder), **settings))
