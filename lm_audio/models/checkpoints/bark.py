"""Reads Bark, in transformers' layout or the original's, whichever a source holds."""

from collections.abc import Sequence
from pathlib import Path

import torch

from lm_audio.models.checkpoints.bark_original import (
    CODEC,
    TEXT_TOKENIZER,
    read_original_bark,
)
from lm_audio.models.checkpoints.bark_parts import BarkParts
from lm_audio.models.checkpoints.bark_transformers import (
    holds_transformers_bark,
    read_transformers_bark,
)


def read_bark(
    source: str | Path | Sequence[str | Path],
    *,
    codec: str | Path = CODEC,
    text_tokenizer: str | Path = TEXT_TOKENIZER,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> BarkParts:
    """Reads a folder, a hub repository, or the original's three files.

    Args:
        codec, text_tokenizer: folders or hub ids, for the original's files, which lack both.
    """
    if isinstance(source, str | Path) and holds_transformers_bark(source):
        parts = read_transformers_bark(source)
    elif isinstance(source, str | Path) and not Path(source).is_dir():
        raise ValueError(
            f"Found no Bark at {source}: it is no folder with one, and the hub has none of that id "
            "or cannot be reached."
        )
    else:
        parts = read_original_bark(source, codec=codec, text_tokenizer=text_tokenizer)
    return parts.to(device, dtype)
