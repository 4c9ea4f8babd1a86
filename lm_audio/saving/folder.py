"""lm-audio's own format: a folder of safetensors and JSON that is safe to load and to move.

config.json               the stages in order, the renderer, and the size of every other file
semantic/ acoustic/ ...   one folder per stage with weights: see `stage_folder.py`
codec/                    decodes tokens to audio; or autoencoder/ and vocoder/, latents; or none
semantic_tokenizer/       encodes audio prompts, if the model accepts any
text_encoder/             the frozen text encoder of all stages, such as a T5, if any
known_prompts.safetensors embeddings of the prompts that config.json lists, if it does
"""

import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file

from audio_tokenizers.acoustic.registry import load_codec
from audio_tokenizers.atomic import replacing_folder
from audio_tokenizers.semantic.features import save_features
from audio_tokenizers.semantic.tokenizer import (
    FeatureTokenizer,
    load_feature_tokenizer,
    save_feature_tokenizer,
)
from audio_tokenizers.weights import read_safetensors
from lm_audio.conditioners.frozen import describe_frozen, load_frozen
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.sound_stage import SoundStage
from lm_audio.generation.track import Stage
from lm_audio.model import Model, ModelCard
from lm_audio.networks.packing import Kind
from lm_audio.renderers.protocol import Renderer
from lm_audio.saving.diffusion_folder import KIND as DIFFUSION
from lm_audio.saving.diffusion_folder import (
    SOUND,
    describe_diffusion,
    describe_sound,
    load_diffusion,
    save_diffusion,
    sound_stage,
)
from lm_audio.saving.renderer import (
    AUTOENCODER,
    CODEC,
    VOCODER,
    build_renderer,
    describe_renderer,
    load_spectrogram_renderer,
    save_renderer,
    takes_spectrogram_latents,
    waveform_renderer,
)
from lm_audio.saving.stage_folder import describe_stage, load_stage, save_stage
from lm_audio.saving.stage_weights import fitting

MODEL_TYPE = "lm-audio"
FORMAT = 1
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_SEMANTIC, _TEXT_ENCODER = "semantic_tokenizer", "text_encoder"
_RESERVED = (CODEC, AUTOENCODER, VOCODER, _SEMANTIC, _TEXT_ENCODER)
_FEATURES = "model"
_KNOWN = "known_prompts.safetensors"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w-]*")

Part = TypeVar("Part")


def save_model(model: Model, folder: str | Path, *, half: bool = False) -> None:
    """Writes a model for `load_model` atomically, replacing an older one.

    Args:
        half: store the language models as float16, half the size. The codec and the semantic
            tokenizer, which define the tokens, are stored as float16 only if that is exact.
    """
    folder = Path(folder)
    _check_free(folder)
    config = _describe(model)
    with replacing_folder(folder) as new:
        for stage in model.stages:
            if isinstance(stage, SoundStage):
                continue
            if isinstance(stage, DiffusionStage):
                save_diffusion(stage, new / stage.name, half=half)
            else:
                save_stage(stage, new / stage.name, half=half)  # type: ignore[arg-type]
        save_renderer(model.renderer, new, half=half)
        semantic = model.semantic_tokenizer
        if isinstance(semantic, FeatureTokenizer):
            save_features(semantic.extractor, new / _SEMANTIC / _FEATURES, half=half)
            save_feature_tokenizer(semantic, new / _SEMANTIC, model=_FEATURES)
        if frozen := model.text_encoder:
            frozen.save(new / _TEXT_ENCODER)
        if check := model.prompt_check:
            save_file({"embeddings": check.embeddings.half().contiguous()}, new / _KNOWN)
        files = sorted(path for path in new.rglob("*") if path.is_file())
        config["files"] = {path.relative_to(new).as_posix(): path.stat().st_size for path in files}
        (new / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_model(
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: str = "float32",
    packing: Kind | None = None,
) -> Model:
    """Reads a model that `save_model` wrote.

    Args:
        packing: of the language models' linear layers.
        dtype: of the language models and their trained conditioners, one of `DTYPES`; the codec,
            the semantic tokenizer and a frozen text encoder are always float32.
    """
    if dtype not in DTYPES:
        raise ValueError(f"Unknown dtype {dtype!r}. Choose one of: {', '.join(DTYPES)}.")
    folder = Path(folder)
    config = read_config(folder)
    path = folder / "config.json"
    with fitting(path):
        card = ModelCard(**config["about"])
        if card.known is not None and _KNOWN in config["files"]:
            embeddings = read_safetensors(folder / _KNOWN)["embeddings"].float()
            card = replace(card, known=replace(card.known, embeddings=embeddings))
        names = [stage["name"] for stage in config["stages"]]
        _check_names(names)
        text_encoder, output_stages = config["text_encoder"], config["rendered"]
    frozen = None
    if text_encoder is not None:
        with fitting(path):
            load = partial(load_frozen, text_encoder, device=device)
            frozen = _part(folder / _TEXT_ENCODER, load)
    given: dict[str, Any] = {
        "frozen": frozen,
        "device": device,
        "dtype": DTYPES[dtype],
        "packing": packing,
    }
    stages = [
        _part(folder / stage["name"], partial(_load_stage, stage, **given))
        for stage in config["stages"]
    ]
    renderer = _load_renderer(folder, config, device)
    semantic = None
    if config["semantic_tokenizer"]:
        semantic = _part(folder / _SEMANTIC, lambda s: load_feature_tokenizer(s, device=device))
    with fitting(path):
        return Model(
            stages, renderer, output_stages=output_stages, semantic_tokenizer=semantic, card=card
        )


def push_model(model: Model, repo_id: str, *, private: bool = True, half: bool = False) -> str:
    """Uploads a model to the Hugging Face hub and returns its URL.

    Args:
        repo_id: "owner/name"; the repository is created if necessary.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # its HTTP library's

    api = HfApi(library_name="lm-audio")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        save_model(model, folder, half=half)
        (folder / "README.md").write_text(_card(model.card, repo_id))
        try:
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=url.repo_id, folder_path=folder, commit_message="Add a model of lm-audio"
            )
        except (HTTPError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"Could not upload to {repo_id} ({reason}). Check the connection, and log in with: "
                "hf auth login."
            ) from error
    return str(url)


def read_config(folder: Path) -> dict[str, Any]:
    """Reads config.json and checks that all files of the folder exist with the right size."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError):
        raise ValueError(f"No readable config.json in {folder}.") from None
    if not isinstance(config, dict) or config.get("model_type") != MODEL_TYPE:
        raise ValueError(f"The config.json in {folder} does not describe an lm-audio model.")
    if config.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {config.get('format')}, but this version of lm-audio reads "
            f"{FORMAT}. Use the version that saved it."
        )
    with fitting(path):
        sizes = {str(name): int(size) for name, size in config["files"].items()}
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file():
            raise ValueError(f"{file} is missing. Download the model again.")
        if file.stat().st_size != size:
            raise ValueError(
                f"{file} has {file.stat().st_size} bytes, expected {size}. "
                "Download the model again."
            )
    return config


