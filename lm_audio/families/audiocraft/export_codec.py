"""EnCodec's weights and settings in the layouts of transformers and audiocraft."""

import re
from typing import Any

import torch
from torch import Tensor, nn

from audio_tokenizers.acoustic.encodec import EncodecTokenizer


def normalised_encodec_weights(codec: EncodecTokenizer) -> dict[str, Tensor]:
    """Weights in transformers' layout, with weight-normalised convolutions.

    They reproduce the original weights exactly: each magnitude equals the norm that the reader
    divides by.
    """
    state = {name: x.cpu() for name, x in codec.model.state_dict().items()}
    if codec.model.config.norm_type != "weight_norm":
        return state
    for name, module in codec.model.named_modules():
        if not isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            continue
        weight = state.pop(f"{name}.weight")
        ones = weight.new_ones(len(weight), 1, 1)
        norm = torch._weight_norm_interface(weight, ones, 0)[1]
        direction = torch.where(norm == 0, 1.0, weight)  # a zero vector has no direction
        state[f"{name}.parametrizations.weight.original0"] = norm
        state[f"{name}.parametrizations.weight.original1"] = direction
    return state


def audiocraft_encodec_weights(codec: EncodecTokenizer) -> dict[str, Tensor]:
    """Weights under audiocraft's names, with plain convolutions."""
    state = {}
    for name, x in codec.model.state_dict().items():
        if match := re.fullmatch(r"(.+)\.(conv|norm)\.(\w+)", name):
            layer, part, kind = match.groups()
            conv = codec.model.get_submodule(layer).conv
            wrapper = "convtr" if isinstance(conv, nn.ConvTranspose1d) else "conv"
            name = f"{layer}.{wrapper}.{wrapper if part == 'conv' else 'norm'}.{kind}"
        name = name.replace("quantizer.layers.", "quantizer.vq.layers.")
        name = name.replace(".codebook.", "._codebook.")
        state[re.sub(r"^(encoder|decoder)\.layers\.", r"\1.model.", name)] = x.cpu()
    return state


def audiocraft_encodec_settings(codec: EncodecTokenizer) -> dict[str, Any]:
    """The settings from which audiocraft builds the codec."""
    config = codec.model.config
    if config.chunk_length_s is not None:
        raise ValueError(
            f"The audiocraft layout does not support this model: its codec works in chunks of "
            f"{config.chunk_length_s} s. Save it in lm-audio's own format instead."
        )
    is_weight_norm = config.norm_type == "weight_norm"
    return {
        "compression_model": "encodec",
        "sample_rate": config.sampling_rate,
        "channels": config.audio_channels,
        "encodec": {
            "autoencoder": "seanet",
            "quantizer": "rvq",
            "sample_rate": config.sampling_rate,
            "channels": config.audio_channels,
            "causal": config.use_causal_conv,
            "renormalize": config.normalize,
        },
        "seanet": {
            "dimension": config.hidden_size,
            "channels": config.audio_channels,
            "causal": config.use_causal_conv,
            "n_filters": config.num_filters,
            "n_residual_layers": config.num_residual_layers,
            "ratios": list(config.upsampling_ratios),
            "activation": "ELU",
            "activation_params": {"alpha": 1.0},
            "norm": "none" if is_weight_norm else config.norm_type,
            "norm_params": {},
            "kernel_size": config.kernel_size,
            "residual_kernel_size": config.residual_kernel_size,
            "last_kernel_size": config.last_kernel_size,
            "dilation_base": config.dilation_growth_rate,
            "pad_mode": config.pad_mode,
            "true_skip": not config.use_conv_shortcut,
            "compress": config.compress,
            "lstm": config.num_lstm_layers,
            "disable_norm_outer_blocks": 0,
            "decoder": {
                "trim_right_ratio": config.trim_right_ratio,
                "final_activation": None,
                "final_activation_params": None,
            },
            "encoder": {},
        },
        "rvq": {"n_q": codec.num_codebooks, "q_dropout": False, "bins": config.codebook_size},
        "device": "cpu",
    }
