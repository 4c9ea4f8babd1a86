"""The U-Net, the autoencoder and the vocoder against diffusers and transformers."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.audioldm2.modeling_audioldm2 import AudioLDM2UNet2DConditionModel
from torch import Tensor, nn
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from lm_audio.networks.autoencoder2d import Autoencoder2d, Autoencoder2dConfig
from lm_audio.networks.blocks2d import Context
from lm_audio.networks.hifi_gan import HifiGan, HifiGanConfig
from lm_audio.networks.unet2d import Attends, UNet2d, UNet2dConfig

ATOL = 1e-4
SELF, FIRST, SECOND = Attends(), Attends(width=16), Attends(width=24, context=1)


def fill(module: nn.Module) -> None:
    """Random weights; the libraries' own are often zeros and ones."""
    torch.manual_seed(0)
    for name, weight in module.named_parameters():
        is_scale = "norm" in name and name.endswith("weight")
        nn.init.normal_(weight, float(is_scale), 0.5 if is_scale else weight[0].numel() ** -0.5)


def same(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, atol=ATOL, rtol=ATOL)


@torch.no_grad()
@pytest.mark.parametrize(
    ("widths", "attends", "heads", "layers", "blocks", "linear"),
    [
        ((8, 12, 20), (SELF, FIRST, SECOND), 2, 1, 2, False),
        ((12, 16, 24, 32), (SELF, FIRST, SECOND, SELF), 4, 2, 1, False),
        ((16, 20), (FIRST, SELF, SECOND), 4, 1, 3, True),
    ],
)
@pytest.mark.parametrize("size", [(16, 8), (13, 4), (3, 3)])
def test_the_unet_of_audioldm2(
    widths: tuple[int, ...],
    attends: tuple[Attends, ...],
    heads: int,
    layers: int,
    blocks: int,
    linear: bool,
    size: tuple[int, int],
) -> None:
    levels = len(widths)
    down = ("DownBlock2D", *["CrossAttnDownBlock2D"] * (levels - 1))
    up = (*["CrossAttnUpBlock2D"] * (levels - 1), "UpBlock2D")
    theirs = AudioLDM2UNet2DConditionModel(
        in_channels=5,
        out_channels=5,
        down_block_types=down,
        up_block_types=up,
        block_out_channels=widths,
        layers_per_block=blocks,
        norm_num_groups=4,
        attention_head_dim=heads,
        transformer_layers_per_block=layers,
        use_linear_projection=linear,
        cross_attention_dim=[[one.width for one in attends]] * levels,
    ).eval()
    fill(theirs)
    ours = UNet2d(
        UNet2dConfig(
            in_channels=5,
            out_channels=5,
            widths=widths,
            attends=((), *[attends] * (levels - 1)),
            middle=attends,
            num_blocks=(blocks,) * levels,
            num_layers=(layers,) * levels,
            num_heads=(heads,) * levels,
            num_groups=4,
            linear=linear,
        )
    )
    ours.load_state_dict(theirs.state_dict())
    x, times = torch.randn(2, 5, *size), torch.tensor([731.0, 4.0])
    first, second = torch.randn(2, 3, 16), torch.randn(2, 7, 24)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    made = ours(x, times, (Context(tokens=first), Context(tokens=second, mask=mask)))
    expected = theirs(
        x,
        times,
        first,
        encoder_hidden_states_1=second,
        encoder_attention_mask_1=mask,
    ).sample
    same(made, expected)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["simple_projection", "projection"])
@pytest.mark.parametrize("concatenated", [True, False])
def test_a_unet_with_a_vector_for_the_whole_item(kind: str, concatenated: bool) -> None:
    theirs = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=(8, 16),
        class_embed_type=kind,
        projection_class_embeddings_input_dim=6,
        class_embeddings_concat=concatenated,
        flip_sin_to_cos=False,
        freq_shift=1,
    ).eval()
    fill(theirs)
    ours = UNet2d(
        UNet2dConfig(
            in_channels=4,
            out_channels=4,
            widths=(8, 16),
            attends=((), (Attends(),)),
            middle=(Attends(),),
            num_blocks=(2, 2),
            num_layers=(1, 1),
            num_heads=(2, 2),
            num_groups=4,
            vector_width=6,
            hidden_vector=kind == "projection",
            concatenated=concatenated,
            cosine_first=False,
            shift=1,
        )
    )
    ours.load_state_dict(theirs.state_dict())
    x, times, vector = torch.randn(2, 4, 9, 4), torch.tensor([10.0, 999.0]), torch.randn(2, 6)
    expected = theirs(x, times, encoder_hidden_states=None, class_labels=vector).sample
    same(ours(x, times, vector=vector), expected)


