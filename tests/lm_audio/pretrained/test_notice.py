"""A prompt that the embedded default was not trained on gets one line that says so."""

import warnings
from pathlib import Path

import pytest

from lm_audio.cli import main
from lm_audio.pipeline import AudioPipeline

UNKNOWN = ["jazz", "a cat meowing", "asdfghjkl qwerty", "chien qui aboie", "狗在叫", "🐶🔥🎵"]
KNOWN = [
    "a dog barking",
    "heavy rain on a roof",
    "church bells",
    "a slow, sad piano",
    "a man talks",
]


def test_prompts_unlike_those_of_training_get_a_notice(model: AudioPipeline) -> None:
    for prompt in UNKNOWN:
        notice = model.notice(prompt)
        assert notice is not None, prompt
        assert notice.startswith(
            f"The model was not trained on prompts like {prompt!r}. It was trained on: "
        )
    assert [model.notice(prompt) for prompt in (*KNOWN, None)] == [None] * (len(KNOWN) + 1)


def test_every_example_is_known(model: AudioPipeline) -> None:
    known = model.card.known
    assert known is not None
    assert "dog" in known.kinds
    assert [p for p in known.first_examples if model.notice(p)] == []


def test_a_call_warns_once_of_each_prompt(model: AudioPipeline) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.generate(["jazz", "rain", "jazz", None], duration=0.04, seed=1)
    assert [str(warning.message) for warning in caught] == [model.notice("jazz")]


def test_the_command_line_warns_and_lists_the_kinds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["generate", "jazz", "--duration", "0.04", "--seed", "1", "-o", str(tmp_path / "a.wav")])
    assert "lm-audio: warning: The model was not trained on prompts like 'jazz'. It was" in (
        capsys.readouterr().err
    )
    main(["info"])
    assert "trained on  sea waves, helicopter, fire" in capsys.readouterr().out
