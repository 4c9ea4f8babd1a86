"""A drop-in for OpenAI's speech API and for vLLM-Omni's: what their clients send is accepted."""

import base64
import io
import json
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
import torch

from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.wav_stream import pcm16
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Sampling
from lm_audio.server.wire import AudioGenerateBody

SPEECH = "/v1/audio/speech"
GENERATE = "/v1/audio/generate"
SHORT = {"seed": 7, "duration": 0.3}

# What public apps send by default to an OpenAI-compatible speech server, read in their sources.
APPS: dict[str, dict[str, Any]] = {
    # backend/open_webui/routers/audio.py, POST /speech: the page's input and voice, and TTS_MODEL.
    "Open WebUI": {"input": "rain", "voice": "alloy", "model": "tts-1"},
    # api/server/services/Files/Audio/TTSService.js, openAIProvider: `backend` where it is set.
    "LibreChat": {"input": "rain", "model": "tts-1-hd", "voice": "nova", "backend": "piper"},
    # public/scripts/extensions/tts/openai-compatible.js; its default address is
    # http://127.0.0.1:8000/v1/audio/speech.
    "SillyTavern": {
        "model": "tts-1", "input": "rain", "voice": "alloy", "response_format": "mp3", "speed": 1,
    },
    # custom_components/openai_tts/openaitts_engine.py of sfortis/openai_tts.
    "Home Assistant": {
        "model": "tts-1", "input": "rain", "voice": "shimmer", "response_format": "wav", "speed": 1,
    },
    # server/utils/TextToSpeech/openAiGeneric/index.js, through OpenAI's JavaScript client.
    "AnythingLLM": {"model": "tts-1", "voice": "alloy", "input": "rain"},
    # models/openai/models/tts/tts.py of dify-official-plugins.
    "Dify": {"model": "tts-1", "response_format": "mp3", "input": "rain", "voice": "alloy"},
}  # fmt: skip


