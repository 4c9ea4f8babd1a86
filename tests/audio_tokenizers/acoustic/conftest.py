"""Small random codecs with filled codebooks, one of each public kind."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    DacConfig,
    DacModel,
    EncodecConfig,
    EncodecModel,
    MimiConfig,
    MimiModel,
)

State = dict[str, torch.Tensor]

ENCODEC_SETTINGS: dict[str, dict[str, object]] = {
    "24k": {},
    "48k": {
        "sampling_rate": 48_000,
        "audio_channels": 2,
        "normalize": True,
        "chunk_length_s": 1.0,
        "overlap": 0.01,
        "norm_type": "time_group_norm",
        "use_causal_conv": False,
        "target_bandwidths": [3.0, 6.0, 12.0, 24.0],
    },
    "32k": {
        "sampling_rate": 32_000,
        "upsampling_ratios": [8, 5, 4, 4],
        "use_causal_conv": False,
        "use_conv_shortcut": False,
        "codebook_size": 2048,
        "target_bandwidths": [2.2],
    },
    "16k": {
        "sampling_rate": 16_000,
        "use_causal_conv": False,
        "use_conv_shortcut": False,
        "codebook_size": 2048,
        "target_bandwidths": [2.2],
        "pad_mode": "constant",
    },
}

# As audiocraft writes it, references to other settings included.
AUDIOCRAFT_SETTINGS = """
compression_model: encodec
sample_rate: {sampling_rate}
channels: {audio_channels}
encodec:
  autoencoder: seanet
  quantizer: rvq
  sample_rate: ${{sample_rate}}
  channels: ${{channels}}
  causal: {use_causal_conv}
  renormalize: false
seanet:
  dimension: {hidden_size}
  channels: ${{channels}}
  causal: ${{encodec.causal}}
  n_filters: {num_filters}
  n_residual_layers: 1
  ratios: {upsampling_ratios}
  activation: ELU
  activation_params:
    alpha: 1.0
  norm: {norm_type}
  norm_params: {{}}
  kernel_size: 7
  residual_kernel_size: 3
  last_kernel_size: 7
  dilation_base: 2
  pad_mode: {pad_mode}
  true_skip: {true_skip}
  compress: 2
  lstm: 2
  disable_norm_outer_blocks: 0
  decoder:
    trim_right_ratio: 1.0
    final_activation: null
  encoder: {{}}
rvq:
  n_q: {num_quantizers}
  q_dropout: false
  bins: {codebook_size}
