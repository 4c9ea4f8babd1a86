"""The list of public models."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import lm_audio
from lm_audio import pretrained
from lm_audio.families.family import ModelInfo
from lm_audio.networks import presets
from lm_audio.networks.token_lm import TokenLM


@pytest.fixture(autouse=True)
def _of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model in the package has tests of its own."""
    monkeypatch.setattr(pretrained, "DEFAULT_FOLDER", tmp_path)


SHAPES = {
    "audiogen-medium": presets.medium,
    "musicgen-small": presets.small,
    "musicgen-medium": presets.medium,
    "musicgen-large": presets.large,
    "musicgen-stereo-small": presets.small,
    "musicgen-stereo-medium": presets.medium,
    "musicgen-stereo-large": presets.large,
    "musicgen-melody": presets.medium,
    "musicgen-melody-large": presets.large,
    "musicgen-stereo-melody": presets.medium,
    "musicgen-stereo-melody-large": presets.large,
    "magnet-small-10secs": presets.small,
    "magnet-medium-10secs": presets.medium,
    "magnet-small-30secs": presets.small,
    "magnet-medium-30secs": presets.medium,
    "audio-magnet-small": presets.small,
    "audio-magnet-medium": presets.medium,
}


def named(name: str) -> ModelInfo:
    (found,) = [model for model in lm_audio.models() if model.name == name]
    return found


@pytest.mark.parametrize("name", SHAPES)
def test_the_number_of_parameters_is_that_of_the_shape(name: str) -> None:
    info = named(name)
    config = SHAPES[name](num_streams=4 * info.num_channels)
    if "melody" in name:  # its conditions are a prefix
        config = replace(config, transformer=replace(config.transformer, cross_attention=False))
    with torch.device("meta"):
        model = TokenLM(config)
    assert info.num_parameters == sum(weight.numel() for weight in model.parameters())


def test_every_name_stands_for_a_repository_of_its_own() -> None:
    models = lm_audio.models()
    assert len({model.name for model in models}) == len(models)
    for model in models:
        owner, name = model.source.split("/")
        owners = {
            "bark": "suno",
            "audioldm": "cvssp",
            "stable-audio": "stabilityai",
            "riffusion": "riffusion",
        }
        owners |= dict.fromkeys(("maestro", "honk", "unlocked", "glitch", "jmann"), "harmonai")
        expected = next((who for part, who in owners.items() if part in name), "facebook")
        assert owner == expected
        assert name == model.name.rpartition("/")[2]


def test_models_that_cannot_be_loaded_are_not_listed() -> None:
    for kind in ("style", "jasco"):
        assert not [model.name for model in lm_audio.models() if kind in model.name]


def test_models_with_a_melody_say_so() -> None:
    for model in lm_audio.models():
        assert ("melody" in model.abilities) == ("melody" in model.name)


def test_only_bark_has_voices_and_only_the_others_take_audio() -> None:
    for model in lm_audio.models():
        assert ("voices" in model.abilities) == ("bark" in model.name)
        assert ("continue" in model.abilities) == ("bark" not in model.name)


def test_weights_of_others_state_a_licence() -> None:
    assert {model.licence for model in lm_audio.models()} == {
        "CC-BY-NC-4.0",
        "CC-BY-NC-SA-4.0",
        "CreativeML OpenRAIL-M",
        "MIT",
        "Stability AI Community, gated",
        "see model card",
    }
