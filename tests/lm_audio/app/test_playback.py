"""Sound in the making is heard from its beginning by all who ask, until it ends."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient

from audio_tokenizers.wav_stream import pcm16, wav_header
from lm_audio.app import playback
from lm_audio.app.playback import LiveSound


@pytest.fixture
def sound() -> LiveSound:
    return LiveSound(sample_rate=8_000, num_channels=1)


def test_listeners_hear_all_of_it_whenever_they_come(sound: LiveSound) -> None:
    app = FastAPI()
    sound.add_to(app)
    stream = sound.open()
    pieces = [torch.full((1, 10), 0.1 * n) for n in range(5)]
    with TestClient(app) as client, ThreadPoolExecutor() as pool:
        early = pool.submit(client.get, f"/{stream.path}")
        for piece in pieces:
            stream.push(piece)
            time.sleep(0.02)
        stream.close()
        late = client.get(f"/{stream.path}")
        expected = wav_header(8_000, 1) + b"".join(pcm16(piece) for piece in pieces)
        assert early.result().content == late.content == expected
        assert late.headers["content-type"] == "audio/wav"
        assert client.get("/live/other.wav").status_code == 404


def test_old_streams_are_forgotten(sound: LiveSound, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playback, "MOST", 2)
    app = FastAPI()
    sound.add_to(app)
    streams = [sound.open() for _ in range(3)]
    for stream in streams:
        stream.close()
    with TestClient(app) as client:
        found = [client.get(f"/{stream.path}").status_code for stream in streams]
    assert found == [404, 200, 200]


def test_a_listener_of_what_never_goes_on_is_sent_away(
    sound: LiveSound, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(playback, "PATIENCE", 0.05)
    stream = sound.open()
    assert b"".join(stream.read()) == wav_header(8_000, 1)
