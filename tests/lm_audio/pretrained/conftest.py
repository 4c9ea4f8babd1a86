"""The embedded default, as users have it."""

from pathlib import Path

import pytest

import lm_audio
from lm_audio.pipeline import AudioPipeline
from lm_audio.pretrained import DEFAULT_FOLDER


@pytest.fixture(scope="session")
def default_folder() -> Path:
    return DEFAULT_FOLDER


@pytest.fixture(scope="session")
def model() -> AudioPipeline:
    """The default; that `load()` gives it without its folder is for a test to see."""
    return lm_audio.load(DEFAULT_FOLDER, device="cpu")
