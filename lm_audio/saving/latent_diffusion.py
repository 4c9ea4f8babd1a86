"""Networks under the names of the original latent diffusion code, as those of diffusers and ours.

U-Nets have numbered input and output blocks there, and autoencoders the order of their levels as
attributes; the convolutions of their attention are linear layers here.
"""

import re
from collections.abc import Sequence

from torch import Tensor

from lm_audio.networks.unet2d import UNet2dConfig

_PART = re.compile(r"((?:input_blocks|output_blocks)\.\d+\.\d+|\w+\.\d)\.(.*)")
_UNET = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_MIDDLE = {"block_1": "resnets.0", "attn_1": "attentions.0", "block_2": "resnets.1"}


def unet_weights(weights: dict[str, Tensor], shape: UNet2dConfig) -> dict[str, Tensor]:
    """Renames the weights of a U-Net; unknown names stay."""
    parts = _UNET | _input_blocks(shape) | _output_blocks(shape)
    made = {}
    for name, weight in weights.items():
        match = re.match(
            r"((?:input|output)_blocks\.\d+\.\d+|middle_block\.\d|\w+\.\d)\.(.*)", name
        )
        if match is None or match[1] not in parts:
            made[name] = weight
            continue
        part, rest = parts[match[1]], match[2]
        if ".resnets." in part:
            layer, _, kind = rest.rpartition(".")
            rest = f"{_RESIDUAL.get(layer, layer)}.{kind}"
        elif part.endswith(("downsamplers.0", "upsamplers.0")):
            rest = rest.removeprefix("op.").removeprefix("conv.")
            part += ".conv"
        made[f"{part}.{rest}"] = weight
    return made


def autoencoder_weights(weights: dict[str, Tensor], *, num_levels: int) -> dict[str, Tensor]:
    """Renames the weights of an autoencoder; unknown names stay."""
    made = {}
    for name, weight in weights.items():
        parts = name.split(".")
        if parts[0] in ("encoder", "decoder"):
            attends = ".attn" in name
            name = ".".join([parts[0], *_inner(parts[1:], num_levels=num_levels)])
            if attends and weight.dim() == 4:
                weight = weight.flatten(1)
        made[name] = weight
    return made


def _inner(parts: Sequence[str], *, num_levels: int) -> list[str]:
    """The name inside of an encoder or decoder."""
    first, *rest = parts
    if first == "norm_out":
        return ["conv_norm_out", *rest]
    if first == "mid":
        return ["mid_block", _MIDDLE.get(rest[0], rest[0]), *_layer(rest[0], rest[1:])]
    if first not in ("down", "up"):
        return list(parts)
    level = int(rest[0]) if first == "down" else num_levels - 1 - int(rest[0])
    head = [f"{first}_blocks", str(level)]
    if rest[1] in ("downsample", "upsample"):
        return [*head, f"{rest[1]}rs", "0", *rest[2:]]
    kinds = {"block": "resnets", "attn": "attentions"}
    return [*head, kinds.get(rest[1], rest[1]), rest[2], *_layer(rest[1], rest[3:])]


def _layer(block: str, rest: Sequence[str]) -> list[str]:
    """The name inside of a residual block or of attention."""
    if block.startswith("attn"):
        return [_ATTENTION.get(rest[0], rest[0]), *rest[1:]]
    return ["conv_shortcut" if rest[0] == "nin_shortcut" else rest[0], *rest[1:]]


def _input_blocks(shape: UNet2dConfig) -> dict[str, str]:
    made, place = {}, 1
    for level, count in enumerate(shape.num_blocks):
        for block in range(count):
            made[f"input_blocks.{place}.0"] = f"down_blocks.{level}.resnets.{block}"
            made[f"input_blocks.{place}.1"] = f"down_blocks.{level}.attentions.{block}"
            place += 1
        made[f"input_blocks.{place}.0"] = f"down_blocks.{level}.downsamplers.0"
        place += 1
    return made


def _output_blocks(shape: UNet2dConfig) -> dict[str, str]:
    made, place = {}, 0
    for up, level in enumerate(reversed(range(len(shape.widths)))):
        for block in range(shape.num_blocks[level] + 1):
            prefix = f"output_blocks.{place}"
            made[f"{prefix}.0"] = f"up_blocks.{up}.resnets.{block}"
            after = 1
            if shape.attends[level]:
                made[f"{prefix}.1"] = f"up_blocks.{up}.attentions.{block}"
                after = 2
            made[f"{prefix}.{after}"] = f"up_blocks.{up}.upsamplers.0"
            place += 1
    return made
