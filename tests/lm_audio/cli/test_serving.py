"""serve and app: they listen, announce themselves, and would then wait for requests."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lm_audio.cli import main
from lm_audio.cli.serving import bind

Fails = Callable[[list[str]], str]


@pytest.fixture
def listened(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The application and the address of each server, which stops once it listens."""
    found: list[dict[str, Any]] = []

    async def stop(server: Any) -> None:
        host, port = server.servers[0].sockets[0].getsockname()
        found.append({"app": server.config.loaded_app, "host": host, "port": port})

    monkeypatch.setattr("uvicorn.Server.main_loop", stop)
    return found


@pytest.fixture
def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


async def status(app: Any, key: str | None) -> int:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        return (await client.get("/v1/models", headers=headers)).status_code


def test_it_listens_locally_and_requires_the_given_keys(
    model_folder: Path,
    tmp_path: Path,
    listened: list[dict[str, Any]],
    free_port: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = ["serve", "--model", str(model_folder), "--device", "cpu"]
    main([*common, "--port", str(free_port)])
    address = f"http://127.0.0.1:{free_port}/v1"
    shown = capsys.readouterr().out
    assert shown == f"Serving {str(model_folder)!r} at {address} (no API key required)\n"
    (tmp_path / "keys").write_text("two\n\nthree\n")
    monkeypatch.setenv("LM_AUDIO_API_KEYS", "one")
    keys = ["--api-keys-file", str(tmp_path / "keys")]
    main([*common, *keys, "--port", "0", "--served-model-name", "mine"])
    shown = capsys.readouterr().out
    plain, keyed = listened
    assert shown == f"Serving 'mine' at http://127.0.0.1:{keyed['port']}/v1 (API key required)\n"
    assert (plain["host"], plain["port"]) == ("127.0.0.1", free_port)
    assert asyncio.run(status(plain["app"], None)) == 200
    found = [asyncio.run(status(keyed["app"], key)) for key in (None, "four", "one", "three")]
    assert found == [401, 401, 200, 200]


def test_a_file_without_keys_is_refused(
    tmp_path: Path, listened: list[dict[str, Any]], fails_with: Fails
) -> None:
    (tmp_path / "keys").write_text("\n")
    keys = ["--api-keys-file", str(tmp_path / "keys")]
    shown = fails_with(["serve", *keys, "--model", "/no/such/model"])
    assert "contains no API keys. Put one on each line." in shown
    missing = ["--api-keys-file", str(tmp_path / "nothing")]
    shown = fails_with(["serve", *missing, "--model", "/no/such/model"])
    assert f"There is no file {tmp_path / 'nothing'} with API keys." in shown
    assert not listened


@pytest.mark.parametrize("verb", ["serve", "app"])
def test_the_port_is_checked_before_the_model_is_loaded(
    verb: str, taken_port: int, listened: list[dict[str, Any]], fails_with: Fails
) -> None:
    common = [verb, "--model", "/no/such/model"]
    shown = fails_with([*common, "--port", str(taken_port)])
    assert shown.startswith(f"lm-audio: Port {taken_port} is already in use; try --port ")
    other = int(shown.rstrip(".\n").rsplit(" ", 1)[1])
    assert taken_port < other <= 65535
    bind("127.0.0.1", other).close()
    for port in ("99999", "-1"):
        shown = fails_with([*common, f"--port={port}"])
        assert f"--port must be from 0 (any free port) to 65535; got {port}." in shown
    shown = fails_with([*common, "--host", "no.such.host.invalid"])
    assert "Unknown host 'no.such.host.invalid'." in shown
    shown = fails_with([*common, "--host", "192.0.2.1", "--port", "0"])
    assert "192.0.2.1 is not an address of this machine; try --host 127.0.0.1." in shown
    assert not listened


def test_limits_that_allow_nothing_are_refused(fails_with: Fails) -> None:
    shown = fails_with(["serve", "--model", "/no/such/model", "--max-batch-size", "0"])
    assert "--max-batch-size must be above 0, got 0." in shown


def test_the_page_takes_the_next_free_port_if_its_own_is_taken(
    model_folder: Path,
    taken_port: int,
    listened: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("lm_audio.cli.serving.PAGE_PORT", taken_port)
    options = ["--no-open-browser", "--port", str(taken_port)]
    main(["app", "--model", str(model_folder), "--device", "cpu", *options])
    assert taken_port < listened[0]["port"] <= taken_port + 100
    assert f"Web UI at http://127.0.0.1:{listened[0]['port']} " in capsys.readouterr().out


async def allows(app: Any, origin: str) -> bool:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        answer = await client.get("/health", headers={"origin": origin})
        return "access-control-allow-origin" in answer.headers


def test_origins_and_strictness_reach_the_server(
    model_folder: Path, listened: list[dict[str, Any]]
) -> None:
    common = ["serve", "--model", str(model_folder), "--device", "cpu", "--port", "0"]
    origins = ["--cors", "https://a.example", "--cors", "https://b.example"]
    main([*common, *origins, "--strict"])
    app = listened[0]["app"]
    names = ("https://a.example", "https://b.example", "https://c.example")
    assert [asyncio.run(allows(app, name)) for name in names] == [True, True, False]
    assert asyncio.run(spoken(app, voice="alloy")) == 400
    assert asyncio.run(spoken(app, voice="default")) == 503  # it has shut down since


async def spoken(app: Any, **fields: Any) -> int:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        return (await client.post("/v1/audio/speech", json={"input": "rain", **fields})).status_code


def test_old_option_names_still_work(
    model_folder: Path,
    tmp_path: Path,
    listened: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "keys").write_text("one")
    old = ["--keys", str(tmp_path / "keys"), "--max-at-once=2", "--name", "mine", "--no-page"]
    old += ["--port", "0"]
    main(["serve", "--model", str(model_folder), "--device", "cpu", *old])
    shown = capsys.readouterr()
    address = f"http://127.0.0.1:{listened[0]['port']}/v1"
    assert shown.out == f"Serving 'mine' at {address} (API key required)\n"
    assert [line for line in shown.err.splitlines() if "deprecated" in line] == [
        "lm-audio: warning: --keys is deprecated; use --api-keys-file.",
        "lm-audio: warning: --max-at-once is deprecated; use --max-batch-size.",
        "lm-audio: warning: --name is deprecated; use --served-model-name.",
        "lm-audio: warning: --no-page is deprecated; use --no-web-ui.",
    ]
    assert asyncio.run(status(listened[0]["app"], "one")) == 200


async def body_of(app: Any, path: str) -> str:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        return (await client.get(path)).text


def test_the_web_page_is_served_alone_and_beside_the_api(
    model_folder: Path,
    tmp_path: Path,
    listened: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = ["--model", str(model_folder), "--device", "cpu"]
    main(["app", *common, "--no-open-browser", "--port", "0"])
    address = f"http://127.0.0.1:{listened[0]['port']}"
    assert f"Web UI at {address} (press Ctrl-C to stop)" in capsys.readouterr().out
    main(["serve", *common, "--web-ui", "--port", "0"])
    alone, beside = (asked["app"] for asked in listened)
    for app in (alone, beside):
        assert "<title>lm-audio</title>" in asyncio.run(body_of(app, "/"))
        assert asyncio.run(status(app, None)) == 200
    (tmp_path / "keys").write_text("one")
    main(["serve", *common, "--web-ui", "--api-keys-file", str(tmp_path / "keys"), "--port", "0"])
    keyed = listened[2]["app"]
    assert "<title>lm-audio</title>" in asyncio.run(body_of(keyed, "/"))
    assert [asyncio.run(status(keyed, key)) for key in (None, "one")] == [401, 200]
