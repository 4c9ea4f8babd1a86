import copy
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import EncodecModel

from audio_tokenizers.acoustic.encodec import EncodecTokenizer

MakeEncodec = Callable[..., EncodecModel]


def waveform(tokenizer: EncodecTokenizer, *, batch: int = 1, num_samples: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_samples)
    shape = (batch, tokenizer.num_channels, num_samples)
    return torch.randn(shape, generator=generator) * 0.3


@pytest.fixture(scope="module")
def tokenizer_24k(make_encodec: MakeEncodec) -> EncodecTokenizer:
    return EncodecTokenizer(make_encodec("24k"))


@pytest.fixture(scope="module")
def tokenizer_48k(make_encodec: MakeEncodec) -> EncodecTokenizer:
    return EncodecTokenizer(make_encodec("48k"))


@pytest.mark.parametrize(("kind", "rate", "num_codebooks", "frame_rate", "size"), [
    ("24k", 24_000, 32, 75, 1024),
    ("48k", 48_000, 16, 150, 1024),
    ("32k", 32_000, 4, 50, 2048),
    ("16k", 16_000, 4, 50, 2048),
])  # fmt: skip
def test_a_tokenizer_tells_its_rates_and_sizes(
    make_encodec: MakeEncodec, kind: str, rate: int, num_codebooks: int, frame_rate: int, size: int
) -> None:
    tokenizer = EncodecTokenizer(make_encodec(kind))
    assert tokenizer.sample_rate == rate
    assert tokenizer.num_codebooks == num_codebooks
    assert tokenizer.frame_rate == frame_rate
    assert tokenizer.hop_length == rate // frame_rate
    assert tokenizer.codebook_size == size
    assert tokenizer.num_channels == (2 if kind == "48k" else 1)


@pytest.mark.parametrize(("kind", "batch", "num_samples"), [
    ("24k", 1, 5_001), ("24k", 3, 5_001), ("32k", 1, 7_000), ("32k", 2, 3_000), ("16k", 1, 3_000),
    ("48k", 1, 20_000), ("48k", 2, 48_000), ("48k", 1, 100_001),
])  # fmt: skip
def test_every_bandwidth_gives_the_tokens_and_samples_of_transformers(
    make_encodec: MakeEncodec, kind: str, batch: int, num_samples: int
) -> None:
    model = make_encodec(kind, num_filters=2)
    tokenizer = EncodecTokenizer(copy.deepcopy(model))
    samples = waveform(tokenizer, batch=batch, num_samples=num_samples)
    gains = tokenizer.gains(samples)
    for bandwidth in model.config.target_bandwidths:
        with torch.no_grad():
            encoded = model.encode(samples, bandwidth=bandwidth)
            decoded = model.decode(
                encoded.audio_codes,
                encoded.audio_scales,
                last_frame_pad_length=encoded.last_frame_pad_length,
            ).audio_values
        codes = torch.cat(list(encoded.audio_codes), dim=2)
        codes = codes[..., : codes.shape[2] - encoded.last_frame_pad_length]
        tokens = tokenizer.encode(samples, num_codebooks=codes.shape[1])
        assert torch.equal(tokens, codes)
        assert torch.equal(tokenizer.decode(tokens, gains=gains), decoded)
    if gains is not None:
        assert torch.equal(gains, torch.cat(encoded.audio_scales, dim=1))


def test_tokens_use_every_codebook_and_many_entries(tokenizer_24k: EncodecTokenizer) -> None:
    tokens = tokenizer_24k.encode(waveform(tokenizer_24k, num_samples=24_000))
    assert tokens.shape == (1, 32, 75)
    assert all(len(book.unique()) > 10 for book in tokens[0])


@given(num_samples=st.integers(1, 3_000), num_codebooks=st.integers(1, 32))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_any_length_is_restored_from_any_number_of_codebooks(
    tokenizer_24k: EncodecTokenizer, num_samples: int, num_codebooks: int
) -> None:
    samples = waveform(tokenizer_24k, num_samples=num_samples)
    tokens = tokenizer_24k.encode(samples, num_codebooks=num_codebooks)
    assert tokens.shape == (1, num_codebooks, math.ceil(num_samples / 320))
    assert torch.equal(tokens, tokenizer_24k.encode(samples)[:, :num_codebooks])
    assert tokenizer_24k.decode(tokens, num_samples=num_samples).shape == samples.shape
    assert tokenizer_24k.decode(tokens).shape[2] == tokens.shape[2] * 320


# Around the ends of chunks (47,520 new samples each), where the last chunk can be one sample long
# and the one before it a frame short.
@pytest.mark.parametrize("num_samples", [
    1, 319, 47_519, 47_520, 47_521, 47_680, 47_681, 48_000, 48_001, 95_040, 95_041, 95_200, 95_201,
])  # fmt: skip
def test_the_chunks_of_the_48_khz_model_are_found_again_from_the_number_of_frames(
    tokenizer_48k: EncodecTokenizer, num_samples: int
) -> None:
    samples = waveform(tokenizer_48k, num_samples=num_samples)
    tokens, gains = tokenizer_48k.encode(samples, num_codebooks=2), tokenizer_48k.gains(samples)
    chunk_lengths = [min(48_000, num_samples - start) for start in range(0, num_samples, 47_520)]
    frames = [math.ceil(length / 320) for length in chunk_lengths]
    assert tokens.shape[2] == sum(frames)
    assert tokenizer_48k.chunk_frames(sum(frames)) == frames
    assert gains is not None
    assert gains.shape == (1, len(frames))
    assert tokenizer_48k.decode(tokens, num_samples=num_samples, gains=gains).shape == samples.shape


