"""Exports MusicGen-shaped models in the layouts of transformers and audiocraft.

Models that a layout does not support raise an error; a folder is written atomically.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from audio_tokenizers.acoustic.encodec import EncodecTokenizer
from audio_tokenizers.atomic import replacing_folder
from lm_audio.conditioners.melody import MelodyConditioner
from lm_audio.conditioners.text import T5Encoder
from lm_audio.families.audiocraft.export_codec import (
    audiocraft_encodec_settings,
    audiocraft_encodec_weights,
    normalised_encodec_weights,
)
from lm_audio.families.audiocraft.parts import MusicGenParts, weights_of
from lm_audio.generation.unmasking import rounds_of
from lm_audio.patterns import delayed, stereo
from lm_audio.sampling import Sampling, Unmasking

_VERSION = "1.3.0"  # of audiocraft's file format
_T5_WIDTHS = {
    "t5-small": 512, "t5-base": 768, "t5-large": 1024, "t5-3b": 1024, "t5-11b": 1024,
    "google/flan-t5-small": 512, "google/flan-t5-base": 768, "google/flan-t5-large": 1024,
}  # fmt: skip
"""The T5s that audiocraft supports and downloads by name."""


def write_musicgen(parts: MusicGenParts, folder: str | Path) -> None:
    """Writes a new folder for `from_pretrained` of transformers' MusicGen or MusicGen Melody."""
    _require("transformers", "way of decoding", _way(parts), "autoregressive")
    encoder, codec = _checked(parts, "transformers")
    sets = parts.num_channels // codec.num_channels
    K = parts.model.config.num_streams // sets
    expected = delayed(range(K)) if sets == 1 else stereo(delayed(range(K)))
    _require("transformers", "pattern", parts.pattern, expected)
    _require("transformers", "bias", parts.model.config.transformer.bias, False)
    projected = isinstance(parts.text.projection, torch.nn.Linear)
    needed = encoder.dim != parts.model.config.transformer.dim
    _require("transformers", "projection of texts as wide as the model", projected, needed)
    weights = weights_of(parts, "transformers")
    t5 = {f"text_encoder.{name}": x.cpu() for name, x in encoder.model.state_dict().items()}
    del t5["text_encoder.encoder.embed_tokens.weight"]  # tied to shared.weight
    audio = {f"audio_encoder.{k}": x for k, x in normalised_encodec_weights(codec).items()}
    with _new_folder(folder) as new:
        save_file({**weights, **t5, **audio}, new / "model.safetensors", metadata={"format": "pt"})
        _write_transformers_settings(parts, encoder, codec, new)
        _write_card(parts, new)


def write_audiocraft(parts: MusicGenParts, folder: str | Path) -> None:
    """Writes a new folder for audiocraft's `get_pretrained`: a model file and a codec file.

    The T5 is not written: audiocraft downloads it by its name, `parts.t5_name`.
    """
    encoder, codec = _checked(parts, "audiocraft")
    _require("audiocraft", "kind of pattern", parts.pattern.kind, "delayed")
    if (width := _T5_WIDTHS.get(parts.t5_name or "")) != encoder.dim:
        raise ValueError(
            f"The T5 of this model, {parts.t5_name}, has width {encoder.dim}, but audiocraft "
            f"expects {width or 'another name'}. Set t5_name to one of: {', '.join(_T5_WIDTHS)}."
        )
    weights = weights_of(parts, "audiocraft")
    if not isinstance(parts.text.projection, torch.nn.Linear):  # no projection
        stem = "condition_provider.conditioners.description.output_proj"
        weights[f"{stem}.weight"] = torch.eye(encoder.dim, dtype=parts.model.heads.weight.dtype)
        weights[f"{stem}.bias"] = weights[f"{stem}.weight"].new_zeros(encoder.dim)
    with _new_folder(folder) as new:
        _write_package(new / "state_dict.bin", weights, _audiocraft_settings(parts, codec))
        _write_package(
            new / "compression_state_dict.bin",
            audiocraft_encodec_weights(codec),
            audiocraft_encodec_settings(codec),
        )
        _write_card(parts, new)


def _checked(parts: MusicGenParts, layout: str) -> tuple[T5Encoder, EncodecTokenizer]:
    """The text encoder and the codec of a model that both layouts support."""
    model, encoder, codec = parts.model.config, parts.text.encoder, parts.codec
    for name, expected in {
        "positions": "sinusoidal",
        "norm": "layer",
        "norm_bias": True,
        "norm_eps": 1e-5,
        "activation": "gelu",
        "causal": parts.masking is None,
        "window": None,
        "cross_attention": parts.melody is None,
    }.items():
        _require(layout, name, getattr(model.transformer, name), expected)
    _require(layout, "number of input tokens", model.num_inputs, model.vocab_size + 1)
    null = "zero" if parts.melody is None else "zeros"
    _require(layout, "null of texts", parts.text.null.kind, null)
    if not isinstance(encoder, T5Encoder):
        raise _refusal(layout, "text encoder", type(encoder).__name__, "T5Encoder")
    if not isinstance(codec, EncodecTokenizer):
        raise _refusal(layout, "codec", type(codec).__name__, "EncodecTokenizer")
    parts.check(source="The model to export")
    return encoder, codec


