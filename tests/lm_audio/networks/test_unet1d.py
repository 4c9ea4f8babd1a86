"""The U-Net over waveforms against diffusers' UNet1DModel, and its inputs for cascades."""

import math
from typing import Any

import pytest
import torch
from diffusers import UNet1DModel
from torch import Tensor, nn

from lm_audio.networks.condition import Condition, Fused
from lm_audio.networks.unet1d import LEVEL, Attention1d, Double, Halve, UNet1d, UNet1dConfig

ATOL = 1e-4


def fill(module: nn.Module) -> None:
    """Random weights for norms, too; the libraries' own are ones and zeros."""
    torch.manual_seed(0)
    for name, weight in module.named_parameters():
        if name == "time_proj.weight":
            continue
        is_scale = "norm" in name and name.endswith("weight")
        nn.init.normal_(weight, float(is_scale), 0.5 if is_scale else weight[0].numel() ** -0.5)


def published(
    widths: tuple[int, ...], num_attending: int, *, time_width: int = 16, **settings: Any
) -> UNet1DModel:
    """Dance Diffusion's layout of diffusers' class."""
    plain = len(widths) - num_attending - 1
    torch.manual_seed(1)
    model = UNet1DModel(
        extra_in_channels=time_width,
        time_embedding_dim=time_width,
        block_out_channels=widths,
        down_block_types=(
            "DownBlock1DNoSkip",
            *["DownBlock1D"] * plain,
            *["AttnDownBlock1D"] * num_attending,
        ),
        up_block_types=(
            *["AttnUpBlock1D"] * num_attending,
            *["UpBlock1D"] * plain,
            "UpBlock1DNoSkip",
        ),
        **settings,
    )
    fill(model)
    return model.eval()


def tiny(**settings: Any) -> UNet1d:
    torch.manual_seed(0)
    settings = {
        "in_channels": 2, "out_channels": 2, "widths": (32, 64), "num_attending": 1, **settings,
    }  # fmt: skip
    model = UNet1d(UNet1dConfig(**settings))
    fill(model)
    return model.eval()


def named(*, stacked: Tensor | None = None, **conditions: Tensor) -> Fused:
    return Fused(
        stacked=stacked,
        named={
            name: Condition(embeddings=x, mask=torch.ones(x.shape[:2], dtype=torch.bool))
            for name, x in conditions.items()
        },
    )


def attended(embeddings: Tensor, lengths: list[int]) -> Fused:
    mask = torch.arange(embeddings.shape[1]) < torch.tensor(lengths)[:, None]
    return Fused(cross=Condition(embeddings=embeddings, mask=mask))


@torch.no_grad()
@pytest.mark.parametrize(
    ("widths", "num_attending", "channels", "time_width", "cosine_first"),
    [
        ((32, 32, 64), 1, 2, 16, True),
        ((24, 40, 32, 96, 64), 2, 1, 6, False),
        ((12, 20, 32), 0, 3, 16, True),
        ((8, 32, 64, 32), 2, 2, 16, True),
    ],
)
@pytest.mark.parametrize("num_multiples", [3, 5])
def test_the_unet_of_dance_diffusion(
    widths: tuple[int, ...],
    num_attending: int,
    channels: int,
    time_width: int,
    cosine_first: bool,
    num_multiples: int,
) -> None:
    theirs = published(
        widths, num_attending, in_channels=channels, out_channels=channels,
        time_width=time_width, flip_sin_to_cos=cosine_first,
    )  # fmt: skip
    ours = UNet1d(
        UNet1dConfig(
            in_channels=channels, out_channels=channels, widths=widths,
            num_attending=num_attending, time_width=time_width, cosine_first=cosine_first,
        )
    )  # fmt: skip
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, channels, num_multiples * 2 ** len(widths))
    times = torch.tensor([0.3, 0.9])
    expected = theirs(x, times).sample
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(ours(x, times, Fused()), expected, atol=ATOL, rtol=ATOL)


@torch.no_grad()
def test_a_wide_unet_over_a_long_sound() -> None:
    """Its convolutions need fewer multiplications on a CPU."""
    theirs = published((128, 160), 1, in_channels=2, out_channels=2)
    config = UNet1dConfig(in_channels=2, out_channels=2, widths=(128, 160), num_attending=1)
    ours = UNet1d(config)
    ours.load_state_dict(theirs.state_dict())
    x, times = torch.randn(1, 2, 2048), torch.tensor([0.4])
    expected = theirs(x, times).sample
    made = ours(x, times, Fused())
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(made, expected, atol=ATOL, rtol=ATOL)


def test_the_published_shape_has_the_published_size() -> None:
    config = UNet1dConfig(
        in_channels=2, out_channels=2, widths=(128, 128, 256, 256, *[512] * 9), num_attending=5
    )
    with torch.device("meta"):
        model = UNet1d(config)
    fixed = [x for name, x in model.named_buffers() if name.endswith(".kernel")]
    assert len(fixed) == 2 * 13
    count = sum(x.numel() for x in model.parameters()) + model.time_proj.weight.numel()
    assert count == 221_389_322
    assert (config.multiple, config.min_length) == (8192, 24_576)


