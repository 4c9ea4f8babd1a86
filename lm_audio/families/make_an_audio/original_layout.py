"""Reads Make-An-Audio as its authors publish it: pickles for Lightning and PyTorch.

maa1_full.ckpt               the U-Net, the autoencoder and the text encoder
bigvgan/                     best_netG.pt and args.yml: the vocoder
txt2audio_args.yaml          the settings, from the repository; without it, those of maa1_full.ckpt
CLAP/CLAP_weights_2022.pth   the text encoder, for a checkpoint without one
tokenizer/                   of BERT; without it, from the hub
image_encoder/, audio_encoder/   ours: a CLIP and a CLAP with maps, for pictures and sounds
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from torch import Tensor

from audio_tokenizers.weights import check_weights, unfilled
from lm_audio.families.make_an_audio.parts import LOG_MEL, MakeAnAudioParts
from lm_audio.families.make_an_audio.reading import read_prompts
from lm_audio.families.make_an_audio.text import ClapTextEncoder, TextTokens
from lm_audio.generation.noise_schedule import NoiseSchedule
from lm_audio.networks.autoencoder2d import Autoencoder2d, Autoencoder2dConfig
from lm_audio.networks.big_vgan import BigVgan
from lm_audio.networks.unet2d import Attends, UNet2d, UNet2dConfig
from lm_audio.renderers.latent import LatentRenderer
from lm_audio.saving.big_vgan import big_vgan_config, without_filters
from lm_audio.saving.files import stated_licence
from lm_audio.saving.latent_diffusion import autoencoder_weights, unet_weights
from lm_audio.saving.part_folder import check_fixed
from lm_audio.saving.pickles import read_pickle
from lm_audio.saving.spectrograms import overlap_of, without_weight_norm
from lm_audio.saving.text_models import load_tokenizer

CHECKPOINT, SETTINGS = "maa1_full.ckpt", "txt2audio_args.yaml"
VOCODER, VOCODER_SETTINGS = Path("bigvgan", "best_netG.pt"), Path("bigvgan", "args.yml")
TEXT = Path("CLAP", "CLAP_weights_2022.pth")
TOKENIZER = "google-bert/bert-base-uncased"
_HEAD_WIDTH = 64  # of BERT
_BETA_ATOL = 1e-6
_UNET, _AUTOENCODER = "model.diffusion_model.", "first_stage_model."
_PREFIXES = ("cond_stage_model.caption_encoder.", "caption_encoder.")
_PUBLISHED: dict[str, Any] = {
    "linear_start": 0.00085,
    "linear_end": 0.0120,
    "timesteps": 1000,
    "mel_length": 78,
    "unet_config": {
        "params": {
            "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_heads": 8,
            "attention_resolutions": [1, 2], "num_res_blocks": 2, "channel_mult": [1, 2],
            "transformer_depth": 1, "context_dim": 1024, "use_spatial_transformer": True,
        }
    },
    "first_stage_config": {
        "params": {
            "embed_dim": 4,
            "ddconfig": {
                "z_channels": 4, "resolution": 624, "in_channels": 1, "out_ch": 1, "ch": 128,
                "ch_mult": [1, 2, 2, 4], "num_res_blocks": 2, "attn_resolutions": [78, 156],
            },
        }
    },
}  # fmt: skip
_UNET_FIXED = {"use_spatial_transformer": True, "resblock_updown": False, "num_head_channels": -1}


def holds_original(folder: Path) -> bool:
    """Whether a folder has the checkpoint and the vocoder."""
    return (folder / CHECKPOINT).is_file() and (folder / VOCODER).parent.is_dir()


def read_original(folder: Path, *, tokenizer: str | Path = TOKENIZER) -> MakeAnAudioParts:
    """Reads a folder.

    Args:
        tokenizer: the folder or hub id of BERT's, unless the folder has one.
    """
    path = folder / CHECKPOINT
    weights = _state(path, "state_dict")
    settings = _settings(folder / SETTINGS)
    try:
        unet = _unet(weights, settings, path)
        autoencoder = _autoencoder(weights, settings, path)
        schedule = _schedule(weights, settings, path)
        window = int(settings["mel_length"])
    except KeyError as error:
        raise ValueError(f"{folder / SETTINGS} has no {error.args[0]}.") from None
    except TypeError as error:
        raise ValueError(f"{folder / SETTINGS} is not supported: {error}") from error
    vocoder = _vocoder(folder)
    voice = vocoder.config
    found = folder / "tokenizer"
    text = TextTokens(
        _text(weights, folder), load_tokenizer(found if found.is_dir() else tokenizer)
    )
    try:
        return MakeAnAudioParts(
            unet=unet,
            predicts="epsilon",
            schedule=schedule,
            renderer=LatentRenderer(
                autoencoder=autoencoder,
                vocoder=vocoder,
                scale=float(weights.get("scale_factor", torch.tensor(1.0))),
                window_frames=window,
                overlap_frames=overlap_of(window),
                log_mel=replace(LOG_MEL, hop_length=voice.hop_length, num_mels=voice.num_mels),
                mel_first=True,
            ),
            text=text,
            prompts=read_prompts(folder),
            licence=stated_licence(folder),
        )
    except ValueError as error:
        raise ValueError(f"The parts of {folder} do not match: {error}") from error


def _state(path: Path, key: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"{path} is missing. Download the whole model.")
    found = read_pickle(path).get(key)
    if not isinstance(found, dict) or not all(isinstance(x, Tensor) for x in found.values()):
        raise ValueError(f"{path} has no weights in {key!r}. Download it again.")
    return dict(found)


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is missing or no settings file. Download it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no settings file. Download it again.")
    return content


def _settings(path: Path) -> dict[str, Any]:
    if not path.exists():
        return _PUBLISHED
    found = _yaml(path).get("model", {})
    if not isinstance(found, dict) or not isinstance(found.get("params"), dict):
        raise ValueError(f"{path} has no model.params. Download it again.")
    return found["params"]


def _inside(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): weight
        for name, weight in weights.items()
        if name.startswith(prefix)
    }


def _fill(module: torch.nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    check_weights(weights, module.state_dict(), source=path, settings=SETTINGS)
    filled = {name: weight.float() for name, weight in weights.items()}
    module.load_state_dict(filled, assign=True)
    module.eval().requires_grad_(False)


def _unet(weights: Mapping[str, Tensor], settings: Mapping[str, Any], path: Path) -> UNet2d:
    given = settings["unet_config"]["params"]
    check_fixed(given, _UNET_FIXED)
    factors = given["channel_mult"]
    levels = len(factors)
    cross = (Attends(width=given["context_dim"]),)
    shape = UNet2dConfig(
        in_channels=given["in_channels"],
        out_channels=given["out_channels"],
        widths=tuple(given["model_channels"] * factor for factor in factors),
        attends=tuple(
            cross if 2**level in given["attention_resolutions"] else () for level in range(levels)
        ),
        middle=cross,
        num_blocks=(given["num_res_blocks"],) * levels,
        num_layers=(given.get("transformer_depth", 1),) * levels,
        num_heads=(given["num_heads"],) * levels,
    )
    with unfilled():
        unet = UNet2d(shape)
    _fill(unet, unet_weights(_inside(weights, _UNET), shape), path)
    return unet


def _autoencoder(
    weights: Mapping[str, Tensor], settings: Mapping[str, Any], path: Path
) -> Autoencoder2d:
    given = settings["first_stage_config"]["params"]
    inner = given["ddconfig"]
    levels = len(inner["ch_mult"])
    if given["embed_dim"] != inner["z_channels"]:
        raise ValueError(f"{path}: embed_dim and z_channels of the autoencoder differ.")
    shape = Autoencoder2dConfig(
        channels=inner["in_channels"],
        latent_channels=inner["z_channels"],
        widths=tuple(inner["ch"] * factor for factor in inner["ch_mult"]),
        num_blocks=inner["num_res_blocks"],
        attends=tuple(
            inner["resolution"] // 2**level in inner["attn_resolutions"] for level in range(levels)
        ),
    )
    with unfilled():
        autoencoder = Autoencoder2d(shape)
    found = _inside(weights, _AUTOENCODER)
    kept = {name: x for name, x in found.items() if not name.startswith("loss.")}
    _fill(autoencoder, autoencoder_weights(kept, num_levels=levels), path)
    return autoencoder


def _schedule(
    weights: Mapping[str, Tensor], settings: Mapping[str, Any], path: Path
) -> NoiseSchedule:
    schedule = NoiseSchedule(
        kind="scaled_linear",
        spacing="leading",
        num_train_steps=settings["timesteps"],
        beta_start=settings["linear_start"],
        beta_end=settings["linear_end"],
        offset=1,
        ends_clean=False,
    )
    stored = weights.get("betas")
    if stored is not None:
        ends = torch.tensor([schedule.beta_start, schedule.beta_end])
        same = len(stored) == schedule.num_train_steps
        if not same or not torch.allclose(stored[[0, -1]].float(), ends, atol=_BETA_ATOL):
            raise ValueError(f"The betas in {path} are not those of {SETTINGS}.")
    return schedule


def _text(weights: Mapping[str, Tensor], folder: Path) -> ClapTextEncoder:
    """The shape follows from the weights, as the published settings do not state it."""
    from transformers import BertConfig

    path, found = folder / CHECKPOINT, _inside(weights, _PREFIXES[0])
    if not found:
        path = folder / TEXT
        found = _inside(_state(path, "model"), _PREFIXES[1])
    unused = ("base.pooler.", "base.embeddings.position_ids", "base.embeddings.token_type_ids")
    found = {name: weight for name, weight in found.items() if not name.startswith(unused)}
    try:
        vocabulary, width = found["base.embeddings.word_embeddings.weight"].shape
        layers = {int(name.split(".")[3]) for name in found if ".encoder.layer." in name}
        config = BertConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=len(layers),
            num_attention_heads=max(1, width // _HEAD_WIDTH),
            intermediate_size=len(found["base.encoder.layer.0.intermediate.dense.bias"]),
            max_position_embeddings=len(found["base.embeddings.position_embeddings.weight"]),
        )
        with unfilled():
            encoder = ClapTextEncoder(config, len(found["projection.linear1.weight"]))
    except KeyError as error:
        raise ValueError(f"{path} has no {error.args[0]}. Download it again.") from None
    _fill(encoder, found, path)
    return encoder


def _vocoder(folder: Path) -> BigVgan:
    path, settings = folder / VOCODER, _yaml(folder / VOCODER_SETTINGS)
    try:
        config = big_vgan_config({"sampling_rate": LOG_MEL.sample_rate} | settings)
    except KeyError as error:
        raise ValueError(f"{folder / VOCODER_SETTINGS} has no {error.args[0]}.") from None
    with unfilled():
        vocoder = BigVgan(config)
    weights = without_weight_norm(without_filters(_state(path, "generator")))
    _fill(vocoder, weights, path)
    return vocoder
