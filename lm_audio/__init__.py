"""Generate sound with language models over audio tokens."""

__version__ = "0.1.0.dev0"
