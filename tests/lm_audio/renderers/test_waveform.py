"""The renderer of waveforms: samples pass through it, in pieces of any size."""

from fractions import Fraction

import pytest
import torch

from lm_audio.renderers.waveform import WaveformRenderer


def make() -> WaveformRenderer:
    return WaveformRenderer(sample_rate=16_000, num_channels=2)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_samples_pass_unchanged(size: int) -> None:
    renderer = make()
    values = torch.randn(2, 100) * 3  # beyond full scale, too: mastering is elsewhere
    stream = renderer.stream()
    made = [stream.push(piece) for piece in values.split(size, dim=1)]
    assert [x.shape[1] for x in made] == [x.shape[1] for x in values.split(size, dim=1)]
    assert torch.equal(torch.cat([*made, stream.finish()], dim=1), values)
    assert torch.equal(renderer.render(values, num_samples=40), values[:, :40])
    assert torch.equal(renderer.encoder.encode(values), values)


def test_a_frame_is_a_sample() -> None:
    renderer = make()
    assert renderer.signal.rate == Fraction(16_000)
    assert renderer.signal.width == renderer.num_channels == 2
    assert (renderer.hop_length, renderer.num_frames(13)) == (1, 13)
    assert renderer.encoder.prompt_frames(13) == 13


def test_an_empty_stream_gives_no_samples() -> None:
    assert make().stream().finish().shape == (2, 0)


def test_renderers_are_equal_if_their_settings_are() -> None:
    assert make().identity == make().identity
    assert make().identity != WaveformRenderer(sample_rate=16_000, num_channels=1).identity
    assert make().identity != WaveformRenderer(sample_rate=8000, num_channels=2).identity


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected latents of shape \[2, N\], got \[1, 5\]"):
        make().render(torch.zeros(1, 5))
    with pytest.raises(ValueError, match=r"Expected samples of shape \[2, N\], got \[5\]"):
        make().encoder.encode(torch.zeros(5))
    with pytest.raises(ValueError, match="num_channels must be at least 1, got 0"):
        WaveformRenderer(sample_rate=8000, num_channels=0)


def test_pieces_after_the_end_are_refused() -> None:
    stream = make().stream()
    stream.finish()
    with pytest.raises(ValueError, match="after the end"):
        stream.push(torch.zeros(2, 1))
