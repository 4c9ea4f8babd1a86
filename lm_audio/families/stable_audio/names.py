"""Names of weights: those of diffusers and of stable-audio-tools as ours.

stable-audio-tools and Stable Audio 3 store some matrices one above the other: queries, keys and
values. Their parts are views, so mapped weights stay mapped.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from lm_audio.saving.spectrograms import without_weight_norm

Weights = Mapping[str, Tensor]
Table = Mapping[str, str]
"""The start of a name, up to a dot or the end, and what replaces it."""

_ENDS: Table = {"preprocess_conv": "before", "postprocess_conv": "after"}
_TO: Table = {
    "to_qkv": "query_key_value", "to_q": "query", "to_kv": "key_value", "to_k": "key",
    "to_v": "value", "to_out.0": "output", "to_out": "output", "q_norm": "query_norm",
    "k_norm": "key_norm",
}  # fmt: skip
_FIRST: Table = {
    "time_proj.weight": "time_waves.frequencies",
    "timestep_proj": "time",
    "global_proj": "vector",
    "cross_attention_proj": "condition",
    "proj_in": "input",
    "proj_out": "output",
    **_ENDS,
}
_FIRST_BLOCKS: Table = {
    "norm1": "attention_norm",
    "norm2": "cross_attention_norm",
    "norm3": "feed_forward_norm",
    **{f"attn1.{old}": f"attention.{new}" for old, new in _TO.items()},
    **{f"attn2.{old}": f"cross_attention.{new}" for old, new in _TO.items()},
    "ff.net.0.proj": "expand",
    "ff.net.2": "contract",
}
_THIRD: Table = {
    "timestep_features.weight": "time_waves.frequencies",
    "to_timestep_embed": "time",
    "to_global_embed": "vector",
    "to_cond_embed": "condition",
    "global_cond_embedder": "modulation",
    "prompt_padding_embedding": "padding",
    "memory_tokens": "memories",
    "proj_in": "input",
    "proj_out": "output",
    **_ENDS,
}
_THIRD_BLOCKS: Table = {
    "pre_norm": "attention_norm",
    "cross_attend_norm": "cross_attention_norm",
    "ff_norm": "feed_forward_norm",
    **{f"self_attn.{old}": f"attention.{new}" for old, new in _TO.items()},
    **{f"cross_attn.{old}": f"cross_attention.{new}" for old, new in _TO.items()},
    "ff.proj_in": "expand",
    "ff.proj_out": "contract",
    "ff.ff.0.proj": "expand",
    "ff.ff.2": "contract",
    "to_scale_shift_gate": "modulation",
    "to_local_embed": "known",
}
_TOOLS: Table = {
    **_THIRD,
    "transformer.project_in": "input",
    "transformer.project_out": "output",
    "transformer.memory_tokens": "memories",
}
_UNITS: Table = {
    "layers.0": "snake1",
    "layers.1": "conv1",
    "layers.2": "snake2",
    "layers.3": "conv2",
}
_NUM_RESIDUAL = 3


def first_dit_names(weights: Weights) -> dict[str, Tensor]:
    """Of diffusers' StableAudioDiTModel."""
    return _split(_renamed(weights, _FIRST, _FIRST_BLOCKS, blocks="transformer_blocks."))


def third_dit_names(weights: Weights) -> dict[str, Tensor]:
    """Of diffusers' StableAudio3DiTModel; the embedding of padding is `padding`."""
    return _split(_renamed(weights, _THIRD, _THIRD_BLOCKS, blocks="transformer_blocks."))


def tools_dit_names(weights: Weights) -> dict[str, Tensor]:
    """Of the DiffusionTransformer of stable-audio-tools, without `model.model.`."""
    made = _split(_renamed(weights, _TOOLS, _THIRD_BLOCKS, blocks="transformer.layers."))
    if (waves := made.get("time_waves.frequencies")) is not None:
        made["time_waves.frequencies"] = waves.flatten()  # [num_waves, 1]
    return made


def tools_oobleck_names(weights: Weights, *, num_steps: int) -> dict[str, Tensor]:
    """Of the OobleckEncoder and OobleckDecoder of stable-audio-tools."""
    made = {}
    for name, weight in without_weight_norm(weights).items():
        half, _, rest = name.partition(".")
        new = _tools_layer(rest, num_steps=num_steps, is_encoder=half == "encoder")
        is_snake = new.endswith((".alpha", ".beta"))
        made[f"{half}.{new}"] = weight.flatten()[None, :, None] if is_snake else weight
    return made


def _tools_layer(name: str, *, num_steps: int, is_encoder: bool) -> str:
    """The name in a half of the autoencoder: a list of layers, and within blocks another one."""
    found = re.fullmatch(r"layers\.(\d+)\.(.*)", name)
    if found is None:
        return name
    place, rest = int(found[1]), found[2]
    ends = {0: "conv1", num_steps + 1: "snake1", num_steps + 2: "conv2"}
    if place in ends:
        return f"{ends[place]}.{rest}"
    units = [f"res_unit{i + 1}" for i in range(_NUM_RESIDUAL)]
    parts = [*units, "snake1", "conv1"] if is_encoder else ["snake1", "conv_t1", *units]
    for i, part in enumerate(parts):
        if rest.startswith(f"layers.{i}."):
            inner = rest.removeprefix(f"layers.{i}.")
            inner = _prefixed(inner, _UNITS) if part in units else inner
            return f"block.{place - 1}.{part}.{inner}"
    return name


def number_names(weights: Weights) -> dict[str, Tensor]:
    """Of a number's embedding in any layout, without the name of the condition."""
    old = ("time_positional_embedding.", "embedder.embedding.")
    table = {
        **{f"{prefix}0.weights": "waves.frequencies" for prefix in old},
        **{f"{prefix}1": "projection" for prefix in old},
        "linear": "projection",
    }
    return {_prefixed(name, table): weight for name, weight in weights.items()}


def under(prefix: str, weights: Weights) -> dict[str, Tensor]:
    """The weights whose names start so, without that."""
    return {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}


def _renamed(weights: Weights, top: Table, parts: Table, *, blocks: str) -> dict[str, Tensor]:
    made = {}
    for name, weight in weights.items():
        if name.endswith("rotary_pos_emb.inv_freq"):
            continue  # a constant
        if name.startswith(blocks):
            number, _, rest = name.removeprefix(blocks).partition(".")
            new = f"blocks.{number}.{_prefixed(rest, parts)}"
        else:
            new = _prefixed(name, top)
        new = re.sub(r"norm\.gamma$", "norm.weight", re.sub(r"norm\.beta$", "norm.bias", new))
        made[new] = weight
    return made


def _prefixed(name: str, table: Table) -> str:
    """The name with its start replaced; unknown names stay, and are refused as unexpected."""
    for old, new in table.items():
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return name


def _split(weights: Weights) -> dict[str, Tensor]:
    """Takes the stored rows of queries, keys and values apart.

    Of a differential attention there are two matrices of queries and keys each.
    """
    made = {}
    for name, weight in weights.items():
        prefix, joined, _ = name.rpartition("query_key_value.")
        if not joined:
            prefix, joined, _ = name.rpartition("key_value.")
        if not joined:
            made[name] = weight
            continue
        rows, width = weight.shape
        units = rows // width
        keys = (units - 1) // 2 if joined.startswith("query") else units - 1
        queries = units - 1 - keys
        parts = weight.split([queries * width, keys * width, rows - (queries + keys) * width])
        for part, rows_of in zip(("query", "key", "value"), parts, strict=True):
            if len(rows_of):
                made[f"{prefix}{part}.weight"] = rows_of
    return made
