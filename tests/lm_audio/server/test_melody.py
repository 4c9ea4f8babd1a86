"""A model that takes a melody: clients send it as a file, and cannot name one of the server."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import lm_audio
from audio_tokenizers.wav_stream import pcm16
from lm_audio.pipeline import AudioPipeline
from lm_audio.server.engine import Engine
from tests.lm_audio.families.audiocraft.test_melody import RATE, SECONDS, TUNE, WINDOW, make_model
from tests.lm_audio.server.conftest import Served, running
from tests.lm_audio.server.test_diffusion import as_16_bits, sound
from tests.lm_audio.server.test_events import events_of, sound_of
from tests.lm_audio.server.test_http import wav_upload

MELODIES = "/v1/audio/melodies"


@pytest.fixture(scope="module")
def singer(tiny_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> AudioPipeline:
    folder = tmp_path_factory.mktemp("melody")
    make_model().save_pretrained(folder)
    for file in tiny_t5.glob("tokenizer*.json"):
        shutil.copy(file, folder)
    settings = {"sampling_rate": RATE, "n_fft": WINDOW, "chunk_length": SECONDS}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return lm_audio.load(folder, device="cpu")


@pytest.fixture(scope="module")
def singing(singer: AudioPipeline) -> Iterator[Served]:
    with running(Engine(singer)) as served:
        yield served


def test_a_path_of_the_server_is_refused(singing: Served) -> None:
    body = {"input": "rain", "duration": 0.2, "conditions": {"melody": "/etc/hostname"}}
    answer = singing.client.post("/v1/audio/speech", json=body)
    assert answer.status_code == 400
    message = "Send the melody as a file to /v1/audio/melodies."
    assert answer.json()["error"]["message"] == message
    assert singing.client.post("/v1/audio/speech", json=body | {"conditions": {}}).is_success


def test_the_clips_follow_the_melody_of_a_file(singing: Served, singer: AudioPipeline) -> None:
    files = {"file": ("../hum.wav", wav_upload(TUNE, RATE))}
    settings = {"prompt": "rain", "duration": 0.3, "seed": 3}
    found = sound(
        singing.client.post(MELODIES, files=files, data={"settings": json.dumps(settings)})
    )
    given = {"melody": (as_16_bits(TUNE), RATE)}
    clip = singer.generate("rain", duration=0.3, seed=3, conditions=given)
    assert torch.equal(found, as_16_bits(clip.samples))
    plain = singer.generate("rain", duration=0.3, seed=3)
    assert not torch.equal(found, as_16_bits(plain.samples))
    both = settings | {"n": 2, "stream_format": "sse"}
    events = events_of(
        singing.client.post(MELODIES, files=files, data={"settings": json.dumps(both)})
    )
    assert sound_of(events)[0] == pcm16(clip.samples)
    other = singer.generate("rain", duration=0.3, seed=4, conditions=given)
    assert sound_of(events)[1] == pcm16(other.samples)
    made_with = events[-1]["settings"]
    assert made_with["melody"] == "hum.wav"  # as the option of the command line
    assert "conditions" not in made_with


def test_only_models_that_take_a_melody_have_the_ability(singing: Served, shared: Served) -> None:
    able = [x.client.get("/v1/models").json()["data"][0]["abilities"] for x in (singing, shared)]
    assert ["melody" in one for one in able] == [True, False]
    files = {"file": wav_upload(TUNE, RATE)}
    answer = shared.client.post(MELODIES, files=files)
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert message.startswith("This model cannot follow a melody. Models that can: ")
    assert "melody" in message
