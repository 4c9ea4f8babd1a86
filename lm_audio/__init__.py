"""Generate sound with language models over audio tokens."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lm_audio.version import __version__

if TYPE_CHECKING:
    from lm_audio.catalogue import models
    from lm_audio.clip import Clip
    from lm_audio.loading import load
    from lm_audio.pipeline import AudioPipeline
    from lm_audio.sampling import Sampling

__all__ = ["AudioPipeline", "Clip", "Sampling", "__version__", "load", "models"]

_HOMES = {
    "AudioPipeline": "lm_audio.pipeline",
    "Clip": "lm_audio.clip",
    "Sampling": "lm_audio.sampling",
    "load": "lm_audio.loading",
    "models": "lm_audio.catalogue",
}


def __getattr__(name: str) -> Any:
    """Imports names that need torch on first use, so that `lm-audio --help` starts fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lm_audio' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
