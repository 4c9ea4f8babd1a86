"""Reads AudioLDM and AudioLDM 2 in diffusers' layout: a folder with one subfolder per part."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from audio_tokenizers.text import T5TextTokenizer
from audio_tokenizers.weights import check_weights, load_transformers, unfilled
from lm_audio.conditioners.text import T5Encoder
from lm_audio.families.audioldm.audio_language import AudioLanguage, Projection
from lm_audio.families.audioldm.configs import (
    autoencoder_config,
    gpt2_config,
    projection_config,
    read_config,
    schedule_of,
    unet_config,
    vocoder_config,
)
from lm_audio.families.audioldm.gpt2 import Gpt2
from lm_audio.families.audioldm.parts import AudioLdmParts
from lm_audio.families.audioldm.text import ClapScorer, ClapText, Speech
from lm_audio.networks.autoencoder2d import Autoencoder2d
from lm_audio.networks.hifi_gan import HifiGan
from lm_audio.networks.unet2d import UNet2d
from lm_audio.renderers.latent import LatentRenderer
from lm_audio.renderers.log_mel import LogMel
from lm_audio.saving.files import folder_of, read_json, read_weights, stated_licence

FIRST, SECOND = "AudioLDMPipeline", "AudioLDM2Pipeline"
"""The names of the pipelines in model_index.json."""
_WINDOW = 256  # frames, 10.24 s, if the U-Net does not state them
_GUIDANCE = {FIRST: 2.5, SECOND: 3.5}
_SCALE = 0.18215  # of latents, if the autoencoder does not state it
_MOST_TEXT = 512  # tokens, if the tokenizer states no limit
_FFT_HOPS = 6.4  # the length of the analysis, 1024 samples at a hop of 160

Module = TypeVar("Module", bound=nn.Module)


def read_audioldm(
    source: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> AudioLdmParts:
    """Reads a folder; `dtype` is that of the U-Net and GPT-2."""
    folder = folder_of(source)
    index = read_json(folder / "model_index.json")
    pipeline = index.get("_class_name")
    if pipeline not in _GUIDANCE:
        raise ValueError(
            f"Expected {FIRST} or {SECOND} in the model_index.json of {folder}, got {pipeline}."
        )
    settings = read_json(folder / "unet" / "config.json")
    unet = _read(folder / "unet", UNet2d, unet_config)
    schedule, predicts = read_config(folder / "scheduler" / "scheduler_config.json", schedule_of)
    window = settings.get("sample_size")
    window = window[0] if isinstance(window, list) else window or _WINDOW
    clap, scorer = _read_clap(folder)
    second = _read_second(folder, index) if pipeline == SECOND else {}
    parts = AudioLdmParts(
        unet=unet,
        predicts=predicts,
        schedule=schedule,
        window_frames=window,
        guidance_scale=_GUIDANCE[pipeline],
        renderer=_read_renderer(folder, window),
        clap=clap,
        scorer=scorer,
        licence=stated_licence(folder),
        **second,
    )
    _check(parts, folder)
    return parts.to(device, dtype)


def holds_audioldm(folder: Path) -> bool:
    """Whether model_index.json names one of the two pipelines."""
    return read_json(folder / "model_index.json").get("_class_name") in _GUIDANCE


def _read_renderer(folder: Path, window: int) -> LatentRenderer:
    autoencoder = _read(folder / "vae", Autoencoder2d, autoencoder_config, _current_names)
    vocoder = _read(folder / "vocoder", HifiGan, vocoder_config, _without_weight_norm)
    shape = vocoder.config
    mel = LogMel(
        sample_rate=shape.sample_rate,
        fft_length=round(_FFT_HOPS * shape.hop_length),
        hop_length=shape.hop_length,
        num_mels=shape.num_mels,
        low=0,
        high=shape.sample_rate / 2,
    )
    try:
        return LatentRenderer(
            autoencoder=autoencoder,
            vocoder=vocoder,
            scale=read_json(folder / "vae" / "config.json").get("scaling_factor", _SCALE),
            window_frames=window,
            overlap_frames=window // 8,
            log_mel=mel,
        )
    except ValueError as error:
        raise ValueError(f"The vae and vocoder of {folder} do not match: {error}") from error


def _read_clap(folder: Path) -> tuple[ClapText, ClapScorer | None]:
    from transformers import ClapModel, ClapTextModelWithProjection

    path = folder / "text_encoder"
    kind = read_json(path / "config.json").get("model_type")
    whole = kind == "clap"
    cls = ClapModel if whole else ClapTextModelWithProjection
    model = _load(cls, path, kind="clap" if whole else "clap_text_model")
    config = model.config.text_config if whole else model.config
    tokenizer = _tokenizer(folder / "tokenizer")
    # RoBERTa's first position is the one after the padding's.
    most = config.max_position_embeddings - config.pad_token_id - 1
    text = ClapText(model, tokenizer, max_length=min(_limit(tokenizer), most))
    if not whole or not (folder / "feature_extractor").is_dir():
        return text, None
    from transformers import ClapFeatureExtractor

    extractor = ClapFeatureExtractor.from_pretrained(str(folder / "feature_extractor"))
    return text, ClapScorer(text, extractor)


def _read_second(folder: Path, index: Mapping[str, Any]) -> dict[str, Any]:
    """The parts that AudioLDM 2 adds."""
    config, num_vectors = read_config(folder / "language_model" / "config.json", gpt2_config)
    gpt2 = _fill(Gpt2(config), folder / "language_model", _gpt2_names)
    projection = _read(folder / "projection_model", Projection, projection_config)
    language = AudioLanguage(projection, gpt2, num_vectors=num_vectors)
    path = folder / "text_encoder_2"
    kind = read_json(path / "config.json").get("model_type")
    if kind == "vits":
        from transformers import VitsModel

        tokenizer = _tokenizer(folder / "tokenizer_2")
        length = projection.config.num_positions or _limit(tokenizer)
        encoder = _load(VitsModel, path, kind="vits").text_encoder
        return {"language": language, "speech": Speech(encoder, tokenizer, length=length)}
    from transformers import T5EncoderModel

    t5 = _load(T5EncoderModel, path, kind="t5", ignored=("decoder", "lm_head"))
    tokens = T5TextTokenizer.load(folder / "tokenizer_2")
    limit = _limit(tokens._tokenizer)
    return {"language": language, "t5": T5Encoder(t5, tokens, max_length=limit)}


def _check(parts: AudioLdmParts, folder: Path) -> None:
    """Raises ValueError if the parts do not fit each other."""
    unet, renderer = parts.unet.config, parts.renderer
    channels = renderer.autoencoder.config.latent_channels  # type: ignore[union-attr]
    wrong = []
    if unet.in_channels != channels or unet.out_channels != channels:
        wrong.append(f"the unet takes {unet.in_channels} channels and the vae makes {channels}")
    if parts.language is None:
        if unet.vector_width != parts.clap.dim:
            wrong.append(
                f"the unet takes vectors of width {unet.vector_width}, the text_encoder makes "
                f"{parts.clap.dim}"
            )
    else:
        projection = parts.language.projection.config
        second = parts.t5 or parts.speech
        assert second is not None
        found = (parts.clap.dim, second.dim, parts.language.gpt2.config.dim)
        expected = (projection.first, projection.second, projection.dim)
        if found != expected:
            wrong.append(
                f"the projection_model has widths {expected}, the encoders and GPT-2 {found}"
            )
        for level in (*unet.attends, unet.middle):
            for one in level:
                width = (found[2], found[1])[one.context]
                if one.width not in (None, width):
                    wrong.append(f"the unet attends to width {one.width} instead of {width}")
    if wrong:
        raise ValueError(f"The parts of {folder} do not match: {'; '.join(dict.fromkeys(wrong))}.")


def _read(
    folder: Path,
    kind: Callable[[Any], Module],
    config: Callable[[Mapping[str, Any]], Any],
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda weights: weights,
) -> Module:
    """A network with the settings and weights of a folder, in float32."""
    settings = read_config(folder / "config.json", config)
    with unfilled():
        module = kind(settings)
    return _fill(module, folder, rename)


def _fill(
    module: Module, folder: Path, rename: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> Module:
    weights = rename(read_weights(folder))
    check_weights(weights, module.state_dict(), source=folder)
    filled = {name: weight.float() for name, weight in weights.items()}
    module.load_state_dict(filled, assign=True)
    return module.eval().requires_grad_(False)


def _current_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Old files of AutoencoderKL name the parts of its attention otherwise, and store convolutions.

    The shortcut of residual blocks stays a 1x1 convolution.
    """
    parts = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    renamed = {}
    for name, weight in weights.items():
        for old, new in parts.items():
            name = name.replace(f".{old}.", f".{new}.")  # noqa: PLW2901
        is_linear = any(f".{new}." in name for new in parts.values())
        renamed[name] = weight.flatten(1) if is_linear and weight.dim() == 4 else weight
    return renamed