@torch.no_grad()
def test_halving_and_doubling_keep_a_slow_wave() -> None:
    T = 256
    wave = torch.sin(2 * math.pi * torch.arange(T) / 64)[None, None].repeat(2, 3, 1)
    halved = Halve()(wave)
    middles = torch.sin(2 * math.pi * (torch.arange(T // 2) * 2 + 0.5) / 64)
    torch.testing.assert_close(
        halved[..., 4:-4], middles.expand(2, 3, -1)[..., 4:-4], atol=5e-3, rtol=0
    )
    torch.testing.assert_close(Double()(halved)[..., 8:-8], wave[..., 8:-8], atol=1e-2, rtol=0)


@torch.no_grad()
def test_a_stacked_signal_and_its_level_change_the_output_where_they_are() -> None:
    model = tiny(stacked_channels=3, has_level=True)
    x, times = torch.randn(1, 2, 24), torch.tensor([0.5])
    stacked, level = torch.randn(1, 24, 3), torch.full((1, 1, 1), 0.25)
    made = model(x, times, named(stacked=stacked, level=level))
    assert made.shape == x.shape
    other = model(x, times, named(stacked=stacked.flip(1), level=level))
    assert (other - made).abs().max() > 1e-3
    other = model(x, times, named(stacked=stacked, level=level + 0.5))
    assert (other - made).abs().max() > 1e-3
    cut = model(x, times, named(stacked=stacked[:, :20], level=level))
    stacked[:, 20:] = 0
    assert torch.equal(cut, model(x, times, named(stacked=stacked, level=level)))
    assert LEVEL == "level"


@torch.no_grad()
def test_a_stacked_signal_is_more_channels_beside_a_text() -> None:
    model = tiny(stacked_channels=3, context_width=6)
    plain = tiny(in_channels=5, context_width=6)
    plain.load_state_dict(model.state_dict())
    x, stacked, times = torch.randn(2, 2, 24), torch.randn(2, 20, 3), torch.tensor([0.5, 0.1])
    text = attended(torch.randn(2, 5, 6), [5, 3])
    made = model(x, times, Fused(stacked=stacked, cross=text.cross))
    beside = nn.functional.pad(stacked.transpose(1, 2), (0, 4))
    torch.testing.assert_close(made, plain(torch.cat([x, beside], dim=1), times, text))


@torch.no_grad()
def test_attention_to_a_text_is_that_of_torch() -> None:
    ours = Attention1d(64, context_width=6)
    fill(ours)
    theirs = nn.MultiheadAttention(64, 2, kdim=6, vdim=6, batch_first=True)
    for name, layer in zip("qkv", (ours.query, ours.key, ours.value), strict=True):
        getattr(theirs, f"{name}_proj_weight").copy_(layer.weight)
    layers = (ours.query, ours.key, ours.value)
    theirs.in_proj_bias.copy_(torch.cat([layer.bias for layer in layers]))
    theirs.out_proj.load_state_dict(ours.proj_attn.state_dict())
    x, text = torch.randn(2, 64, 12), torch.randn(2, 5, 6)
    mask = torch.arange(5) < torch.tensor([[5], [3]])
    queries = ours.group_norm(x).transpose(1, 2)
    expected, _ = theirs(queries, text, text, key_padding_mask=~mask)
    made = ours(x, (text, mask))
    torch.testing.assert_close(made, x + expected.transpose(1, 2), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_of_a_text_is_not_attended_to() -> None:
    model = tiny(context_width=6)
    x, times = torch.randn(2, 2, 24), torch.tensor([0.5, 0.1])
    text = torch.randn(2, 5, 6)
    made = model(x, times, attended(text, [5, 3]))
    alone = model(x[1:], times[1:], attended(text[1:, :3], [3]))
    torch.testing.assert_close(made[1:], alone, atol=1e-5, rtol=1e-5)
    other = model(x, times, attended(text.flip(0), [5, 5]))
    assert (other - made).abs().max() > 1e-3


def test_recomputing_gives_the_same_gradients() -> None:
    x, times = torch.randn(1, 2, 24), torch.tensor([0.5])
    found = []
    for recomputes in (False, True):
        model = tiny()
        model.recomputes = recomputes
        model(x, times, Fused()).square().mean().backward()
        found.append([p.grad for p in model.parameters()])
    for one, other in zip(*found, strict=True):
        assert one is not None
        torch.testing.assert_close(one, other)


def test_new_weights_are_half_of_torchs() -> None:
    config = UNet1dConfig(in_channels=1, out_channels=1, widths=(32, 32), num_attending=1)
    torch.manual_seed(0)
    model = UNet1d(config)
    norm = model.mid_block.get_submodule("resnets.0.group_norm_1")
    assert torch.equal(norm.weight, torch.full((32,), 0.5))
    limit = 0.5 / math.sqrt(5 * 32)  # of torch's uniform initialisation
    weight = model.mid_block.get_submodule("resnets.0.conv_1").weight
    assert 0.9 * limit < weight.abs().max() <= limit


@pytest.mark.parametrize("length", [8, 26])
def test_a_length_that_cannot_be_halved_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"Expected a multiple of 4 .* at least 12, got {length}"):
        tiny()(torch.randn(1, 2, length), torch.zeros(1), Fused())


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        ({}, named(stacked=torch.zeros(1, 24, 1)), "A stacked signal and a network"),
        ({"stacked_channels": 1}, Fused(), "A stacked signal and a network"),
        ({"has_level": True}, Fused(), "A level and a network"),
        ({"context_width": 4}, Fused(), "Cross-attention and a condition"),
    ],
)
def test_conditions_and_network_must_match(
    settings: dict[str, Any], given: Fused, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**settings)(torch.randn(1, 2, 24), torch.zeros(1), given)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_attending": 2}, "from 0 to 1"),
        ({"time_width": 3}, "even and at least 2"),
        ({"widths": (32, 48)}, "multiples of 32 as widths, got 48"),
        ({"widths": (33, 64)}, "multiples of 32 as widths, got 33"),
    ],
)
def test_impossible_shapes_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**settings)
