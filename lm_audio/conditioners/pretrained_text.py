"""What conditioners with a text encoder of transformers share: checked texts and their tokens.

Shapes: L text tokens.
"""

import warnings
from typing import Any

from torch import Tensor


def checked_text(value: object) -> str:
    """A text; None is the empty one."""
    if not isinstance(value, str | None):
        raise ValueError(f"A text prompt must be a string, or None, got {value!r}.")
    return value or ""


def token_ids(tokenizer: Any, text: str, max_length: int) -> Tensor:
    """The tokens [1, L] of a text by a tokenizer of transformers."""
    whole = tokenizer(text, return_tensors="pt", verbose=False).input_ids
    if whole.shape[1] <= max_length:
        return whole.long()
    warnings.warn(
        f"A text of {whole.shape[1]} tokens is truncated to {max_length}, the limit of its "
        "encoder.",
        stacklevel=2,
    )
    cut = tokenizer(text, return_tensors="pt", truncation=True, max_length=max_length)
    return cut.input_ids.long()
