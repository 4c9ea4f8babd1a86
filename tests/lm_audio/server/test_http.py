"""The server as clients see it: responses equal what the pipeline generates for them alone."""

import base64
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
import torch
from torch import Tensor

from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.wav_stream import pcm16
from lm_audio.generation.clip_job import ClipJob
from lm_audio.origin import command, read_origin
from lm_audio.pipeline import AudioPipeline
from lm_audio.server.guard import Limits

WAIT = 60.0
GENERATIONS = "/v1/audio/generations"


def samples_of(answer: dict[str, Any]) -> Tensor:
    return read_audio(io.BytesIO(base64.b64decode(answer["b64_audio"]))).samples


def as_16_bits(samples: Tensor) -> Tensor:
    return (samples * 2**15).round().clamp(-(2**15), 2**15 - 1) / 2**15


def until(true: Any) -> None:
    end = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def wav_upload(samples: Tensor, rate: int) -> bytes:
    file = io.BytesIO()
    write_audio(file, samples, rate, format="wav")
    return file.getvalue()


def test_the_openai_client_works(served: Any, model: AudioPipeline) -> None:
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
    assert [each.id for each in client.models.list()] == ["tiny"]
    more = {"seed": 7, "duration": 0.3}
    expected = model.generate("rain", duration=0.3, seed=7).samples
    for form in ("wav", "flac", "opus", "mp3", "pcm"):
        spoken = client.audio.speech.create(
            model="tiny", voice="default", input="rain", response_format=form, extra_body=more
        )
        if form == "pcm":
            assert spoken.content == pcm16(expected)
            continue
        read = read_audio(io.BytesIO(spoken.content))
        assert abs(read.samples.shape[1] / read.sample_rate - 0.3) < 0.08
        if form == "flac":
            assert torch.equal(read.samples, as_16_bits(expected))


def test_a_stream_equals_the_clip_and_arrives_in_pieces(served: Any, model: AudioPipeline) -> None:
    body = {"prompt": "rain", "duration": 2.0, "seed": 3, "stream": True, "response_format": "pcm"}
    with served.client.stream("POST", GENERATIONS, json=body) as answer:
        assert answer.headers["x-seed"] == "3"
        pieces = [piece for piece in answer.iter_raw() if piece]
    assert len(pieces) > 1
    assert b"".join(pieces) == pcm16(model.generate("rain", duration=2.0, seed=3).samples)
    wav = served.client.post(GENERATIONS, json={**body, "response_format": "wav"}).content
    assert wav[:4] == b"RIFF"
    assert wav[44:] == b"".join(pieces)


@pytest.mark.parametrize("form", ["flac", "mp3"])
def test_files_name_the_command_that_makes_them_again(
    form: str, shared: Any, model: AudioPipeline
) -> None:
    body = {"input": "rain", "duration": 0.3, "seed": 7, "negative": "a dog"}
    spoken = shared.client.post("/v1/audio/speech", json={**body, "response_format": form})
    made = read_origin(io.BytesIO(spoken.content))
    assert command(made) == (
        "lm-audio generate rain --seed 7 --duration 0.3 --negative 'a dog' --model tiny "
        "--device cpu"
    )
    upload = wav_upload(torch.zeros(1, 2_400), model.sample_rate)
    span = {"start": 0.0, "end": 0.05}
    for route, given in (("continuations", {"duration": 0.1}), ("inpaintings", span)):
        answer = shared.client.post(
            f"/v1/audio/{route}",
            files={"file": ("my rain.wav", upload)},
            data={"settings": json.dumps({"seed": 3, **given})},
        ).json()
        made = read_origin(io.BytesIO(base64.b64decode(answer["data"][0]["b64_audio"])))
        assert (made["audio"], made["model"], made["seed"]) == ("my rain.wav", "tiny", 3)


def test_parallel_clients_get_what_they_get_alone(served: Any, model: AudioPipeline) -> None:
    bodies: list[dict[str, Any]] = [
        {"prompt": ("rain", "a dog")[n % 2], "duration": 0.1 + 0.1 * n, "seed": n} for n in range(8)
    ]
    bodies[3] |= {"sampling": {"*": {"guidance_scale": 2.5, "temperature": 0.7}}}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda b: served.client.post(GENERATIONS, json=b).json(), bodies))
    for body, answer in zip(bodies, answers, strict=True):
        settings = {}
        if "sampling" in body:
            own = model.stages["acoustic"].sampling
            settings["sampling"] = type(own)(
                **{**vars(own), "guidance_scale": 2.5, "temperature": 0.7}
            )
        alone = model.generate(
            body["prompt"], duration=body["duration"], seed=body["seed"], **settings
        )
        (clip,) = answer["data"]
        assert clip["seed"] == body["seed"]
        assert torch.equal(samples_of(clip), as_16_bits(alone.samples))


