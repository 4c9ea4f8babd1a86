"""Reads MusicGen in transformers' layout: one folder with the T5, the codec and the model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio_tokenizers.acoustic.encodec_checkpoints import build_encodec
from audio_tokenizers.text import T5TextTokenizer
from audio_tokenizers.weights import check_weights, unfilled
from lm_audio.conditioners.melody import MelodyConditioner
from lm_audio.conditioners.text import T5Encoder
from lm_audio.families.audiocraft.parts import MusicGenParts, build_model
from lm_audio.networks.packing import Kind
from lm_audio.networks.token_lm import TokenLMConfig
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.patterns import delayed, stereo
from lm_audio.sampling import Sampling
from lm_audio.saving.files import (
    folder_of,
    read_json,
    read_weights,
    stated_licence,
)

_SECONDS = 30  # the context of all published models, if generation_config.json has no max_length
_PARTS = {"text_encoder": "t5", "audio_encoder": "encodec"}
_CHROMA_WINDOW = 2**14  # samples, of the published models
# Settings of transformers with the only value that our model supports.
_FIXED: dict[str, Any] = {
    "activation_function": "gelu",
    "scale_embedding": False,
    "cross_attention_hidden_size": None,
    "tie_word_embeddings": False,
}


# Settings of generation_config.json that change tokens and that `Sampling` lacks, with the values
# that switch them off.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,), "penalty_alpha": (0,), "typical_p": (1,), "top_h": (),
    "epsilon_cutoff": (0,), "eta_cutoff": (0,), "no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,), "encoder_no_repeat_ngram_size": (0,),
    "bad_words_ids": (), "suppress_tokens": (), "begin_suppress_tokens": (), "sequence_bias": (),
    "forced_bos_token_id": (), "forced_eos_token_id": (), "watermarking_config": (),
    "exponential_decay_length_penalty": (), "min_length": (0,), "min_new_tokens": (0,),
}  # fmt: skip


def read_musicgen(
    source: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    packing: Kind | None = None,
) -> MusicGenParts:
    """Reads a folder, mono or stereo; `device`, `dtype` and `packing` are of the language model."""
    folder = folder_of(source)
    config = _read_config(folder)
    settings = read_json(folder / "config.json")
    state = read_weights(folder)
    # Old files contain the sinusoids, which we compute.
    state.pop("decoder.model.decoder.embed_positions.weights", None)
    encoder_state, codec_state = _under("text_encoder.", state), _under("audio_encoder.", state)
    encoder = _build_t5(config.text_encoder, encoder_state, folder)
    melody = _melody(config, folder)
    model, text = build_model(
        state,
        config=_token_lm_config(config.decoder, cross_attention=melody is None),
        encoder=encoder,
        project=encoder.dim != config.decoder.hidden_size,
        layout="transformers",
        source=folder,
        settings="config.json",
        device=device,
        dtype=dtype,
        packing=packing,
        melody=melody,
    )
    codec_settings = {k: x for k, x in settings["audio_encoder"].items() if k != "model_type"}
    codec = build_encodec(folder, codec_settings, codec_state)
    generation = read_json(folder / "generation_config.json")
    max_frames = generation.get("max_length") or round(_SECONDS * codec.frame_rate)
    _check_generation(generation, start_token=config.decoder.vocab_size, folder=folder)
    num_channels, K = config.decoder.audio_channels, config.decoder.num_codebooks
    parts = MusicGenParts(
        model=model,
        pattern=stereo(delayed(range(K // 2))) if num_channels == 2 else delayed(range(K)),
        text=text,
        melody=melody,
        codec=codec,
        num_channels=num_channels if codec.num_channels == 1 else codec.num_channels,
        max_frames=max_frames,
        sampling=_sampling(generation, max_frames=max_frames),
        t5_name=settings["text_encoder"].get("_name_or_path") or None,
        licence=stated_licence(folder),
    )
    parts.check(source=folder)
    return parts.to(device, dtype)


def _read_config(folder: Path) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import MusicgenConfig, MusicgenMelodyConfig

    settings = read_json(folder / "config.json")
    kind = settings.get("model_type")
    if kind not in ("musicgen", "musicgen_melody"):
        raise ValueError(
            f"Expected model_type musicgen or musicgen_melody in {folder}, got {kind}."
        )
    for part, expected in {**_PARTS, "decoder": f"{kind}_decoder"}.items():
        found = settings[part].get("model_type") if isinstance(settings.get(part), dict) else None
        if found != expected:
            raise ValueError(
                f"Expected {expected} as the {part} in the config.json of {folder}, got {found}."
            )
    try:
        config = (MusicgenConfig if kind == "musicgen" else MusicgenMelodyConfig).from_dict(
            settings
        )
    except (StrictDataclassError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"Invalid MusicGen config.json in {folder}: {reason}") from error
    for name, expected in _FIXED.items():
        if (value := getattr(config.decoder, name, expected)) != expected:
            raise ValueError(
                f"Unsupported decoder setting {name}={value} in {folder}. Expected {expected}."
            )
    return config


def _melody(config: Any, folder: Path) -> MelodyConditioner | None:
    """The melody's conditioner of musicgen_melody, without weights."""
    if config.model_type == "musicgen":
        return None
    path = folder / "preprocessor_config.json"
    settings = read_json(path) if path.is_file() else {}
    window = settings.get("n_fft", _CHROMA_WINDOW)
    if settings.get("hop_length", window // 4) != window // 4:
        raise ValueError(
            f"Unsupported hop_length={settings['hop_length']} in {path}. Expected {window // 4}."
        )
    melody = MelodyConditioner(
        config.decoder.hidden_size,
        sample_rate=settings.get("sampling_rate", config.audio_encoder.sampling_rate),
        window=window,
        seconds=settings.get("chunk_length", _SECONDS),
        num_classes=config.num_chroma,
    )
    if melody.num_frames != config.chroma_length:
        raise ValueError(
            f"Unsupported chroma_length={config.chroma_length} in {folder}. Expected "
            f"{melody.num_frames}, for {melody.seconds:g} s in windows of {window} samples."
        )
    return melody


def _token_lm_config(decoder: Any, *, cross_attention: bool) -> TokenLMConfig:
    if decoder.pad_token_id != decoder.vocab_size:
        raise ValueError(
            f"Expected pad_token_id={decoder.vocab_size}, the first after the codec's tokens, got "
            f"{decoder.pad_token_id}."
        )
    transformer = TransformerConfig(
        dim=decoder.hidden_size,
        num_layers=decoder.num_hidden_layers,
        num_heads=decoder.num_attention_heads,
        hidden_dim=decoder.ffn_dim,
        positions="sinusoidal",
        norm="layer",
        activation="gelu",
        cross_attention=cross_attention,
    )
    return TokenLMConfig(
        transformer=transformer, num_streams=decoder.num_codebooks, vocab_size=decoder.vocab_size
    )


def _build_t5(config: Any, state: dict[str, Tensor], folder: Path) -> T5Encoder:
    from transformers import T5EncoderModel

    tied = ("shared.weight", "encoder.embed_tokens.weight")  # files contain one or both
    for name, other in (tied, tied[::-1]):
        if other in state:
            state.setdefault(name, state[other])
    with unfilled():
        model: Any = T5EncoderModel(config)
    check_weights(state, model.state_dict(), source=folder)
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    return T5Encoder(model.float(), T5TextTokenizer.load(folder))


def _check_generation(generation: Mapping[str, Any], *, start_token: int, folder: Path) -> None:
    """Raises ValueError for settings of generation_config.json that we would ignore."""
    for name, unset in _UNSUPPORTED.items():
        if (value := generation.get(name)) is not None and value not in unset:
            raise ValueError(
                f"Unsupported {name}={value} in the generation_config.json of {folder}; remove it."
            )
    start = generation.get("decoder_start_token_id", generation.get("bos_token_id"))
    if start not in (None, start_token):
        raise ValueError(
            f"Unsupported decoder_start_token_id={start} in the generation_config.json of "
            f"{folder}; expected {start_token}, the padding token."
        )


def _sampling(generation: Mapping[str, Any], *, max_frames: int) -> Sampling:
    """The checkpoint's sampling settings; the defaults are those of MusicGen's authors."""
    names = (
        "guidance_scale", "top_k", "temperature", "top_p", "min_p", "repetition_penalty",
    )  # fmt: skip
    stated = {name: generation[name] for name in names if generation.get(name) is not None}
    if stated.get("top_p") == 1:  # off, as 0 is here
        del stated["top_p"]
    if generation.get("do_sample") is False:
        stated["temperature"] = 0.0
    if stated.get("repetition_penalty", 1) != 1:
        stated["repetition_window"] = max_frames
    return Sampling(**stated)


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Removes and returns the weights under a prefix."""
    names = [name for name in state if name.startswith(prefix)]
    return {name.removeprefix(prefix): state.pop(name) for name in names}
