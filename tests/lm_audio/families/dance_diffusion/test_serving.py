"""A server with a model that has no prompt."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import lm_audio
from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.audio_writer import write_audio
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Denoising
from lm_audio.server.engine import Engine
from tests.lm_audio.server.conftest import Served, running

RATE = 1600
QUICK = {"*": {"steps": 2, "solver": "v-iplms"}}
SAMPLING = Denoising(steps=2, solver="ipndm", guidance_scale=1.0)


@pytest.fixture(scope="module")
def model(folder: Path) -> AudioPipeline:
    return lm_audio.load(folder)


@pytest.fixture(scope="module")
def served(model: AudioPipeline) -> Iterator[Served]:
    with running(Engine(model)) as one:
        yield one


def test_its_abilities_are_those_without_a_text(served: Served) -> None:
    (answer,) = served.client.get("/v1/models").json()["data"]
    assert answer["abilities"] == ["continue", "inpaint", "vary", "loop"]
    assert answer["conditions"] == []
    assert answer["stages"][0]["sampling"]["solver"] == "ipndm"


def test_a_clip_without_a_prompt_is_that_of_python(served: Served, model: AudioPipeline) -> None:
    body = {"duration": 0.1, "seed": 3, "sampling": QUICK}
    answer = served.client.post("/v1/audio/generations", json=body)
    assert answer.status_code == 200, answer.text
    data = base64.b64decode(answer.json()["data"][0]["b64_audio"])
    expected = model.generate(duration=0.1, seed=3, sampling=SAMPLING).samples
    found = read_audio(io.BytesIO(data)).samples
    torch.testing.assert_close(found, expected, atol=1 / 2**15, rtol=0)


def test_a_prompt_is_refused_in_one_sentence(served: Served) -> None:
    body = {"prompt": "rain", "duration": 0.1, "sampling": QUICK}
    answer = served.client.post("/v1/audio/generations", json=body)
    assert answer.status_code == 400
    assert "This model has no condition 'text'" in answer.json()["error"]["message"]


def test_a_sound_is_varied(served: Served) -> None:
    file = io.BytesIO()
    write_audio(file, 0.3 * torch.sin(torch.arange(160) / 5).repeat(2, 1), RATE, format="wav")
    answer = served.client.post(
        "/v1/audio/variations",
        data={"strength": "0.5", "seed": "3"},
        files={"file": ("hum.wav", file.getvalue())},
    )
    assert answer.status_code == 200, answer.text
