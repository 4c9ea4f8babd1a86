"""The renderer of spectrogram images: streams, windows, both ways, and what does not fit."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from audio_tokenizers.spectrogram_image import ImageSettings, mel_magnitudes, to_image
from lm_audio.networks.autoencoder2d import Autoencoder2d, Autoencoder2dConfig
from lm_audio.renderers.image_latents import ImageRenderer

IMAGE = ImageSettings(sample_rate=1600, num_mels=16, high=700)
SHAPE = Autoencoder2dConfig(
    channels=3, latent_channels=4, widths=(8, 8), num_blocks=1, attends=(False, False), num_groups=4
)


@pytest.fixture(scope="module")
def renderer() -> ImageRenderer:
    torch.manual_seed(0)
    network = Autoencoder2d(SHAPE).eval().requires_grad_(False)
    return ImageRenderer(
        autoencoder=network, image=IMAGE, scale=0.5, window_frames=12, overlap_frames=2
    )


def latents(num_frames: int) -> Tensor:
    return torch.randn(32, num_frames, generator=torch.Generator().manual_seed(num_frames))


def test_the_shape_follows_from_the_parts(renderer: ImageRenderer) -> None:
    assert (renderer.num_rows, renderer.hop_length, renderer.num_channels) == (8, 32, 1)
    assert renderer.signal.width == 32
    assert renderer.signal.rate == 50
    assert renderer.num_frames(33) == 2
    assert renderer.identity == replace(renderer).identity
    assert renderer.identity != replace(renderer, scale=0.6).identity


@pytest.mark.parametrize("size", [1, 5, 12, 400])
def test_a_stream_gives_the_samples_of_a_whole_call(renderer: ImageRenderer, size: int) -> None:
    values = latents(200)
    stream = renderer.stream()
    made = [stream.push(piece) for piece in values.split(size, dim=1)]
    whole = renderer.render(values)
    assert whole.shape == (1, 200 * 32)
    assert torch.equal(torch.cat([*made, stream.finish()], dim=1), whole)
    assert size == 400 or sum(piece.shape[1] for piece in made) > 1600


@pytest.mark.parametrize("num_frames", [1, 2, 11, 12, 13, 22, 23])
def test_every_length_is_rendered_and_encoded(renderer: ImageRenderer, num_frames: int) -> None:
    sound = renderer.render(latents(num_frames))
    assert sound.shape == (1, 32 * num_frames)
    assert sound.isfinite().all()
    assert renderer.encoder.encode(sound).shape == (32, num_frames)
    assert renderer.encoder.encode(sound[:, 1:]).shape == (32, num_frames)
    assert renderer.encoder.prompt_frames(32 * num_frames - 1) == num_frames - 1


def test_a_window_is_encoded_as_its_image_scaled_by_its_loudest_place(
    renderer: ImageRenderer,
) -> None:
    sound = 0.1 * torch.randn(1, 384, generator=torch.Generator().manual_seed(1))
    mel = mel_magnitudes(sound, IMAGE)
    image = to_image(mel, IMAGE, maximum=float(mel.max()))
    found = renderer.encoder.encode(sound)
    mean, _ = renderer.autoencoder.encode(2 * image[None] - 1)  # type: ignore[operator]
    torch.testing.assert_close(found, 0.5 * mean[0].flatten(0, 1))
    torch.testing.assert_close(renderer.encoder.encode(3 * sound), found, atol=1e-4, rtol=1e-4)
    assert renderer.encoder.encode(torch.zeros(1, 384)).isfinite().all()


def test_what_does_not_fit_is_named(renderer: ImageRenderer) -> None:
    with pytest.raises(ValueError, match=r"Expected latents of shape \[32, T\], got \[31, 4\]"):
        renderer.stream().push(torch.zeros(31, 4))
    with pytest.raises(ValueError, match=r"Expected samples of shape \[1, N\], got \[2, 64\]"):
        renderer.encoder.encode(torch.zeros(2, 64))
    grey = Autoencoder2d(replace(SHAPE, channels=1))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"autoencoder": grey}, "needs 3 channels and a divisor of 16 mel bands .* got 1 and 2"),
        ({"image": replace(IMAGE, num_mels=15)}, "a divisor of 15 mel bands"),
        ({"overlap_frames": 7}, "overlap_frames must be from 0 to half of the window of 12, got 7"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            replace(renderer, **changes)
