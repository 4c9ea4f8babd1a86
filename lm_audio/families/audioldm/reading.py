"""Reads AudioLDM and AudioLDM 2 in diffusers' layout: a folder with one subfolder per part."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio_tokenizers.text import T5TextTokenizer
from audio_tokenizers.weights import MappedFile, check_weights, unfilled
from lm_audio.conditioners.text import T5Encoder
from lm_audio.families.audioldm.audio_encoder import load_audio_encoder
from lm_audio.families.audioldm.audio_language import AudioLanguage, Projection
from lm_audio.families.audioldm.configs import (
    gpt2_config,
    num_vectors_of,
    projection_config,
)
from lm_audio.families.audioldm.gpt2 import Gpt2
from lm_audio.families.audioldm.parts import AudioLdmParts
from lm_audio.families.audioldm.text import ClapScorer, ClapText, MappedT5, Release, Speech
from lm_audio.networks.unet2d import UNet2d
from lm_audio.renderers.latent import LatentRenderer
from lm_audio.saving.files import folder_of, read_json, stated_licence
from lm_audio.saving.part_folder import Config, Module, nothing, read_config, read_network
from lm_audio.saving.spectrograms import USUAL_WINDOW, read_renderer
from lm_audio.saving.text_models import (
    load_text_model,
    load_tokenizer,
    map_weights,
    token_limit,
)
from lm_audio.saving.unets import schedule_of, unet_config

FIRST, SECOND = "AudioLDMPipeline", "AudioLDM2Pipeline"
"""The names of the pipelines in model_index.json."""
AUDIO_ENCODER = "audio_encoder"
"""The subfolder of the encoder of audio, which diffusers' pipeline does not have."""
_GUIDANCE = {FIRST: 2.5, SECOND: 3.5}


