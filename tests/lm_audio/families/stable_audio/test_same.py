"""The autoencoder of Stable Audio 3 against diffusers' AutoencoderSAME, whole and in pieces."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lm_audio.families.stable_audio.configs import same_config
from lm_audio.networks.same import Same, SameConfig
from lm_audio.renderers.waveform_latents import WaveformLatentRenderer
from lm_audio.saving.spectrograms import without_weight_norm
from tests.lm_audio.families.stable_audio.random_weights import randomise

diffusers: Any = pytest.importorskip("diffusers", minversion="0.42")
AutoencoderSAME = diffusers.AutoencoderSAME

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "as published": {},
    "gates by sines": {"decoder_sinusoidal_blocks": [2], "encoder_transformer_depths": [3]},
    "two steps": {
        "encoder_c_mults": [2, 3], "encoder_strides": [2, 3], "encoder_transformer_depths": [1, 2],
    },
    "one map, mono": {"use_differential_attention": False, "audio_channels": 1},
    "a longer reach": {"sliding_window": 2, "ff_mult": 2},
    "no mapping": {"patch_size": 8, "encoder_channels": 16, "encoder_c_mults": [1]},
}  # fmt: skip


def theirs(**overrides: Any) -> AutoencoderSAME:
    settings: dict[str, Any] = {
        "patch_size": 4, "encoder_channels": 8, "encoder_c_mults": [3], "encoder_strides": [4],
        "encoder_transformer_depths": [2], "latent_dim": 6, "dim_heads": 8, "sampling_rate": 1600,
    } | overrides  # fmt: skip
    made = AutoencoderSAME(**settings).eval()
    randomise(made)
    made.bottleneck.running_std.fill_(0.7)
    return made


def ours(reference: AutoencoderSAME) -> Same:
    made = Same(same_config(reference.config))
    made.load_state_dict(without_weight_norm(reference.state_dict()))
    return made.eval().requires_grad_(False)


@pytest.fixture(params=list(CONFIGURATIONS))
def pair(request: pytest.FixtureRequest) -> tuple[AutoencoderSAME, Same]:
    reference = theirs(**CONFIGURATIONS[request.param])
    return reference, ours(reference)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_network_is_that_of_diffusers(pair: tuple[AutoencoderSAME, Same]) -> None:
    reference, made = pair
    assert made.config.hop_length == reference.downsampling_ratio
    samples = noise(2, made.config.num_channels, 9 * made.config.hop_length)
    expected = reference.encode(samples).latents
    assert expected.std() > 0.1
    torch.testing.assert_close(made.encode(samples), expected, atol=1e-4, rtol=0)
    expected = reference.decode(noise(2, 6, 9)).sample
    assert expected.std() > 0.1
    torch.testing.assert_close(made.decode(noise(2, 6, 9)), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("block_frames", [1, 5, 40])
@pytest.mark.parametrize("sizes", [[1] * 43, [5, 0, 37, 1], [43]])
def test_a_stream_is_a_single_call(
    pair: tuple[AutoencoderSAME, Same], sizes: list[int], block_frames: int
) -> None:
    _, made = pair
    renderer = WaveformLatentRenderer(autoencoder=made)
    made.block_seconds = block_frames / float(renderer.signal.rate)
    latents = noise(6, 43)
    stream = renderer.stream()
    pieces = [stream.push(piece) for piece in latents.split(sizes, dim=1)]
    streamed = torch.cat([*pieces, stream.finish()], dim=1)
    assert streamed.shape == (renderer.num_channels, 43 * renderer.hop_length)
    torch.testing.assert_close(streamed, made.decode(latents[None])[0], atol=1e-4, rtol=0)
    assert torch.equal(streamed, renderer.render(latents))


def test_a_stream_holds_a_block_and_its_context() -> None:
    made = ours(theirs())
    stream: Any = made.decoder_stream()
    for _ in range(50):
        stream.step(noise(1, 6, 20), last=False)
        (block,) = [layer for layer in stream._layers if hasattr(layer, "_held")]
        assert block._held.shape[2] <= 2 * 2  # a reach of 1 in 2 layers, to each side


@pytest.mark.parametrize("num_samples", [1, 15, 64, 5000])
def test_the_encoder_in_pieces_is_a_single_call(
    pair: tuple[AutoencoderSAME, Same], num_samples: int
) -> None:
    _, made = pair
    made.block_seconds = 0.1
    renderer = WaveformLatentRenderer(autoencoder=made)
    samples = noise(renderer.num_channels, num_samples)
    latents = renderer.encoder.encode(samples)
    T = renderer.num_frames(num_samples)
    assert latents.shape == (6, T)
    padded = torch.nn.functional.pad(samples, (0, T * renderer.hop_length - num_samples))
    torch.testing.assert_close(latents, made.encode(padded[None])[0], atol=1e-4, rtol=0)


def test_impossible_shapes_are_refused() -> None:
    shape: dict[str, Any] = {
        "num_channels": 2, "sample_rate": 1600, "patch": 4, "width": 8, "multiples": (3,),
        "rates": (4,), "depths": (2,), "latent_width": 6, "head_dim": 8, "hidden_ratio": 3,
        "reach": 1, "differential": True, "encoder_sines": (0,), "decoder_sines": (0,),
    }  # fmt: skip
    SameConfig(**shape)
    for wrong, message in (
        ({"depths": (2, 1)}, "Expected a multiple, a depth and numbers of sines for each"),
        ({"rates": (0,)}, "rates must be at least 1, got 0"),
        ({"head_dim": 7}, "A width of 24 cannot be split into heads of 7"),
    ):
        with pytest.raises(ValueError, match=message):
            SameConfig(**(shape | wrong))
