"""The live stream: windows that continue each other, new prompts, back-pressure and limits."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection, connect

from audio_tokenizers.wav_stream import pcm16
from lm_audio.pipeline import AudioPipeline
from lm_audio.server.guard import Limits
from lm_audio.server.live import CONTEXT_SECONDS

WAIT = 60.0
SOON = {"window": 0.5, "ahead": 600, "seed": 7}  # as fast as the machine can


@contextmanager
def live(served: Any, **settings: Any) -> Iterator[ClientConnection]:
    address = served.url.replace("http", "ws") + "/v1/audio/stream"
    with connect(address, proxy=None, **settings) as connection:
        yield connection


def say(socket: ClientConnection, **message: Any) -> None:
    socket.send(json.dumps(message))


def frames(socket: ClientConnection) -> Iterator[dict[str, Any] | bytes]:
    """All that comes until the server closes."""
    try:
        while True:
            got = socket.recv(timeout=WAIT)
            yield got if isinstance(got, bytes) else json.loads(got)
    except ConnectionClosed:
        return


def chain(model: AudioPipeline, prompts: list[str], *, window: float, seed: int) -> Tensor:
    """The same windows by the pipeline alone: samples [C, N]."""
    first, *others = prompts
    sound = model.generate(first, duration=window, seed=seed).samples
    for number, prompt in enumerate(others, start=1):
        past = sound[:, -round(CONTEXT_SECONDS * model.sample_rate) :]
        longer = model.continue_from(
            (past, model.sample_rate), duration=window, text=prompt, seed=seed + number
        )
        sound = torch.cat([sound, longer.samples[:, past.shape[1] :]], dim=1)
    return sound


def metric(served: Any, name: str) -> float:
    lines = served.client.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(name)).split()[1])


def streams(served: Any) -> float:
    return metric(served, "lm_audio_streams")


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_windows_are_a_chain_of_continuations(served: Any, model: AudioPipeline) -> None:
    with live(served) as socket:
        say(socket, prompt="rain", duration=2.0, **SOON)
        started, *rest = frames(socket)
        assert socket.protocol.close_code == 1000
    assert started == {
        "type": "started", "model": "tiny", "format": "pcm16", "sample_rate": 24_000,
        "num_channels": 1, "seed": 7,
    }  # fmt: skip
    texts = [frame for frame in rest if isinstance(frame, dict)]
    assert texts.pop() == {"type": "done", "reason": "duration", "duration": 2.0}
    assert texts == [
        {"type": "window", "index": n, "start": 0.5 * n, "prompt": "rain", "seed": 7 + n}
        for n in range(4)
    ]
    sound = b"".join(frame for frame in rest if isinstance(frame, bytes))
    assert sound == pcm16(chain(model, ["rain"] * 4, window=0.5, seed=7))
    assert metric(served, "lm_audio_sound_seconds_total") == 2.0  # each second is counted once


def test_a_new_prompt_takes_effect_from_the_next_window_on(
    served: Any, model: AudioPipeline
) -> None:
    prompts, sound = [], b""
    with live(served) as socket:
        say(socket, prompt="rain", duration=2.5, **SOON)
        for frame in frames(socket):
            if isinstance(frame, bytes):
                sound += frame
            elif frame["type"] == "window":
                prompts.append(frame["prompt"])
                if len(prompts) == 2:
                    say(socket, prompt="a dog")
    changed = prompts.index("a dog")
    assert changed in (2, 3)  # the window that was on its way is finished first
    assert prompts == ["rain"] * changed + ["a dog"] * (5 - changed)
    assert sound == pcm16(chain(model, prompts, window=0.5, seed=7))


def test_it_goes_on_until_stop(served: Any) -> None:
    with live(served) as socket:
        say(socket, prompt="rain", window=0.5, ahead=600)
        for frame in frames(socket):
            if isinstance(frame, dict) and frame.get("index") == 3:
                say(socket, type="stop")
            last = frame
    assert isinstance(last, dict)
    assert (last["type"], last["reason"]) == ("done", "stopped")
    assert last["duration"] >= 1.5
    until(lambda: served.engine.num_running == 0)


def test_windows_are_made_only_so_far_ahead(served: Any) -> None:
    """A prompt would be heard late if the sound before it were made long before."""
    with live(served) as socket:
        say(socket, prompt="rain", window=0.5, ahead=0.5, duration=600)
        began, seconds = time.monotonic(), 0.0
        while time.monotonic() < began + 2.5:
            frame = socket.recv(timeout=WAIT)
            if isinstance(frame, bytes):
                seconds += len(frame) / 2 / 24_000
                assert seconds <= time.monotonic() - began + 0.5 + 0.5 + 0.3
        assert seconds > 1.5
        say(socket, type="stop")


def test_a_client_that_reads_slowly_gets_all_of_it(served: Any, model: AudioPipeline) -> None:
    with live(served, max_queue=1) as socket:
        say(socket, prompt="rain", duration=1.5, **SOON)
        time.sleep(1.0)
        sound = b"".join(frame for frame in frames(socket) if isinstance(frame, bytes))
    assert sound == pcm16(chain(model, ["rain"] * 3, window=0.5, seed=7))


def test_a_client_that_does_not_read_stops_the_making_and_is_dropped(serve: Any) -> None:
    served = serve(limits=Limits(timeout=3.0), send_buffer=4096)
    port = int(served.url.rsplit(":", 1)[1])
    handshake = [
        "GET /v1/audio/stream HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket",
        "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13", "", "",
    ]  # fmt: skip
    ask = json.dumps({"prompt": "rain", "window": 0.5, "ahead": 3600}).encode()
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect(("127.0.0.1", port))
        silent.sendall("\r\n".join(handshake).encode())
        assert silent.recv(1_000).startswith(b"HTTP/1.1 101")
        silent.sendall(Frame(Opcode.TEXT, ask).serialize(mask=True))
        until(lambda: streams(served) == 1)
        until(lambda: streams(served) == 0)
    until(lambda: served.engine.num_running == 0)
    assert metric(served, "lm_audio_sound_seconds_total") < 10  # what buffers hold


def test_a_client_that_goes_away_frees_its_slot(served: Any) -> None:
    with live(served) as socket:
        say(socket, prompt="rain", window=10, ahead=3600)
        while not isinstance(socket.recv(timeout=WAIT), bytes):
            pass
        assert served.engine.num_running == 1
        assert streams(served) == 1
    until(lambda: served.engine.num_running == 0)
    until(lambda: streams(served) == 0)
    counted = 'lm_audio_requests_total{path="/v1/audio/stream",status="101"} 1.0'
    assert counted in served.client.get("/metrics").text


@pytest.mark.parametrize(
    ("message", "code", "said"),
    [
        ("{", "invalid_json", "The message is not valid JSON."),
        ('{"prompts": "rain"}', "unknown_parameter", "Unknown field 'prompts'."),
        ('{"window": 0.1}', "invalid_value", "window: Input should be"),
        ('{"window": NaN}', "invalid_value", "window: Input should be a finite number"),
        ('{"model": "other"}', "model_not_found", "Unknown model 'other'"),
        ('{"prompt": "wind"}', "invalid_value", "wind"),
        (
            '{"prompt": "rain", "conditions": {"voice": "me"}}',
            "invalid_value",
            "no condition 'voice'",
        ),
        (b"rain", "invalid_message", "Send JSON text messages"),
        ("x" * 70_000, "invalid_message", "at most 65,536 characters"),
    ],
)
def test_a_wrong_first_message_ends_it_with_one_sentence(
    shared: Any, message: str | bytes, code: str, said: str
) -> None:
    with live(shared) as socket:
        socket.send(message)
        (error,) = frames(socket)
        assert socket.protocol.close_code == 1008
    assert isinstance(error, dict)
    assert error["type"] == "error"
    assert error["error"]["code"] == code
    assert said in error["error"]["message"]


def test_a_wrong_message_while_it_plays_changes_nothing(served: Any, model: AudioPipeline) -> None:
    codes, sound = [], b""
    with live(served) as socket:
        say(socket, prompt="rain", duration=2.5, **SOON)
        for frame in frames(socket):
            if isinstance(frame, bytes):
                sound += frame
            elif frame["type"] == "error":
                codes.append(frame["error"]["code"])
            elif frame.get("index") == 0:
                socket.send("{")
                say(socket, prompt="wind")  # the model refuses it when its window begins
    assert codes == ["invalid_json", "invalid_value"]
    assert sound == pcm16(chain(model, ["rain"] * 5, window=0.5, seed=7))


def test_the_server_limits_the_duration(serve: Any) -> None:
    served = serve(limits=Limits(max_stream=1.0))
    with live(served) as socket:
        say(socket, prompt="rain", duration=100, **SOON)
        *_, done = frames(socket)
    assert done == {"type": "done", "reason": "duration", "duration": 1.0}


def test_a_full_queue_refuses_a_new_stream(serve: Any) -> None:
    served = serve(max_batch_size=1, max_queue=0)
    with live(served) as socket:
        say(socket, prompt="rain")
        (_, error) = frames(socket)
        assert socket.protocol.close_code == 1013
    assert error["error"]["code"] == "rate_limit_exceeded"


def test_a_key_is_required_in_a_header_or_a_subprotocol(serve: Any) -> None:
    served = serve(keys=("one", "two"))
    wrong: list[dict[str, Any]] = [
        {},
        {"additional_headers": {"authorization": "Bearer three"}},
        {"subprotocols": ["realtime", "openai-insecure-api-key.three"]},
    ]
    for settings in wrong:
        with live(served, **settings) as socket:
            (error,) = frames(socket)
            assert socket.protocol.close_code == 1008
        assert isinstance(error, dict)
        assert error["error"]["code"] == "invalid_api_key"
    right: list[dict[str, Any]] = [
        {"additional_headers": {"authorization": "Bearer two"}},
        {"subprotocols": ["realtime", "openai-insecure-api-key.one"]},
    ]
    for settings in right:
        with live(served, **settings) as socket:
            say(socket, prompt="rain", duration=0.1, **SOON)
            *_, done = frames(socket)
            assert done["type"] == "done"
            assert socket.subprotocol in (None, "realtime")


def test_pages_of_other_sites_may_not_connect(serve: Any) -> None:
    served = serve(cors=("https://example.org",))
    with live(served, origin="https://evil.example") as socket:
        (error,) = frames(socket)
        assert socket.protocol.close_code == 1008
    assert isinstance(error, dict)
    assert error["error"]["code"] == "origin_not_allowed"
    for origin in ("https://example.org", served.url):
        with live(served, origin=origin) as socket:
            say(socket, type="stop")
            assert list(frames(socket)) == []
