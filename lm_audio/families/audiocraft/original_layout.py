"""Reads audiocraft's layout: one file for the model, one for the codec.

Supports released checkpoints and those of training runs. The T5 is in neither file: it comes from
the hub, under the name in the settings, or from a folder.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio_tokenizers.acoustic.encodec_checkpoints import load_encodec
from audio_tokenizers.protocol import AcousticTokenizer
from lm_audio.conditioners.melody import MelodyConditioner
from lm_audio.conditioners.text import T5Encoder
from lm_audio.families.audiocraft.parts import MusicGenParts, build_model
from lm_audio.families.audiocraft.settings import AudiocraftSettings, read_settings
from lm_audio.networks.packing import Kind
from lm_audio.saving.files import folder_of, stated_licence
from lm_audio.saving.pickles import is_torch_file, read_pickle

_EXPECTED = "Expected one file with the weights of a model, and one with its codec"


def holds_audiocraft(source: str | Path) -> bool:
    """Whether a file in the folder has the keys of an audiocraft language model."""
    if not Path(source).is_dir():
        return False
    return any(_is_model(package) for package in _readable(Path(source)).values())


def read_audiocraft(
    source: str | Path,
    *,
    text_encoder: str | Path | None = None,
    codec: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    packing: Kind | None = None,
) -> MusicGenParts:
    """Reads a folder, mono or stereo.

    Args:
        device, dtype, packing: of the language model.
        text_encoder: a folder or hub id with the T5. Defaults to the subfolder `t5`, or else the
            one that the settings name.
        codec: a folder, file or hub id with the EnCodec. Defaults to the file beside the model, or
            else the one that the settings name.
    """
    folder = folder_of(source)
    file, package = _model_file(folder)
    settings = read_settings(package.get("xp.cfg"), source=file)
    beside = folder / "t5"
    encoder = T5Encoder.load(text_encoder or (beside if beside.is_dir() else settings.t5_name))
    melody = None
    if settings.chroma is not None:
        melody = MelodyConditioner(
            settings.model.transformer.dim, seconds=settings.seconds, **vars(settings.chroma)
        )
    state = _unwrapped(_weights(package))
    state.pop("condition_provider.conditioners.self_wav.chroma.spec.window", None)  # not trained
    model, text = build_model(
        state,
        config=settings.model,
        encoder=encoder,
        project=True,
        layout="audiocraft",
        source=file,
        settings="its xp.cfg",
        device=device,
        dtype=dtype,
        packing=packing,
        melody=melody,
    )
    tokenizer = _codec(folder, settings, codec)
    parts = MusicGenParts(
        model=model,
        pattern=settings.pattern,
        text=text,
        melody=melody,
        codec=tokenizer,
        num_channels=2 if settings.interleaved else tokenizer.num_channels,
        max_frames=round(settings.seconds * tokenizer.frame_rate),
        sampling=settings.sampling,
        masking=settings.masking,
        t5_name=settings.t5_name,
        licence=stated_licence(folder),
    )
    parts.check(source=folder)
    return parts.to(device, dtype)


def _readable(folder: Path) -> dict[Path, Mapping[str, Any]]:
    """The contents of a folder's torch files, skipping unreadable ones."""
    packages: dict[Path, Mapping[str, Any]] = {}
    for path in _torch_files(folder):
        try:
            packages[path] = read_pickle(path)
        except ValueError:
            continue
    return packages


def _torch_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file() and is_torch_file(path)]


def _model_file(folder: Path) -> tuple[Path, Mapping[str, Any]]:
    packages = {path: read_pickle(path) for path in _torch_files(folder)}
    models = [path for path, package in packages.items() if _is_model(package)]
    if len(models) != 1:
        names = ", ".join(path.name for path in models) or "none"
        raise ValueError(
            f"{folder} has {len(models)} audiocraft language models ({names}). {_EXPECTED}."
        )
    return models[0], packages[models[0]]


def _codec(
    folder: Path, settings: AudiocraftSettings, given: str | Path | None
) -> AcousticTokenizer:
    if given is not None:
        return load_encodec(given)
    codecs = [path for path, package in _readable(folder).items() if _is_codec(package)]
    if len(codecs) > 1:
        names = ", ".join(path.name for path in codecs)
        raise ValueError(f"{folder} has {len(codecs)} codecs ({names}). {_EXPECTED}.")
    if codecs:
        return load_encodec(codecs[0])
    if settings.codec is None:
        raise ValueError(f"{folder} has no codec. Put its file there, or pass codec=.")
    return load_encodec(settings.codec)


def _weights(package: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a released file, or of a training run, which stores them under `model`."""
    state = package.get("fsdp_best_state") or package.get("best_state") or {}
    return dict(state.get("model", state)) if isinstance(state, dict) else {}


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the level that torch's MultiheadAttention adds to the names of the weights.

    audiocraft uses it unless `custom` or `memory_efficient` is set.
    """
    return {re.sub(r"\b(self_attn|cross_attention)\.mha\.", r"\1.", k): x for k, x in state.items()}


def _is_model(package: Mapping[str, Any]) -> bool:
    return "xp.cfg" in package and "emb.0.weight" in _weights(package)


def _is_codec(package: Mapping[str, Any]) -> bool:
    return "pretrained" in package or "quantizer.vq.layers.0._codebook.embed" in _weights(package)