def _describe(model: Model) -> dict[str, Any]:
    """The config without file sizes; raises ValueError if a part cannot be saved."""
    renderer, semantic = describe_renderer(model.renderer), model.semantic_tokenizer
    stages = [_describe_part(stage) for stage in model.stages]
    _check_names([stage.name for stage in model.stages])
    if not isinstance(semantic, FeatureTokenizer | None):
        raise ValueError(
            "Only a FeatureTokenizer can be saved as the semantic tokenizer, got "
            f"{type(semantic).__name__}."
        )
    frozen = model.text_encoder
    return {
        "model_type": MODEL_TYPE,
        "format": FORMAT,
        "about": _describe_card(model.card),
        "stages": stages,
        "rendered": list(model.output_stages),
        "renderer": renderer,
        "text_encoder": None if frozen is None else describe_frozen(frozen),
        "semantic_tokenizer": semantic is not None,
    }


def _describe_part(stage: Stage) -> dict[str, Any]:
    if isinstance(stage, SoundStage):
        return describe_sound(stage)
    return describe_diffusion(stage) if isinstance(stage, DiffusionStage) else describe_stage(stage)


def _describe_card(card: ModelCard) -> dict[str, Any]:
    described = asdict(card)
    if card.known is not None:
        del described["known"]["embeddings"]  # a file of their own
    return described


def _load_stage(description: dict[str, Any], folder: Path, **given: Any) -> Stage:
    if description.get("kind") == SOUND:
        return sound_stage(description)
    if description.get("kind") == DIFFUSION:
        del given["packing"]  # of language models
        return load_diffusion(description, folder, **given)
    return load_stage(description, folder, **given)


def _load_renderer(folder: Path, config: dict[str, Any], device: torch.device | str) -> Renderer:
    path = folder / "config.json"
    with fitting(path):
        if (waveforms := waveform_renderer(config["renderer"])) is not None:
            return waveforms
        has_spectrograms = takes_spectrogram_latents(config["renderer"])
    if has_spectrograms:
        return _part(folder, partial(load_spectrogram_renderer, device=device))
    codec = _part(folder / CODEC, partial(load_codec, device=str(device)))
    with fitting(path):
        return build_renderer(config["renderer"], codec)


def _check_names(names: list[str]) -> None:
    for name in names:
        if not _PLAIN_NAME.fullmatch(name) or name in _RESERVED:
            raise ValueError(
                f"Invalid stage name {name!r}. Use letters, digits, - and _, but not the reserved "
                f"names {', '.join(_RESERVED)}."
            )


def _check_free(folder: Path) -> None:
    """Raises ValueError if the folder contains anything but an lm-audio model."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file. Choose a folder to create or replace.")
    found = {path for path in folder.rglob("*") if not path.is_dir()}
    if not found:
        return
    try:
        config = json.loads((folder / "config.json").read_text())
        known = {folder / name for name in [*config["files"], "config.json"]}
        ours = config["model_type"] == MODEL_TYPE
    except (OSError, ValueError, LookupError, TypeError):
        known, ours = set[Path](), False
    if not ours or found - known:
        other = min(found - known or found).relative_to(folder)
        raise ValueError(
            f"{folder} contains {other}, not part of an lm-audio model. Choose a new or empty "
            "folder."
        )


def _part(folder: Path, load: Callable[[Path], Part]) -> Part:
    try:
        return load(folder)
    except (OSError, json.JSONDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"Could not read {folder} ({reason}). Download the model again."
        ) from error


def _card(card: ModelCard, repo_id: str) -> str:
    licence = f"license: {json.dumps(card.licence.lower())}\n" if card.licence else ""
    lines = [
        f"---\nlibrary_name: lm-audio\npipeline_tag: text-to-audio\n{licence}---",
        f"# {card.name or repo_id.split('/')[-1]}",
        *([card.description] if card.description else []),
        f'```python\nimport lm_audio\n\nmodel = lm_audio.load("{repo_id}")\n```',
    ]
    return "\n\n".join(lines) + "\n"
