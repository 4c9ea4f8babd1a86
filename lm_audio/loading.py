"""Loads a model from a folder, the hub or this package, whatever its format, as a pipeline.

Reading the formats themselves is for `models/checkpoints` and `pipeline/folder.py`.
"""

import difflib
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch

from lm_audio import pretrained
from lm_audio.catalogue import DEFAULT, models
from lm_audio.models.checkpoints.audiocraft import holds_audiocraft, read_audiocraft
from lm_audio.models.checkpoints.bark import read_bark
from lm_audio.models.checkpoints.bark_original import CODEC, TEXT_TOKENIZER, holds_original_bark
from lm_audio.models.checkpoints.files import stated_licence
from lm_audio.models.checkpoints.musicgen import read_musicgen
from lm_audio.models.checkpoints.musicgen_parts import MusicGenParts
from lm_audio.modules.packing import Kind, pack
from lm_audio.pipeline import AudioPipeline
from lm_audio.pipeline.about import About
from lm_audio.pipeline.folder import DTYPES, load_pipeline
from lm_audio.pipeline.precision import fastest
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.stages.audiogen import audiogen
from lm_audio.stages.bark import bark
from lm_audio.stages.stage import Stage
from lm_audio.threads import dismissing

KEPT_SHARE = Fraction(2, 5)  # of a window of MusicGen and AudioGen, for the next one to follow
INT8 = "int8"
AUTO = "auto"

_OF_TRANSFORMERS = (
    ("*.json", "*.model", "*.txt", "model.safetensors", "model-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model-*.bin"),  # where there are no safetensors
)
# What is fetched of a repository, by the model_type of its config.json; None: it has none.
_FILES: dict[str | None, tuple[tuple[str, ...], ...]] = {
    "lm-audio": (("*.json", "*.safetensors", "*.model", "*.txt"),),
    "musicgen": _OF_TRANSFORMERS,
    "bark": _OF_TRANSFORMERS,
    None: (("*.bin", "*.pt", "*.th"),),
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The files of a model on this machine.

    Args:
        hub_id: where they came from, if not from here.
        format: a key of `FORMATS`.
    """

    folder: Path
    hub_id: str | None
    format: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model is to be loaded."""

    device: str
    dtype: str
    packing: Kind | None
    text_encoder: str | Path | None


@dismissing
def load(
    source: str | Path | None = None,
    *,
    device: str | None = None,
    dtype: str = "float32",
    text_encoder: str | Path | None = None,
) -> AudioPipeline:
    """Loads a model; its format is told by what it holds.

    Args:
        source: a folder, a name that `models()` lists, or a hub id; a folder comes first. The model
            in this package by default.
        device: such as "cpu", "cuda:1" or "mps"; by default CUDA where there is any, else the CPU.
        dtype: of the language models: float32 (exact), bfloat16 or float16; on a CPU int8, too,
            which is the fastest and least exact; auto is the fastest that is near enough to exact
            for this model, which takes some seconds to find out.
        text_encoder: for files of audiocraft and of the original Bark, which lack it: a folder or
            hub id of the T5, or of Bark's text tokenizer; by default what the files name. Bark's
            codec is read from a subfolder `codec`, or else from the hub.
    """
    choices = [*DTYPES, INT8, AUTO]
    if dtype not in choices:
        raise ValueError(f"Unknown dtype {dtype!r}. Choose one of: {', '.join(choices)}.")
    device = find_device(device)
    on_cpu = torch.device(device).type == "cpu"
    if dtype == AUTO:
        return fastest(
            lambda one: load(source, device=device, dtype=one, text_encoder=text_encoder),
            [INT8, "bfloat16"] if on_cpu else ["bfloat16"],
        )
    if dtype == INT8 and not on_cpu:
        raise ValueError(f"dtype int8 is for a CPU, and this is {device}; choose bfloat16 there.")
    packing: Kind | None = None
    if on_cpu:
        packing = "int8" if dtype == INT8 else "same"
    settings = Settings(
        device=device,
        dtype="float32" if dtype == INT8 else dtype,
        packing=packing,
        text_encoder=text_encoder,
    )
    checkpoint = find_checkpoint(source)
    reader, lacks_text_encoder = FORMATS[checkpoint.format]
    if text_encoder is not None and not lacks_text_encoder:
        raise ValueError(
            f"{source or DEFAULT} comes with what reads its text, so a text_encoder has no effect; "
            "leave it out."
        )
    pipeline = reader(checkpoint, settings)
    for stage in pipeline.stages.values():
        if packing is not None and isinstance(stage, Stage):  # others have no decode loop
            pack(stage.model, packing)
    return pipeline


def find_device(device: str | None = None) -> str:
    """The device by that name, if it can be used here; CUDA or else the CPU by default.

    Others, such as mps, are used where they are asked for: no test has run on them.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).item()
    except (AssertionError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"The device {device!r} cannot be used here: {first}") from None
    return device


def find_checkpoint(source: str | Path | None) -> Checkpoint:
    """The files of a model, fetched if need be, and their format."""
    path = pretrained.DEFAULT_FOLDER if source is None else Path(source).expanduser()
    if str(source) == DEFAULT and not path.is_dir():  # a folder of that name comes first
        path, source = pretrained.DEFAULT_FOLDER, None
    if source is None and not (path / "config.json").is_file():
        raise ValueError(
            "No model comes with this version of lm-audio; name one: a folder, a hub id, or one "
            "of those that lm_audio.models() lists (lm-audio models)."
        )
    if path.is_dir():
        return Checkpoint(folder=path, hub_id=None, format=_format(path, source or DEFAULT))
    if path.exists():
        raise ValueError(f"{source} is a file; give the folder that holds the model.")
    hub_id = {model.name: model.source for model in models()}.get(str(source), str(source))
    if not _HUB_ID.fullmatch(hub_id):
        raise ValueError(_not_found(str(source)))
    folder = _fetch(hub_id)
    return Checkpoint(folder=folder, hub_id=hub_id, format=_format(folder, source))


def _format(folder: Path, source: object) -> str:
    """Which of the `FORMATS` a folder holds."""
    kind = _model_type(folder)
    if kind is not None:
        return _known(kind, source)
    if holds_audiocraft(folder):
        return "audiocraft"
    if holds_original_bark(folder):
        return "bark-original"
    raise ValueError(
        f"Found no model in {source}; expected a folder of lm-audio, or MusicGen, AudioGen or Bark "
        "as transformers or their authors publish them."
    )


def _model_type(folder: Path) -> str | None:
    """What config.json says it is; None without one."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text())
    except ValueError:
        config = None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str):
        raise ValueError(f"{path} names no model_type, or is no whole JSON file; fetch it again.")
    return kind


