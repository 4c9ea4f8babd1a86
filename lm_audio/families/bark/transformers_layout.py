"""Reads Bark in transformers' layout: all models in one file, separated by prefixes."""

import logging
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import Tensor

from audio_tokenizers.acoustic.encodec_checkpoints import build_encodec
from lm_audio.families.bark.parts import (
    BarkParts,
    BarkSettings,
    Shape,
    build_coarse,
    build_fine_model,
    build_semantic,
    load_text_tokenizer,
    voices_of,
)
from lm_audio.sampling import Sampling
from lm_audio.saving.files import read_json, read_weights

logger = logging.getLogger(__name__)
_PREFIXES = ("semantic", "coarse_acoustics", "fine_acoustics", "codec_model")
_DEFAULT_TOP_K = 50  # transformers' default


def holds_transformers_bark(folder: Path) -> bool:
    """Whether config.json names Bark."""
    return read_json(folder / "config.json").get("model_type") == "bark"


def read_transformers_bark(folder: Path, *, hub_id: str | None = None) -> BarkParts:
    """Reads a folder in transformers' layout."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import BarkConfig

    try:
        config: Any = BarkConfig.from_pretrained(str(folder))
    except (StrictDataclassError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"config.json in {folder} does not describe a Bark: {reason}") from error
    states = _split(read_weights(folder), source=folder)
    codec_settings = config.codec_config.to_dict()
    if (kind := codec_settings.pop("model_type", None)) != "encodec":
        raise ValueError(f"Expected a codec of type encodec in {folder}, got {kind}.")
    settings = read_settings(read_json(folder / "generation_config.json"))
    parts = BarkParts(
        semantic=build_semantic(
            states["semantic"], _shape(config.semantic_config), source=f"{folder}, semantic"
        ),
        coarse=build_coarse(
            states["coarse_acoustics"],
            _shape(config.coarse_acoustics_config),
            settings=settings,
            source=f"{folder}, coarse_acoustics",
        ),
        fine=build_fine_model(
            states["fine_acoustics"],
            _shape(config.fine_acoustics_config),
            source=f"{folder}, fine_acoustics",
        ),
        codec=build_encodec(folder, codec_settings, states["codec_model"]),
        text_tokenizer=load_text_tokenizer(folder),
        voices=voices_of(settings, folder, hub_id),
        settings=settings,
    )
    parts.check(source=folder)
    return parts


def read_settings(generation: Mapping[str, Any]) -> BarkSettings:
    """The constants in generation_config.json; the defaults are the published ones."""
    semantic, coarse, fine = (
        generation.get(name) or {}
        for name in ("semantic_config", "coarse_acoustics_config", "fine_acoustics_config")
    )
    if semantic.get("min_eos_p") is not None:
        logger.warning("min_eos_p in generation_config.json is ignored: speech may be longer.")
    stated = {
        "codebook_size": generation.get("codebook_size"),
        "text_offset": semantic.get("text_encoding_offset"),
        "text_pad": semantic.get("text_pad_token"),
        "text_length": semantic.get("max_input_semantic_length"),
        "semantic_size": semantic.get("semantic_vocab_size"),
        "semantic_pad": semantic.get("eos_token_id"),
        "semantic_start": semantic.get("semantic_infer_token"),
        "semantic_length": semantic.get("max_new_tokens"),
        "semantic_rate": semantic.get("semantic_rate_hz"),
        "coarse_pad": coarse.get("coarse_semantic_pad_token"),
        "coarse_start": coarse.get("coarse_infer_token"),
        "coarse_rate": coarse.get("coarse_rate_hz"),
        "coarse_codebooks": coarse.get("n_coarse_codebooks"),
        "coarse_context": coarse.get("max_coarse_input_length"),
        "coarse_history": coarse.get("max_coarse_history"),
        "coarse_window": coarse.get("sliding_window_len"),
        "fine_codebooks": fine.get("n_fine_codebooks"),
        "fine_window": fine.get("max_fine_input_length"),
        "fine_hop": fine.get("max_fine_history_length"),
    }
    known = {name: value for name, value in stated.items() if value is not None}
    if "semantic_rate" in known:
        known["semantic_rate"] = Fraction(str(known["semantic_rate"]))  # 49.9 has no exact float
    return BarkSettings(
        **known,
        semantic=_sampling(semantic),
        coarse=_sampling(coarse),
        fine=_fine_sampling(fine),
    )


def _sampling(stated: Mapping[str, Any]) -> Sampling:
    temperature = stated.get("temperature")
    top_k, top_p = stated.get("top_k"), stated.get("top_p")
    return Sampling(
        temperature=(1.0 if temperature is None else temperature) if stated.get("do_sample") else 0,
        top_k=_DEFAULT_TOP_K if top_k is None else top_k,
        top_p=0.0 if top_p is None or top_p == 1 else top_p,
        guidance_scale=1.0,
    )


def _fine_sampling(stated: Mapping[str, Any]) -> Sampling:
    """Greedy where transformers is, which includes temperature 1, its default."""
    temperature = stated.get("temperature") or 1.0
    return Sampling(
        temperature=0.0 if temperature == 1 else temperature, top_k=0, guidance_scale=1.0
    )


def _split(weights: Mapping[str, Tensor], *, source: object) -> dict[str, dict[str, Tensor]]:
    states: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in _PREFIXES}
    unexpected = []
    for name, x in weights.items():
        prefix, _, rest = name.partition(".")
        if prefix in states:
            states[prefix][rest] = x
        else:
            unexpected.append(name)
    missing = [prefix for prefix, state in states.items() if not state]
    if unexpected or missing:
        raise ValueError(
            f"{source} does not match BarkModel. Missing parts: {', '.join(missing) or 'none'}. "
            f"Unexpected weights: {', '.join(sorted(unexpected)) or 'none'}."
        )
    return states


def _shape(config: Any) -> Shape:
    return Shape(
        dim=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_positions=config.block_size,
        bias=config.bias,
        num_inputs=config.input_vocab_size,
        vocab_size=config.output_vocab_size,
        num_codebooks=getattr(config, "n_codes_total", 8),
        num_given=getattr(config, "n_codes_given", 1),
    )
