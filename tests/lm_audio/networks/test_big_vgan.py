"""BigVGAN against the classes of transformers and diffusers, and its stream against whole calls."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniBigVGANConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniToken2WavBigVGANModel

from lm_audio.networks.big_vgan import AntiAliased, BigVgan, BigVganConfig, low_pass

SHAPES: list[dict[str, Any]] = [
    {},
    {"rates": (3, 2), "kernels": (7, 4), "num_mels": 5},
    {"rates": (2,), "kernels": (3,), "block_kernels": (5,), "block_dilations": ((1, 2, 4),)},
    {"rates": (2, 2, 2), "kernels": (4, 2, 6), "width": 24},
]


def config(**overrides: Any) -> BigVganConfig:
    settings: dict[str, Any] = {
        "num_mels": 6, "sample_rate": 8000, "width": 16, "rates": (4, 2), "kernels": (8, 4),
        "block_kernels": (3, 7), "block_dilations": ((1, 3, 5), (1, 3, 5)), "tanh": False,
        "last_bias": False,
    } | overrides  # fmt: skip
    return BigVganConfig(**settings)


def fill(module: nn.Module) -> None:
    torch.manual_seed(0)
    for name, weight in module.named_parameters():
        periodic = name.endswith(("alpha", "beta"))
        nn.init.normal_(weight, 0.0, 0.5 if periodic else 0.7 * weight[0].numel() ** -0.5)


def same(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("overrides", SHAPES)
def test_the_vocoder_is_that_of_transformers(overrides: dict[str, Any]) -> None:
    shape = config(**overrides)
    theirs = Qwen2_5OmniToken2WavBigVGANModel(
        Qwen2_5OmniBigVGANConfig(
            mel_dim=shape.num_mels,
            upsample_initial_channel=shape.width,
            upsample_rates=list(shape.rates),
            upsample_kernel_sizes=list(shape.kernels),
            resblock_kernel_sizes=list(shape.block_kernels),
            resblock_dilation_sizes=list(shape.block_dilations),
        )
    ).eval()
    fill(theirs)
    ours = BigVgan(shape)
    ours.load_state_dict(theirs.state_dict())
    mel = torch.randn(2, shape.num_mels, 17)
    same(ours(theirs.process_mel_spectrogram(mel)), theirs(mel).view(2, -1))


@torch.no_grad()
@pytest.mark.parametrize("first_version", [True, False])
def test_the_vocoder_is_that_of_diffusers(first_version: bool) -> None:
    diffusers = pytest.importorskip("diffusers", minversion="0.42")
    shape = config(tanh=first_version, last_bias=first_version)
    theirs = diffusers.MMAudioVocoder(
        shape.num_mels, shape.width, shape.rates, shape.kernels, shape.block_kernels,
        shape.block_dilations,
    ).eval()  # fmt: skip
    if first_version:
        theirs.conv_post = nn.Conv1d(4, 1, 7, padding=3)
    fill(theirs)
    theirs.conv_post.weight.mul_(0.2)  # not clipped
    ours = BigVgan(shape)
    weights = theirs.state_dict()
    filters = [weights.pop(name) for name in list(weights) if name.endswith(".filter")]
    for one in filters:
        torch.testing.assert_close(low_pass(), one.flatten())
    ours.load_state_dict(weights)
    mel = torch.randn(2, shape.num_mels, 17)
    expected = theirs(mel).sample[:, 0]
    assert expected.abs().max() < 1
    same(ours(mel), expected.tanh() if first_version else expected)


@torch.no_grad()
@pytest.mark.parametrize("overrides", SHAPES)
@pytest.mark.parametrize("pieces", [(40,), (1, 2, 30, 7), (13, 13, 13, 1)])
def test_a_streamed_vocoder_gives_the_whole_sound(
    overrides: dict[str, Any], pieces: tuple[int, ...]
) -> None:
    ours = BigVgan(config(**overrides))
    fill(ours)
    mel = torch.randn(1, ours.config.num_mels, 40)
    stream = ours.stream()
    made = [stream.step(piece, last=False) for piece in mel.split(pieces, dim=2)]
    made.append(stream.step(mel[..., :0], last=True))
    torch.testing.assert_close(torch.cat(made, dim=1), ours(mel), atol=1e-5, rtol=1e-5)


def test_the_activation_has_the_gradient_of_its_values() -> None:
    layer = AntiAliased(2).double()
    fill(layer)
    x = torch.randn(1, 2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    with torch.no_grad():
        values = layer(x)
    torch.testing.assert_close(layer(x), values)


def test_shapes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected one kernel per rate"):
        config(rates=(2,))
    with pytest.raises(ValueError, match="A width of 18 cannot be halved 2 times"):
        config(width=18)
