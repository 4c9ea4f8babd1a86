"""serve, up to where it would listen."""

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
    """What would have been listened with."""
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


def test_it_listens_on_this_machine_and_asks_for_the_keys_it_was_given(
    model_folder: Path,
    tmp_path: Path,
    listened: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = ["serve", "--model", str(model_folder), "--device", "cpu"]
    main(common)
    assert (
        capsys.readouterr().out == f"{model_folder} answers anybody on http://127.0.0.1:8000/v1\n"
    )
    (tmp_path / "keys").write_text("two\n\nthree\n")
    monkeypatch.setenv("LM_AUDIO_API_KEYS", "one")
    main([*common, "--keys", str(tmp_path / "keys"), "--port", "80", "--name", "mine"])
    assert capsys.readouterr().out == "mine answers who bears a key on http://127.0.0.1:80/v1\n"
    plain, keyed = listened
    assert (plain["host"], plain["port"], keyed["port"]) == ("127.0.0.1", 8000, 80)
    assert asyncio.run(status(plain["app"], None)) == 200
    found = [asyncio.run(status(keyed["app"], key)) for key in (None, "four", "one", "three")]
    assert found == [401, 401, 200, 200]


def test_a_file_without_keys_is_refused(
    tmp_path: Path, listened: list[dict[str, Any]], fails_with: Fails
) -> None:
    (tmp_path / "keys").write_text("\n")
    told = fails_with(["serve", "--keys", str(tmp_path / "keys"), "--model", "/no/such/model"])
    assert "holds no key; give one on each line" in told
    assert not listened


async def told(app: Any, path: str) -> str:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        return (await client.get(path)).text


def test_the_page_is_served_alone_and_beside_the_service(
    model_folder: Path,
    tmp_path: Path,
    listened: list[dict[str, Any]],
    fails_with: Fails,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("gradio")
    common = ["--model", str(model_folder), "--device", "cpu"]
    main(["app", *common, "--no-open-browser", "--port", "81"])
    assert "The page is at http://127.0.0.1:81; Ctrl-C ends it." in capsys.readouterr().out
    main(["serve", *common, "--page"])
    alone, beside = (asked["app"] for asked in listened)
    for app in (alone, beside):
        assert '"Fill the span"' in asyncio.run(told(app, "/"))
    assert asyncio.run(status(beside, None)) == 200
    (tmp_path / "keys").write_text("one")
    keyed = ["serve", *common, "--page", "--keys", str(tmp_path / "keys")]
    assert "Got keys and --page, which asks for none" in fails_with(keyed)