def test_several_clips_have_consecutive_seeds(served: Any, model: AudioPipeline) -> None:
    body = {"prompt": None, "n": 3, "seed": 5, "duration": 0.2, "response_format": "flac"}
    answer = served.client.post(GENERATIONS, json=body).json()
    assert [clip["seed"] for clip in answer["data"]] == [5, 6, 7]
    expected = model.generate(None, duration=0.2, seed=6).samples
    assert torch.equal(samples_of(answer["data"][1]), as_16_bits(expected))


def test_an_upload_is_continued(served: Any, model: AudioPipeline) -> None:
    prompt = as_16_bits(model.generate("a dog", duration=0.3, seed=1).samples.clamp(-1, 1))
    upload = {"file": ("../../etc/passwd", wav_upload(prompt, 24_000))}
    settings = {"duration": 0.2, "seed": 4, "prompt": "rain"}
    answer = served.client.post(
        "/v1/audio/continuations", files=upload, data={"settings": json.dumps(settings)}
    )
    assert answer.status_code == 200, answer.text
    alone = model.continue_from((prompt, 24_000), duration=0.2, text="rain", seed=4)
    (clip,) = answer.json()["data"]
    assert torch.equal(samples_of(clip), as_16_bits(alone.samples))


INPAINTINGS = "/v1/audio/inpaintings"


def test_a_span_of_an_upload_is_inpainted(served: Any, model: AudioPipeline) -> None:
    sound = as_16_bits(model.generate("a dog", duration=0.5, seed=1).samples.clamp(-1, 1))
    upload = {"file": ("a.wav", wav_upload(sound, 24_000))}
    span = {"start": 0.1, "end": 0.3}
    settings = {**span, "seed": 4, "prompt": "rain", "candidates": 2, "response_format": "flac"}
    answer = served.client.post(INPAINTINGS, files=upload, data={"settings": json.dumps(settings)})
    assert answer.status_code == 200, answer.text
    alone = model.inpaint((sound, 24_000), **span, text="rain", seed=4, num_candidates=2)
    (clip,) = answer.json()["data"]
    assert torch.equal(samples_of(clip), as_16_bits(alone.samples))
    assert clip["seed"] == 4


def test_an_inpainting_is_cancelled_when_its_client_disconnects(serve: Any) -> None:
    served = serve(max_queue=1)
    upload = {"file": wav_upload(0.1 * torch.ones(1, 24_000 * 60), 24_000)}
    data = {"settings": json.dumps({"start": 1, "end": 59, "candidates": 16})}

    def num_open() -> float:
        lines = served.client.get("/metrics").text.splitlines()
        return float(next(x for x in lines if x.startswith("lm_audio_inpaintings ")).split()[1])

    with pytest.raises(httpx.ReadTimeout):
        served.client.post(INPAINTINGS, files=upload, data=data, timeout=1)
    until(lambda: num_open() == 0)


@pytest.mark.parametrize(
    "settings",
    ["{}", '{"start": 1, "end": 0.5}', '{"start": 0, "end": 9}', '{"start": -1, "end": 1}',
     '{"start": NaN, "end": 1}', '{"start": 0, "end": 0.5, "candidates": 0}',
     '{"start": 0, "end": 0.5, "stream": true}', '{"start": 0, "end": 1e300}'],
)  # fmt: skip
def test_spans_are_checked(shared: Any, settings: str) -> None:
    files = {"file": wav_upload(0.1 * torch.ones(1, 8_000), 8_000)}
    complain(shared.client.post(INPAINTINGS, files=files, data={"settings": settings}))


def test_disconnected_clients_free_their_slot(served: Any) -> None:
    body = {"prompt": "rain", "duration": 100, "stream": True, "response_format": "pcm"}
    with served.client.stream("POST", GENERATIONS, json=body) as answer:
        next(answer.iter_raw())
        until(lambda: served.engine.num_running == 1)
    until(lambda: served.engine.num_running == 0)
    impatient = {**body, "stream": False}
    with pytest.raises(httpx.ReadTimeout):
        served.client.post(GENERATIONS, json=impatient, timeout=0.5)
    until(lambda: served.engine.num_running == 0)