def _way(parts: MusicGenParts) -> str:
    return "autoregressive" if parts.masking is None else "masked"


def _require(layout: str, name: str, found: object, expected: object) -> None:
    if found != expected:
        raise _refusal(layout, name, found, expected)


def _refusal(layout: str, name: str, found: object, expected: object) -> ValueError:
    return ValueError(
        f"The {layout} layout does not support this model: its {name} is {found}, expected "
        f"{expected}. Save it in lm-audio's own format instead."
    )


def _write_transformers_settings(
    parts: MusicGenParts, encoder: T5Encoder, codec: EncodecTokenizer, folder: Path
) -> None:
    from transformers import GenerationConfig, MusicgenConfig, MusicgenMelodyConfig

    model, melody = parts.model.config, parts.melody
    kind = "musicgen" if melody is None else "musicgen_melody"
    special = {"pad_token_id": model.vocab_size, "bos_token_id": model.vocab_size}
    decoder = {
        "model_type": f"{kind}_decoder",
        "vocab_size": model.vocab_size,
        "hidden_size": model.transformer.dim,
        "num_hidden_layers": model.transformer.num_layers,
        "num_attention_heads": model.transformer.num_heads,
        "ffn_dim": model.transformer.hidden_dim,
        "num_codebooks": model.num_streams,
        "audio_channels": parts.num_channels // codec.num_channels,
        **special,
    }
    of_melody: dict[str, Any] = {}
    if melody is not None:
        of_melody = {"num_chroma": melody.num_classes, "chroma_length": melody.num_frames}
    config: Any = (MusicgenConfig if melody is None else MusicgenMelodyConfig)(
        text_encoder=encoder.model.config.to_dict() | {"_name_or_path": parts.t5_name or ""},
        audio_encoder=codec.model.config.to_dict() | {"_name_or_path": ""},
        decoder=decoder,
        **of_melody,
    )
    name = "Musicgen" if melody is None else "MusicgenMelody"
    config.architectures = [f"{name}ForConditionalGeneration"]
    config.save_pretrained(folder)
    temperature, sampling = _temperature(parts), parts.sampling
    assert isinstance(sampling, Sampling)
    sampled = {  # transformers refuses to save these for greedy decoding
        "top_k": sampling.top_k,
        "temperature": temperature,
        "top_p": sampling.top_p or None,
        "min_p": sampling.min_p or None,
    }
    generation: Any = GenerationConfig  # untyped
    generation(
        do_sample=temperature > 0,
        max_length=parts.max_frames,
        guidance_scale=_guidance_scale(parts),
        **(sampled if temperature > 0 else {}),
        decoder_start_token_id=model.vocab_size,
        **special,
    ).save_pretrained(folder)
    path = folder / "generation_config.json"  # version 4 of transformers leaves out defaults
    stated = json.loads(path.read_text()) | {"do_sample": temperature > 0}
    path.write_text(json.dumps(stated, indent=2) + "\n")
    encoder.tokenizer._tokenizer.save_pretrained(folder)
    _write_feature_extractor(parts, codec, folder)