device: cpu
"""


@pytest.fixture(scope="session")
def make_encodec() -> Callable[..., EncodecModel]:
    """Builds a random EnCodec: `make_encodec("24k", num_filters=4)`."""

    def make(kind: str, **overrides: object) -> EncodecModel:
        torch.manual_seed(0)
        small = {"num_filters": 4, "hidden_size": 16}
        model = EncodecModel(EncodecConfig(**{**ENCODEC_SETTINGS[kind], **small, **overrides}))
        return fill_codebooks(model.eval())

    return make


def fill_codebooks(model: EncodecModel) -> EncodecModel:
    """Spreads the entries over what the encoder makes of noise: zeros would all be ties.

    The latents are made to vary, centred, and taken away little by little: distances that are tiny
    beside the vectors would be mostly rounding.
    """
    with torch.no_grad():
        for layer in (*model.encoder.layers, *model.decoder.layers):
            for weight in layer.parameters():
                weight.mul_(2)
        residual = model.encoder(torch.randn(1, model.config.audio_channels, 20_000))
        last, mean = model.encoder.layers[-1], residual.mean(dim=(0, 2))  # [D]
        (last.norm if hasattr(last, "norm") else last.conv).bias.sub_(mean)
        residual = residual - mean[:, None]
        for layer in model.quantizer.layers:
            book = layer.codebook
            book.embed.copy_(torch.randn_like(book.embed) * residual.std(dim=(0, 2)) * 0.2)
            book.embed_avg.normal_()
            book.cluster_size.uniform_(1, 2)
            residual = residual - layer.decode(layer.encode(residual))
    return model


@pytest.fixture(scope="session")
def save_encodec() -> Callable[..., Path]:
    """Writes a checkpoint: `save_encodec(model, folder, layout="original", spelling="old")`."""
    return save_checkpoint


def respell(state: State, spelling: str) -> State:
    """Writes the weight norm of a transformers state dict as old or new names, or folds it."""
    result = {}
    for name, value in state.items():
        stem = name.removesuffix(".parametrizations.weight.original0")
        if spelling == "new" or "parametrizations" not in name:
            result[name] = value
        elif spelling == "old":
            name = name.replace(".parametrizations.weight.original0", ".weight_g")
            result[name.replace(".parametrizations.weight.original1", ".weight_v")] = value
        elif stem != name:
            direction = state[f"{stem}.parametrizations.weight.original1"]
            result[f"{stem}.weight"] = torch._weight_norm(direction, value, 0)
    return result


def original_names(model: EncodecModel, state: State) -> State:
    """Renames a transformers state dict to what the `encodec` package calls its weights."""
    result = {}
    for name, value in state.items():
        if name.startswith("quantizer"):
            name = name.replace("quantizer.layers", "quantizer.vq.layers")
            result[name.replace(".codebook.", "._codebook.")] = value
            continue
        match = re.fullmatch(r"(.*)\.(conv|norm)\.(.+)", name)
        if match:
            layer, part, rest = match.groups()
            transposed = type(model.get_submodule(layer)).__name__ == "EncodecConvTranspose1d"
            kind = "convtr" if transposed else "conv"
            name = f"{layer}.{kind}.{kind if part == 'conv' else 'norm'}.{rest}"
        result[name.replace("coder.layers.", "coder.model.")] = value
    return result


def save_checkpoint(model: EncodecModel, path: Path, *, layout: str, spelling: str) -> Path:
    state = respell(model.state_dict(), spelling)
    if layout == "transformers":
        model.config.save_pretrained(path)
        torch.save(state, path / "pytorch_model.bin")
        return path
    state = original_names(model, state)
    file = path / "weights.bin"
    if layout == "original":
        torch.save(state, file)
        return file
    settings = model.config.to_dict() | {
        "true_skip": not model.config.use_conv_shortcut,
        "num_quantizers": model.config.num_quantizers,
        "upsampling_ratios": list(model.config.upsampling_ratios),
    }
    package = {"best_state": state, "xp.cfg": AUDIOCRAFT_SETTINGS.format(**settings)}
    torch.save(package | {"version": "1.0.0", "exported": True}, file)
    return file


@pytest.fixture(scope="session")
def make_dac() -> Callable[..., DacModel]:
    """Builds a random DAC: `make_dac(24_000)`."""

    def make(sample_rate: int, **overrides: object) -> DacModel:
        torch.manual_seed(0)
        settings: dict[str, object] = {
            "sampling_rate": sample_rate,
            "downsampling_ratios": [2, 4, 8, 8] if sample_rate == 44_100 else [2, 4, 5, 8],
            "n_codebooks": {16_000: 12, 24_000: 32, 44_100: 9}[sample_rate],
            "encoder_hidden_size": 4,
            "decoder_hidden_size": 32,
        }
        model = DacModel(DacConfig(**{**settings, **overrides})).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                # As wide as torch draws them: with the 0.02 of transformers nearly nothing passes.
                if "conv" in name and name.endswith("weight"):
                    weight.normal_(0, 1 / weight[0].numel() ** 0.5)
                elif "alpha" in name:
                    weight.uniform_(0.5, 1)
        return model

    return make


@pytest.fixture(scope="session")
def make_mimi() -> Callable[..., MimiModel]:
    """Builds a random Mimi with a window of 10 steps, 5 frames: `make_mimi(num_filters=2)`."""

    def make(**overrides: object) -> MimiModel:
        torch.manual_seed(0)
        settings: dict[str, object] = {
            "hidden_size": 32,
            "num_filters": 4,
            "upsample_groups": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "intermediate_size": 64,
            "codebook_dim": 16,
            "vector_quantization_hidden_dimension": 16,
            "codebook_size": 128,
            "sliding_window": 10,
            "layer_scale_initial_scale": 0.5,
        }
        model = MimiModel(MimiConfig(**{**settings, **overrides})).eval()
        with torch.no_grad():
            for book in model.modules():
                if hasattr(book, "embed_sum"):
                    book.embed_sum.normal_()
                    book.cluster_usage.uniform_(1, 2)
                    book._embed = None
        return model

    return make
