"""The renderer of a codec's latents: pushes, scales and rounding."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from audio_tokenizers.protocol import AcousticTokenizer
from lm_audio.renderers.codec_latents import CodecLatentRenderer
from lm_audio.renderers.protocol import Renderer

CodecOf = Callable[[str], AcousticTokenizer]


def make_renderer(codec_of: CodecOf, *, channels: int, quantize: bool) -> CodecLatentRenderer:
    codec = codec_of("frame-codec")
    width = channels * codec.latent_size  # type: ignore[attr-defined]
    return CodecLatentRenderer(
        codec=codec,  # type: ignore[arg-type]
        num_channels=channels,
        mean=torch.linspace(-1, 1, width),
        deviation=torch.linspace(0.5, 2, width),
        quantize=quantize,
    )


def noise(*shape: int) -> Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(shape[-1]))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("quantize", [True, False])
def test_however_latents_are_pushed_the_samples_are_those_of_one_call(
    codec_of: CodecOf, channels: int, quantize: bool
) -> None:
    renderer: Renderer = make_renderer(codec_of, channels=channels, quantize=quantize)
    T = 31
    values = noise(renderer.signal.width, T)
    whole = renderer.render(values)
    assert whole.shape == (channels, T * renderer.hop_length)
    for bounds in (range(T + 1), [0, 7, 7, 19, T], [0, T - 1, T]):
        stream = renderer.stream()
        parts = [stream.push(values[:, a:b]) for a, b in pairwise(bounds)]
        assert torch.equal(torch.cat([*parts, stream.finish()], dim=1), whole)
    assert torch.equal(renderer.render(values, num_samples=100), whole[:, :100])


@pytest.mark.parametrize("channels", [1, 2])
def test_rounded_samples_are_those_of_the_codecs_tokens(codec_of: CodecOf, channels: int) -> None:
    renderer = make_renderer(codec_of, channels=channels, quantize=True)
    samples = noise(channels, 20 * renderer.hop_length)
    tokens = renderer.codec.encode(samples[:, None])  # a mono codec: a set of tokens per channel
    encoded = renderer.encoder.encode(samples)  # as training data are
    torch.testing.assert_close(
        encoded, renderer.standardised(renderer.codec.latents_of(tokens)), rtol=0, atol=1e-6
    )
    values = noise(renderer.width, 20)
    expected = renderer.codec.decode(renderer.tokens(values)).flatten(0, 1)
    torch.testing.assert_close(renderer.render(values), expected, rtol=0, atol=1e-4)
    plain = make_renderer(codec_of, channels=channels, quantize=False)
    assert torch.equal(plain.tokens(plain.encoder.encode(samples)), tokens)


def test_scales_are_inverted_and_part_of_the_identity(codec_of: CodecOf) -> None:
    renderer = make_renderer(codec_of, channels=2, quantize=False)
    values = noise(renderer.width, 9)
    torch.testing.assert_close(renderer.standardised(renderer.original(values)), values)
    other = make_renderer(codec_of, channels=2, quantize=True)
    assert renderer.identity != other.identity


def test_mistakes_are_refused(codec_of: CodecOf) -> None:
    renderer = make_renderer(codec_of, channels=1, quantize=False)
    with pytest.raises(ValueError, match=r"Expected latents of shape \[\d+, T\], got \[3, 4\]"):
        renderer.render(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"Expected samples of shape \[1, N\], got \[2, 9\]"):
        renderer.encoder.encode(torch.zeros(2, 9))
    with pytest.raises(ValueError, match="Deviations must be above 0"):
        CodecLatentRenderer(
            codec=renderer.codec,
            num_channels=1,
            mean=renderer.mean,
            deviation=0 * renderer.deviation,
        )
    with pytest.raises(ValueError, match="1 or 2 as num_channels"):
        make_renderer(codec_of, channels=3, quantize=False)