def test_a_full_queue_is_429_with_retry_after(serve: Any) -> None:
    served = serve(max_batch_size=1, max_queue=1)
    body = {"prompt": "rain", "duration": 100}
    threads = [
        threading.Thread(target=lambda: served.client.post(GENERATIONS, json=body))
        for _ in range(2)
    ]
    for count, thread in enumerate(threads, start=1):
        thread.start()
        until(lambda: served.engine.num_running + served.engine.num_queued == count)  # noqa: B023
    answer = served.client.post(GENERATIONS, json=body)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0
    assert "The queue is full (1 requests)" in answer.json()["error"]["message"]
    several = served.client.post(GENERATIONS, json={**body, "n": 2})
    assert several.status_code == 429
    served.engine.close(finish=False)
    for thread in threads:
        thread.join(WAIT)
    refused = served.client.post(GENERATIONS, json=body)
    assert refused.status_code == 503
    assert served.client.get("/ready").status_code == 503
    assert served.client.get("/health").status_code == 200


def test_a_request_that_times_out_is_504(serve: Any) -> None:
    served = serve(limits=Limits(timeout=0.3))
    answer = served.client.post(GENERATIONS, json={"prompt": "rain", "duration": 100})
    assert answer.status_code == 504


def test_an_inpainting_that_times_out_is_504(serve: Any) -> None:
    served = serve(limits=Limits(timeout=0.3))
    upload = {"file": wav_upload(0.1 * torch.ones(1, 24_000 * 60), 24_000)}
    data = {"settings": json.dumps({"start": 1, "end": 59, "candidates": 16})}
    answer = served.client.post(INPAINTINGS, files=upload, data=data)
    assert answer.status_code == 504
    message = answer.json()["error"]["message"]
    assert message.startswith("Request timed out after 0.3 s.")


def test_one_failing_clip_of_several_fails_the_request_and_cancels_the_others(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    sound = ClipJob.sound

    def breaks(job: ClipJob) -> Tensor:
        if job.tracks["acoustic"].seed == 13:
            raise RuntimeError("out of luck")
        return sound(job)

    monkeypatch.setattr(ClipJob, "sound", breaks)
    body = {"prompt": "rain", "duration": 1, "seed": 12, "n": 3}
    answer = served.client.post(GENERATIONS, json=body)
    assert answer.status_code == 500
    assert answer.json()["error"] == {
        "message": "Internal server error. See the server log for details.",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }
    until(lambda: served.engine.num_running + served.engine.num_queued == 0)
    assert served.engine.alive


def test_a_small_file_with_long_audio_is_refused(shared: Any) -> None:
    file = io.BytesIO()
    write_audio(file, torch.zeros(1, 8_000 * 700), 8_000, format="flac")
    assert len(file.getvalue()) < 10**6
    answer = shared.client.post("/v1/audio/continuations", files={"file": file.getvalue()})
    assert answer.status_code == 400
    assert "is longer than the maximum of 600 s." in answer.json()["error"]["message"]
    assert answer.json()["error"]["code"] == "audio_too_long"


def test_a_known_key_is_required(serve: Any) -> None:
    served = serve(keys=("one", "two"))
    body = {"prompt": "rain", "duration": 0.1}
    for given in (None, "Bearer three", "Basic one", "Bearer", "Bearer ön"):
        headers = {} if given is None else {"authorization": given.encode()}
        answer = served.client.post(GENERATIONS, json=body, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    for key in ("one", "two"):
        headers = {"authorization": f"Bearer {key}"}
        assert served.client.post(GENERATIONS, json=body, headers=headers).status_code == 200
    assert served.client.get("/health").status_code == 200
    assert served.client.get("/metrics").status_code == 401


def test_metrics_count_responses_and_sound(served: Any) -> None:
    served.client.post(GENERATIONS, json={"prompt": "rain", "duration": 0.5})
    served.client.post(GENERATIONS, json={"prompt": "rain", "duration": -1})
    served.client.get("/nowhere/1")
    text = served.client.get("/metrics").text
    assert 'lm_audio_requests_total{path="/v1/audio/generations",status="200"} 1.0' in text
    assert 'lm_audio_requests_total{path="/v1/audio/generations",status="400"} 1.0' in text
    assert 'lm_audio_requests_total{path="other",status="404"} 1.0' in text
    assert "lm_audio_sound_seconds_total 0.5" in text
    assert "lm_audio_first_sound_seconds_count 1.0" in text
    assert "lm_audio_working 0.0" in text


BAD_BODIES: list[Any] = [
    None, [], 3, "rain", {"prompt": 5}, {"prompt": ["rain"]}, {"prompt": "x" * 5_000},
    {"prompt": "wind"}, {"prompt": "rain", "durations": 3}, {"duration": 0}, {"duration": -1},
    {"duration": 1e9}, {"duration": "5"}, {"duration": None}, {"duration": True}, {"seed": -1},
    {"seed": 2**70}, {"seed": 1.5}, {"seed": "1"}, {"n": 0}, {"n": 17}, {"n": 1.5},
    {"n": 2, "stream": True}, {"response_format": "m4a"}, {"response_format": 1},
    {"stream": "yes"}, {"model": "other"}, {"model": 1}, {"negative": 3},
    {"conditions": {"voice": "me"}}, {"conditions": {"pitch": "high"}}, {"conditions": []},
    {"conditions": {"text": "rain"}}, {"conditions": {"pitch": [1]}},
    {"sampling": {"temperature": 1}}, {"sampling": {"semantic": {}}},
    {"sampling": {"*": {"temperature": -1}}}, {"sampling": {"*": {"temperature": 11}}},
    {"sampling": {"*": {"top_p": 1.5}}}, {"sampling": {"*": {"top_k": 0.5}}},
    {"sampling": {"*": {"min_p": -0.1}}}, {"sampling": {"*": {"heat": 1}}},
    {"sampling": {"*": {"guidance_scale": "3"}}}, {"sampling": {"*": {"repetition_penalty": 0}}},
    {"sampling": {"*": None}}, {"sampling": 5}, {"sampling": {"*": {"steps": 5}}},
]  # fmt: skip


@pytest.mark.parametrize("body", BAD_BODIES, ids=[str(n) for n in range(len(BAD_BODIES))])
def test_an_invalid_body_gets_one_line(shared: Any, body: Any) -> None:
    complain(shared.client.post(GENERATIONS, json=body))


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"\xff\xfe", b'{"duration": NaN}', b'{"duration": Infinity}',
        b'{"duration": 1e999}', b"[" * 100_000, b'{"prompt": "\\ud800"}', b"null",
        b'{"seed": 1' + b"0" * 5_000 + b"}", json.dumps({"prompt": "x" * 10**6}).encode(),
    ],
    ids=range(11),
)  # fmt: skip
def test_malformed_json_gets_one_line(shared: Any, raw: bytes) -> None:
    headers = {"content-type": "application/json"}
    complain(shared.client.post(GENERATIONS, content=raw, headers=headers))


