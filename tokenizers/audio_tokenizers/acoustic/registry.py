"""Finds a codec by name, by path or on the hub."""

import json
from collections.abc import Callable
from pathlib import Path

from audio_tokenizers.acoustic.dac import load_dac
from audio_tokenizers.acoustic.encodec_checkpoints import load_encodec
from audio_tokenizers.acoustic.frame_codec import load_frame_codec
from audio_tokenizers.acoustic.mimi import load_mimi
from audio_tokenizers.protocol import AcousticTokenizer

NAMES = {
    "encodec-24khz": "facebook/encodec_24khz",
    "encodec-48khz": "facebook/encodec_48khz",
    "encodec-32khz": "facebook/encodec_32khz",
    "dac-16khz": "descript/dac_16khz",
    "dac-24khz": "descript/dac_24khz",
    "dac-44khz": "descript/dac_44khz",
    "mimi": "kyutai/mimi",
}
"""Short names of public codecs on the hub."""

LOADERS: dict[str, Callable[[str], AcousticTokenizer]] = {
    "dac": load_dac,
    "encodec": load_encodec,
    "frame-codec": load_frame_codec,
    "mimi": load_mimi,
}


def load_codec(name_or_path: str | Path, *, device: str = "cpu") -> AcousticTokenizer:
    """Loads a codec by a name of `NAMES`, from a local file or folder, or by its hub id.

    The kind is told by what the checkpoint holds, not by how it is named.
    """
    source = NAMES.get(str(name_or_path), str(name_or_path))
    path = Path(source)
    if path.is_file() or (path.is_dir() and not (path / "config.json").exists()):
        codec: AcousticTokenizer = load_encodec(source)  # the one kind that comes without a config
    else:
        kind = _model_type(source)
        if kind not in LOADERS:
            raise ValueError(
                f"Got {source}, a model of type {kind}; codecs are of type {', '.join(LOADERS)}."
            )
        codec = LOADERS[kind](source)
    codec.to(device)
    return codec


def _model_type(source: str) -> str | None:
    """What config.json says, of a local folder or on the hub."""
    config = Path(source) / "config.json"
    if config.is_file():
        return json.loads(config.read_text()).get("model_type")
    from transformers import PretrainedConfig

    try:
        return PretrainedConfig.get_config_dict(source)[0].get("model_type")
    except (OSError, ValueError):
        raise ValueError(
            f"Found no codec {source!r}: it is no local file or folder, and the hub has none of "
            f"that id or cannot be reached; the short names are {', '.join(NAMES)}."
        ) from None
