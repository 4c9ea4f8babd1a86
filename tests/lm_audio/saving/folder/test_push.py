"""The hub gets what a folder holds; a server on this machine stands in for it."""

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from lm_audio.model import ModelCard
from lm_audio.pipeline import AudioPipeline
from lm_audio.saving.folder import load_model


def load_pipeline(folder: Path, **settings: Any) -> AudioPipeline:
    return AudioPipeline(load_model(folder, **settings))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A server that keeps what is committed to it in a folder, as the hub does with small files."""
    folder = tmp_path / "hub"

    class Hub(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.endswith("/repos/create"):
                answer: dict[str, Any] = {"url": f"{address}/me/small"}
                (folder / "created.json").write_bytes(body)
            elif "/preupload/" in self.path:
                paths = [file["path"] for file in json.loads(body)["files"]]
                kind = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
                answer = {"files": [{"path": path, **kind} for path in paths]}
            elif "/commit/" in self.path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        path = folder / "model" / line["value"]["path"]
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(base64.b64decode(line["value"]["content"]))
                answer = {"commitUrl": f"{address}/me/small/commit/abc", "commitOid": "abc"}
            else:  # what it thinks of the model card
                answer = {"errors": [], "warnings": []}
            self._answer(answer)

        def do_GET(self) -> None:
            self._answer({"id": "me/small", "siblings": [], "sha": "abc"})

        def _answer(self, answer: dict[str, Any]) -> None:
            content = json.dumps(answer).encode()
            self.send_response(401 if (folder / "closed").exists() else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    address = f"http://127.0.0.1:{server.server_port}"
    folder.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_is_pushed_is_what_is_saved(small: AudioPipeline, hub: Path) -> None:
    small.model = replace(
        small.model, card=ModelCard(name="Small", licence="CC-BY-NC-4.0", description="It barks.")
    )
    assert small.push_to_hub("me/small").endswith("/me/small")
    created = json.loads((hub / "created.json").read_text())
    assert (created["organization"], created["name"]) == ("me", "small")
    assert created.get("private") or created["visibility"] == "private"
    loaded = load_pipeline(hub / "model")
    before, after = (p.stages["acoustic"].model.state_dict() for p in (small, loaded))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert loaded.card == small.card
    card = (hub / "model" / "README.md").read_text()
    assert 'license: "cc-by-nc-4.0"\n' in card
    assert "# Small\n\nIt barks.\n" in card
    assert 'lm_audio.load("me/small")' in card


def test_a_hub_that_refuses_gets_one_sentence(small: AudioPipeline, hub: Path) -> None:
    (hub / "closed").touch()
    with pytest.raises(ValueError, match=r"me/small .*log in with: hf auth"):
        small.push_to_hub("me/small")
