"""Loads codecs by name, path or hub id, and saves them."""

import json
from collections.abc import Callable
from pathlib import Path

from audio_tokenizers.acoustic.dac import DacTokenizer, load_dac
from audio_tokenizers.acoustic.encodec import EncodecTokenizer
from audio_tokenizers.acoustic.encodec_checkpoints import AUDIOCRAFT_FILE, load_encodec
from audio_tokenizers.acoustic.mimi import MimiTokenizer, load_mimi
from audio_tokenizers.hub import hub_access
from audio_tokenizers.protocol import AcousticTokenizer
from audio_tokenizers.weights import fits_float16

NAMES = {
    "encodec-24khz": "facebook/encodec_24khz",
    "encodec-48khz": "facebook/encodec_48khz",
    "encodec-32khz": "facebook/encodec_32khz",
    "encodec-16khz": "facebook/audiogen-medium",
    "dac-16khz": "descript/dac_16khz",
    "dac-24khz": "descript/dac_24khz",
    "dac-44khz": "descript/dac_44khz",
    "mimi": "kyutai/mimi",
}
"""Short names of public codecs on the hub."""


def load_frame_codec(folder: str | Path) -> AcousticTokenizer:
    from audio_tokenizers.acoustic import frame_codec

    return frame_codec.load_frame_codec(folder)


def load_rave(folder: str | Path) -> AcousticTokenizer:
    from audio_tokenizers.acoustic import rave

    return rave.load_rave(folder)


LOADERS: dict[str, Callable[[str | Path], AcousticTokenizer]] = {
    "dac": load_dac,
    "encodec": load_encodec,
    "frame-codec": load_frame_codec,
    "mimi": load_mimi,
    "rave": load_rave,
}


def load_codec(name_or_path: str | Path, *, device: str = "cpu") -> AcousticTokenizer:
    """Loads a codec by a name in `NAMES`, a local file or folder, or a hub id.

    The codec type is detected from the content of the checkpoint.
    """
    source = NAMES.get(str(name_or_path), str(name_or_path))
    try:
        with hub_access(source):
            return _load(source, device)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"Could not read the codec {source}, which is damaged or has unknown settings "
            f"({reason:.200})."
        ) from error


def _load(source: str, device: str) -> AcousticTokenizer:
    path = Path(source)
    if (path.suffix == ".ts" and path.is_file()) or (path / "config.gin").is_file():
        from audio_tokenizers.acoustic.rave.exports import load_foreign

        return load_foreign(path).to(device)
    config = path / "config.json" if path.exists() else _hub_file(source, "config.json")
    weights = path if path.exists() else None
    if config is None:
        weights = _hub_file(source, AUDIOCRAFT_FILE)
    if config is not None and config.is_file():
        kind = json.loads(config.read_text()).get("model_type")
        if kind not in LOADERS:
            raise ValueError(
                f"Expected a codec of type {', '.join(LOADERS)}, got {source} of type {kind}."
            )
        codec = LOADERS[kind](source)
    elif weights is not None:
        codec = load_encodec(weights)  # the only type that also comes without a config
    else:
        raise ValueError(
            f"Found no codec {source!r}: not a local file or folder, not in the cache, and not on "
            f"the hub or the hub is not reachable. Known names: {', '.join(NAMES)}."
        )
    codec.to(device)
    return codec


def save_codec(codec: AcousticTokenizer, folder: str | Path, *, half: bool = False) -> None:
    """Saves a codec for `load_codec`; the loaded codec has the same identity.

    Args:
        half: store float16 if that is exact.
    """
    from audio_tokenizers.acoustic.frame_codec import FrameCodec, save_frame_codec
    from audio_tokenizers.acoustic.rave import RaveCodec, save_rave

    if isinstance(codec, FrameCodec):
        half = half and fits_float16(codec.inference_weights())
        save_frame_codec(codec, folder, half=half)
    elif isinstance(codec, RaveCodec):
        save_rave(codec, folder)
    elif isinstance(codec, DacTokenizer | EncodecTokenizer | MimiTokenizer):
        codec.model.save_pretrained(folder)
    else:
        raise ValueError(
            f"Cannot save a codec of class {type(codec).__name__}; supported types: "
            f"{', '.join(LOADERS)}."
        )


def _hub_file(hub_id: str, name: str) -> Path | None:
    """The local copy of a file on the hub, downloaded if needed; None if there is none."""
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(hub_id, name, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):  # no such repository, no connection, or an invalid id
        return None
    return None if found is None else Path(found)
