"""Streams against offline calls, for every codec."""

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DacModel, EncodecModel, MimiModel

from audio_tokenizers.acoustic.dac import DacTokenizer
from audio_tokenizers.acoustic.encodec import EncodecTokenizer
from audio_tokenizers.acoustic.mimi import MimiTokenizer
from audio_tokenizers.protocol import AcousticTokenizer

MakeEncodec = Callable[..., EncodecModel]
NAMES = ("encodec-24k", "encodec-48k", "encodec-32k", "encodec-16k", "dac-24k", "dac-44k", "mimi")


@pytest.fixture(scope="module")
def codecs(
    make_encodec: MakeEncodec,
    make_dac: Callable[..., DacModel],
    make_mimi: Callable[..., MimiModel],
) -> dict[str, AcousticTokenizer]:
    # Chunks of 0.1 s, to have many; few books, as the deepest residuals are close to noise.
    chunks = {"chunk_length_s": 0.1, "overlap": 0.05, "target_bandwidths": [12.0]}
    return {
        "encodec-24k": EncodecTokenizer(make_encodec("24k", target_bandwidths=[6.0])),
        "encodec-48k": EncodecTokenizer(make_encodec("48k", **chunks)),
        "encodec-32k": EncodecTokenizer(make_encodec("32k")),
        "encodec-16k": EncodecTokenizer(make_encodec("16k")),
        "dac-24k": DacTokenizer(make_dac(24_000, n_codebooks=8)),
        "dac-44k": DacTokenizer(make_dac(44_100, n_codebooks=4)),
        "mimi": MimiTokenizer(make_mimi(num_quantizers=6)),
    }


def waveform(codec: AcousticTokenizer, *, batch: int = 1, num_samples: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_samples)
    return torch.randn((batch, codec.num_channels, num_samples), generator=generator) * 0.5


def pieces(x: torch.Tensor, sizes: list[int]) -> Iterator[torch.Tensor]:
    """Cuts x [B, C, N] into pieces of these sizes, over and over."""
    start, i = 0, 0
    while start < x.shape[2]:
        yield x[..., start : start + sizes[i % len(sizes)]]
        start, i = start + sizes[i % len(sizes)], i + 1


def stream_encode(
    codec: AcousticTokenizer, samples: torch.Tensor, sizes: list[int]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    stream = codec.encoder_stream()
    tokens = [stream.push(piece) for piece in pieces(samples, sizes)]
    return torch.cat([*tokens, stream.finish()], dim=2), stream.gains


def stream_decode(
    codec: AcousticTokenizer,
    tokens: torch.Tensor,
    sizes: list[int],
    gains: torch.Tensor | None = None,
) -> torch.Tensor:
    stream = codec.decoder_stream(gains=gains)
    samples = [stream.push(piece) for piece in pieces(tokens, sizes)]
    return torch.cat([*samples, stream.finish()], dim=2)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=6, deadline=None, derandomize=True)
def test_a_stream_of_any_pieces_gives_what_one_call_gives(
    codecs: dict[str, AcousticTokenizer], name: str, data: st.DataObject
) -> None:
    codec = codecs[name]
    frames = data.draw(st.integers(0, 25 if name.startswith("encodec") else 14))
    num_samples = frames * codec.hop_length + data.draw(st.integers(1, codec.hop_length))
    batch = data.draw(st.sampled_from([1, 1, 2]))
    sizes = [codec.hop_length * data.draw(st.integers(1, 5)) for _ in range(2)]
    sizes += [data.draw(st.integers(0, 3 * codec.hop_length))]

    samples = waveform(codec, batch=batch, num_samples=num_samples)
    tokens, gains = codec.encode(samples), codec.gains(samples)
    streamed, streamed_gains = stream_encode(codec, samples, sizes)
    assert torch.equal(streamed, tokens)
    assert (gains is None and streamed_gains is None) or torch.equal(streamed_gains, gains)

    decoded = codec.decode(tokens, gains=gains)
    sizes = [1, data.draw(st.integers(0, 3)), data.draw(st.integers(2, 20))]
    streamed = stream_decode(codec, tokens, sizes, gains)
    assert streamed.shape == decoded.shape
    torch.testing.assert_close(streamed, decoded, rtol=0, atol=1e-4)  # measured: 1e-5
    assert decoded.shape[2] >= num_samples


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_samples", [1, 7, 321])
def test_streams_of_the_shortest_waveforms_are_whole(
    codecs: dict[str, AcousticTokenizer], name: str, num_samples: int
) -> None:
    codec = codecs[name]
    samples = waveform(codec, num_samples=num_samples)
    tokens = codec.encode(samples)
    sizes = [1] if num_samples < 10 else [50, 1]
    assert torch.equal(stream_encode(codec, samples, sizes)[0], tokens)
    torch.testing.assert_close(
        stream_decode(codec, tokens, [1]), codec.decode(tokens), rtol=0, atol=1e-4
    )


