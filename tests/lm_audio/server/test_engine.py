"""The running batch: clips join and leave it, and each is the same as when it is made alone."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import lm_audio
from lm_audio.clip import Clip
from lm_audio.conditioners.known_prompts import KnownPrompts
from lm_audio.generation.clip_job import ClipJob
from lm_audio.generation.request import make_requests
from lm_audio.model import ModelCard
from lm_audio.pipeline import AudioPipeline
from lm_audio.server.engine import BatchJob, BusyError, DeadlineError, Engine, Job, StoppedError

WAIT = 60.0  # seconds, far more than is needed


@pytest.fixture
def engine(model: AudioPipeline) -> Iterator[Engine]:
    engine = Engine(model, max_batch_size=3, max_queue=4)
    yield engine
    engine.close(finish=False)


def make_job(
    engine: Engine,
    *,
    seed: int,
    duration: float = 0.3,
    timeout: float = WAIT,
    prompt: Tensor | None = None,
    **settings: Any,
) -> BatchJob:
    rate = engine.pipeline.sample_rate
    (request,) = make_requests("rain", duration=duration, seed=seed, sample_rate=rate, **settings)
    return BatchJob(request, prompt=prompt, timeout=timeout)


def submitted(engine: Engine, **settings: Any) -> BatchJob:
    job = make_job(engine, **settings)
    engine.submit(job)
    return job


def sound_of(job: Job) -> Tensor:
    """Reads a job to its end: samples [C, N]."""

    async def read() -> Tensor:
        return torch.cat([samples async for samples in job.sound()], dim=1)

    return asyncio.run(asyncio.wait_for(read(), WAIT))


def test_a_warm_up_is_a_clip_of_what_the_model_knows(
    model: AudioPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[BatchJob] = []
    submit = Engine.submit

    def noted(engine: Engine, job: BatchJob) -> None:
        jobs.append(job)
        submit(engine, job)

    monkeypatch.setattr(Engine, "submit", noted)
    known = ModelCard(known=KnownPrompts(examples={"rain": ["rain"]}, threshold=0.5))
    for card in (model.card, known):
        engine = Engine(AudioPipeline(replace(model.model, card=card)))
        engine.warm_up()
        engine.close()
    (job,) = jobs
    assert job.request.prompt == "rain"
    assert clip_of(job).duration == 0.2


def clip_of(job: Job) -> Clip:
    sound_of(job)
    assert job.clip is not None
    return job.clip


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_clips_of_different_lengths_and_settings_are_what_they_are_alone(
    engine: Engine, model: AudioPipeline
) -> None:
    jobs = [make_job(engine, seed=n, duration=0.1 + 0.15 * n) for n in range(6)]
    sampling = lm_audio.Sampling(guidance_scale=2.5, temperature=0.5)
    jobs += [make_job(engine, seed=7, sampling=sampling)]
    for job in jobs:
        until(lambda: engine.num_queued < 4)
        engine.submit(job)
        time.sleep(0.02)  # some join while others are running
    for job in jobs:
        alone = model.generate(
            "rain",
            duration=job.request.num_samples / model.sample_rate,
            seed=job.seed,
            sampling=job.request.sampling,
        )
        assert torch.equal(sound_of(job), alone.samples)
        assert torch.equal(clip_of(job).tokens, alone.tokens)
        assert torch.equal(clip_of(job).samples, alone.samples)


def test_a_continuation_joins_like_any_other(engine: Engine, model: AudioPipeline) -> None:
    prompt = model.generate("a dog", duration=0.2, seed=1).samples
    job = submitted(engine, seed=2, prompt=prompt)
    other = submitted(engine, seed=3)
    alone = model.continue_from((prompt, model.sample_rate), duration=0.3, text="rain", seed=2)
    assert torch.equal(sound_of(job), alone.samples[:, prompt.shape[1] :])
    assert torch.equal(clip_of(job).samples, alone.samples)
    assert clip_of(other).duration == 0.3


def test_a_cancelled_job_makes_room_at_once_and_others_go_on(
    engine: Engine, model: AudioPipeline
) -> None:
    long = [submitted(engine, seed=n, duration=600) for n in range(3)]
    until(lambda: engine.num_running == 3)
    waiting = submitted(engine, seed=5)
    assert engine.num_queued == 1
    long[1].cancel()
    alone = model.generate("rain", duration=0.3, seed=5)
    assert torch.equal(clip_of(waiting).samples, alone.samples)
    assert engine.num_running == 2
    assert not long[0].over


def test_a_reader_that_stops_early_cancels_its_job(engine: Engine) -> None:
    job = submitted(engine, seed=1, duration=600)

    async def read_one_piece() -> Tensor:
        sound = job.sound()
        first = await anext(sound)
        await sound.aclose()
        return first

    assert asyncio.run(read_one_piece()).shape[1] > 0
    assert job.cancelled
    until(lambda: engine.num_running == 0)


def test_cancelling_ends_a_reader_that_waits(engine: Engine) -> None:
    long = [submitted(engine, seed=n, duration=600) for n in range(4)]

    async def read() -> list[Tensor]:
        asyncio.get_running_loop().call_later(0.05, long[3].cancel)
        return [samples async for samples in long[3].sound()]

    assert asyncio.run(asyncio.wait_for(read(), WAIT)) == []
    until(lambda: engine.num_queued == 0)


def test_a_full_queue_refuses_further_jobs(engine: Engine) -> None:
    long = [submitted(engine, seed=n, duration=600) for n in range(3)]
    until(lambda: engine.num_running == 3)
    long += [submitted(engine, seed=n, duration=600) for n in range(3, 7)]
    with pytest.raises(BusyError, match=r"The queue is full \(4 requests\)"):
        submitted(engine, seed=9)
    long[6].cancel()
    until(lambda: engine.num_queued == 3)
    submitted(engine, seed=9)


def test_a_running_job_times_out(engine: Engine) -> None:
    late = submitted(engine, seed=1, duration=600, timeout=0.3)
    message = r"Request timed out after 0.3 s\. Try a shorter duration\."
    with pytest.raises(DeadlineError, match=message):
        sound_of(late)
    until(lambda: engine.num_running == 0)


def test_a_queued_job_times_out(engine: Engine) -> None:
    for n in range(3):
        submitted(engine, seed=n, duration=600)
    late = submitted(engine, seed=3, timeout=0.2)
    with pytest.raises(DeadlineError, match=r"timed out after 0.2 s in the queue\. Try again"):
        sound_of(late)
    assert engine.num_queued == 0


def test_an_invalid_request_fails_when_it_is_submitted(engine: Engine) -> None:
    with pytest.raises(ValueError, match="This model has no condition 'voice'"):
        submitted(engine, seed=1, conditions={"voice": "me"})
    assert engine.num_queued == engine.num_running == 0


def test_a_failing_clip_takes_no_other_down(
    engine: Engine, model: AudioPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = ClipJob.sound

    def breaks(job: ClipJob) -> Tensor:
        if job.progress > 0.5 and job.tracks["acoustic"].seed == 13:
            raise RuntimeError("out of luck")
        return sound(job)

    monkeypatch.setattr(ClipJob, "sound", breaks)
    good = [submitted(engine, seed=n, duration=0.5) for n in (1, 2)]
    bad = submitted(engine, seed=13, duration=0.5)
    with pytest.raises(RuntimeError, match="out of luck"):
        sound_of(bad)
    for job in good:
        alone = model.generate("rain", duration=0.5, seed=job.seed)
        assert torch.equal(sound_of(job), alone.samples)
        assert torch.equal(clip_of(job).samples, alone.samples)
    assert engine.alive


def test_a_reader_whose_event_loop_is_closed_takes_no_other_down(engine: Engine) -> None:
    abandoned = submitted(engine, seed=1, duration=600)
    loop = asyncio.new_event_loop()
    sound = abandoned.sound()
    loop.run_until_complete(anext(sound))
    loop.close()
    until(lambda: abandoned.cancelled)
    assert clip_of(submitted(engine, seed=2)).duration == 0.3
    until(lambda: engine.num_running == 0)


@pytest.mark.parametrize("finish", [True, False])
def test_closing_finishes_or_fails_open_jobs(model: AudioPipeline, finish: bool) -> None:
    engine = Engine(model, max_batch_size=1)
    jobs = [submitted(engine, seed=n, duration=0.3 if finish else 600) for n in range(2)]
    closing = threading.Thread(target=engine.close, kwargs={"finish": finish})
    closing.start()
    for job in jobs:
        if finish:
            assert clip_of(job).duration == 0.3
        else:
            with pytest.raises(StoppedError, match="The server is shutting down"):
                sound_of(job)
    closing.join(WAIT)
    assert not closing.is_alive()
    with pytest.raises(StoppedError, match="shutting down"):
        submitted(engine, seed=1)
