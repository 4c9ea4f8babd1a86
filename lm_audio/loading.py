"""Loads a model from a folder, the hub or this package as a pipeline; detects its format.

The readers of the formats are in `families/` and `saving/folder.py`.
"""

import difflib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from audio_tokenizers.hub import hub_access, is_hub_id, is_path
from lm_audio import pretrained
from lm_audio.catalogue import DEFAULT, models
from lm_audio.evaluation.judges.clap import Clap
from lm_audio.families.family import TORCH_FILES, Checkpoint, Format, LoadSettings
from lm_audio.families.table import FORMATS
from lm_audio.generation.token_stage import TokenStage
from lm_audio.model import Model
from lm_audio.networks.packing import Kind, pack
from lm_audio.pipeline import AudioPipeline
from lm_audio.precision import fastest
from lm_audio.saving.folder import DTYPES
from lm_audio.system import releases_omp_threads

INT8 = "int8"
AUTO = "auto"


@releases_omp_threads
def load(
    source: str | Path | None = None,
    *,
    device: str | None = None,
    dtype: str = "float32",
    text_encoder: str | Path | None = None,
    judge: str | Path | None = None,
) -> AudioPipeline:
    """Loads a model; the format is detected from its content.

    Args:
        source: a folder, a name from `models()`, or a hub id, in this order. By default the
            bundled model.
        device: such as "cpu", "cuda:1" or "mps"; by default CUDA if available, else the CPU.
        dtype: of the language models: float32 (exact), bfloat16 or float16; int8 (CPU only) is the
            fastest and least exact; auto picks the fastest one that passes an accuracy check on
            this model, which takes some seconds.
        text_encoder: for checkpoints of audiocraft, stable-audio-tools and the original Bark, which
            do not include one: a folder or hub id of the T5, or of Bark's text tokenizer; by
            default the one that the checkpoint names. Bark's codec is read from a subfolder
            `codec`, or else from the hub.
        judge: a folder or hub id of a CLAP model in transformers' layout, which picks the best of
            several takes (`best_of`); by default the model's own, if it has one.
    """
    choices = [*DTYPES, INT8, AUTO]
    if dtype not in choices:
        raise ValueError(f"Unknown dtype {dtype!r}. Choose one of: {', '.join(choices)}.")
    device = find_device(device)
    on_cpu = torch.device(device).type == "cpu"
    if dtype == AUTO:
        given = {"device": device, "text_encoder": text_encoder, "judge": judge}
        return fastest(
            lambda one: load(source, dtype=one, **given),  # type: ignore[arg-type]
            [INT8, "bfloat16"] if on_cpu else ["bfloat16"],
        )
    if dtype == INT8 and not on_cpu:
        raise ValueError(f"dtype int8 runs on the CPU only, not on {device}. Use bfloat16.")
    packing: Kind | None = ("int8" if dtype == INT8 else "same") if on_cpu else None
    plain = "float32" if dtype == INT8 else dtype
    settings = LoadSettings(device=device, dtype=plain, packing=packing, text_encoder=text_encoder)
    checkpoint = find_checkpoint(source)
    found = FORMATS[checkpoint.format]
    if text_encoder is not None and not found.lacks_text_encoder:
        raise ValueError(
            f"{source or DEFAULT} includes its text encoder, so text_encoder has no effect. "
            "Leave it out."
        )
    model = _read(found, checkpoint, settings)
    _pack(model, packing)
    if judge is not None:
        model = replace(model, judge=Clap(judge, device=device))
    return AudioPipeline(
        model,
        dtype=dtype,
        source=str(source or DEFAULT),
        text_encoder=None if text_encoder is None else str(text_encoder),
    )


def _read(found: Format, checkpoint: Checkpoint, settings: LoadSettings) -> Model:
    """Reads a model; raises ValueError for files over which a library or a reader stumbles."""
    try:
        return found.load(checkpoint, settings)
    except torch.OutOfMemoryError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"Could not read the model in {checkpoint.folder}, which is damaged or has unknown "
            f"settings ({reason:.200})."
        ) from error


def _pack(model: Model, packing: Kind | None) -> None:
    if packing == "int8" and not any(isinstance(stage, TokenStage) for stage in model.stages):
        raise ValueError(
            "dtype int8 has no effect on this model, which has no language model. Use bfloat16."
        )
    for stage in model.stages:
        if packing is not None and isinstance(stage, TokenStage):  # others have no decode loop
            pack(stage.model, packing)


