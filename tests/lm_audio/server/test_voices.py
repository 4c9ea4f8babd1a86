"""A model with voices: clients name them, and cannot name a file of the server."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audio_tokenizers.wav_stream import pcm16
from lm_audio.families.bark.parts import voices_of
from lm_audio.families.bark.stages import bark
from lm_audio.families.bark.voices import INDEX_FILE
from lm_audio.model import Model
from lm_audio.pipeline import AudioPipeline
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.server.engine import Engine
from tests.lm_audio.families.bark.test_stages import SETTINGS, Reference, make_parts, make_voice
from tests.lm_audio.server.conftest import running

SPEECH = "/v1/audio/speech"
BODY = {"input": "a dog says hello", "duration": 0.3, "seed": 3, "response_format": "pcm"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint's folder with the voices nova and v2/en_speaker_6, and a file beside."""
    folder = tmp_path_factory.mktemp("voices")
    index: dict[str, dict[str, str]] = {}
    for seed, name in enumerate(["nova", "v2/en_speaker_6"]):
        index[name] = {}
        for part, tokens in make_voice(seed, 12).items():
            index[name][part] = f"{seed}-{part}.npy"
            np.save(folder / index[name][part], tokens)
    (folder / INDEX_FILE).write_text(json.dumps(index))
    np.savez(folder / "private.npz", **make_voice(5, 12))  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def speaking(folder: Path) -> AudioPipeline:
    parts = replace(make_parts(Reference(4)), voices=voices_of(SETTINGS, folder))
    return AudioPipeline(Model(bark(parts), CodecRenderer(parts.codec, num_codebooks=8)))


@pytest.fixture(scope="module")
def served(speaking: AudioPipeline) -> Any:
    with running(Engine(speaking)) as served:
        yield served


def test_it_lists_its_voices(served: Any) -> None:
    assert served.client.get("/v1/audio/voices").json()["voices"] == ["nova", "v2/en_speaker_6"]
    abilities = served.client.get("/v1/models").json()["data"][0]["abilities"]
    assert "voices" in abilities
    assert "story" not in abilities  # its stages read one text


@pytest.mark.parametrize("voice", ["nova", {"id": "v2/en_speaker_6"}])
def test_its_voices_are_used(served: Any, speaking: AudioPipeline, voice: Any) -> None:
    answer = served.client.post(SPEECH, json={**BODY, "voice": voice})
    assert answer.status_code == 200, answer.text
    assert "x-ignored-fields" not in answer.headers
    name = voice["id"] if isinstance(voice, dict) else voice
    text, seed = BODY["input"], 3
    clip = speaking.generate(text, duration=0.3, seed=seed, conditions={"voice": name})
    assert answer.content == pcm16(clip.samples)


def test_other_voices_are_ignored(served: Any, speaking: AudioPipeline) -> None:
    answer = served.client.post(SPEECH, json={**BODY, "voice": "alloy"})
    assert answer.headers["x-ignored-fields"] == "voice"
    plain = speaking.generate(BODY["input"], duration=0.3, seed=3)
    assert answer.content == pcm16(plain.samples)


@pytest.mark.parametrize("route", [SPEECH, "/v1/audio/generations"])
def test_no_file_of_the_server_is_opened_as_a_voice(
    served: Any, speaking: AudioPipeline, folder: Path, route: str
) -> None:
    file = str(folder / "private.npz")
    speaking.generate(BODY["input"], duration=0.1, seed=1, conditions={"voice": file})  # in Python
    text = {"input": BODY["input"]} if route == SPEECH else {"prompt": BODY["input"]}
    answer = served.client.post(route, json={**text, "conditions": {"voice": file}})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert "Voices of this model: nova, v2/en_speaker_6." in error["message"]
    assert error["param"] == "conditions.voice"


def test_a_model_that_takes_no_audio_plays_no_live_stream(served: Any) -> None:
    from tests.lm_audio.server.test_live import frames, live, say

    with live(served) as socket:
        say(socket, prompt="a dog says hello")
        (error,) = frames(socket)
    assert isinstance(error, dict)
    assert "no semantic tokenizer, so it does not accept audio" in error["error"]["message"]