def _without_weight_norm(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Joins the direction and the length of each weight, if they are stored apart."""
    made = dict(weights)
    for length, direction in (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ):
        for name in [name for name in made if name.endswith(f".{length}")]:
            prefix = name.removesuffix(length)
            if prefix + direction in made:
                v, g = made.pop(prefix + direction), made.pop(name)
                made[f"{prefix}weight"] = torch._weight_norm(v, g, 0)
    return made


def _gpt2_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """With and without a language model's head; what the loop does not use is left out."""
    bare = {name.removeprefix("transformer."): weight for name, weight in weights.items()}
    unused = ("wte.", "lm_head.")
    masks = (".attn.bias", ".attn.masked_bias")
    return {n: w for n, w in bare.items() if not n.startswith(unused) and not n.endswith(masks)}


def _load(cls: Any, path: Path, *, kind: str, ignored: tuple[str, ...] = ()) -> Any:
    """A model of transformers, from safetensors."""
    skipped = ["position_ids", "relative_position_index", *ignored]
    tolerant = type(cls.__name__, (cls,), {"_keys_to_ignore_on_load_unexpected": skipped})
    if not (path / "config.json").is_file():
        raise ValueError(f"{path / 'config.json'} is missing. Download the whole model.")
    try:
        return load_transformers(tolerant, path, kind=kind)
    except OSError as error:
        raise ValueError(
            f"Could not read {path}: its weights must be in model.safetensors. Download them."
        ) from error


def _tokenizer(path: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except (OSError, ValueError, TypeError, ImportError, KeyError) as error:
        raise ValueError(
            f"Could not read a tokenizer from {path}. Download the whole model."
        ) from error
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise ValueError(f"The tokenizer in {path} is empty. Download the whole model.")
    return tokenizer


def _limit(tokenizer: Any) -> int:
    """The most tokens of a text; tokenizers without a limit state 10 ** 30."""
    most = int(tokenizer.model_max_length)
    return most if most < 10**6 else _MOST_TEXT