@torch.no_grad()
@pytest.mark.parametrize(
    ("widths", "attends", "blocks", "groups"),
    [
        ((8, 16, 24), (False, False, False), 2, 8),
        ((8, 8), (False, True), 1, 4),
        ((12, 24, 36, 36), (True, False, True, False), 1, 3),
    ],
)
@pytest.mark.parametrize("quant", [True, False])
def test_the_autoencoder(
    widths: tuple[int, ...], attends: tuple[bool, ...], blocks: int, groups: int, quant: bool
) -> None:
    theirs = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=[f"{'Attn' * one}DownEncoderBlock2D" for one in attends],
        up_block_types=[f"{'Attn' * one}UpDecoderBlock2D" for one in attends[::-1]],
        block_out_channels=widths,
        layers_per_block=blocks,
        latent_channels=3,
        norm_num_groups=groups,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
    ).eval()
    fill(theirs)
    ours = Autoencoder2d(
        Autoencoder2dConfig(
            channels=1,
            latent_channels=3,
            widths=widths,
            num_blocks=blocks,
            attends=attends,
            num_groups=groups,
            quant_conv=quant,
            post_quant_conv=quant,
        )
    )
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 1, 32, 16)
    expected = theirs.encode(x).latent_dist
    mean, deviation = ours.encode(x)
    same(mean, expected.mean)
    same(deviation, expected.std)
    same(ours.decode(mean), theirs.decode(mean).sample)


def hifi_gan(**overrides: Any) -> tuple[HifiGan, SpeechT5HifiGan]:
    settings: dict[str, Any] = {
        "model_in_dim": 6,
        "sampling_rate": 8000,
        "upsample_initial_channel": 16,
        "upsample_rates": [5, 2, 2],
        "upsample_kernel_sizes": [16, 4, 4],
        "resblock_kernel_sizes": [3, 7],
        "resblock_dilation_sizes": [[1, 3, 5], [1, 3]],
        "normalize_before": False,
    } | overrides
    theirs = SpeechT5HifiGan(SpeechT5HifiGanConfig(**settings)).eval()
    fill(theirs)
    theirs.mean.normal_()
    theirs.scale.uniform_(0.5, 2)
    ours = HifiGan(
        HifiGanConfig(
            num_mels=settings["model_in_dim"],
            sample_rate=8000,
            width=settings["upsample_initial_channel"],
            rates=tuple(settings["upsample_rates"]),
            kernels=tuple(settings["upsample_kernel_sizes"]),
            block_kernels=tuple(settings["resblock_kernel_sizes"]),
            block_dilations=tuple(map(tuple, settings["resblock_dilation_sizes"])),
            normalize=settings["normalize_before"],
        )
    )
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


VOCODERS: list[dict[str, Any]] = [
    {},
    {"normalize_before": True, "upsample_rates": [3, 4], "upsample_kernel_sizes": [7, 8]},
    {"upsample_rates": [2], "upsample_kernel_sizes": [3], "model_in_dim": 3},
]


@torch.no_grad()
@pytest.mark.parametrize("settings", VOCODERS)
def test_the_vocoder(settings: dict[str, Any]) -> None:
    ours, theirs = hifi_gan(**settings)
    mel = torch.randn(2, ours.config.num_mels, 17)
    same(ours(mel), theirs(mel.transpose(1, 2)))


@torch.no_grad()
@pytest.mark.parametrize("settings", VOCODERS)
@pytest.mark.parametrize("pieces", [(40,), (1, 2, 30, 7), (13, 13, 13, 1)])
def test_a_streamed_vocoder_gives_the_whole_sound(
    settings: dict[str, Any], pieces: tuple[int, ...]
) -> None:
    ours, _ = hifi_gan(**settings)
    mel = torch.randn(1, ours.config.num_mels, 40)
    stream = ours.stream()
    made = [stream.step(piece, last=False) for piece in mel.split(pieces, dim=2)]
    made.append(stream.step(mel[..., :0], last=True))
    torch.testing.assert_close(torch.cat(made, dim=1), ours(mel), atol=1e-5, rtol=1e-5)
