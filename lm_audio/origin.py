"""Provenance in a file's metadata: ASCII JSON, which every format preserves."""

import json
from pathlib import Path
from typing import Any

from audio_tokenizers.audio_files import audio_info
from audio_tokenizers.audio_writer import LONGEST_COMMENT
from lm_audio.version import __version__

MAKER = "lm-audio"


def origin_comment(*, prompt: str | None, seed: int, model: str | None) -> str:
    """The comment for a file; a prompt that exceeds the size limit is truncated."""

    def comment(text: str | None) -> str:
        facts = {MAKER: __version__, "model": model, "prompt": text, "seed": seed}
        return json.dumps({name: value for name, value in facts.items() if value is not None})

    kept = prompt
    while kept and len(comment(kept)) > LONGEST_COMMENT:
        kept = f"{kept[: len(kept) * 9 // 10 - 1]}\N{HORIZONTAL ELLIPSIS}"
    return comment(kept)


def read_origin(path: str | Path) -> dict[str, Any]:
    """The provenance stored in a file; empty if lm-audio did not make it."""
    try:
        facts = json.loads(audio_info(path).comment)
    except json.JSONDecodeError:
        return {}
    return facts if isinstance(facts, dict) and MAKER in facts else {}