def find_device(device: str | None = None) -> str:
    """The device by that name, if this machine has it; by default CUDA if available, else the CPU.

    Other devices, such as mps, are untested.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).item()
    except (AssertionError, RuntimeError):
        here = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            here.append("mps")
        raise ValueError(
            f"Device {device!r} is not available here. Available: {', '.join(here)}."
        ) from None
    return device


def find_checkpoint(source: str | Path | None) -> Checkpoint:
    """The files of a model, downloaded if necessary, and their format."""
    path = pretrained.DEFAULT_FOLDER if source is None else Path(source).expanduser()
    if str(source) == DEFAULT and not path.is_dir():  # a folder of that name takes precedence
        path, source = pretrained.DEFAULT_FOLDER, None
    if source is None and not (path / "config.json").is_file():
        raise ValueError(
            "This copy of lm-audio has no bundled model. Give a folder, a hub id, or a name from "
            "lm_audio.models() (lm-audio models)."
        )
    if path.is_dir():
        return Checkpoint(folder=path, hub_id=None, format=_format(path, source or DEFAULT))
    if path.exists():
        raise ValueError(f"{source} is a file; give the folder of the model.")
    hub_id = {model.name: model.source for model in models()}.get(str(source), str(source))
    if is_path(hub_id):
        raise ValueError(f"No such file or folder: {source}")
    if not is_hub_id(hub_id):
        raise ValueError(_not_found(str(source)))
    folder = _fetch(hub_id)
    return Checkpoint(folder=folder, hub_id=hub_id, format=_format(folder, source))


def _format(folder: Path, source: object) -> str:
    """The name of the format of a folder, a key of `FORMATS`."""
    kind = _model_type(folder)
    if kind is not None:
        return _known(kind, source)
    if (pipeline := _pipeline_class(folder)) is not None:
        return _with_pipeline(pipeline, source)
    if (held := _held(folder)) is not None:
        return held.name
    raise ValueError(
        f"Found no model in {source}; expected the files of an lm-audio model, or of MusicGen, "
        "AudioGen, Bark, AudioLDM, Riffusion, Dance Diffusion or Stable Audio as transformers, "
        "diffusers or their authors publish them."
    )


def _held(folder: Path) -> Format | None:
    """The format of a folder that states it in neither config.json nor model_index.json."""
    found = (one for one in FORMATS.values() if one.holds is not None and one.holds(folder))
    return next(found, None)


def _model_type(folder: Path) -> str | None:
    """The model_type in config.json; None without that file."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text())
    except ValueError:
        config = None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str):
        raise ValueError(f"{path} has no model_type or is not valid JSON; download it again.")
    return kind


def _known(kind: str, source: object) -> str:
    """The name of the format with this model_type."""
    stated = {one.model_type: name for name, one in FORMATS.items() if one.model_type is not None}
    if kind not in stated:
        raise ValueError(
            f"{source} is a model of type {kind}, which is not supported. Supported types: "
            f"{', '.join(stated)}."
        )
    return stated[kind]


def _pipeline_class(folder: Path) -> str | None:
    """The class in model_index.json of diffusers' layout; None without that file."""
    path = folder / "model_index.json"
    if not path.is_file():
        return None
    try:
        index = json.loads(path.read_text())
    except ValueError:
        index = None
    name = index.get("_class_name") if isinstance(index, dict) else None
    if not isinstance(name, str):
        raise ValueError(f"{path} has no _class_name or is not valid JSON; download it again.")
    return name


def _with_pipeline(name: str, source: object) -> str:
    """The name of the format with this class in model_index.json."""
    known = {pipeline: one.name for one in FORMATS.values() for pipeline in one.pipelines}
    if name not in known:
        raise ValueError(
            f"{source} is a {name}, which is not supported. Supported pipelines of diffusers: "
            f"{', '.join(known)}."
        )
    return known[name]


def _fetch(hub_id: str) -> Path:
    """A folder with the required files of a hub repository."""
    folder = _download(
        hub_id, ["config.json", "model_index.json", "model_config.json", "README.md"]
    )
    kind, pipeline = _model_type(folder), _pipeline_class(folder)
    groups: tuple[tuple[str, ...], ...] = TORCH_FILES
    if kind is not None:
        groups = FORMATS[_known(kind, hub_id)].files
    elif pipeline is not None:
        groups = FORMATS[_with_pipeline(pipeline, hub_id)].files
    elif (held := _held(folder)) is not None:
        groups = held.files
    for patterns in groups:
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

    try:
        with hub_access(hub_id):
            return Path(snapshot_download(hub_id, allow_patterns=list(patterns)))
    except GatedRepoError as error:
        raise ValueError(
            f"{hub_id} is gated. Accept its conditions at https://huggingface.co/{hub_id}, then "
            "run: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(_not_found(hub_id)) from error
    except (HTTPError, OSError, ValueError) as error:
        if getattr(error, "errno", None):  # a local error, such as a full disk
            raise
        raise ValueError(
            f"{hub_id} is not a local folder or fully cached, and the hub is not reachable. "
            "Check your connection, or give the path of a model folder."
        ) from error


def _not_found(source: str) -> str:
    names = [model.name for model in models()]
    nearest = difflib.get_close_matches(source, names, n=1)
    hint = f"Did you mean {nearest[0]}?" if nearest else f"Known names: {', '.join(names)}."
    return (
        f"No model named {source!r}: it is not a folder, a known name or a public Hugging Face "
        f"repo ID. {hint}"
    )