@pytest.mark.parametrize(
    "upload",
    [
        b"", b"RIFF", b"no sound at all" * 100, wav_upload(torch.zeros(1, 8_000), 8_000)[:40],
        b"\x00" * 5_000, b"fLaC\xff",
    ],
    ids=range(6),
)  # fmt: skip
def test_an_upload_that_is_not_audio_gets_one_line(shared: Any, upload: bytes) -> None:
    complain(shared.client.post("/v1/audio/continuations", files={"file": ("a.wav", upload)}))


@pytest.mark.parametrize(
    "settings", ["{", "[]", '{"duration": -1}', '{"n": 2}', '{"heat": 1}', "x" * 30_000]
)
def test_settings_of_an_upload_are_checked(shared: Any, settings: str) -> None:
    files = {"file": ("a.wav", wav_upload(0.1 * torch.ones(1, 8_000), 8_000))}
    data = {"settings": settings}
    complain(shared.client.post("/v1/audio/continuations", files=files, data=data))


def test_a_body_beyond_the_limit_is_413(serve: Any) -> None:
    served = serve(limits=Limits(max_upload=10_000))
    begin = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    parts = [begin, *(bytes(1_000) for _ in range(20))]
    for content in (b"".join(parts), iter(parts)):  # with a length, and without
        headers = {"content-type": "multipart/form-data; boundary=x"}
        answer = served.client.post("/v1/audio/continuations", content=content, headers=headers)
        assert answer.status_code == 413
        assert "The maximum is 10,000 bytes." in answer.json()["error"]["message"]
    assert served.client.get("/health").status_code == 200


def test_line_breaks_in_field_names_stay_out_of_messages(shared: Any) -> None:
    body = {"sampling": {"a\nb": {"top_k": "many"}}}
    complain(shared.client.post(GENERATIONS, json=body))


def complain(answer: Any) -> None:
    assert 400 <= answer.status_code < 500, answer.text
    message = answer.json()["error"]["message"]
    assert message
    assert "\n" not in message
    assert len(message) < 400
