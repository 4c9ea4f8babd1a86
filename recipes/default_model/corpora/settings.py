"""The settings of a corpus, stored with its clips."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audio_tokenizers.atomic import replacing


def keep_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes settings.json; raises if the folder holds clips made with different settings."""
    path = folder / "settings.json"
    if path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if earlier != settings:
            raise ValueError(
                f"{folder} was made with {earlier}, not {settings}; choose another --out or "
                "delete the folder."
            )
    with replacing(path) as new:
        new.write_text(json.dumps(settings) + "\n", encoding="utf-8")
