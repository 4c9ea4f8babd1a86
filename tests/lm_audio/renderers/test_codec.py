"""The codec renderer, with a tiny codec of every kind."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from audio_tokenizers.protocol import AcousticTokenizer
from lm_audio.patterns import interleave_channels
from lm_audio.renderers.blocks import BLOCK_SECONDS
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.renderers.protocol import Renderer

CodecOf = Callable[[str], AcousticTokenizer]
MONO = ("frame-codec", "encodec-24k", "encodec-32k", "dac", "mimi")
# The codec and the number of channels.
CASES = [(kind, C) for kind in MONO for C in (1, 2)] + [("encodec-48k", 2)]
# How far single waveforms of a batch and one whole call may be from the renderer's blocks.
TOLERANCE = 1e-4


def random_tokens(renderer: Renderer, num_frames: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (renderer.num_codebooks, num_frames)
    return torch.randint(renderer.codebook_size, shape, generator=generator)


def noise(renderer: Renderer, num_samples: int) -> Tensor:
    generator = torch.Generator().manual_seed(num_samples)
    return 0.3 * torch.randn(renderer.num_channels, num_samples, generator=generator)


def test_a_codec_renderer_is_a_renderer(codec_of: CodecOf) -> None:
    renderer: Renderer = CodecRenderer(codec_of("encodec-24k"), num_channels=2, num_codebooks=3)
    assert renderer.sample_rate == 24_000
    assert renderer.hop_length == 320
    assert renderer.frame_rate == 75
    assert renderer.num_channels == 2
    assert renderer.num_codebooks == 6
    assert renderer.codebook_size == 1024


@pytest.mark.parametrize(("kind", "channels"), CASES)
def test_however_tokens_are_pushed_the_samples_are_those_of_one_call(
    codec_of: CodecOf, kind: str, channels: int
) -> None:
    renderer = CodecRenderer(codec_of(kind), num_channels=channels)
    T = 2 * renderer.block_frames + 3
    tokens = random_tokens(renderer, T)
    whole = renderer.render(tokens)
    generator = torch.Generator().manual_seed(1)
    cuts = torch.randint(0, T + 1, (6,), generator=generator).sort().values.tolist()
    for bounds in (range(T + 1), [0, *cuts, T], [0, 0, T - 1, T, T]):
        stream = renderer.stream()
        parts = [stream.push(tokens[:, a:b]) for a, b in pairwise(bounds)]
        assert torch.equal(torch.cat([*parts, stream.finish()], dim=1), whole)


@pytest.mark.parametrize(("kind", "channels"), CASES)
def test_samples_are_those_of_the_codecs_own_decoder(
    codec_of: CodecOf, kind: str, channels: int
) -> None:
    codec = codec_of(kind)
    renderer = CodecRenderer(codec, num_channels=channels)
    tokens = random_tokens(renderer, renderer.block_frames + 5)
    sets = [tokens] if channels == codec.num_channels else [tokens[0::2], tokens[1::2]]
    expected = torch.cat([codec.decode(each[None])[0] for each in sets])  # [C, N]
    rendered = renderer.render(tokens)
    assert expected.std() > 1e-3
    assert rendered.dtype == torch.float32
    torch.testing.assert_close(rendered, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kind", MONO)
def test_first_samples_come_after_one_block_and_the_look_ahead(
    codec_of: CodecOf, kind: str
) -> None:
    renderer = CodecRenderer(codec_of(kind))
    assert renderer.block_frames / renderer.frame_rate <= 1.1 * BLOCK_SECONDS
    tokens = random_tokens(renderer, 2 * renderer.block_frames)
    stream = renderer.stream()
    assert stream.push(tokens[:, : renderer.block_frames - 1]).shape == (1, 0)
    first = stream.push(tokens[:, renderer.block_frames - 1 : renderer.block_frames])
    look_ahead = renderer.block_frames * renderer.hop_length - first.shape[1]
    assert look_ahead / renderer.sample_rate <= 0.135  # the longest is DAC's: 0.131 s
    assert first.shape[1] > 0


@pytest.mark.parametrize(("kind", "channels"), CASES)
@pytest.mark.parametrize("extra", [0, 1, 321])
def test_samples_encode_to_the_promised_frames_and_render_to_any_length(
    codec_of: CodecOf, kind: str, channels: int, extra: int
) -> None:
    renderer = CodecRenderer(codec_of(kind), num_channels=channels)
    N = 5 * renderer.hop_length + extra
    tokens = renderer.encoder.encode(noise(renderer, N))
    assert tokens.shape == (renderer.num_codebooks, renderer.num_frames(N))
    rendered = renderer.render(tokens)
    assert rendered.shape[1] >= N
    assert torch.equal(renderer.render(tokens, num_samples=N), rendered[:, :N])
    with pytest.raises(ValueError, match=r"these tokens render to \d+ samples"):
        renderer.render(tokens, num_samples=rendered.shape[1] + 1)


def test_frames_of_a_codec_in_chunks_are_counted_as_it_encodes_them(codec_of: CodecOf) -> None:
    renderer = CodecRenderer(codec_of("encodec-48k"))
    for N in (1, 4560, 4561, 4800, 4801, 9120, 9360, 20_000):
        tokens = renderer.encoder.encode(noise(renderer, N))
        assert tokens.shape[1] == renderer.num_frames(N)
        assert renderer.render(tokens).shape[1] >= N


@pytest.mark.parametrize("kind", MONO)
def test_a_prompt_keeps_the_frames_that_it_fills(codec_of: CodecOf, kind: str) -> None:
    renderer = CodecRenderer(codec_of(kind))
    hop = renderer.hop_length
    lengths = [0, 1, hop - 1, hop, hop + 1, 10 * hop - 1, 10 * hop]
    assert [renderer.encoder.prompt_frames(N) for N in lengths] == [0, 0, 0, 1, 1, 9, 10]


def test_a_prompt_in_chunks_keeps_no_frame_behind_a_missing_one(codec_of: CodecOf) -> None:
    renderer = CodecRenderer(codec_of("encodec-48k"))  # chunks of 4800 start 4560 apart, hop 320
    lengths = [0, 319, 320, 4799, 4800, 4560 + 320, 9359, 9360]
    assert [renderer.encoder.prompt_frames(N) for N in lengths] == [0, 0, 1, 14, 15, 16, 29, 30]
    assert all(renderer.encoder.prompt_frames(N) <= renderer.num_frames(N) for N in lengths)


@pytest.mark.parametrize("kind", MONO)
def test_stereo_interleaves_the_codebooks_of_two_separate_channels(
    codec_of: CodecOf, kind: str
) -> None:
    codec = codec_of(kind)
    renderer = CodecRenderer(codec, num_channels=2)
    samples = noise(renderer, 6 * renderer.hop_length)
    tokens = renderer.encoder.encode(samples)
    separate = [codec.encode(channel[None, None]) for channel in samples]
    assert torch.equal(tokens, interleave_channels(torch.stack(separate, dim=1))[0])
    assert torch.equal(tokens[0], separate[0][0, 0])  # L0 R0 L1 R1 and so on
    assert torch.equal(tokens[1], separate[1][0, 0])

    other = tokens.clone()
    other[1::2] = (other[1::2] + 1) % renderer.codebook_size
    rendered, changed = renderer.render(tokens), renderer.render(other)
    assert torch.equal(rendered[0], changed[0])
    assert not torch.equal(rendered[1], changed[1])


def test_only_the_first_codebooks_are_used_when_asked(codec_of: CodecOf) -> None:
    codec = codec_of("encodec-24k")
    renderer = CodecRenderer(codec, num_codebooks=2)
    samples = noise(renderer, 4000)
    tokens = renderer.encoder.encode(samples)
    assert torch.equal(tokens, codec.encode(samples[None])[0, :2])
    torch.testing.assert_close(
        renderer.render(tokens), codec.decode(tokens[None])[0], rtol=0, atol=TOLERANCE
    )


def test_identities_tell_renderers_of_one_codec_apart(codec_of: CodecOf) -> None:
    codec = codec_of("encodec-24k")
    settings = [(1, 2), (1, 4), (2, 2), (2, 4)]
    renderers = [CodecRenderer(codec, num_channels=C, num_codebooks=K) for C, K in settings]
    identities = {renderer.identity for renderer in renderers}
    assert len(identities) == 4
    assert CodecRenderer(codec).identity == CodecRenderer(codec, num_codebooks=4).identity
    assert all(codec.identity in identity for identity in identities)


@pytest.mark.parametrize(("kind", "channels"), CASES)
def test_no_tokens_give_no_samples(codec_of: CodecOf, kind: str, channels: int) -> None:
    renderer = CodecRenderer(codec_of(kind), num_channels=channels)
    assert renderer.stream().finish().shape == (channels, 0)
    assert renderer.render(random_tokens(renderer, 0)).shape == (channels, 0)


def test_a_stream_takes_nothing_after_its_end(codec_of: CodecOf) -> None:
    renderer = CodecRenderer(codec_of("encodec-24k"))
    stream = renderer.stream()
    stream.push(random_tokens(renderer, 1))
    stream.finish()
    with pytest.raises(ValueError, match="after the end of the stream"):
        stream.push(random_tokens(renderer, 1))
    with pytest.raises(ValueError, match="stream has already ended"):
        stream.finish()


def test_wrong_settings_are_refused(codec_of: CodecOf) -> None:
    with pytest.raises(ValueError, match=r"Expected 1 or 2 as num_channels for this codec, got 3"):
        CodecRenderer(codec_of("dac"), num_channels=3)
    with pytest.raises(ValueError, match=r"Expected 2 as num_channels for this codec, got 1"):
        CodecRenderer(codec_of("encodec-48k"), num_channels=1)
    for count in (0, 5):
        with pytest.raises(ValueError, match=f"between 1 and 4 for this codec, got {count}"):
            CodecRenderer(codec_of("dac"), num_codebooks=count)


def test_wrong_shapes_are_refused(codec_of: CodecOf) -> None:
    renderer = CodecRenderer(codec_of("dac"), num_channels=2)
    with pytest.raises(ValueError, match=r"shape \[2, N\], got \[1, 640\]"):
        renderer.encoder.encode(torch.zeros(1, 640))
    with pytest.raises(ValueError, match=r"shape \[8, T\], got \[4, 9\]"):
        renderer.render(torch.zeros(4, 9, dtype=torch.int64))
    with pytest.raises(ValueError, match="Remove special tokens first"):
        renderer.render(torch.full((8, 9), 1024))