def read_audioldm(
    source: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> AudioLdmParts:
    """Reads a folder; `dtype` is that of the U-Net and GPT-2.

    On a CPU the files are mapped: in float32, weights occupy memory only while they are used, and
    in bfloat16 those of the text encoders do.
    """
    folder = folder_of(source)
    pipeline = read_json(folder / "model_index.json").get("_class_name")
    if pipeline not in _GUIDANCE:
        raise ValueError(
            f"Expected {FIRST} or {SECOND} in the model_index.json of {folder}, got {pipeline}."
        )
    mapped = torch.device(device).type == "cpu" and dtype in (torch.float32, torch.bfloat16)
    reader = _Reader(folder, mapped=mapped, dtype=dtype)
    unet = reader.network("unet", UNet2d, unet_config)
    schedule, predicts = read_config(folder / "scheduler" / "scheduler_config.json", schedule_of)
    window = read_json(folder / "unet" / "config.json").get("sample_size")
    window = window[0] if isinstance(window, list) else window or USUAL_WINDOW
    clap, scorer = reader.clap()
    parts = AudioLdmParts(
        unet=unet,
        predicts=predicts,
        schedule=schedule,
        window_frames=window,
        guidance_scale=_GUIDANCE[pipeline],
        renderer=reader.renderer(window),
        clap=clap,
        scorer=scorer,
        licence=stated_licence(folder),
        **(reader.second() if pipeline == SECOND else {}),
    )
    _check(parts, folder)
    return parts if mapped and dtype == torch.float32 else parts.to(device, dtype)


def read_text_encoders(source: str | Path) -> tuple[ClapText, T5Encoder]:
    """The text encoders of an AudioLDM 2, to train a language of audio on."""
    folder = folder_of(source)
    if read_json(folder / "text_encoder_2" / "config.json").get("model_type") == "vits":
        raise ValueError(f"{folder} reads phonemes. Give an AudioLDM 2 that reads text alone.")
    reader = _Reader(folder, mapped=False)
    return reader.clap()[0], reader.t5()


def holds_audioldm(folder: Path) -> bool:
    """Whether model_index.json names one of the two pipelines."""
    return read_json(folder / "model_index.json").get("_class_name") in _GUIDANCE


class _Reader:
    """Reads the parts of a folder.

    Args:
        mapped, dtype: as for `read_network`.
    """

    def __init__(self, folder: Path, *, mapped: bool, dtype: torch.dtype = torch.float32) -> None:
        self._folder, self._mapped = folder, mapped
        self._given: dict[str, Any] = {"mapped": mapped, "dtype": dtype}

    def network(
        self, part: str, kind: Callable[[Any], Module], config: Callable[[Config], Any]
    ) -> Module:
        """A network of ours with the settings and weights of a part."""
        return read_network(self._folder / part, kind, config, **self._given)[0]

    def renderer(self, window: int) -> LatentRenderer:
        folder = self._folder
        return read_renderer(
            folder / "vae", folder / "vocoder", window_frames=window, **self._given
        )

    def clap(self) -> tuple[ClapText, ClapScorer | None]:
        from transformers import ClapFeatureExtractor, ClapModel, ClapTextModelWithProjection

        path, extractor = self._folder / "text_encoder", self._folder / "feature_extractor"
        whole = read_json(path / "config.json").get("model_type") == "clap"
        cls = ClapModel if whole else ClapTextModelWithProjection
        model = load_text_model(cls, path, kind="clap" if whole else "clap_text_model")
        config = model.config.text_config if whole else model.config
        tokenizer = load_tokenizer(self._folder / "tokenizer")
        # RoBERTa's first position is the one after the padding's.
        most = config.max_position_embeddings - config.pad_token_id - 1
        text = ClapText(
            model,
            tokenizer,
            max_length=min(token_limit(tokenizer), most),
            release=map_weights(model, path) if self._mapped else nothing,
        )
        if not whole or not extractor.is_dir():
            return text, None
        return text, ClapScorer(text, ClapFeatureExtractor.from_pretrained(str(extractor)))

    def second(self) -> dict[str, Any]:
        """The parts that AudioLDM 2 adds."""
        folder = self._folder
        gpt2, release = read_network(
            folder / "language_model",
            Gpt2,
            gpt2_config,
            rename=_gpt2_names,
            **self._given,
        )
        num_vectors = read_config(folder / "language_model" / "config.json", num_vectors_of)
        projection = self.network("projection_model", Projection, projection_config)
        language = AudioLanguage(projection, gpt2, num_vectors=num_vectors, release=release)
        found: dict[str, Any] = {"language": language}
        if (encoder := folder / AUDIO_ENCODER).is_dir():
            found["encoder"] = load_audio_encoder(encoder, num_vectors=num_vectors)
        if read_json(folder / "text_encoder_2" / "config.json").get("model_type") == "vits":
            return {**found, "speech": self._speech(projection.config.num_positions)}
        return {**found, "t5": self.t5()}

    def t5(self) -> MappedT5:
        from transformers import T5EncoderModel

        path = self._folder / "text_encoder_2"
        if self._mapped and (path / "model.safetensors").is_file():
            model, release = _mapped_t5(path)
        else:
            model = load_text_model(T5EncoderModel, path, kind="t5", ignored=("decoder", "lm_head"))
            release = nothing
        tokens = T5TextTokenizer.load(self._folder / "tokenizer_2")
        return MappedT5(model, tokens, max_length=token_limit(tokens._tokenizer), release=release)

    def _speech(self, num_positions: int) -> Speech:
        from transformers import VitsModel

        tokenizer = load_tokenizer(self._folder / "tokenizer_2")
        encoder = load_text_model(
            VitsModel, self._folder / "text_encoder_2", kind="vits"
        ).text_encoder
        return Speech(encoder, tokenizer, length=num_positions or token_limit(tokenizer))


def _mapped_t5(path: Path) -> tuple[Any, Release]:
    """A T5 over its mapped file: transformers would need memory for two copies."""
    from transformers import T5Config, T5EncoderModel

    if (kind := read_json(path / "config.json").get("model_type")) != "t5":
        raise ValueError(f"Got {path}, a model of type {kind}; expected type t5.")
    file = MappedFile(path / "model.safetensors")
    unused = ("decoder.", "lm_head.")
    state = {n: w.float() for n, w in file.tensors.items() if not n.startswith(unused)}
    tied = ("shared.weight", "encoder.embed_tokens.weight")  # files contain one or both
    for name, other in (tied, tied[::-1]):
        if other in state:
            state.setdefault(name, state[other])
    with unfilled():
        model: Any = T5EncoderModel(T5Config.from_pretrained(str(path)))
    check_weights(state, model.state_dict(), source=path)
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    for block in model.encoder.block:  # one at a time is in memory
        block.register_forward_hook(lambda *_: file.release())
    return model, file.release


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
        if parts.encoder is not None and parts.encoder.dim != found[2]:
            wrong.append(f"the {AUDIO_ENCODER} has width {parts.encoder.dim}, GPT-2 {found[2]}")
        for level in (*unet.attends, unet.middle):
            for one in level:
                width = (found[2], found[1])[one.context]
                if one.width not in (None, width):
                    wrong.append(f"the unet attends to width {one.width} instead of {width}")
    if wrong:
        raise ValueError(f"The parts of {folder} do not match: {'; '.join(dict.fromkeys(wrong))}.")


def _gpt2_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """With and without a language model's head; what the loop does not use is left out."""
    bare = {name.removeprefix("transformer."): weight for name, weight in weights.items()}
    unused = ("wte.", "lm_head.")
    masks = (".attn.bias", ".attn.masked_bias")
    return {n: w for n, w in bare.items() if not n.startswith(unused) and not n.endswith(masks)}
