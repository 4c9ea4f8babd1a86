"""Reads EnCodec checkpoints in the three published layouts, which are detected by their keys.

- transformers: a folder or hub id with `config.json` and weights;
- original `encodec`: one file, a plain state dict;
- audiocraft: one file with `best_state` and the YAML text `xp.cfg`, or a `pretrained` pointer.

Weight normalisation may use the old or the new names of g and v, or be folded. Files cannot run
code: only safetensors, and pickles restricted to tensors and plain containers, are read.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio_tokenizers.acoustic.encodec import EncodecTokenizer, fold_weight_norm
from audio_tokenizers.weights import check_weights, read_pickle, read_safetensors

AUDIOCRAFT_FILE = "compression_state_dict.bin"
_POINTERS = {
    "encodec_24khz": "facebook/encodec_24khz",
    "encodec_48khz": "facebook/encodec_48khz",
}
_AUDIOCRAFT_CHOICES: dict[str, tuple[Any, ...]] = {
    "seanet.pad_mode": ("constant", "reflect", "replicate"),
    "compression_model": ("encodec",),
    "encodec.autoencoder": ("seanet",),
    "encodec.quantizer": ("rvq",),
    "seanet.activation": ("ELU",),
    "seanet.activation_params.alpha": (1.0,),
    "seanet.disable_norm_outer_blocks": (0,),
    "seanet.norm": ("none", "weight_norm", "time_group_norm"),
    "seanet.decoder.final_activation": (None,),
}
_AUDIOCRAFT_OVERRIDES = {  # settings of one half of the codec that are read, or have no effect
    "seanet.decoder.trim_right_ratio",
    "seanet.decoder.final_activation",
    "seanet.decoder.final_activation_params",
}
_RENAMES = (
    (r"^quantizer\.vq\.layers\.", "quantizer.layers."),
    (r"\._codebook\.", ".codebook."),
    (r"^(encoder|decoder)\.model\.", r"\1.layers."),
    (r"\.(conv|convtr)\.norm\.", ".norm."),
    (r"\.(conv\.conv|convtr\.convtr)\.", ".conv."),
)
_NORM_SPELLINGS = (
    (".weight_g", ".weight_v"),
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
)


def load_encodec(source: str | Path) -> EncodecTokenizer:
    """Loads EnCodec from a file or folder in any of the layouts, or from a transformers hub id."""
    path = Path(source)
    if path.is_dir() and not (path / "config.json").exists():
        path = path / AUDIOCRAFT_FILE
        if not path.exists():
            raise ValueError(
                f"{source} has no EnCodec checkpoint; expected config.json or {AUDIOCRAFT_FILE}."
            )
    if not path.is_file():
        return _load_transformers(source)
    package = read_pickle(path)
    if "pretrained" in package:
        return load_encodec(_pointed_to(path, package["pretrained"]))
    if "xp.cfg" in package:
        settings, state = _audiocraft_settings(path, package["xp.cfg"]), _best_state(package)
        given_by = "its xp.cfg"
    elif _is_original(package):
        state = package
        settings, given_by = _original_settings(state), "the original model"
    else:
        raise ValueError(
            f"{path} is not an EnCodec checkpoint of encodec or audiocraft; its keys are like "
            f"{', '.join(map(str, list(package)[:3]))}."
        )
    renamed = {_rename(key): value for key, value in state.items()}
    return build_encodec(path, settings, renamed, given_by=given_by)


def _load_transformers(source: str | Path) -> EncodecTokenizer:
    from transformers import EncodecConfig
    from transformers.utils.hub import cached_file

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and not Path(source).is_dir():
        raise ValueError(f"{source} does not exist; check the path, or pass a hub id.")
    settings, _ = EncodecConfig.get_config_dict(source)
    if (kind := settings.pop("model_type", None)) != "encodec":
        raise ValueError(f"Got {source}, a model of type {kind}; expected type encodec.")
    readers = {"model.safetensors": read_safetensors, "pytorch_model.bin": read_pickle}
    for name, read in readers.items():
        file = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        if file is not None:
            return build_encodec(source, settings, read(Path(file)))
    raise ValueError(
        f"Found no weights in {source}; expected model.safetensors next to its config."
    )


def build_encodec(
    source: str | Path,
    settings: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    given_by: str = "config.json",
) -> EncodecTokenizer:
    """Builds the model with the weights of the checkpoint."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import EncodecConfig, EncodecModel

    try:
        model = EncodecModel(EncodecConfig(**settings))
    except (StrictDataclassError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        message = f"The settings of {source} do not describe an EnCodec ({given_by}): {reason}"
        raise ValueError(message) from error
    fold_weight_norm(model)
    state = _fold(state)
    check_weights(state, model.state_dict(), source=source, settings=given_by)
    model.load_state_dict(state)
    return EncodecTokenizer(model)


def _fold(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replaces each pair of magnitude g and direction v by the weight."""
    folded = dict(state)
    for g_name, v_name in _NORM_SPELLINGS:
        for name in [name for name in state if name.endswith(g_name)]:
            stem = name.removesuffix(g_name)
            if stem + v_name in state:
                folded[stem + ".weight"] = torch._weight_norm(
                    folded.pop(stem + v_name), folded.pop(name), 0
                )
    return folded


def _rename(key: str) -> str:
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def _is_original(state: Mapping[str, Any]) -> bool:
    names = ("encoder.model.0.conv.conv.bias", "quantizer.vq.layers.0._codebook.embed")
    return all(name in state for name in names)


def _original_settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The original 24 or 48 kHz settings, detected by the norms, with the checkpoint's widths."""

    def in_order(pattern: str) -> list[Tensor]:
        names = [key for key in state if re.fullmatch(pattern, key)]
        return [state[key] for key in sorted(names, key=lambda key: int(key.split(".")[2]))]

    convs = in_order(r"encoder\.model\.\d+\.conv\.conv\.bias")
    upsamplers = in_order(
        r"decoder\.model\.\d+\.convtr\.convtr\.(weight|weight_v|parametrizations\.weight\.original1)"
    )
    embed = state["quantizer.vq.layers.0._codebook.embed"]
    settings: dict[str, Any] = {
        "num_filters": len(convs[0]),
        "hidden_size": len(convs[-1]),
        "upsampling_ratios": [weight.shape[2] // 2 for weight in upsamplers],
        "codebook_size": embed.shape[0],
        "codebook_dim": embed.shape[1],
    }
    if "encoder.model.0.conv.norm.weight" in state:
        settings |= {
            "sampling_rate": 48_000,
            "audio_channels": 2,
            "normalize": True,
            "chunk_length_s": 1.0,
            "overlap": 0.01,
            "norm_type": "time_group_norm",
            "use_causal_conv": False,
            "target_bandwidths": [3.0, 6.0, 12.0, 24.0],
        }
    return settings


def _pointed_to(path: Path, pointer: object) -> str:
    name = _POINTERS.get(str(pointer), str(pointer))
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]*encodec[\w.-]*", name):
        raise ValueError(f"Got {path}, which points to {pointer}; expected a hub id of EnCodec.")
    return name


def _best_state(package: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in an audiocraft package; training checkpoints nest them under `model`."""
    state = package.get("fsdp_best_state") or package.get("best_state") or {}
    return state.get("model", state)


def _audiocraft_settings(path: Path, text: str) -> dict[str, Any]:
    """Translates audiocraft's settings; raises if transformers does not support them."""
    import yaml  # type: ignore[import-untyped]

    try:
        config = yaml.safe_load(text)
    except (yaml.YAMLError, AttributeError) as error:  # AttributeError: not text
        raise ValueError(f"The xp.cfg in {path} is not YAML; download the file again.") from error

    def get(dotted: str) -> Any:
        if (value := _look_up(config, dotted)) is None:
            raise ValueError(f"Found no {dotted} in the settings of {path}; expected EnCodec's.")
        return value

    _check_audiocraft_settings(path, config)
    sample_rate, ratios, bins = get("sample_rate"), get("seanet.ratios"), get("rvq.bins")
    # transformers rounds the frame rate up and the codebooks down, so add half a bit per second.
    bit_rate = math.ceil(sample_rate / math.prod(ratios)) * (bins - 1).bit_length()
    norm = get("seanet.norm")
    return {
        "sampling_rate": sample_rate,
        "audio_channels": get("channels"),
        "normalize": bool(_look_up(config, "encodec.renormalize")),
        "target_bandwidths": [(get("rvq.n_q") * bit_rate + 0.5) / 1000],
        "codebook_size": bins,
        "hidden_size": get("seanet.dimension"),
        "num_filters": get("seanet.n_filters"),
        "num_residual_layers": get("seanet.n_residual_layers"),
        "upsampling_ratios": ratios,
        "norm_type": "weight_norm" if norm == "none" else norm,
        "kernel_size": get("seanet.kernel_size"),
        "last_kernel_size": get("seanet.last_kernel_size"),
        "residual_kernel_size": get("seanet.residual_kernel_size"),
        "dilation_growth_rate": get("seanet.dilation_base"),
        "use_causal_conv": get("seanet.causal"),
        "pad_mode": get("seanet.pad_mode"),
        "compress": get("seanet.compress"),
        "num_lstm_layers": get("seanet.lstm"),
        "trim_right_ratio": get("seanet.decoder.trim_right_ratio"),
        "use_conv_shortcut": not get("seanet.true_skip"),
    }


def _check_audiocraft_settings(path: Path, config: Mapping[str, Any]) -> None:
    """Raises ValueError for the first setting that EncodecModel cannot express."""
    for dotted, values in _AUDIOCRAFT_CHOICES.items():
        if (value := _look_up(config, dotted)) is not None and value not in values:
            expected = " or ".join(map(str, values))
            raise _unsupported(path, dotted, value, expected)
    lstm, bins = _look_up(config, "seanet.lstm"), _look_up(config, "rvq.bins")
    if lstm is not None and not _is_positive(lstm):
        raise _unsupported(path, "seanet.lstm", lstm, "at least one layer")
    if bins is not None and not (_is_positive(bins) and bins & (bins - 1) == 0):
        raise _unsupported(path, "rvq.bins", bins, "a power of 2")
    for part in ("encoder", "decoder"):
        overrides = _look_up(config, f"seanet.{part}")
        for name in overrides if isinstance(overrides, dict) else ():
            if (dotted := f"seanet.{part}.{name}") not in _AUDIOCRAFT_OVERRIDES:
                raise _unsupported(path, dotted, overrides[name], "no override")


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _unsupported(path: Path, name: str, value: object, expected: str) -> ValueError:
    return ValueError(f"Unsupported {name}={value} in the settings of {path}; expected {expected}.")


def _look_up(config: Mapping[str, Any], dotted: str) -> Any:
    """The setting at a dotted name, following references written as `${other.name}`, or None."""
    value: Any = config
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, str) and (reference := re.fullmatch(r"\$\{([\w.]+)\}", value)):
            value = _look_up(config, reference[1])
    return value
