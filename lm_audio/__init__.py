"""Generate sound with language models over audio tokens."""

from lm_audio.version import __version__

TYPE_CHECKING = False  # checkers take it for true; importing typing would delay Ctrl-C
if TYPE_CHECKING:
    from typing import Any

    from lm_audio.catalogue import models
    from lm_audio.clip import Clip
    from lm_audio.loading import load
    from lm_audio.pipeline import AudioPipeline
    from lm_audio.sampling import Denoising, Sampling, Unmasking

__all__ = [
    "AudioPipeline",
    "Clip",
    "Denoising",
    "Sampling",
    "Unmasking",
    "__version__",
    "load",
    "models",
]

_HOMES = {
    "AudioPipeline": "lm_audio.pipeline",
    "Clip": "lm_audio.clip",
    "Denoising": "lm_audio.sampling",
    "Sampling": "lm_audio.sampling",
    "Unmasking": "lm_audio.sampling",
    "load": "lm_audio.loading",
    "models": "lm_audio.catalogue",
}


def __getattr__(name: str) -> "Any":
    """Imports modules that need torch on first use, so that the command line starts fast."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'lm_audio' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
