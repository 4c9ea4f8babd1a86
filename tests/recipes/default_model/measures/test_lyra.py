"""Lyra V2: what can be told without its weights."""

from pathlib import Path

import pytest

from measures.lyra import Lyra


def test_a_folder_without_the_networks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lacks soundstream_encoder.tflite; pass the folder"):
        Lyra(tmp_path)


def test_levels_that_there_are_not_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Got 47 Lyra levels; expected 1 to 46"):
        Lyra(tmp_path, num_levels=47)