def _known(kind: str, source: object) -> str:
    """The kind, if there is a reader for it."""
    stated = [name for name in _FILES if name is not None]
    if kind not in stated:
        raise ValueError(
            f"Got {source}, a model of type {kind}; models that can be loaded are of type "
            f"{', '.join(stated)}."
        )
    return kind


def _fetch(hub_id: str) -> Path:
    """A folder with the files of a hub repository that are needed."""
    folder = _download(hub_id, ["config.json", "README.md"])
    kind = _model_type(folder)
    for patterns in _FILES[None if kind is None else _known(kind, hub_id)]:
        folder = _download(hub_id, patterns)
        if any(folder.rglob("*.safetensors")):
            break
    return folder


def _download(hub_id: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is another's
        GatedRepoError,
        HTTPError,
        RepositoryNotFoundError,
    )

    # Its retries are no news to a user: what comes of them is one sentence.
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.CRITICAL)
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(patterns)))
    except GatedRepoError as error:
        raise ValueError(
            f"{hub_id} is given only to those who accept its conditions; do so at "
            f"https://huggingface.co/{hub_id}, then log in with: hf auth login."
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(_not_found(hub_id)) from error
    except (HTTPError, OSError, ValueError) as error:
        if getattr(error, "errno", None):  # of this machine, such as a full disk
            raise
        raise ValueError(
            f"{hub_id} is no folder here, is not whole in the cache, and the hub cannot be "
            "reached; connect, or give the folder of a model."
        ) from error


def _not_found(source: str) -> str:
    names = [model.name for model in models()]
    nearest = difflib.get_close_matches(source, names, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"the names are {', '.join(names)}."
    return f"Found no model {source!r}: no folder, no name and no public hub id; {hint}"


def _ours(checkpoint: Checkpoint, settings: Settings) -> AudioPipeline:
    return load_pipeline(
        checkpoint.folder,
        device=settings.device,
        dtype=settings.dtype,
        packing=settings.packing,
    )


def _musicgen(checkpoint: Checkpoint, settings: Settings) -> AudioPipeline:
    return _text_to_sound(
        read_musicgen(
            checkpoint.folder,
            device=settings.device,
            dtype=DTYPES[settings.dtype],
            packing=settings.packing,
        )
    )


def _audiocraft(checkpoint: Checkpoint, settings: Settings) -> AudioPipeline:
    return _text_to_sound(
        read_audiocraft(
            checkpoint.folder,
            text_encoder=settings.text_encoder,
            device=settings.device,
            dtype=DTYPES[settings.dtype],
            packing=settings.packing,
        )
    )


def _text_to_sound(parts: MusicGenParts) -> AudioPipeline:
    stages = audiogen(
        parts.model,
        pattern=parts.pattern,
        conditioners=parts.conditioners,
        frame_rate=parts.frame_rate,
        context=parts.max_frames,
        keep=int(parts.max_frames * KEPT_SHARE),
        sampling=parts.sampling,
    )
    renderer = CodecRenderer(parts.codec, num_channels=parts.num_channels)
    return AudioPipeline(stages, renderer, about=About(licence=parts.licence))


def _bark(checkpoint: Checkpoint, settings: Settings) -> AudioPipeline:
    beside = checkpoint.folder / "codec"
    parts = read_bark(
        checkpoint.folder,
        hub_id=checkpoint.hub_id,
        codec=beside if beside.is_dir() else CODEC,
        text_tokenizer=settings.text_encoder or TEXT_TOKENIZER,
        device=settings.device,
        dtype=DTYPES[settings.dtype],
    )
    renderer = CodecRenderer(parts.codec, num_codebooks=parts.settings.fine_codebooks)
    about = About(licence=stated_licence(checkpoint.folder))
    return AudioPipeline(bark(parts), renderer, about=about)


FORMATS: dict[str, tuple[Callable[[Checkpoint, Settings], AudioPipeline], bool]] = {
    "lm-audio": (_ours, False),
    "musicgen": (_musicgen, False),
    "bark": (_bark, False),
    "audiocraft": (_audiocraft, True),
    "bark-original": (_bark, True),
}
"""The reader of each format, and whether the format lacks what reads the text."""