def _write_feature_extractor(parts: MusicGenParts, codec: EncodecTokenizer, folder: Path) -> None:
    from transformers import EncodecFeatureExtractor

    if parts.melody is None:
        EncodecFeatureExtractor(
            feature_size=codec.num_channels, sampling_rate=codec.sample_rate
        ).save_pretrained(folder)
        return
    melody = parts.melody  # by hand, because the class needs torchaudio
    settings = {
        "feature_extractor_type": "MusicgenMelodyFeatureExtractor",
        "processor_class": "MusicgenMelodyProcessor",
        "feature_size": melody.num_classes,
        "num_chroma": melody.num_classes,
        "sampling_rate": melody.sample_rate,
        "n_fft": melody.window,
        "hop_length": melody.window // 4,
        "chunk_length": int(melody.seconds) if melody.seconds % 1 == 0 else melody.seconds,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
        "stem_indices": [3, 2],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _audiocraft_settings(parts: MusicGenParts, codec: EncodecTokenizer) -> dict[str, Any]:
    model = parts.model.config
    seconds = parts.max_frames / parts.frame_rate
    sets = parts.num_channels // codec.num_channels
    t5 = {"name": parts.t5_name, "finetune": False, "word_dropout": 0.0, "normalize_text": False}
    conditioners: dict[str, Any] = {"description": {"model": "t5", "t5": t5}}
    if parts.melody is not None:
        conditioners["self_wav"] = _chroma_settings(parts.melody)
    return {
        "solver": "musicgen" if parts.masking is None else "magnet",
        "sample_rate": parts.sample_rate,
        "channels": parts.num_channels,
        "compression_model_n_q": model.num_streams // sets,
        "interleave_stereo_codebooks": {"use": sets == 2, "per_timestep": False},
        "dataset": {"segment_duration": int(seconds) if seconds % 1 == 0 else float(seconds)},
        "classifier_free_guidance": {
            "training_dropout": 0.0,
            "inference_coef": _guidance_scale(parts),
        },
        **_masking_settings(parts),
        "attribute_dropout": {},
        "fuser": {
            "cross_attention_pos_emb": False,
            "cross_attention_pos_emb_scale": 1,
            "sum": [],
            "prepend": [] if parts.melody is None else ["self_wav", "description"],
            "cross": ["description"] if parts.melody is None else [],
            "input_interpolate": [],
        },
        "conditioners": conditioners,
        "lm_model": "transformer_lm" if parts.masking is None else "transformer_lm_magnet",
        "codebooks_pattern": _pattern_settings(parts),
        "transformer_lm": _transformer_settings(parts),
        "device": "cpu",
        "dtype": "float32",
    }


def _pattern_settings(parts: MusicGenParts) -> dict[str, Any]:
    if parts.masking is not None:
        return {"modeling": "parallel", "parallel": {"empty_initial": -1}}
    delays = list(parts.pattern.delays)
    return {
        "modeling": "delay",
        "delay": {"delays": delays, "flatten_first": 0, "empty_initial": 0},
    }


def _chroma_settings(melody: MelodyConditioner) -> dict[str, Any]:
    chroma = {
        "sample_rate": melody.sample_rate,
        "n_chroma": melody.num_classes,
        "radix2_exp": melody.window.bit_length() - 1,
        "argmax": True,
        "match_len_on_eval": False,
        "eval_wavs": None,
        "n_eval_wavs": 100,
        "cache_path": None,
    }
    return {"model": "chroma_stem", "chroma_stem": chroma}


def _masking_settings(parts: MusicGenParts) -> dict[str, Any]:
    """Of MAGNeT: the spans, and its own way to sample."""
    if parts.masking is None:
        return {}
    sampling = parts.sampling
    assert isinstance(sampling, Unmasking)
    for name, expected in {
        "schedule": "cosine", "anneal_temperature": True, "noise": 0, "min_p": 0,
    }.items():  # fmt: skip
        _require("audiocraft", name, getattr(sampling, name), expected)
    scale, final = _guidance_scale(parts), sampling.final_guidance_scale
    sampled = {
        "use_sampling": sampling.temperature > 0,
        "temp": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "max_cfg_coef": scale,
        "min_cfg_coef": scale if final is None else final,
        "decoding_steps": list(rounds_of(sampling, parts.model.config.num_streams)),
        "anneal_temp": True,
        "span_scoring": "max",
        "span_arrangement": "nonoverlap",
    }
    return {"masking": {"span_len": parts.masking.span}, "generate": {"lm": sampled}}


def _transformer_settings(parts: MusicGenParts) -> dict[str, Any]:
    model, masking = parts.model.config, parts.masking
    shape = model.transformer
    restricted = {}
    if masking is not None:  # audiocraft fills in the zeros
        reach = -1 if masking.reach is None else masking.reach
        restricted = {"subcodes_context": reach, "compression_model_framerate": 0}
        restricted |= {"segment_duration": 0, "span_len": -1}
    whole, rest = divmod(shape.hidden_dim, shape.dim)
    return {
        "dim": shape.dim,
        "num_heads": shape.num_heads,
        "num_layers": shape.num_layers,
        # Readers truncate the product.
        "hidden_scale": (shape.hidden_dim + 0.5) / shape.dim if rest else whole,
        "n_q": model.num_streams,
        "card": model.vocab_size,
        "dropout": 0.0,
        "activation": "gelu",
        "norm_first": True,
        "bias_ff": shape.bias,
        "bias_attn": shape.bias,
        "bias_proj": False,
        "causal": masking is None,
        **restricted,
        "custom": False,
        "memory_efficient": True,
        "positional_embedding": "sin",
        "norm": "layer_norm",
        "cross_attention": parts.melody is None,
    }


def _guidance_scale(parts: MusicGenParts) -> float:
    scale = parts.sampling.guidance_scale
    if isinstance(scale, Mapping):
        raise ValueError(f"Export needs a single guidance_scale, got {dict(scale)}.")
    return scale


def _temperature(parts: MusicGenParts) -> float:
    assert isinstance(parts.sampling, Sampling)
    temperature = parts.sampling.temperature
    if isinstance(temperature, tuple):
        raise ValueError(f"Export needs a single temperature, got {temperature}.")
    return temperature


def _write_package(path: Path, weights: dict[str, torch.Tensor], settings: dict[str, Any]) -> None:
    import yaml  # type: ignore[import-untyped]

    text = yaml.safe_dump(settings, sort_keys=False)
    stamp = {"version": _VERSION, "exported": True}
    torch.save({"best_state": weights, "xp.cfg": text, **stamp}, path)


def _write_card(parts: MusicGenParts, folder: Path) -> None:
    """Writes a model card with the licence, if known."""
    if parts.licence is not None:
        (folder / "README.md").write_text(f"---\nlicense: {parts.licence}\n---\n")


@contextmanager
def _new_folder(folder: str | Path) -> Iterator[Path]:
    """Yields a temporary folder that is renamed to this one, which must not exist, on success."""
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} already exists. Choose a new folder.")
    with replacing_folder(folder) as new:
        yield new
