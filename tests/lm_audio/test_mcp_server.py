"""lm-audio mcp, as the SDK's own client sees it over stdio."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import lm_audio
from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.audio_writer import write_audio

pytest.importorskip("mcp")
from mcp import Client, ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

from lm_audio.mcp_server import create_server

WAIT = 120.0
Work = Callable[[ClientSession], Awaitable[Any]]


def in_session(model: Path | str, folder: Path, work: Work) -> list[str]:
    """Runs work against a server; returns all lines that the server wrote to stdout."""
    log = folder / "stdout.txt"
    command = [sys.executable, "-m", "lm_audio", "mcp", "--model", str(model), "--device", "cpu"]
    command += ["--output-dir", str(folder / "clips")]
    quoted = " ".join(f"'{part}'" for part in command)
    server = StdioServerParameters(
        command="sh", args=["-c", f"{quoted} | tee '{log}'"], env=dict(os.environ)
    )

    async def run() -> None:
        async with stdio_client(server) as streams, ClientSession(*streams) as session:
            await session.initialize()
            await work(session)

    asyncio.run(asyncio.wait_for(run(), WAIT))
    return log.read_text().splitlines()


def test_its_tools_make_what_the_pipeline_makes(model_folder: Path, tmp_path: Path) -> None:
    model = lm_audio.load(model_folder, device="cpu")
    prompt = str(tmp_path / "prompt.wav")
    write_audio(prompt, 0.1 * torch.ones(1, 12_000), 24_000)
    found: dict[str, Any] = {}

    async def work(session: ClientSession) -> None:
        tools = (await session.list_tools()).tools
        found["tools"] = {tool.name: set(tool.input_schema["required"]) for tool in tools}
        for name, arguments in (
            ("generate", {"prompt": "rain", "duration": 0.5, "seed": 3}),
            ("continue_audio", {"audio": prompt, "duration": 0.3, "prompt": "rain", "seed": 4}),
            ("inpaint", {"audio": prompt, "start": 0.1, "end": 0.3, "seed": 5,
                         "output": str(tmp_path / "new" / "filled.flac")}),
        ):  # fmt: skip
            answer = await session.call_tool(name, arguments)
            assert not answer.is_error, answer.content
            found[name] = answer.structured_content

    lines = in_session(model_folder, tmp_path, work)
    assert found["tools"] == {
        "generate": {"prompt"}, "continue_audio": {"audio"}, "inpaint": {"audio", "start", "end"}
    }  # fmt: skip
    expected = {
        "generate": model.generate("rain", duration=0.5, seed=3),
        "continue_audio": model.continue_from(prompt, duration=0.3, text="rain", seed=4),
        "inpaint": model.inpaint(prompt, start=0.1, end=0.3, seed=5),
    }
    for name, clip in expected.items():
        clip.save(tmp_path / f"expected{Path(found[name]['path']).suffix}")
        read = read_audio(found[name]["path"])
        same = read_audio(tmp_path / f"expected{Path(found[name]['path']).suffix}")
        assert torch.equal(read.samples, same.samples)
        assert found[name]["duration"] == clip.duration
        assert found[name]["settings"]["seed"] == clip.seed
    assert found["generate"]["path"] == str(tmp_path / "clips" / "rain-3.wav")
    assert found["inpaint"]["path"] == str(tmp_path / "new" / "filled.flac")
    for line in lines:
        assert json.loads(line)["jsonrpc"] == "2.0"


def test_mistakes_are_one_sentence_and_overwrite_nothing(
    model_folder: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.wav"
    write_audio(kept, 0.1 * torch.ones(1, 2_400), 24_000)
    before = kept.read_bytes()
    (tmp_path / "text.wav").write_text("no sound")
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("generate", {"prompt": "rain", "duration": -1}, "duration must be above 0"),
        ("generate", {"prompt": "rain", "seed": -1}, "-1"),
        ("generate", {"prompt": "rain", "output": str(kept)}, "exists already"),
        ("generate", {"prompt": "rain", "output": "a.xyz"}, "a.xyz has no supported audio suffix"),
        ("generate", {"prompt": "rain", "output": "/proc/new/a.wav"}, "Cannot write to /proc/new"),
        ("continue_audio", {"audio": str(tmp_path / "no.wav")}, "There is no file"),
        ("continue_audio", {"audio": str(tmp_path / "text.wav")}, "text.wav"),
        ("inpaint", {"audio": str(kept), "start": 3, "end": 2}, "3"),
    ]

    async def work() -> None:
        server = create_server(lambda: model, output_dir=tmp_path / "clips")
        async with Client(server) as client:
            for name, arguments, said in cases:
                answer = await client.call_tool(name, arguments)
                (content,) = answer.content
                assert answer.is_error, arguments
                assert said in content.text
                assert content.text.startswith(f"Error executing tool {name}: ")
                assert "\n" not in content.text

    model = lm_audio.load(model_folder, device="cpu")
    asyncio.run(work())
    assert kept.read_bytes() == before


def test_a_model_that_is_not_there_is_an_error_of_the_tool(tmp_path: Path) -> None:
    async def work() -> None:
        server = create_server(partial(lm_audio.load, "/no/such/model"), output_dir=tmp_path)
        async with Client(server) as client:
            answer = await client.call_tool("generate", {"prompt": "rain"})
            assert answer.is_error
            assert "/no/such/model" in answer.content[0].text

    asyncio.run(work())


def test_progress_is_reported_and_a_cancelled_call_makes_room(
    model_folder: Path, tmp_path: Path
) -> None:
    shares: list[float] = []

    async def work(session: ClientSession) -> None:
        begun = asyncio.Event()

        async def listen(share: float, total: float | None, _: str | None) -> None:
            assert total == 1.0
            shares.append(share)
            begun.set()

        long = {"prompt": "rain", "duration": 2_000}
        call = asyncio.create_task(session.call_tool("generate", long, progress_callback=listen))
        await begun.wait()
        call.cancel()
        answer = await session.call_tool("generate", {"prompt": "rain", "duration": 0.2, "seed": 1})
        assert not answer.is_error

    in_session(model_folder, tmp_path, work)
    assert 0 <= shares[0] < 0.1
    assert [file.name for file in (tmp_path / "clips").iterdir()] == ["rain-1.wav"]