@pytest.fixture
def client(shared: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{shared.url}/v1", api_key="none", max_retries=0)


def ignored(answer: Any) -> set[str]:
    named = answer.headers.get("x-ignored-fields", "")
    return set(named.split(", ")) if named else set()


@pytest.mark.parametrize("app", APPS)
def test_what_public_apps_send_is_answered_with_sound(shared: Any, app: str) -> None:
    answer = shared.client.post(SPEECH, json=APPS[app] | SHORT)
    assert answer.status_code == 200, answer.text
    kind = "audio/wav" if APPS[app].get("response_format") == "wav" else "audio/mpeg"
    assert answer.headers["content-type"] == kind
    read = read_audio(io.BytesIO(_with_length(answer.content)))
    assert abs(read.samples.shape[1] / read.sample_rate - 0.3) < 0.08
    assert ignored(answer) == {"voice"} | ({"backend"} if app == "LibreChat" else set())


def _with_length(content: bytes) -> bytes:
    """A streamed WAV does not know its length; readers that insist on one get it here."""
    if content[:4] != b"RIFF":
        return content
    size = len(content)
    return (
        b"RIFF"
        + (size - 8).to_bytes(4, "little")
        + content[8:40]
        + (size - 44).to_bytes(4, "little")
        + content[44:]
    )


def test_dify_streams_what_the_openai_client_yields(client: openai.OpenAI) -> None:
    with client.audio.speech.with_streaming_response.create(
        **APPS["Dify"], extra_body=SHORT
    ) as response:
        sound = b"".join(response.iter_bytes(1024))
    assert sound == client.audio.speech.create(**APPS["AnythingLLM"], extra_body=SHORT).content


@pytest.mark.parametrize(
    "name",
    ["tts-1", "tts-1-hd", "tts-1-1106", "gpt-4o-mini-tts", "gpt-4o-mini-tts-2025-12-15", "tiny"],
)
def test_openai_models_are_the_served_one(client: openai.OpenAI, name: str) -> None:
    before = time.time()
    model = client.models.retrieve(name)
    assert (model.id, model.object) == (name, "model")
    assert before - 3600 < model.created <= before
    spoken = client.audio.speech.create(model=name, voice="coral", input="rain", extra_body=SHORT)
    assert spoken.content


def test_another_model_is_not_found(client: openai.OpenAI) -> None:
    for call in (
        lambda: client.models.retrieve("gpt-4o"),
        lambda: client.audio.speech.create(model="gpt-4o", voice="alloy", input="rain"),
    ):
        with pytest.raises(openai.NotFoundError, match="Unknown model 'gpt-4o'") as caught:
            call()
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_fields_without_effect_are_named_and_change_nothing(
    client: openai.OpenAI, model: AudioPipeline
) -> None:
    spoken = client.audio.speech.with_raw_response.create(
        model="gpt-4o-mini-tts",
        voice={"id": "voice_1234"},
        input="rain",
        instructions="Speak calmly.",
        response_format="pcm",
        speed=0.25,
        stream_format="audio",
        extra_body={**SHORT, "stream": True, "language": "English", "a\nb": 1},
    )
    assert ignored(spoken) == {"voice", "instructions", "speed", "language", "a%0Ab"}
    expected = model.generate("rain", duration=0.3, seed=7).samples
    assert spoken.content == pcm16(expected)


def test_absent_and_null_fields_are_not_named(shared: Any) -> None:
    nothing = dict.fromkeys(["voice", "instructions", "speed", "stream_format", "stream", "model"])
    answer = shared.client.post(SPEECH, json={"input": "rain", "voice": "default", **SHORT})
    null = shared.client.post(SPEECH, json={"input": "rain", **nothing, **SHORT, "speed": "1"})
    assert answer.status_code == null.status_code == 200
    assert answer.content == null.content
    assert ignored(answer) == ignored(null) == set()


@pytest.mark.parametrize(
    ("wrong", "code", "param"),
    [
        ({"input": ""}, "string_below_min_length", "input"),
        ({"input": " \n"}, "invalid_value", "input"),
        ({"input": None}, "invalid_type", "input"),
        ({"input": "x" * 4097}, "string_above_max_length", "input"),
        ({"speed": 0.2}, "invalid_value", "speed"),
        ({"speed": 4.5}, "invalid_value", "speed"),
        ({"response_format": "m4a"}, "invalid_value", "response_format"),
        ({"stream_format": "json"}, "invalid_value", "stream_format"),
        ({"duration": 1e6}, "invalid_value", None),
    ],
)
def test_wrong_fields_have_a_code_and_a_param(
    shared: Any, wrong: dict[str, Any], code: str, param: str | None
) -> None:
    answer = shared.client.post(SPEECH, json={"input": "rain", **SHORT, **wrong})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert error["type"] == "invalid_request_error"


def test_missing_input_and_bad_json_have_different_codes(shared: Any) -> None:
    missing = shared.client.post(SPEECH, json={"voice": "alloy"}).json()["error"]
    assert (missing["code"], missing["param"]) == ("missing_required_parameter", "input")
    assert missing["message"] == "Missing field 'input'."
    headers = {"content-type": "application/json"}
    broken = shared.client.post(SPEECH, content="{input:", headers=headers)
    assert broken.status_code == 400
    assert broken.json()["error"] == {
        "message": "The body is not valid JSON.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_json",
    }


def test_a_wrong_key_and_a_wrong_path_have_codes(serve: Any) -> None:
    served = serve(keys=("secret",))
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as caught:
        client.models.list()
    assert caught.value.code == "invalid_api_key"
    nowhere = served.client.get("/v1/chat/completions").json()["error"]
    assert nowhere["code"] == "unknown_url"
    assert nowhere["message"] == "Not Found: GET /v1/chat/completions. See /docs for all routes."


def test_a_strict_server_refuses_what_has_no_effect(serve: Any) -> None:
    served = serve(strict=True)
    for wrong in ({"voice": "alloy"}, {"speed": 2}, {"instructions": "calm"}, {"language": "en"}):
        answer = served.client.post(SPEECH, json={"input": "rain", **SHORT, **wrong})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["message"].startswith(f"No effect on this model: {next(iter(wrong))}.")
        assert error["code"] == "unsupported_parameter"
    assert served.client.post(SPEECH, json={"input": "rain", **SHORT}).status_code == 200


def events(text: str) -> list[dict[str, Any]]:
    found = re.findall(r"event: (\S+)\ndata: (.+)\n\n", text)
    for name, data in found:
        assert json.loads(data)["type"] == name
    return [json.loads(data) for _, data in found]


@pytest.mark.parametrize("form", ["pcm", "flac"])
def test_server_sent_events_carry_the_same_sound(
    client: openai.OpenAI, model: AudioPipeline, form: Any
) -> None:
    more = {"seed": 7, "duration": 1.5}
    with client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts",
        voice="alloy",
        input="rain",
        response_format=form,
        stream_format="sse",
        extra_body=more,
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        found = events("".join(response.iter_text()))
    *deltas, done = found
    assert {delta["type"] for delta in deltas} == {"speech.audio.delta"}
    sound = b"".join(base64.b64decode(delta["audio"]) for delta in deltas)
    clip = model.generate("rain", duration=1.5, seed=7)
    if form == "pcm":
        assert len(deltas) > 1
        assert sound == pcm16(clip.samples)
    else:
        expected = (clip.samples * 2**15).round() / 2**15
        assert torch.equal(read_audio(io.BytesIO(sound)).samples, expected)
    assert clip.tokens is not None
    tokens = clip.tokens.numel()
    usage = {"input_tokens": 1, "output_tokens": tokens, "total_tokens": tokens + 1}
    assert done == {"type": "speech.audio.done", "usage": usage}


def test_an_error_after_the_first_event_is_an_event(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_audio.generation.clip_job import ClipJob

    served, sound = serve(), ClipJob.sound

    def breaks(job: ClipJob) -> Any:
        if job.progress > 0.5:
            raise RuntimeError("a secret of the server")
        return sound(job)

    monkeypatch.setattr(ClipJob, "sound", breaks)
    body = {"input": "rain", "duration": 3, "response_format": "pcm", "stream_format": "sse"}
    *deltas, last = events(served.client.post(SPEECH, json=body).text)
    assert deltas
    assert last["type"] == "speech.audio.error"
    assert last["error"]["code"] == "internal_error"
    assert "secret" not in last["error"]["message"]


def test_aac_without_ffmpeg_is_refused_in_one_sentence(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    message = "response_format 'aac' needs ffmpeg, which is not installed on the server"
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.audio.speech.create(
            model="tts-1", voice="alloy", input="rain", response_format="aac"
        )
    assert caught.value.param == "response_format"


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_aac_is_written_by_ffmpeg(client: openai.OpenAI) -> None:
    spoken = client.audio.speech.create(
        model="tts-1", voice="alloy", input="rain", response_format="aac", extra_body=SHORT
    )
    assert spoken.response.headers["content-type"] == "audio/aac"
    assert spoken.content[0] == 0xFF  # the sync word of an ADTS frame
    assert spoken.content[1] & 0xF6 == 0xF0


def test_vllm_omni_requests_give_the_sound(shared: Any, model: AudioPipeline) -> None:
    """The fields of its "Full Control" example, docs/serving/audio_generate_api.md."""
    body = {
        "input": "rain", "audio_length": 0.3, "negative_prompt": "a dog", "guidance_scale": 7.0,
        "num_inference_steps": 100, "seed": 42, "audio_start": 0.0, "response_format": "pcm",
    }  # fmt: skip
    answer = shared.client.post(GENERATE, json=body)
    assert answer.status_code == 200, answer.text
    own = model.stages["acoustic"].sampling
    expected = model.generate(
        "rain",
        duration=0.3,
        negative="a dog",
        seed=42,
        sampling=type(own)(**{**vars(own), "guidance_scale": 7.0}),
    )
    assert answer.content == pcm16(expected.samples)
    assert ignored(answer) == {"num_inference_steps"}
    wav = shared.client.post(GENERATE, json={"input": "rain", "audio_length": 0.3, "speed": 1.0})
    assert wav.headers["content-type"] == "audio/wav"
    assert ignored(wav) == set()


def test_inference_steps_go_to_the_stages_that_take_them() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Denoising:
        steps: int = 20
        guidance_scale: float = 3.5

    stages: Any = {
        "semantic": SimpleNamespace(name="semantic", sampling=Sampling()),
        "latent": SimpleNamespace(name="latent", sampling=Denoising()),
    }
    body = AudioGenerateBody(input="rain", num_inference_steps=50)
    assert body.without_effect(stages) == []
    assert body.generation(stages).sampling_of(stages) == {"latent": Denoising(steps=50)}
    del stages["latent"]
    assert body.without_effect(stages) == ["num_inference_steps"]
    assert body.generation(stages).sampling_of(stages) is None


def test_vllm_omni_requests_are_checked(shared: Any) -> None:
    for wrong in (
        {"input": ""},
        {},
        {"input": "rain", "audio_length": -1},
        {"input": "rain", "seed": -1},
    ):
        assert shared.client.post(GENERATE, json=wrong).status_code == 400


def test_a_model_without_voices_has_a_default_one(shared: Any) -> None:
    voices = shared.client.get("/v1/audio/voices").json()
    assert voices == {"voices": ["default"], "uploaded_voices": []}


def test_browsers_of_an_allowed_origin_may_call(serve: Any) -> None:
    served = serve(cors=("https://example.org",))
    asks = {
        "origin": "https://example.org",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    preflight = served.client.options(SPEECH, headers=asks)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://example.org"
    answer = served.client.post(SPEECH, json={"input": "rain", **SHORT}, headers=asks)
    assert answer.headers["access-control-allow-origin"] == "https://example.org"
    assert "x-ignored-fields" in answer.headers["access-control-expose-headers"].lower()
    other = served.client.options(SPEECH, headers={**asks, "origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


def test_without_cors_no_origin_is_allowed(shared: Any) -> None:
    asks = {"origin": "https://example.org", "access-control-request-method": "POST"}
    preflight = shared.client.options(SPEECH, headers=asks)
    assert "access-control-allow-origin" not in preflight.headers


def test_the_documentation_page_works_offline(shared: Any) -> None:
    page = shared.client.get("/docs")
    assert page.status_code == 200
    assert not re.search(r"https?://", page.text), "the page loads something from another host"
    files = re.findall(r"(?:src|href)=\"(/[^\"]+)\"", page.text)
    assert {file.rsplit(".", 1)[1] for file in files} >= {"js", "css"}
    for file in files:
        assert shared.client.get(file).status_code == 200
    assert "'/openapi.json'" in page.text


def test_the_root_and_v1_link_to_everything(shared: Any) -> None:
    root = shared.client.get("/").json()
    assert root == shared.client.get("/v1").json()
    assert root["model"] == "tiny"
    paths = {path for path in root.values() if path.startswith("/")}
    other = {path: 405 for path in paths if path.startswith("/v1/audio/") and "voices" not in path}
    other["/v1/audio/stream"] = 404  # a WebSocket; the others take POST
    found = {path: shared.client.get(path).status_code for path in paths}
    assert found == {path: other.get(path, 200) for path in paths}
    assert len(paths) == 12


def test_the_code_of_the_documentation_runs(
    shared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document = (Path(__file__).parents[3] / "docs/serving.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", document, re.DOTALL))
    host = shared.url.removeprefix("http://")
    for old, new in {
        "127.0.0.1:8000": host,
        "rain on a roof": "rain",
        "a thunderstorm": "a dog",
        '"duration": 5': '"duration": 0.3',
        '"duration": 20': '"duration": 3, "window": 0.5, "ahead": 60',
    }.items():
        assert old in code
        code = code.replace(old, new)
    exec(compile(code, "docs/serving.md", "exec"), {})
    assert (tmp_path / "rain.wav").stat().st_size == 44 + 2 * 7_200
    assert (tmp_path / "live.pcm").stat().st_size == 2 * 3 * 24_000


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/audio/speech", {"input": "rain"}),
        ("/v1/audio/generate", {"input": "rain", "audio_length": 0.2}),
        ("/v1/audio/generations", {"prompt": "rain", "duration": 0.2, "stream": True}),
    ],
)
def test_a_header_says_that_a_prompt_is_unlike_those_of_training(
    shared: Any, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    body = {"duration": 0.2, **body} if path.endswith("speech") else body
    assert "x-notice" not in shared.client.post(path, json=body).headers
    unknown = "Not trained on 'jazz'; it knows café, rain."
    monkeypatch.setattr(type(shared.engine.pipeline), "notice", lambda *_: unknown)
    answer = shared.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    headers = answer.headers
    assert headers["x-notice"] == "Not trained on 'jazz'; it knows caf%C3%A9, rain."


def test_a_field_without_a_name_fits_into_the_header(shared: Any) -> None:
    body = {"": 1, "input": "rain", "audio_length": 0.1, "speed": 0.5}
    answer = shared.client.post("/v1/audio/generate", json=body)
    assert answer.status_code == 200
    assert answer.headers["x-ignored-fields"] == 'speed, ""'