@pytest.fixture(scope="module")
def wide_codec(make_encodec: MakeEncodec) -> EncodecTokenizer:
    settings = {"num_filters": 32, "hidden_size": 128, "target_bandwidths": [1.5]}
    return EncodecTokenizer(make_encodec("24k", **settings))


@pytest.mark.parametrize(
    "size", [13, 50, *(pytest.param(size, marks=pytest.mark.slow) for size in (1, 2, 3, 4, 10))]
)
def test_streams_of_the_causal_model_equal_long_calls_to_the_bit(
    wide_codec: EncodecTokenizer, size: int
) -> None:
    # The real widths, and the least length of the docstring of stream_layers that is 4 n frames.
    samples = waveform(wide_codec, num_samples=164 * 320)
    tokens = wide_codec.encode(samples)
    encoded = stream_encode(wide_codec, samples, [size * 320])[0]
    decoded, whole = stream_decode(wide_codec, tokens, [size]), wide_codec.decode(tokens)
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert torch.equal(encoded, tokens)
        assert torch.equal(decoded, whole)
    else:  # torch rounds convolutions by their length
        assert float((encoded == tokens).float().mean()) > 0.95
        torch.testing.assert_close(decoded, whole, atol=1e-5, rtol=1e-5)


def test_streams_of_chunks_equal_offline_calls_to_the_bit(
    codecs: dict[str, AcousticTokenizer],
) -> None:
    codec = codecs["encodec-48k"]
    for num_samples in (1, 4_560, 4_561, 4_800, 9_121, 14_000):
        samples = waveform(codec, batch=2, num_samples=num_samples)
        tokens, gains = codec.encode(samples), codec.gains(samples)
        streamed, streamed_gains = stream_encode(codec, samples, [1_000])
        assert streamed_gains is not None
        assert torch.equal(streamed, tokens)
        assert torch.equal(streamed_gains, gains)
        for pushed, decoded in (
            (gains, codec.decode(tokens, gains=gains)),
            (None, codec.decode(tokens)),
        ):
            assert torch.equal(stream_decode(codec, tokens, [4], pushed), decoded)


