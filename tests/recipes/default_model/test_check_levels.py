"""Levels of saved clips: the model in the package keeps to the target."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile


def test_clips_reach_the_target_and_prompts_are_kept(
    load_recipe: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe("default_model/check_levels")
    tone = 0.3 * np.sin(2 * np.pi * 300 * np.arange(48_000) / 24_000)
    soundfile.write(tmp_path / "tone.wav", tone, 24_000)
    found = recipe.main(
        recipe.Config(
            kinds=("sea waves", "a church organ"),
            clips_per_kind=1,
            seconds=3.0,
            prompts=(tmp_path / "tone.wav",),
            continuations=2,
        )
    )
    assert all(abs(one.loudness + 16) < 2 for one in found)
    assert all(one.peak <= -1 for one in found)
    printed = capsys.readouterr().out
    assert "2 clips: 0 with true peaks above -1 dBTP" in printed
    assert "tone.wav: 2 of 2 prompts kept; steps" in printed
