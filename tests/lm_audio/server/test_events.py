"""Clips as server-sent events, conversions, and the description of the model."""

import base64
import io
import json
from collections import defaultdict
from typing import Any

import pytest
import torch

from audio_tokenizers.audio_files import audio_info, read_audio
from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.wav_stream import pcm16
from lm_audio.pipeline import AudioPipeline
from lm_audio.renderers.levels import measure_levels
from tests.lm_audio.server.test_http import until, wav_upload

GENERATIONS = "/v1/audio/generations"
CONVERSIONS = "/v1/audio/conversions"
RATE = 24_000
EVENTS = {"stream_format": "sse"}


def noise(seconds: float) -> torch.Tensor:
    samples = 0.05 * torch.randn(
        1, round(seconds * RATE), generator=torch.Generator().manual_seed(0)
    )
    return (samples * 2**15).round() / 2**15


def events_of(answer: Any) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in answer.text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


def sound_of(events: list[dict[str, Any]]) -> dict[int, bytes]:
    sound: dict[int, bytes] = defaultdict(bytes)
    for event in events:
        if event["type"] == "audio.delta":
            sound[event["index"]] += base64.b64decode(event["audio"])
    return sound


def test_the_clips_of_a_request_come_as_events(shared: Any, model: AudioPipeline) -> None:
    body = {"prompt": "rain", "duration": 2.0, "seed": 3, "n": 2, **EVENTS}
    events = events_of(shared.client.post(GENERATIONS, json=body))
    first = events[0]
    assert first["type"] == "audio.accepted"
    assert (first["seeds"], first["sample_rate"], first["num_channels"]) == ([3, 4], RATE, 1)
    assert len([event for event in events if event["type"] == "audio.delta"]) > 2
    sound = sound_of(events)
    done = {event["index"]: event for event in events if event["type"] == "audio.done"}
    for index, seed in enumerate((3, 4)):
        clip = model.generate("rain", duration=2.0, seed=seed)
        assert sound[index] == pcm16(clip.samples)
        levels = measure_levels(clip.samples, RATE)
        assert done[index]["loudness"] == pytest.approx(levels.loudness, abs=0.006)
        assert done[index]["true_peak"] == pytest.approx(levels.true_peak, abs=0.006)
        assert (done[index]["seed"], done[index]["duration"]) == (seed, 2.0)


def test_a_continuation_sends_its_new_sound_only(shared: Any, model: AudioPipeline) -> None:
    before = noise(0.5)
    settings = json.dumps({"prompt": "rain", "duration": 0.3, "seed": 5, **EVENTS})
    files = {"file": wav_upload(before, RATE)}
    events = events_of(
        shared.client.post("/v1/audio/continuations", files=files, data={"settings": settings})
    )
    clip = model.continue_from((before, RATE), duration=0.3, text="rain", seed=5)
    assert sound_of(events)[0] == pcm16(clip.samples[:, before.shape[1] :])
    assert events[-1]["duration"] == pytest.approx(0.8)


