"""Generate sound with language models over audio tokens."""

from lm_audio.version import __version__

__all__ = ["__version__"]
