"""The verbs that answer others: serve, over HTTP, and app, in a browser."""

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
"""The variable with the keys, so that none stands on a command line."""


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Answers requests over HTTP: OpenAI's speech API and a fuller one; see docs/serving.md.

    Keys that clients must bear stand in the variable LM_AUDIO_API_KEYS, apart by commas, or in a
    file, one a line. Without any, all who reach the port may ask.
    """

    model: Annotated[ModelOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=ModelOptions)
    host: str = "127.0.0.1"
    """0.0.0.0 is for all networks of this machine."""
    port: int = 8000
    """Where it listens."""
    name: str | None = None
    """What clients call the model; its own name by default."""
    keys: Path | None = None
    """A file with keys."""
    max_at_once: int = 8
    """Clips in the running batch."""
    max_waiting: int = 64
    """More than these are told to ask later."""
    max_duration: float = 120.0
    """Seconds of new sound in a request."""
    max_upload: float = 32.0
    """Megabytes of a request."""
    timeout: float = 300.0
    """Seconds that a request may take."""
    page: bool = False
    """Puts the web page at /, for anybody; not with keys."""

    def run(self) -> None:
        with extra("serve", "The service"):
            import uvicorn

            from lm_audio.server.http import create_app
        if self.page:
            with extra("app", "The web page"):
                from lm_audio.app.page import add_page
        from lm_audio.server.engine import Engine
        from lm_audio.server.service import Limits

        keys = self._keys()
        if keys and self.page:
            raise ValueError("Got keys and --page, which asks for none; leave one of them out.")
        pipeline = self.model.load()
        engine = Engine(pipeline, max_at_once=self.max_at_once, max_waiting=self.max_waiting)
        name = self.name or self.model.model or DEFAULT
        limits = Limits(
            duration=self.max_duration, upload=int(self.max_upload * 1e6), seconds=self.timeout
        )
        app = create_app(engine, name=name, keys=keys, limits=limits)
        if self.page:
            app = add_page(app, pipeline, name=name)
        who = "who bears a key" if keys else "anybody"
        print(f"{name} answers {who} on http://{self.host}:{self.port}/v1", flush=True)
        uvicorn.run(app, host=self.host, port=self.port, log_level="warning")

    def _keys(self) -> list[str]:
        given = os.environ.get(KEYS, "").split(",")
        if self.keys is not None:
            given += self.keys.read_text(encoding="utf-8").split("\n")
        keys = [key.strip() for key in given if key.strip()]
        if self.keys is not None and not keys:
            raise ValueError(f"{self.keys} holds no key; give one on each line.")
        return keys


@dataclass(frozen=True, kw_only=True)
class App:
    """Opens a web page that creates, continues and inpaints sound."""

    model: Annotated[ModelOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=ModelOptions)
    host: str = "127.0.0.1"
    """0.0.0.0 is for all networks of this machine: anybody may then make sound."""
    port: int = 7860
    """Where it listens."""
    open_browser: bool = True
    """Shows it in the browser of this machine, if there is one."""

    def run(self) -> None:
        with extra("app", "The web page"):
            import uvicorn
            from fastapi import FastAPI

            from lm_audio.app.page import add_page
        app = add_page(FastAPI(), self.model.load(), name=self.model.model or DEFAULT)
        address = f"http://{self.host}:{self.port}"
        print(f"The page is at {address}; Ctrl-C ends it.", flush=True)
        if self.open_browser:
            threading.Timer(1.0, webbrowser.open, [address]).start()
        uvicorn.run(app, host=self.host, port=self.port, log_level="warning")


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Says how to install what is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{what} needs {error.name}; install it with: pip install 'lm-audio[{name}]'."
        ) from error
