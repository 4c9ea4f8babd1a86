"""The service with its page: with a tiny model, one that denoises, and the bundled one."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import lm_audio
from lm_audio.app.page import add_page
from lm_audio.pipeline import AudioPipeline
from lm_audio.server.engine import Engine
from lm_audio.server.guard import Limits
from lm_audio.server.http import create_app
from tests.lm_audio.answering import answering
from tests.lm_audio.app.visit import Serving, Visit, visiting
from tests.lm_audio.generation.test_diffusion_stage import tiny_pipeline


class EnergyJudge:
    """The energy, in favour of wind."""

    def score(self, samples: Tensor, sample_rate: int, text: str) -> float:
        return float(samples.square().sum()) / sample_rate * (2 if text == "wind" else 1)


@pytest.fixture(scope="session")
def model(model_folder: Path) -> AudioPipeline:
    return lm_audio.load(model_folder, device="cpu")


@contextmanager
def serving_page(
    pipeline: AudioPipeline,
    *,
    name: str,
    port: int = 0,
    max_batch_size: int = 8,
    max_queue: int = 64,
    **settings: Any,
) -> Iterator[tuple[str, Engine]]:
    """The address of a service with the page, and its engine."""
    engine = Engine(pipeline, max_batch_size=max_batch_size, max_queue=max_queue)
    app = create_app(engine, name=name, index=False, **settings)
    add_page(app)
    with answering(app, port=port) as address:
        yield address, engine
        engine.close(finish=False)


@pytest.fixture(scope="session")
def serving(model: AudioPipeline, model_folder: Path) -> Serving:
    """Serves the tiny model under the name of its folder: `with serving() as (address, engine)`."""

    def serve(**settings: Any) -> AbstractContextManager[tuple[str, Engine]]:
        return serving_page(model, name=str(model_folder), **settings)

    return serve


@pytest.fixture(scope="session")
def tiny(serving: Serving) -> Iterator[tuple[str, Engine]]:
    with serving() as found:
        yield found


@pytest.fixture
def page(tiny: tuple[str, Engine]) -> Iterator[Visit]:
    """The page of the tiny model; fails if the page had an error that nobody saw."""
    with visiting(tiny[0]) as visit:
        yield visit
        assert visit.run("return problems") == []


@pytest.fixture(scope="session")
def bundled() -> Iterator[tuple[str, AudioPipeline]]:
    """The address of the page with the bundled model."""
    pipeline = lm_audio.load(device="cpu")
    with serving_page(pipeline, name="default") as (address, engine):
        engine.warm_up()
        yield address, pipeline


@pytest.fixture(scope="session")
def diffusion() -> AudioPipeline:
    """A diffusion model with windows of two seconds, and a judge."""
    made = tiny_pipeline(window_frames=1000, overlap_frames=100)
    return AudioPipeline(replace(made.model, judge=EnergyJudge()))


@pytest.fixture(scope="session")
def denoising(diffusion: AudioPipeline) -> Iterator[str]:
    limits = Limits(max_upload=100_000, max_duration=20)
    with serving_page(diffusion, name="diffusion", limits=limits) as (address, _):
        yield address
