"""Text encoders and tokenizers of transformers, as parts of a folder in diffusers' layout."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audio_tokenizers.hub import hub_access
from audio_tokenizers.weights import MappedFile, check_weights, load_transformers, unfilled
from lm_audio.saving.files import read_weights
from lm_audio.saving.part_folder import Config, Release, nothing, read_config

_MOST_TEXT = 512  # tokens, if the tokenizer states no limit


def load_text_model(cls: Any, path: Path, *, kind: str, ignored: tuple[str, ...] = ()) -> Any:
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


def read_clip_text(path: Path) -> Any:
    """A CLIPTextModel; pickles are read, too, since old repositories have no others."""
    from transformers import CLIPTextConfig, CLIPTextModel

    def build(config: Config) -> Any:
        if (kind := config.get("model_type")) not in ("clip_text_model", "clip"):
            raise ValueError(f"it is a model of type {kind}; expected clip_text_model.")
        with unfilled():
            return CLIPTextModel(CLIPTextConfig(**config.get("text_config", config)))

    model = read_config(path / "config.json", build)
    prefix, unused = "text_model.", "embeddings.position_ids"
    names = {name.removeprefix(prefix): name for name in model.state_dict()}
    stored = {name.removeprefix(prefix): weight for name, weight in read_weights(path).items()}
    weights = {names.get(n, n): w.float() for n, w in stored.items() if n != unused}
    check_weights(weights, model.state_dict(), source=path)
    model.load_state_dict(weights, assign=True)
    for module in model.modules():
        if isinstance(getattr(module, "position_ids", None), Tensor):  # not in the file
            module.position_ids = torch.arange(model.config.max_position_embeddings)[None]
    return model


def load_tokenizer(path: str | Path) -> Any:
    """The tokenizer of a folder or hub id."""
    from transformers import AutoTokenizer

    try:
        with hub_access(path):
            tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain ones
        raise ValueError(
            f"Could not read a tokenizer from {path}. Download the whole model."
        ) from error
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise ValueError(f"The tokenizer in {path} is empty. Download the whole model.")
    return tokenizer


def token_limit(tokenizer: Any) -> int:
    """The most tokens of a text; tokenizers without a limit state 10 ** 30."""
    most = int(tokenizer.model_max_length)
    return most if most < 10**6 else _MOST_TEXT


def map_weights(model: nn.Module, folder: Path) -> Release:
    """Replaces the weights of a model by those of the file that it was read from."""
    path = folder / "model.safetensors"
    if not path.is_file():  # in shards
        return nothing
    file = MappedFile(path)
    for name, weight in model.named_parameters():
        stored = file.tensors.get(name)
        if stored is None or stored.dtype != weight.dtype or stored.shape != weight.shape:
            continue
        if torch.equal(stored, weight):  # unless this version of transformers converts it
            weight.data = stored
        file.release()
    return file.release
