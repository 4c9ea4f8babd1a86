"""A server with a tiny model, on a local port."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import lm_audio
from lm_audio.pipeline import AudioPipeline
from lm_audio.server.engine import Engine
from lm_audio.server.guard import Limits
from lm_audio.server.http import create_app
from tests.lm_audio.answering import answering

Serve = Callable[..., "Served"]


class Served:
    """A running server and a client for it."""

    def __init__(self, engine: Engine, client: httpx.Client) -> None:
        self.engine, self.client = engine, client

    @property
    def url(self) -> str:
        return str(self.client.base_url)


@pytest.fixture(scope="session")
def model(model_folder: Path) -> AudioPipeline:
    return lm_audio.load(model_folder, device="cpu")


@pytest.fixture
def serve(model: AudioPipeline) -> Iterator[Serve]:
    """Starts a server; further settings go to `create_app`."""
    with ExitStack() as stack:

        def start(*, max_batch_size: int = 4, max_queue: int = 8, **settings: Any) -> Served:
            engine = Engine(model, max_batch_size=max_batch_size, max_queue=max_queue)
            return stack.enter_context(running(engine, **settings))

        yield start


@pytest.fixture
def served(serve: Serve) -> Served:
    return serve()


@pytest.fixture(scope="session")
def shared(model: AudioPipeline) -> Iterator[Served]:
    """One server for all tests that leave no jobs behind."""
    with running(Engine(model)) as served:
        yield served


@pytest.fixture(scope="session")
def brief(model: AudioPipeline) -> Iterator[Served]:
    """One server for many requests; it only allows short clips."""
    with running(Engine(model), limits=Limits(max_duration=0.1)) as served:
        yield served


@contextmanager
def running(engine: Engine, *, send_buffer: int | None = None, **settings: Any) -> Iterator[Served]:
    app = create_app(engine, name="tiny", **settings)
    with answering(app, send_buffer=send_buffer) as address:
        with httpx.Client(base_url=address, timeout=60) as client:
            yield Served(engine, client)
        engine.close(finish=False)
