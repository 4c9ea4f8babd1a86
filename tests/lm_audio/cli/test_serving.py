"""serve and app, up to the point where they would listen."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from lm_audio.cli import main

Fails = Callable[[list[str]], str]


@pytest.fixture
def listened(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of each call of uvicorn.run."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "uvicorn.run", lambda app, **settings: found.append({"app": app} | settings)
    )
    return found


async def status(app: Any, key: str | None) -> int:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        return (await client.get("/v1/models", headers=headers)).status_code


def test_it_listens_locally_and_requires_the_given_keys(
    model_folder: Path,
    tmp_path: Path,
    listened: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = ["serve", "--model", str(model_folder), "--device", "cpu"]
    main(common)
    address = "http://127.0.0.1:8000/v1"
    shown = capsys.readouterr().out
    assert shown == f"Serving {str(model_folder)!r} at {address} (no API key required)\n"
    (tmp_path / "keys").write_text("two\n\nthree\n")
    monkeypatch.setenv("LM_AUDIO_API_KEYS", "one")
    keys = ["--api-keys-file", str(tmp_path / "keys")]
    main([*common, *keys, "--port", "80", "--served-model-name", "mine"])
    shown = capsys.readouterr().out
    assert shown == "Serving 'mine' at http://127.0.0.1:80/v1 (API key required)\n"
    plain, keyed = listened
    assert (plain["host"], plain["port"], keyed["port"]) == ("127.0.0.1", 8000, 80)
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
    assert not listened


def test_old_option_names_still_work(
    model_folder: Path,
    tmp_path: Path,
    listened: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "keys").write_text("one")
    old = ["--keys", str(tmp_path / "keys"), "--max-at-once=2", "--name", "mine", "--no-page"]
    main(["serve", "--model", str(model_folder), "--device", "cpu", *old])
    shown = capsys.readouterr()
    assert shown.out == "Serving 'mine' at http://127.0.0.1:8000/v1 (API key required)\n"
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
    fails_with: Fails,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("gradio")
    common = ["--model", str(model_folder), "--device", "cpu"]
    main(["app", *common, "--no-open-browser", "--port", "81"])
    assert "Web page at http://127.0.0.1:81 (press Ctrl-C to stop)" in capsys.readouterr().out
    main(["serve", *common, "--web-ui"])
    alone, beside = (asked["app"] for asked in listened)
    for app in (alone, beside):
        assert '"Fill the span"' in asyncio.run(body_of(app, "/"))
    assert asyncio.run(status(beside, None)) == 200
    (tmp_path / "keys").write_text("one")
    keyed = ["serve", *common, "--web-ui", "--api-keys-file", str(tmp_path / "keys")]
    assert "--web-ui cannot be combined with API keys" in fails_with(keyed)