@pytest.mark.parametrize("name", ["encodec-24k", "mimi"])
def test_a_causal_stream_gives_every_frame_at_once(
    codecs: dict[str, AcousticTokenizer], name: str
) -> None:
    codec = codecs[name]
    encoder, decoder = codec.encoder_stream(), codec.decoder_stream()
    samples = waveform(codec, num_samples=12 * codec.hop_length)
    tokens = codec.encode(samples)
    # EnCodec reflects the first samples, and so has to wait for some.
    waits = 6 if name == "encodec-24k" else 0
    for i in range(12):
        piece = samples[..., i * codec.hop_length :][..., : codec.hop_length]
        num_tokens = encoder.push(piece).shape[2]
        num_samples = decoder.push(tokens[..., i : i + 1]).shape[2]
        if i < waits:
            assert num_tokens == num_samples == 0
        elif i > waits:
            assert num_tokens == 1
            assert num_samples == codec.hop_length
    assert encoder.finish().shape[2] == decoder.finish().shape[2] == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_state_of_a_stream_does_not_grow(
    codecs: dict[str, AcousticTokenizer], name: str
) -> None:
    codec = codecs[name]
    encoder, decoder = codec.encoder_stream(), codec.decoder_stream()
    second = waveform(codec, num_samples=codec.sample_rate // 4)
    sizes = []
    for _ in range(10):
        decoder.push(encoder.push(second))
        sizes.append(num_elements(encoder) + num_elements(decoder))
    limit = 1.1 * max(sizes[:6]) + 20  # a gain for each chunk
    assert max(sizes) <= limit


def num_elements(state: object, seen: set[int] | None = None) -> int:
    """Counts the elements of all tensors that a stream holds, storage that views keep included."""
    seen = set() if seen is None else seen
    if id(state) in seen or isinstance(state, torch.nn.Module):
        return 0
    seen.add(id(state))
    if isinstance(state, torch.Tensor):
        return state.untyped_storage().nbytes() // state.element_size()
    if isinstance(state, list | tuple):
        return sum(num_elements(item, seen) for item in state)
    if type(state).__module__.startswith("audio_tokenizers") and "Tokenizer" not in str(
        type(state)
    ):
        return sum(num_elements(item, seen) for item in vars(state).values())
    return 0


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_stream_gives_nothing(codecs: dict[str, AcousticTokenizer], name: str) -> None:
    codec = codecs[name]
    encoder, decoder = codec.encoder_stream(num_codebooks=2), codec.decoder_stream()
    assert encoder.push(torch.zeros(3, codec.num_channels, 0)).shape == (3, 2, 0)
    assert encoder.finish().shape == (3, 2, 0)
    assert decoder.push(torch.zeros(3, 2, 0, dtype=torch.int64)).shape == (3, codec.num_channels, 0)
    assert decoder.finish().shape == (3, codec.num_channels, 0)
    assert codec.encoder_stream().finish().shape == (1, codec.num_codebooks, 0)
    assert codec.decoder_stream().finish().shape == (1, codec.num_channels, 0)


@pytest.mark.parametrize("name", ["encodec-24k", "encodec-48k"])
def test_wrong_pieces_are_refused_in_one_sentence(
    codecs: dict[str, AcousticTokenizer], name: str
) -> None:
    codec = codecs[name]
    encoder, decoder = codec.encoder_stream(), codec.decoder_stream()
    samples, tokens = torch.zeros(2, codec.num_channels, 9), torch.zeros(2, 2, 9, dtype=torch.int64)
    with pytest.raises(ValueError, match="Got 3 channels; this codec takes"):
        encoder.push(torch.zeros(2, 3, 9))
    with pytest.raises(ValueError, match="Got tokens from 1024 to 1024"):
        decoder.push(tokens + 1024)
    encoder.push(samples)
    decoder.push(tokens)
    with pytest.raises(ValueError, match="Got a batch of 1; this stream began with a batch of 2"):
        encoder.push(samples[:1])
    with pytest.raises(ValueError, match="Got a batch of 1; this stream began with a batch of 2"):
        decoder.push(tokens[:1])
    with pytest.raises(ValueError, match="Got 1 codebooks; this stream began with 2"):
        decoder.push(tokens[:, :1])
    encoder.finish()
    decoder.finish()
    for call in (lambda: encoder.push(samples), lambda: decoder.push(tokens)):
        with pytest.raises(ValueError, match="Got a piece after the end of the stream"):
            call()
    for call in (encoder.finish, decoder.finish):
        with pytest.raises(ValueError, match="The stream has already ended"):
            call()
    with pytest.raises(ValueError, match="num_codebooks=0; this codec takes 1 to"):
        codec.encoder_stream(num_codebooks=0)


def test_gains_that_do_not_fit_the_tokens_are_refused(
    codecs: dict[str, AcousticTokenizer], make_encodec: MakeEncodec
) -> None:
    with pytest.raises(ValueError, match="does not normalise its input"):
        codecs["encodec-24k"].decoder_stream(gains=torch.ones(1, 1))
    plain = EncodecTokenizer(make_encodec("48k", normalize=False))
    with pytest.raises(ValueError, match="does not normalise its input"):
        plain.decoder_stream(gains=torch.ones(1, 1))
    tokens = torch.zeros(1, 2, 40, dtype=torch.int64)  # 3 chunks of 15, 15 and 10 frames
    few = codecs["encodec-48k"].decoder_stream(gains=torch.ones(1, 1))
    with pytest.raises(ValueError, match=r"Got gains of shape \[1, 1\]; the tokens need more"):
        few.push(tokens)
    many = codecs["encodec-48k"].decoder_stream(gains=torch.ones(1, 4))
    many.push(tokens)
    with pytest.raises(ValueError, match="Got gains of 4 chunks; the tokens have 3"):
        many.finish()
    with pytest.raises(ValueError, match="Got gains of 1 chunks; the tokens have 0"):
        codecs["encodec-48k"].decoder_stream(gains=torch.ones(1, 1)).finish()


def test_a_model_that_normalises_over_time_cannot_stream(make_encodec: MakeEncodec) -> None:
    codec = EncodecTokenizer(
        make_encodec("24k", norm_type="time_group_norm", use_causal_conv=False)
    )
    with pytest.raises(ValueError, match="cannot stream; use encode and decode"):
        codec.encoder_stream()
    with pytest.raises(ValueError, match="cannot stream; use encode and decode"):
        codec.decoder_stream()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wide-24k", *NAMES])
def test_three_minutes_in_pieces_of_ten_seconds_equal_one_call(
    codecs: dict[str, AcousticTokenizer], wide_codec: EncodecTokenizer, name: str
) -> None:
    codec = wide_codec if name == "wide-24k" else codecs[name]
    seconds = codec.sample_rate
    samples = waveform(codec, num_samples=180 * seconds + (0 if name == "wide-24k" else 77))
    tokens, gains = codec.encode(samples), codec.gains(samples)
    streamed, streamed_gains = stream_encode(codec, samples, [10 * seconds])
    assert torch.equal(streamed, tokens)
    if gains is not None:
        assert streamed_gains is not None
        assert torch.equal(streamed_gains, gains)

    decoded = codec.decode(tokens, gains=gains)
    frames = round(10 * codec.frame_rate)
    streamed = stream_decode(codec, tokens, [frames], gains)
    if name == "wide-24k":  # real widths, and a multiple of 4 frames: equal to the bit
        assert torch.equal(streamed, decoded)
    else:
        torch.testing.assert_close(streamed, decoded, rtol=0, atol=1e-4)
