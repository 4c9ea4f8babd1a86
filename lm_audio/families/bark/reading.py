"""Reads Bark in transformers' layout or the original's, detected from the files."""

from collections.abc import Sequence
from pathlib import Path

import torch

from lm_audio.families.bark.original_layout import (
    CODEC,
    TEXT_TOKENIZER,
    read_original_bark,
)
from lm_audio.families.bark.parts import BarkParts
from lm_audio.families.bark.transformers_layout import (
    holds_transformers_bark,
    read_transformers_bark,
)
from lm_audio.saving.files import folder_of


def read_bark(
    source: str | Path | Sequence[str | Path],
    *,
    hub_id: str | None = None,
    codec: str | Path = CODEC,
    text_tokenizer: str | Path = TEXT_TOKENIZER,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> BarkParts:
    """Reads a folder, or the original's three files.

    Args:
        hub_id: the source of the folder, for voices that were not downloaded with it.
        codec, text_tokenizer: folders or hub ids, for the original layout, which has neither.
    """
    if isinstance(source, str | Path) and holds_transformers_bark(folder_of(source)):
        parts = read_transformers_bark(Path(source), hub_id=hub_id)
    else:
        parts = read_original_bark(source, codec=codec, text_tokenizer=text_tokenizer)
    return parts.to(device, dtype)
