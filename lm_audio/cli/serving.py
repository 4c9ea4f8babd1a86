"""The verbs that run a server: serve, over HTTP, and app, a web page."""

import os
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from lm_audio.catalogue import DEFAULT
from lm_audio.cli.generate import ModelOptions

KEYS = "LM_AUDIO_API_KEYS"
"""The environment variable with the API keys, which keeps them off the command line."""


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Serve a model over HTTP, with OpenAI's speech API and a fuller one; see docs/serving.md.

    API keys come from LM_AUDIO_API_KEYS (comma-separated) or --api-keys-file (one per line).
    Without keys the server is open to everyone who can reach it.
    """

    model: Annotated[ModelOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=ModelOptions)
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 listens on all networks."""
    port: int = 8000
    """Port to listen on."""
    served_model_name: str | None = None
    """The model name that clients use; defaults to --model."""
    api_keys_file: Path | None = None
    """File with accepted API keys, one per line."""
    max_batch_size: int = 8
    """Maximum clips in the running batch. Does not change the results."""
    max_queue: int = 64
    """Maximum queued requests; beyond this the server returns 429."""
    max_duration: float = 120.0
    """Maximum duration of new sound per request, in seconds."""
    max_upload: float = 32.0
    """Maximum size of a request body, in megabytes."""
    timeout: float = 300.0
    """Maximum time per request, in seconds; after this the server returns 504."""
    web_ui: bool = False
    """Also serve the web page at /. It is open to everyone, so it cannot be combined with keys."""

    def run(self) -> None:
        with extra("serve", "lm-audio serve"):
            import uvicorn

            from lm_audio.server.http import create_app
        if self.web_ui:
            with extra("app", "The web page"):
                from lm_audio.app.page import add_page
        from lm_audio.server.engine import Engine
        from lm_audio.server.guard import Limits

        keys = self._keys()
        if keys and self.web_ui:
            raise ValueError("--web-ui cannot be combined with API keys: the page is open to all.")
        pipeline = self.model.load()
        engine = Engine(pipeline, max_batch_size=self.max_batch_size, max_queue=self.max_queue)
        name = self.served_model_name or self.model.model or DEFAULT
        limits = Limits(
            max_duration=self.max_duration,
            max_upload=int(self.max_upload * 1e6),
            timeout=self.timeout,
        )
        app = create_app(engine, name=name, keys=keys, limits=limits)
        if self.web_ui:
            app = add_page(app, pipeline, name=name)
        access = "API key required" if keys else "no API key required"
        print(f"Serving {name!r} at http://{self.host}:{self.port}/v1 ({access})", flush=True)
        uvicorn.run(app, host=self.host, port=self.port, log_level="warning")

    def _keys(self) -> list[str]:
        lines = os.environ.get(KEYS, "").split(",")
        if self.api_keys_file is not None:
            lines += self.api_keys_file.read_text(encoding="utf-8").split("\n")
        keys = [line.strip() for line in lines if line.strip()]
        if self.api_keys_file is not None and not keys:
            raise ValueError(f"{self.api_keys_file} contains no API keys. Put one on each line.")
        return keys


@dataclass(frozen=True, kw_only=True)
class App:
    """Open a web page that creates, continues and inpaints sound."""

    model: Annotated[ModelOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=ModelOptions)
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 listens on all networks and opens the page to everyone."""
    port: int = 7860
    """Port to listen on."""
    open_browser: bool = True
    """Open the page in the default browser."""

    def run(self) -> None:
        with extra("app", "The web page"):
            import uvicorn
            from fastapi import FastAPI

            from lm_audio.app.page import add_page
        app = add_page(FastAPI(), self.model.load(), name=self.model.model or DEFAULT)
        address = f"http://{self.host}:{self.port}"
        print(f"Web page at {address} (press Ctrl-C to stop)", flush=True)
        if self.open_browser:
            threading.Timer(1.0, webbrowser.open, [address]).start()
        uvicorn.run(app, host=self.host, port=self.port, log_level="warning")


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Adds the install command to the error if an optional dependency is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{what} needs {error.name}. Run: pip install 'lm-audio[{name}]'"
        ) from error