def test_an_unknown_prompt_within_a_story_gets_a_notice(
    shared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(shared.engine.pipeline)
    monkeypatch.setattr(kind, "notice", lambda _, text: "No jazz." if text == "a dog" else None)
    for story, expected in (([[0, "rain"], [0.1, "a dog"]], ["No jazz."]), ([[0, "rain"]], [])):
        body = {"story": story, "duration": 0.2, **EVENTS}
        events = events_of(shared.client.post(GENERATIONS, json=body))
        found = [event["message"] for event in events if event["type"] == "audio.notice"]
        assert found == expected


def test_an_inpainting_reports_progress_and_sends_the_whole_clip(
    shared: Any, model: AudioPipeline
) -> None:
    before = noise(1.0)
    settings = json.dumps({"start": 0.25, "end": 0.75, "seed": 5, **EVENTS})
    files = {"file": wav_upload(before, RATE)}
    events = events_of(
        shared.client.post("/v1/audio/inpaintings", files=files, data={"settings": settings})
    )
    clip = model.inpaint((before, RATE), start=0.25, end=0.75, seed=5)
    assert sound_of(events)[0] == pcm16(clip.samples)
    assert [event["type"] for event in events][-1] == "audio.done"


def test_the_place_in_the_queue_is_sent_until_the_clip_is_made(serve: Any) -> None:
    served = serve(max_batch_size=1)
    long = {"prompt": "rain", "duration": 60, "stream": True}
    body = {"prompt": "rain", "duration": 8, **EVENTS}
    with served.client.stream("POST", GENERATIONS, json=long) as running:
        sound = running.iter_raw()  # kept, for the response is closed with it
        next(sound)
        with served.client.stream("POST", GENERATIONS, json=body) as waiting:
            lines = waiting.iter_lines()
            positions = []
            while not positions:
                line = next(lines)
                if '"audio.progress"' in line and line.startswith("data: "):
                    positions.append(json.loads(line[6:])["position"])
            assert positions == [1]
            running.close()
            rest = list(lines)
    assert any('"position": 0' in line for line in rest)
    assert any('"audio.done"' in line for line in rest)


def test_a_client_that_leaves_frees_its_slots(serve: Any) -> None:
    served = serve(max_batch_size=4)
    body = {"prompt": "rain", "duration": 60, "n": 3, **EVENTS}
    with served.client.stream("POST", GENERATIONS, json=body) as answer:
        pieces = answer.iter_raw()
        next(pieces)
        until(lambda: served.engine.num_running == 3)
    until(lambda: served.engine.num_running == 0)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"response_format": "wav"}, "Server-sent events contain pcm; omit response_format."),
        ({"stream": True}, "Use stream_format or stream, not both."),
        ({"duration": 1e6}, "duration must be at most 120 s"),
    ],
)
def test_what_events_cannot_do_is_refused(shared: Any, more: dict[str, Any], reason: str) -> None:
    answer = shared.client.post(GENERATIONS, json={"prompt": "rain", **EVENTS, **more})
    assert answer.status_code == 400
    assert reason in answer.json()["error"]["message"]


@pytest.mark.parametrize("form", ["wav", "flac", "mp3", "opus", "pcm"])
def test_conversions_keep_the_sound_and_its_comment(shared: Any, form: str) -> None:
    samples = noise(0.5)
    file = io.BytesIO()
    write_audio(file, samples, RATE, format="flac", comment="made in a test")
    data = {"settings": json.dumps({"response_format": form})}
    answer = shared.client.post(CONVERSIONS, files={"file": file.getvalue()}, data=data)
    assert answer.status_code == 200
    levels = measure_levels(samples, RATE)
    assert float(answer.headers["x-loudness"]) == pytest.approx(levels.loudness, abs=0.006)
    assert float(answer.headers["x-true-peak"]) == pytest.approx(levels.true_peak, abs=0.006)
    if form == "pcm":
        assert answer.content == pcm16(samples)
        return
    assert audio_info(io.BytesIO(answer.content)).comment == "made in a test"
    made = read_audio(io.BytesIO(answer.content))
    if form in ("wav", "flac"):
        assert torch.equal(made.samples, samples)
    else:
        assert made.samples.std() == pytest.approx(float(samples.std()), rel=0.3)


def test_conversions_take_the_rate_and_channels_of_the_model(shared: Any) -> None:
    stereo = noise(1.0).reshape(2, -1)  # half a second
    answer = shared.client.post(CONVERSIONS, files={"file": wav_upload(stereo, 48_000)})
    made = read_audio(io.BytesIO(answer.content))
    assert (made.sample_rate, made.samples.shape) == (RATE, (1, RATE // 4))
    silence = wav_upload(torch.zeros(1, RATE), RATE)
    headers = shared.client.post(CONVERSIONS, files={"file": silence}).headers
    assert "x-loudness" not in headers
    broken = shared.client.post(CONVERSIONS, files={"file": b"RIFF and nothing else"})
    assert broken.status_code == 400


def test_the_model_says_what_it_can_do(shared: Any) -> None:
    (found,) = shared.client.get("/v1/models").json()["data"]
    assert found["abilities"] == ["text", "story", "continue", "inpaint", "negative"]
    assert (found["sample_rate"], found["num_channels"]) == (RATE, 1)
    assert found["licence"] == "Apache-2.0"
    (stage,) = found["stages"]
    assert stage["sampling"]["temperature"] == 0.9
    assert stage["sampling"]["top_k"] == 20
    assert "steps" not in stage["sampling"]
    assert found["limits"]["max_duration"] == 120
    assert {"wav", "flac", "mp3"} <= set(found["formats"])
    assert shared.client.get("/v1/models/tts-1").json() == {**found, "id": "tts-1"}
