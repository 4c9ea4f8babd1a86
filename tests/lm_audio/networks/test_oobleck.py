"""The autoencoder of waveforms against diffusers' AutoencoderOobleck, whole and in pieces."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderOobleck
from torch import Tensor, nn

from lm_audio.networks.oobleck import Oobleck, OobleckConfig
from lm_audio.renderers.waveform_latents import WaveformLatentRenderer
from lm_audio.saving.spectrograms import without_weight_norm

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "two steps": {},
    "mono": {"audio_channels": 1},
    "odd rates": {"downsampling_ratios": [3, 5]},
    "one step": {"downsampling_ratios": [4], "channel_multiples": [3]},
    "a narrow decoder": {"decoder_channels": 6, "channel_multiples": [1, 3]},
}


def theirs(**overrides: Any) -> AutoencoderOobleck:
    settings: dict[str, Any] = {
        "encoder_hidden_size": 12, "downsampling_ratios": [2, 4], "channel_multiples": [1, 2],
        "decoder_channels": 8, "decoder_input_channels": 6, "sampling_rate": 1600,
    } | overrides  # fmt: skip
    torch.manual_seed(0)
    made = AutoencoderOobleck(**settings).eval()
    for name, weight in made.named_parameters():
        nn.init.normal_(weight, 0.6 if name.endswith("weight_g") else 0.0, 0.2)
    return made


def ours(reference: AutoencoderOobleck) -> Oobleck:
    config = reference.config
    made = Oobleck(
        OobleckConfig(
            num_channels=config.audio_channels,
            sample_rate=config.sampling_rate,
            encoder_width=config.encoder_hidden_size,
            decoder_width=config.decoder_channels,
            multiples=tuple(config.channel_multiples),
            rates=tuple(config.downsampling_ratios),
            latent_width=config.decoder_input_channels,
            code_width=config.encoder_hidden_size,
        )
    )
    made.load_state_dict(without_weight_norm(reference.state_dict()))
    return made.eval().requires_grad_(False)


@pytest.fixture(params=list(CONFIGURATIONS))
def pair(request: pytest.FixtureRequest) -> tuple[AutoencoderOobleck, Oobleck]:
    reference = theirs(**CONFIGURATIONS[request.param])
    return reference, ours(reference)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_network_is_that_of_diffusers(pair: tuple[AutoencoderOobleck, Oobleck]) -> None:
    reference, made = pair
    samples = noise(2, made.config.num_channels, 9 * made.config.hop_length)
    expected = reference.encode(samples).latent_dist.mode()
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(made.encode(samples), expected, atol=1e-4, rtol=0)
    expected = reference.decode(noise(2, 6, 9)).sample
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(made.decode(noise(2, 6, 9)), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sizes", [[1] * 23, [5, 0, 17, 1], [23]])
def test_a_stream_is_a_single_call(
    pair: tuple[AutoencoderOobleck, Oobleck], sizes: list[int]
) -> None:
    _, made = pair
    renderer = WaveformLatentRenderer(autoencoder=made)
    latents = noise(6, 23)
    stream = renderer.stream()
    pieces = [stream.push(piece) for piece in latents.split(sizes, dim=1)]
    streamed = torch.cat([*pieces, stream.finish()], dim=1)
    assert streamed.shape == (renderer.num_channels, 23 * renderer.hop_length)
    whole = made.decode(latents[None])[0]
    missing = streamed.shape[1] - whole.shape[1]
    expected = nn.functional.pad(whole, (0, missing))
    torch.testing.assert_close(streamed, expected, atol=1e-5, rtol=0)
    assert torch.equal(streamed, renderer.render(latents))


@pytest.mark.parametrize("num_samples", [1, 15, 64, 5000])
def test_the_encoder_in_pieces_is_a_single_call(
    pair: tuple[AutoencoderOobleck, Oobleck], num_samples: int
) -> None:
    _, made = pair
    renderer = WaveformLatentRenderer(autoencoder=made)
    samples = noise(renderer.num_channels, num_samples)
    latents = renderer.encoder.encode(samples)
    T = renderer.num_frames(num_samples)
    assert latents.shape == (6, T)
    padded = nn.functional.pad(samples, (0, T * renderer.hop_length - num_samples))
    torch.testing.assert_close(latents, made.encode(padded[None])[0], atol=1e-4, rtol=1e-4)


def test_wrong_samples_and_shapes_are_refused() -> None:
    renderer = WaveformLatentRenderer(autoencoder=ours(theirs()))
    with pytest.raises(ValueError, match=r"Expected samples of shape \[2, N\], got \[1, 8\]"):
        renderer.encoder.encode(torch.zeros(1, 8))
    with pytest.raises(ValueError, match=r"Expected latents of shape \[6, T\], got \[5, 8\]"):
        renderer.stream().push(torch.zeros(5, 8))
    shape: dict[str, Any] = {
        "num_channels": 2, "sample_rate": 1600, "encoder_width": 4, "decoder_width": 4,
        "multiples": (1, 2), "rates": (2, 4), "latent_width": 4, "code_width": 8,
    }  # fmt: skip
    for wrong, message in (
        ({"rates": (2,)}, "a multiple of the width for each rate"),
        ({"rates": (2, 0)}, "rates must be at least 1, got 0"),
        ({"code_width": 6}, "the latents' width of 4 or twice that, got 6"),
    ):
        with pytest.raises(ValueError, match=message):
            OobleckConfig(**(shape | wrong))
