"""A server with a diffusion model, and stories for any model."""

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.wav_stream import pcm16
from lm_audio.pipeline import AudioPipeline
from lm_audio.server.engine import Engine
from tests.lm_audio.generation.test_diffusion_stage import RATE, tiny_pipeline, tiny_stage
from tests.lm_audio.server.conftest import Served, running
from tests.lm_audio.server.test_events import events_of, sound_of

GENERATIONS, VARIATIONS = "/v1/audio/generations", "/v1/audio/variations"
STORY = [(0.0, "a dog"), (0.2, "rain")]
HUM = 0.3 * torch.sin(torch.arange(400) / 5)[None]


@pytest.fixture(scope="module")
def diffusion() -> AudioPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def denoising(diffusion: AudioPipeline) -> Iterator[Served]:
    with running(Engine(diffusion)) as served:
        yield served


def sound(answer: Any) -> Tensor:
    assert answer.status_code == 200, answer.text
    data = base64.b64decode(answer.json()["data"][0]["b64_audio"])
    return read_audio(io.BytesIO(data)).samples


def as_16_bits(samples: Tensor) -> Tensor:
    return (samples * 2**15).round().clamp(-(2**15), 2**15 - 1) / 2**15


def upload() -> dict[str, tuple[str, bytes]]:
    file = io.BytesIO()
    write_audio(file, HUM, RATE, format="wav")
    return {"file": ("hum.wav", file.getvalue())}


def test_a_story_is_that_of_python(shared: Served, model: AudioPipeline) -> None:
    body = {"story": STORY, "duration": 0.4, "seed": 3}
    found = sound(shared.client.post(GENERATIONS, json=body))
    expected = model.generate(STORY, duration=0.4, seed=3).samples
    assert torch.equal(found, as_16_bits(expected))
    for wrong, message in (
        ({"story": STORY, "prompt": "rain"}, "Give only one of prompt, story and blend."),
        ({"story": [(1.0, "rain")]}, "The times of a story must start at 0 and increase"),
        ({"story": []}, "story"),
        ({"story": [[0.0, 3]]}, "story"),
    ):
        answer = shared.client.post(GENERATIONS, json=wrong)
        assert answer.status_code == 400
        assert message in answer.json()["error"]["message"]


def test_the_parts_of_a_story_have_settings(
    denoising: Served, diffusion: AudioPipeline, shared: Served
) -> None:
    story: Any = [(0.0, "rain"), (0.05, "wind", {"over": 0.05, "seed": 4, "guidance_scale": 2.5})]
    body = {"story": story, "duration": 0.1, "seed": 3}
    found = sound(denoising.client.post(GENERATIONS, json=body))
    expected = diffusion.generate(story, duration=0.1, seed=3).samples
    assert torch.equal(found, as_16_bits(expected))
    for served, settings, message in (
        (denoising, {"speed": 1}, "has no setting 'speed'"),
        (denoising, {"over": 1}, "must not be longer than the part before"),
        (denoising, {"over": "long"}, "story"),
        (shared, {"seed": 1}, "changes its prompt at once"),
    ):
        wrong = {"story": [(0.0, "rain"), (0.05, "wind", settings)]}
        answer = served.client.post(GENERATIONS, json=wrong)
        assert answer.status_code == 400
        assert message in answer.json()["error"]["message"]


def test_a_blend_is_that_of_python(
    denoising: Served, diffusion: AudioPipeline, shared: Served
) -> None:
    blend = {"rain": 3, "wind": 1}
    body = {"blend": blend, "duration": 0.1, "seed": 3}
    found = sound(denoising.client.post(GENERATIONS, json=body))
    expected = diffusion.generate(blend, duration=0.1, seed=3).samples
    assert torch.equal(found, as_16_bits(expected))
    for served, wrong, message in (
        (denoising, {"blend": blend, "prompt": "rain"}, "Give only one of prompt, story and blend"),
        (denoising, {"blend": {"rain": -1}}, "A blend needs prompts with weights of at least 0"),
        (denoising, {"blend": {}}, "blend"),
        (denoising, {"blend": {"rain": "much"}}, "blend"),
        (denoising, {"blend": {str(i): 1 for i in range(9)}}, "blend"),
        (shared, {"blend": blend}, "follows one prompt at a time"),
    ):
        answer = served.client.post(GENERATIONS, json=wrong)
        assert answer.status_code == 400
        assert message in answer.json()["error"]["message"]


def test_a_variation_and_a_loop_are_those_of_python(
    denoising: Served, diffusion: AudioPipeline
) -> None:
    settings = {"strength": 0.6, "prompt": "rain", "seed": 3, "sampling": {"*": {"steps": 4}}}
    data = {"settings": json.dumps(settings)}
    found = sound(denoising.client.post(VARIATIONS, files=upload(), data=data))
    few = replace(tiny_stage().sampling, steps=4)
    kept = as_16_bits(HUM)
    made = diffusion.vary((kept, RATE), strength=0.6, text="rain", seed=3, sampling=few)
    assert torch.equal(found, as_16_bits(made.samples))
    body = {"prompt": "rain", "duration": 0.03, "seed": 3, "loop": True}
    loop = diffusion.generate("rain", duration=0.03, seed=3, loop=True)
    found = sound(denoising.client.post(GENERATIONS, json=body))
    assert torch.equal(found, as_16_bits(loop.samples))


def test_a_variation_comes_as_events(denoising: Served, diffusion: AudioPipeline) -> None:
    settings = {"strength": 0.6, "prompt": "rain", "seed": 3, "stream_format": "sse"}
    data = {"settings": json.dumps(settings)}
    events = events_of(denoising.client.post(VARIATIONS, files=upload(), data=data))
    clip = diffusion.vary((as_16_bits(HUM), RATE), strength=0.6, text="rain", seed=3)
    assert sound_of(events)[0] == pcm16(clip.samples)
    assert events[0]["type"] == "audio.accepted"
    done = events[-1]
    assert (done["type"], done["seed"], done["duration"]) == ("audio.done", 3, 0.1)
    assert done["settings"]["strength"] == 0.6
    assert done["settings"]["audio"] == "hum.wav"
    wrong = {"settings": json.dumps(settings | {"response_format": "mp3"})}
    answer = denoising.client.post(VARIATIONS, files=upload(), data=wrong)
    assert answer.status_code == 400
    assert "Server-sent events contain pcm" in answer.json()["error"]["message"]


def test_the_description_of_a_model_names_what_it_can_do(denoising: Served, shared: Served) -> None:
    able = [x.client.get("/v1/models").json()["data"][0]["abilities"] for x in (denoising, shared)]
    assert {"vary", "loop", "continue", "inpaint", "story"} <= set(able[0])
    assert not {"vary", "loop"} & set(able[1])


def test_what_a_model_of_tokens_cannot_do_is_a_client_error(shared: Served) -> None:
    answer = shared.client.post(GENERATIONS, json={"prompt": "rain", "loop": True})
    assert answer.status_code == 400
    assert "This model cannot make loops." in answer.json()["error"]["message"]
    answer = shared.client.post(VARIATIONS, files=upload())
    assert answer.status_code == 400
    assert "This model cannot vary audio." in answer.json()["error"]["message"]
    for strength in (0, 1.5, "much"):
        data = {"settings": json.dumps({"strength": strength})}
        assert shared.client.post(VARIATIONS, files=upload(), data=data).status_code == 400
