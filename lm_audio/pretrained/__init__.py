"""The embedded default: weights that come with the package. README.md is its model card."""

from pathlib import Path

DEFAULT_FOLDER = Path(__file__).parent
"""A whole model, as `AudioPipeline.save` writes it, beside its model card."""
CODEC_FOLDER = DEFAULT_FOLDER / "codec"
"""Its codec, which is of use without the rest."""
