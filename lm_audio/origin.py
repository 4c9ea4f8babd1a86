"""What a file says of how it was made: JSON in its metadata, in letters that all formats keep."""

import json
from pathlib import Path
from typing import Any

from audio_tokenizers.audio_files import audio_info
from audio_tokenizers.audio_writer import LONGEST_COMMENT
from lm_audio.version import __version__

MAKER = "lm-audio"


def origin_comment(*, prompt: str | None, seed: int, model: str | None) -> str:
    """A comment for a file; only a prompt that is longer than that can be is cut."""

    def comment(text: str | None) -> str:
        facts = {MAKER: __version__, "model": model, "prompt": text, "seed": seed}
        return json.dumps({name: value for name, value in facts.items() if value is not None})

    kept = prompt
    while kept and len(comment(kept)) > LONGEST_COMMENT:
        kept = f"{kept[: len(kept) * 9 // 10 - 1]}\N{HORIZONTAL ELLIPSIS}"
    return comment(kept)


def read_origin(path: str | Path) -> dict[str, Any]:
    """What a file says of how it was made; nothing if this product did not make it."""
    try:
        facts = json.loads(audio_info(path).comment)
    except json.JSONDecodeError:
        return {}
    return facts if isinstance(facts, dict) and MAKER in facts else {}
