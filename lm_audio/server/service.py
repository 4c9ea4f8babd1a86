"""What the routes share: requests become work for the engine, and its sound becomes answers.

Shapes: C channels, N samples.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from torch import Tensor

from lm_audio.clip import Clip
from lm_audio.generation.request import make_requests
from lm_audio.sampling import Sampling, random_seed
from lm_audio.server.engine import Engine, Job, Told
from lm_audio.server.inpainter import Inpainter
from lm_audio.server.metrics import Metrics
from lm_audio.server.schemas import Asked, InpaintingBody, TimedAsked


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may take at most.

    Args:
        duration: seconds of new sound.
        upload: bytes of a body.
        seconds: from the request to its last byte.
    """

    duration: float = 120.0
    upload: int = 32 * 10**6
    seconds: float = 300.0


class Service:
    """An engine behind its limits."""

    def __init__(self, engine: Engine, *, name: str, limits: Limits) -> None:
        self.engine, self.name, self.limits = engine, name, limits
        self.inpainter = Inpainter(max_waiting=engine.max_waiting)
        self.metrics = Metrics(engine, self.inpainter)

    async def submit(
        self, asked: TimedAsked, *, prompt: str | None, seed: int, sound: Tensor | None = None
    ) -> "Listener":
        """Queues a clip; raises ValueError for what cannot be made."""
        self._check(asked, seconds=asked.duration)
        pipeline = self.engine.pipeline
        (request,) = make_requests(
            prompt,
            duration=asked.duration,
            seed=seed,
            sample_rate=pipeline.sample_rate,
            negative=asked.negative,
            conditions=asked.conditions,
            sampling=self._sampling(asked),
        )
        listener = Listener(self, seed=seed)
        deadline = time.monotonic() + self.limits.seconds
        job = Job(request=request, prompt=sound, tell=listener.tell, deadline=deadline)
        listener.give_up = partial(self.engine.cancel, job)
        await run_in_threadpool(self.engine.submit, job)
        return listener

    def inpaint(self, asked: InpaintingBody, sound: Tensor) -> "Listener":
        """Queues the samples [C, N] with a span of them made anew."""
        self._check(asked, seconds=asked.end - asked.start)
        pipeline = self.engine.pipeline
        listener = Listener(self, seed=random_seed() if asked.seed is None else asked.seed)
        work = partial(
            pipeline.inpaint,
            (sound, pipeline.sample_rate),
            start=asked.start,
            end=asked.end,
            text=asked.prompt,
            seed=listener.seed,
            sampling=self._sampling(asked),
            negative=asked.negative,
            conditions=asked.conditions,
            num_candidates=asked.candidates,
        )
        deadline = time.monotonic() + self.limits.seconds
        listener.give_up = self.inpainter.submit(work, tell=listener.tell, deadline=deadline)
        return listener

    def close(self) -> None:
        """Finishes what is begun."""
        self.engine.close()
        self.inpainter.close()

    def _check(self, asked: Asked, *, seconds: float) -> None:
        if asked.model not in (None, self.name):
            raise HTTPException(404, f"There is no model {asked.model!r} here; use {self.name!r}.")
        if seconds > self.limits.duration:
            raise ValueError(
                f"Got a duration of {seconds:g}; ask for {self.limits.duration:g} s at most."
            )

    def _sampling(self, asked: Asked) -> dict[str, Sampling] | None:
        stages = self.engine.pipeline.stages
        unknown = asked.sampling.keys() - stages.keys() - {"*"}
        if unknown:
            raise ValueError(f"There is no stage {min(unknown)!r}; use {', '.join(stages)} or *.")
        sampling = {
            name: given.of(stage.sampling)
            for name, stage in stages.items()
            if (given := asked.sampling.get(name, asked.sampling.get("*"))) is not None
        }
        return sampling or None


class Listener:
    """Hears what is told of a clip, and gives it up when nobody listens any more."""

    give_up: Callable[[], None]

    def __init__(self, service: Service, *, seed: int) -> None:
        self.service, self.seed = service, seed
        self.asked_at = time.monotonic()
        self.clip: Clip | None = None
        self._loop = asyncio.get_running_loop()
        self._told: asyncio.Queue[Told] = asyncio.Queue()

    def tell(self, told: Told) -> None:
        self._loop.call_soon_threadsafe(self._told.put_nowait, told)

    async def sound(self) -> AsyncGenerator[Tensor]:
        """Samples [C, N] as they come."""
        metrics = self.service.metrics
        first = True
        try:
            while isinstance(told := await self._told.get(), Tensor):
                if first:
                    metrics.first_sound.observe(time.monotonic() - self.asked_at)
                    first = False
                yield told
            if isinstance(told, Exception):
                raise told
            self.clip = told
            metrics.whole_clip.observe(time.monotonic() - self.asked_at)
            metrics.sound.inc(told.duration)
        finally:
            if self.clip is None:
                self.give_up()

    async def whole(self) -> Clip:
        async for _ in self.sound():
            pass
        assert self.clip is not None
        return self.clip