def test_a_batch_gives_what_its_waveforms_give_alone(tokenizer_24k: EncodecTokenizer) -> None:
    samples = waveform(tokenizer_24k, batch=3, num_samples=4_000)
    # Few books: a batch is computed in another order, and the deepest residuals are close to noise.
    tokens = tokenizer_24k.encode(samples, num_codebooks=8)
    decoded = tokenizer_24k.decode(tokens)
    for i in range(3):
        alone = tokenizer_24k.encode(samples[i : i + 1], num_codebooks=8)
        assert torch.equal(tokens[i : i + 1], alone)
        alone = tokenizer_24k.decode(tokens[i : i + 1])
        torch.testing.assert_close(decoded[i : i + 1], alone, rtol=0, atol=1e-5)


def test_louder_input_gives_louder_output_by_its_gains(tokenizer_48k: EncodecTokenizer) -> None:
    samples = waveform(tokenizer_48k, num_samples=4_000)
    soft, loud = tokenizer_48k.gains(samples), tokenizer_48k.gains(samples * 4)
    assert soft is not None
    assert loud is not None
    torch.testing.assert_close(loud, soft * 4)
    tokens = tokenizer_48k.encode(samples)
    torch.testing.assert_close(
        tokenizer_48k.decode(tokens, gains=loud), tokenizer_48k.decode(tokens, gains=soft) * 4
    )
    plain = tokenizer_48k.decode(tokens)
    assert torch.equal(plain, tokenizer_48k.decode(tokens, gains=torch.ones(1, 1)))


def test_the_identity_follows_weights_and_settings(make_encodec: MakeEncodec) -> None:
    same = EncodecTokenizer(make_encodec("24k")).identity
    assert same == EncodecTokenizer(make_encodec("24k")).identity
    assert same != EncodecTokenizer(make_encodec("24k", pad_mode="constant")).identity
    other = EncodecTokenizer(make_encodec("24k"))
    other.model.quantizer.layers[3].codebook.embed[5, 5] += 1
    assert same != other.identity


def test_a_moved_tokenizer_computes_where_it_was_moved(make_encodec: MakeEncodec) -> None:
    tokenizer = EncodecTokenizer(make_encodec("24k")).to("meta")
    assert tokenizer.model.encoder.layers[0].conv.weight.device.type == "meta"


@pytest.mark.parametrize(("samples", "message"), [
    (torch.zeros(400), r"Got samples of shape \[400\]; expected \[B, C, N\]"),
    (torch.zeros(1, 2, 400), "Got 2 channels; this codec takes 1"),
    (torch.zeros(1, 1, 400, dtype=torch.float64), "torch.float64; expected torch.float32"),
    (torch.zeros(1, 1, 0), "expected at least one sample"),
    (torch.zeros(0, 1, 400), "expected at least one sample"),
])  # fmt: skip
def test_wrong_samples_are_refused_in_one_sentence(
    tokenizer_24k: EncodecTokenizer, samples: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer_24k.encode(samples)
    with pytest.raises(ValueError, match=message):
        tokenizer_24k.gains(samples)


@pytest.mark.parametrize("num_codebooks", [0, 33, -1])
def test_a_wrong_number_of_codebooks_is_refused(
    tokenizer_24k: EncodecTokenizer, num_codebooks: int
) -> None:
    with pytest.raises(ValueError, match=f"={num_codebooks}; this codec takes 1 to 32"):
        tokenizer_24k.encode(torch.zeros(1, 1, 400), num_codebooks=num_codebooks)


@pytest.mark.parametrize(("tokens", "message"), [
    (torch.zeros(2, 3, dtype=torch.int64), r"Got tokens of shape \[2, 3\]; expected \[B, K, T\]"),
    (torch.zeros(1, 2, 3), "tokens of type torch.float32; expected torch.int64"),
    (torch.zeros(1, 33, 3, dtype=torch.int64), "Got 33 codebooks; this codec decodes 1 to 32"),
    (torch.zeros(1, 2, 0, dtype=torch.int64), "expected at least one frame"),
    (torch.full((1, 2, 3), 1024), "Got tokens from 1024 to 1024; expected 0 to 1023"),
    (torch.full((1, 2, 3), -1), "Got tokens from -1 to -1"),
])  # fmt: skip
def test_wrong_tokens_are_refused_in_one_sentence(
    tokenizer_24k: EncodecTokenizer, tokens: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer_24k.decode(tokens)


def test_a_length_that_the_tokens_cannot_give_is_refused(tokenizer_24k: EncodecTokenizer) -> None:
    tokens = torch.zeros(1, 2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="num_samples=961; these tokens decode to 1 to 960"):
        tokenizer_24k.decode(tokens, num_samples=961)


def test_wrong_gains_are_refused(
    tokenizer_24k: EncodecTokenizer, tokenizer_48k: EncodecTokenizer
) -> None:
    tokens = torch.zeros(1, 2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="does not normalise its input; remove them"):
        tokenizer_24k.decode(tokens, gains=torch.ones(1, 1))
    with pytest.raises(ValueError, match=r"gains of shape \[1, 2\]; expected \[1, 1\]"):
        tokenizer_48k.decode(tokens, gains=torch.ones(1, 2))


def test_a_large_overlap_of_chunks_is_refused(make_encodec: MakeEncodec) -> None:
    with pytest.raises(ValueError, match=r"Got an overlap of 0.5; expected at most one or two"):
        EncodecTokenizer(make_encodec("48k", overlap=0.5))
