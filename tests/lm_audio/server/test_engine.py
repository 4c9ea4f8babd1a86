"""The running batch: whoever joins or leaves it, each gets what it gets alone."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import lm_audio
from lm_audio.clip import Clip
from lm_audio.generation.clip_job import ClipJob
from lm_audio.generation.request import make_requests
from lm_audio.pipeline import AudioPipeline
from lm_audio.server.engine import BusyError, DeadlineError, Engine, Job, StoppedError, Told

WAIT = 60.0  # seconds, far more than is needed


@pytest.fixture
def engine(model: AudioPipeline) -> Iterator[Engine]:
    engine = Engine(model, max_at_once=3, max_waiting=4)
    yield engine
    engine.close(finish=False)


class Asker:
    """Somebody who asks for a clip and hears of it."""

    def __init__(
        self,
        engine: Engine,
        *,
        seed: int,
        duration: float = 0.3,
        deadline: float = WAIT,
        prompt: Tensor | None = None,
        **settings: Any,
    ) -> None:
        self.told: queue.Queue[Told] = queue.Queue()
        (request,) = make_requests(
            "rain",
            duration=duration,
            seed=seed,
            sample_rate=engine.pipeline.sample_rate,
            **settings,
        )
        self.job = Job(
            request=request,
            prompt=prompt,
            tell=self.told.put,
            deadline=time.monotonic() + deadline,
        )
        self.heard: list[Tensor] = []

    def end(self) -> Clip | Exception:
        while isinstance(told := self.told.get(timeout=WAIT), Tensor):
            self.heard.append(told)
        return told

    def clip(self) -> Clip:
        end = self.end()
        assert isinstance(end, Clip), end
        return end


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_clips_of_different_lengths_and_settings_are_what_they_are_alone(
    engine: Engine, model: AudioPipeline
) -> None:
    askers = [Asker(engine, seed=n, duration=0.1 + 0.15 * n) for n in range(6)]
    askers += [
        Asker(engine, seed=7, sampling=lm_audio.Sampling(guidance_scale=2.5, temperature=0.5))
    ]
    for asker in askers:
        until(lambda: engine.num_waiting < 4)
        engine.submit(asker.job)
        time.sleep(0.02)  # some join while others are under way
    for asker in askers:
        clip, request = asker.clip(), asker.job.request
        alone = model.generate(
            "rain",
            duration=request.num_samples / model.sample_rate,
            seed=request.seed,
            sampling=request.sampling,
        )
        assert torch.equal(clip.tokens, alone.tokens)
        assert torch.equal(clip.samples, alone.samples)
        assert torch.equal(torch.cat(asker.heard, dim=1), alone.samples)


def test_a_continuation_joins_like_any_other(engine: Engine, model: AudioPipeline) -> None:
    prompt = model.generate("a dog", duration=0.2, seed=1).samples
    asker = Asker(engine, seed=2, prompt=prompt)
    other = Asker(engine, seed=3)
    engine.submit(asker.job)
    engine.submit(other.job)
    alone = model.continue_from((prompt, model.sample_rate), duration=0.3, text="rain", seed=2)
    assert torch.equal(asker.clip().samples, alone.samples)
    assert torch.equal(torch.cat(asker.heard, dim=1), alone.samples[:, prompt.shape[1] :])
    assert other.clip().duration == 0.3


def test_who_leaves_makes_room_at_once_and_others_go_on(
    engine: Engine, model: AudioPipeline
) -> None:
    long = [Asker(engine, seed=n, duration=600) for n in range(3)]
    for asker in long:
        engine.submit(asker.job)
    until(lambda: engine.num_working == 3)
    waiting = Asker(engine, seed=5)
    engine.submit(waiting.job)
    assert engine.num_waiting == 1
    engine.cancel(long[1].job)
    assert torch.equal(waiting.clip().samples, model.generate("rain", duration=0.3, seed=5).samples)
    assert engine.num_working == 2
    assert isinstance(long[0].told.get(timeout=WAIT), Tensor)


def test_more_than_may_wait_are_refused(engine: Engine) -> None:
    long = [Asker(engine, seed=n, duration=600) for n in range(7)]
    for asker in long[:3]:
        engine.submit(asker.job)
    until(lambda: engine.num_working == 3)
    for asker in long[3:]:
        engine.submit(asker.job)
    with pytest.raises(BusyError, match="4 requests wait already"):
        engine.submit(Asker(engine, seed=9).job)
    engine.cancel(long[6].job)
    until(lambda: engine.num_waiting == 3)
    engine.submit(Asker(engine, seed=9).job)


def test_what_takes_longer_than_it_may_ends(engine: Engine) -> None:
    late = Asker(engine, seed=1, duration=600, deadline=0.3)
    engine.submit(late.job)
    assert isinstance(late.end(), DeadlineError)
    until(lambda: engine.num_working == 0)


def test_what_cannot_be_made_is_told_to_who_asks(engine: Engine) -> None:
    asker = Asker(engine, seed=1, conditions={"voice": "me"})
    with pytest.raises(ValueError, match="This model takes no voice"):
        engine.submit(asker.job)
    assert engine.num_waiting == engine.num_working == 0


def test_one_that_fails_takes_no_other_down(
    engine: Engine, model: AudioPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = Asker(engine, seed=13, duration=0.5)
    good = [Asker(engine, seed=n, duration=0.5) for n in (1, 2)]
    sound = ClipJob.sound

    def breaks(making: ClipJob) -> Tensor:
        if making.progress > 0.5 and making.tracks["acoustic"].seed == 13:
            raise RuntimeError("out of luck")
        return sound(making)

    monkeypatch.setattr(ClipJob, "sound", breaks)
    for asker in (*good, bad):
        engine.submit(asker.job)
    error = bad.end()
    assert isinstance(error, RuntimeError)
    assert "out of luck" in str(error)
    for asker in good:
        alone = model.generate("rain", duration=0.5, seed=asker.job.request.seed)
        assert torch.equal(asker.clip().samples, alone.samples)
        assert torch.equal(torch.cat(asker.heard, dim=1), alone.samples)
    assert engine.alive


def test_an_asker_that_breaks_takes_no_other_down(engine: Engine) -> None:
    def gone(_: Told) -> None:
        raise ConnectionError

    broken = Asker(engine, seed=1, duration=600)
    broken.job.tell = gone
    engine.submit(broken.job)
    assert Asker.clip(_submitted(engine, seed=2)).duration == 0.3
    until(lambda: engine.num_working == 0)


@pytest.mark.parametrize("finish", [True, False])
def test_closing_finishes_or_refuses(model: AudioPipeline, finish: bool) -> None:
    engine = Engine(model, max_at_once=1)
    askers = [_submitted(engine, seed=n, duration=0.3 if finish else 600) for n in range(2)]
    closing = threading.Thread(target=engine.close, kwargs={"finish": finish})
    closing.start()
    for asker in askers:
        assert isinstance(asker.end(), Clip if finish else StoppedError)
    closing.join(WAIT)
    assert not closing.is_alive()
    with pytest.raises(StoppedError, match="shutting down"):
        engine.submit(Asker(engine, seed=1).job)


def _submitted(engine: Engine, **settings: Any) -> Asker:
    asker = Asker(engine, **settings)
    engine.submit(asker.job)
    return asker
