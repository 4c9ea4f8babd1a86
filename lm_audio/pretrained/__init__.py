"""The embedded default: weights that come with the package. README.md is its model card."""

from pathlib import Path

CODEC_FOLDER = Path(__file__).parent / "codec"
