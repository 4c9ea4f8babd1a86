"""The layout of stable-audio-tools, written from the parts of a Stable Audio in diffusers'."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

LAYERS = {"encoder": ["res_unit1", "res_unit2", "res_unit3", "snake1", "conv1"]}
LAYERS["decoder"] = ["snake1", "conv_t1", "res_unit1", "res_unit2", "res_unit3"]
UNIT = ["snake1", "conv1", "snake2", "conv2"]
DIT = {
    "time_proj.weight": "timestep_features.weight", "timestep_proj": "to_timestep_embed",
    "global_proj": "to_global_embed", "cross_attention_proj": "to_cond_embed",
    "proj_in": "transformer.project_in", "proj_out": "transformer.project_out",
}  # fmt: skip
BLOCKS = {
    "norm1.weight": "pre_norm.gamma", "norm1.bias": "pre_norm.beta",
    "norm2.weight": "cross_attend_norm.gamma", "norm2.bias": "cross_attend_norm.beta",
    "norm3.weight": "ff_norm.gamma", "norm3.bias": "ff_norm.beta",
    "attn1.to_out.0": "self_attn.to_out", "attn2.to_out.0": "cross_attn.to_out",
    "attn2.to_q": "cross_attn.to_q", "attn1.norm_": "self_attn.", "attn2.norm_": "cross_attn.",
    "ff.net.0.proj": "ff.ff.0.proj", "ff.net.2": "ff.ff.2",
}  # fmt: skip


def dit_weights(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    made = {"transformer.rotary_pos_emb.inv_freq": torch.ones(16)}
    for name, weight in theirs.items():
        if name.startswith("transformer_blocks."):
            number, rest = name.removeprefix("transformer_blocks.").split(".", 1)
            block = f"transformer.layers.{number}."
            if rest == "attn1.to_q.weight":
                parts = [theirs[name.replace("to_q", part)] for part in ("to_q", "to_k", "to_v")]
                made[f"{block}self_attn.to_qkv.weight"] = torch.cat(parts)
            elif rest == "attn2.to_k.weight":
                values = theirs[name.replace("to_k", "to_v")]
                made[f"{block}cross_attn.to_kv.weight"] = torch.cat([weight, values])
            elif rest.split(".weight")[0] not in ("attn1.to_k", "attn1.to_v", "attn2.to_v"):
                for old, new in BLOCKS.items():
                    rest = rest.replace(old, new)
                for part in ("q", "k"):
                    rest = rest.replace(f"_attn.{part}.", f"_attn.{part}_norm.")
                made[block + rest] = weight
            continue
        for old, new in DIT.items():
            if name.startswith(old):
                name = name.replace(old, new)
                break
        made[name] = weight[:, None] if name == "timestep_features.weight" else weight
    return made


def oobleck_weights(theirs: dict[str, Tensor], num_steps: int) -> dict[str, Tensor]:
    made = {}
    for name, weight in theirs.items():
        half, first, *rest = name.split(".")
        ends = {"conv1": 0, "snake1": num_steps + 1, "conv2": num_steps + 2}
        path = [half, "layers"]
        if first == "block":
            number, part, *rest = rest
            path += [str(int(number) + 1), "layers", str(LAYERS[half].index(part))]
            if part.startswith("res_unit"):
                inner, *rest = rest
                path += ["layers", str(UNIT.index(inner))]
        else:
            path.append(str(ends[first]))
        is_snake = rest[-1] in ("alpha", "beta")
        made[".".join([*path, *rest])] = weight.flatten() if is_snake else weight
    return made


def number_weights(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    old, new = "time_positional_embedding", "embedder.embedding"
    return {name.replace(old, new): weight for name, weight in theirs.items()}


def settings_of(parts: dict[str, Any], **diffusion: Any) -> dict[str, Any]:
    """model_config.json; `diffusion` replaces its settings there."""
    dit, vae = parts["transformer"].config, parts["vae"].config
    projection = parts["projection_model"].config
    hop = parts["vae"].hop_length
    seconds = {"min_val": projection.min_value, "max_val": projection.max_value}
    shape = {"c_mults": vae.channel_multiples, "strides": vae.downsampling_ratios}
    dim = dit.num_attention_heads * dit.attention_head_dim
    return {
        "model_type": "diffusion_cond",
        "sample_size": dit.sample_size * hop,
        "sample_rate": vae.sampling_rate,
        "audio_channels": vae.audio_channels,
        "model": {
            "pretransform": {
                "type": "autoencoder",
                "iterate_batch": True,
                "config": {
                    "encoder": {
                        "type": "oobleck",
                        "requires_grad": False,
                        "config": {
                            "in_channels": vae.audio_channels,
                            "channels": vae.encoder_hidden_size,
                            "latent_dim": 2 * vae.decoder_input_channels,
                            "use_snake": True,
                            **shape,
                        },
                    },
                    "decoder": {
                        "type": "oobleck",
                        "config": {
                            "out_channels": vae.audio_channels,
                            "channels": vae.decoder_channels,
                            "latent_dim": vae.decoder_input_channels,
                            "use_snake": True,
                            "final_tanh": False,
                            **shape,
                        },
                    },
                    "bottleneck": {"type": "vae"},
                    "latent_dim": vae.decoder_input_channels,
                    "downsampling_ratio": hop,
                    "io_channels": vae.audio_channels,
                },
            },
            "conditioning": {
                "configs": [
                    {
                        "id": "prompt",
                        "type": "t5",
                        "config": {"t5_model_name": "t5-base", "max_length": 8},
                    },
                    {"id": "seconds_start", "type": "number", "config": seconds},
                    {"id": "seconds_total", "type": "number", "config": seconds},
                ],
                "cond_dim": projection.conditioning_dim,
            },
            "diffusion": {
                "cross_attention_cond_ids": ["prompt", "seconds_start", "seconds_total"],
                "global_cond_ids": ["seconds_start", "seconds_total"],
                "type": "dit",
                "config": {
                    "io_channels": dit.in_channels,
                    "embed_dim": dim,
                    "depth": dit.num_layers,
                    "num_heads": dit.num_attention_heads,
                    "cond_token_dim": dit.cross_attention_input_dim,
                    "global_cond_dim": dit.global_states_input_dim,
                    "project_cond_tokens": dit.cross_attention_dim == dim,
                    "transformer_type": "continuous_transformer",
                },
            }
            | diffusion,
            "io_channels": dit.in_channels,
        },
    }


def weights_of(parts: dict[str, Any]) -> dict[str, Tensor]:
    projection = parts["projection_model"].state_dict()
    vae = parts["vae"]
    groups = {
        "model.model.": dit_weights(parts["transformer"].state_dict()),
        "pretransform.model.": oobleck_weights(vae.state_dict(), len(vae.downsampling_ratios)),
    }
    for new, old in (
        ("seconds_start", "start_number_conditioner."),
        ("seconds_total", "end_number_conditioner."),
        ("prompt.proj_out", "text_projection."),
    ):
        own = {n.removeprefix(old): w for n, w in projection.items() if n.startswith(old)}
        groups[f"conditioner.conditioners.{new}."] = number_weights(own)
    return {prefix + name: w for prefix, group in groups.items() for name, w in group.items()}


def write_tools(
    parts: dict[str, Any],
    folder: Path,
    *,
    settings: dict[str, Any] | None = None,
    weights: dict[str, Tensor] | None = None,
) -> Path:
    """Writes the settings, the weights, and the T5 beside them."""
    folder.mkdir(exist_ok=True)
    (folder / "model_config.json").write_text(json.dumps(settings or settings_of(parts)))
    stored = {n: w.contiguous().clone() for n, w in (weights or weights_of(parts)).items()}
    save_file(stored, folder / "model.safetensors")
    parts["text_encoder"].save_pretrained(folder / "t5")
    parts["tokenizer"].save_pretrained(folder / "t5")
    return folder
