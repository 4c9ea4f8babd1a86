"""Files through codecs: long or short, in constant memory, the same as in one call."""

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import EncodecConfig, EncodecModel

from audio_tokenizers.acoustic.encodec import EncodecTokenizer
from audio_tokenizers.acoustic.frame_codec import FrameCodec, tiny
from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.cache import TokenCache
from audio_tokenizers.coding import decode_to_file, encode_file


@pytest.fixture(scope="module")
def codec() -> FrameCodec:
    torch.manual_seed(0)
    codec = FrameCodec(tiny()).eval()
    for layer in codec.quantizer.layers:
        layer._codebook.embed.normal_(std=0.3)
        layer._codebook.initted.fill_(True)
    return codec


def test_a_long_file_gives_the_tokens_and_samples_of_one_call(
    codec: FrameCodec, tmp_path: Path
) -> None:
    samples = 0.1 * torch.randn(2, 24_000 * 25 + 77)
    write_audio(tmp_path / "in.wav", samples, 24_000, encoding="float")
    heard: list[float] = []
    encoded = encode_file(tmp_path / "in.wav", codec, codec_name="x", progress=heard.append)
    mono = samples.mean(0)[None, None]
    assert torch.equal(encoded.tokens, codec.encode(mono)[0])
    assert encoded.num_samples == 24_000 * 25 + 77
    assert sum(heard) == pytest.approx(encoded.duration)

    decode_to_file(encoded, codec, tmp_path / "out.wav", encoding="float")
    decoded = read_audio(tmp_path / "out.wav").samples
    expected = codec.decode(encoded.tokens[None], num_samples=encoded.num_samples)[0]
    assert torch.equal(decoded, expected)


def test_a_file_of_another_rate_keeps_its_duration(codec: FrameCodec, tmp_path: Path) -> None:
    write_audio(tmp_path / "in.flac", 0.1 * torch.randn(1, 44_100), 44_100)
    encoded = encode_file(tmp_path / "in.flac", codec, codec_name="x", num_codebooks=2)
    assert encoded.tokens.shape == (2, 50)
    decode_to_file(encoded, codec, tmp_path / "out.wav")
    assert read_audio(tmp_path / "out.wav").samples.shape == (1, 24_000)


def test_any_number_of_channels_is_mixed(codec: FrameCodec, tmp_path: Path) -> None:
    samples = 0.1 * torch.randn(6, 4_800)
    write_audio(tmp_path / "surround.wav", samples, 24_000, encoding="float")
    encoded = encode_file(tmp_path / "surround.wav", codec, codec_name="x")
    assert torch.equal(encoded.tokens, codec.encode(samples.mean(0)[None, None])[0])


def test_a_cached_file_is_not_encoded_again(
    codec: FrameCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = TokenCache(tmp_path / "cache")
    write_audio(tmp_path / "in.wav", 0.1 * torch.randn(1, 4_801), 24_000)
    plain = encode_file(tmp_path / "in.wav", codec, codec_name="x")
    first = encode_file(tmp_path / "in.wav", codec, codec_name="x", cache=cache)
    fewer = encode_file(tmp_path / "in.wav", codec, codec_name="x", num_codebooks=2, cache=cache)
    assert fewer.tokens.shape[0] == 2

    copy = (tmp_path / "in.wav").rename(tmp_path / "moved.wav")
    monkeypatch.setattr(codec, "encoder_stream", lambda **_: pytest.fail("encoded again"))
    second = encode_file(copy, codec, codec_name="y", num_codebooks=4, cache=cache)
    assert second.codec == "y"
    for encoded in (first, second):
        assert torch.equal(encoded.tokens, plain.tokens)
        assert encoded.tokens.dtype == torch.int64
        assert (encoded.num_samples, encoded.identity) == (4_801, codec.identity)


def test_gains_are_cached(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = EncodecConfig(
        sampling_rate=48_000, audio_channels=2, normalize=True, chunk_length_s=1.0, overlap=0.01,
        norm_type="time_group_norm", use_causal_conv=False, target_bandwidths=[3.0, 6.0],
        num_filters=4, hidden_size=16,
    )  # fmt: skip
    codec = EncodecTokenizer(EncodecModel(config))
    cache = TokenCache(tmp_path / "cache")
    write_audio(tmp_path / "in.wav", 0.1 * torch.randn(1, 36_000), 24_000)
    first, second = (
        encode_file(tmp_path / "in.wav", codec, codec_name="x", cache=cache) for _ in range(2)
    )
    assert first.gains is not None
    assert second.gains is not None
    assert torch.equal(first.gains, second.gains)


def test_tokens_of_another_codec_are_refused_and_nothing_is_written(
    codec: FrameCodec, tmp_path: Path
) -> None:
    write_audio(tmp_path / "in.wav", torch.zeros(1, 4800), 24_000)
    encoded = encode_file(tmp_path / "in.wav", codec, codec_name="x")
    foreign = dataclasses.replace(encoded, identity="encodec-24000-0000")
    with pytest.raises(ValueError, match=r"come from encodec-24000-0000, but this codec is frame-"):
        decode_to_file(foreign, codec, tmp_path / "out.wav")
    assert not (tmp_path / "out.wav").exists()
