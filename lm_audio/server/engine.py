"""One batch for the requests of all: they join and leave it at any step.

A thread works; those who ask are told of the sound as it comes. Tokens do not depend on company, so
a batch that fails is taken apart: each of its clips is made again alone, without the sound that its
asker has, and only the one that fails alone fails.

Shapes: C channels, N samples.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lm_audio.clip import Clip
from lm_audio.generation.clip_job import ClipJob
from lm_audio.generation.request import Request
from lm_audio.pipeline import AudioPipeline
from lm_audio.system import release_omp_threads, trim_malloc

logger = logging.getLogger(__name__)

Told = Tensor | Clip | Exception
"""New samples [C, N], then the whole clip or what went wrong."""


class BusyError(Exception):
    """As many wait as may."""


class StoppedError(Exception):
    """The engine is shutting down."""


class DeadlineError(Exception):
    """It took longer than it may."""


@dataclass(eq=False, kw_only=True)
class Job:
    """A clip for somebody.

    Args:
        prompt: the samples [C, N] that it continues.
        tell: called on the engine's thread with what is new; must not wait.
        deadline: by `time.monotonic`.
    """

    request: Request
    prompt: Tensor | None
    tell: Callable[[Told], None]
    deadline: float = float("inf")
    asked_at: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    making: ClipJob | None = None
    sound: list[Tensor] = field(default_factory=list)
    num_heard: int = 0
    """Samples that the asker has."""


class Engine:
    """Makes clips of one pipeline for many, on a thread of its own.

    Args:
        max_at_once: clips in the running batch.
        max_waiting: more than these are refused.
    """

    def __init__(
        self, pipeline: AudioPipeline, *, max_at_once: int = 8, max_waiting: int = 64
    ) -> None:
        self.pipeline = pipeline
        self.max_at_once, self.max_waiting = max_at_once, max_waiting
        self._waiting: deque[Job] = deque()
        self._alone: deque[Job] = deque()  # those of a batch that failed
        self._working: dict[ClipJob, Job] = {}
        self._session = pipeline.session()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting) + len(self._alone)

    @property
    def num_working(self) -> int:
        return len(self._working)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closing

    def submit(self, job: Job) -> None:
        """Queues a clip; raises ValueError for what cannot be made, `BusyError`, `StoppedError`."""
        job.making = self.pipeline.start(job.request, job.prompt)
        with self._changed:
            if self._closing:
                raise StoppedError("The service is shutting down; ask another time.")
            if len(self._waiting) >= self.max_waiting:
                raise BusyError(f"{self.max_waiting} requests wait already; ask a little later.")
            self._waiting.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Gives a clip up; its place is free within a step. It is told nothing more."""
        job.cancelled = True
        with self._changed:
            self._changed.notify()

    def close(self, *, finish: bool = True) -> None:
        """Takes no more, finishes what is begun or refuses it, and returns when all is done."""
        with self._changed:
            self._closing = True
            if not finish:
                for job in [*self._waiting, *self._alone, *self._working.values()]:
                    self._tell(job, StoppedError("The service is shutting down."))
                    job.cancelled = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while self._wait_for_work():
            try:
                self._leave()
                self._join()
                with torch.inference_mode():
                    self._hand_out(self._session.step())
            except Exception as error:
                logger.exception("A step of %d clips failed.", len(self._working))
                self._take_apart(error)

    def _wait_for_work(self) -> bool:
        """Whether there is, or will be no more."""
        with self._changed:
            while not (self._waiting or self._alone or self._working):
                if self._closing:
                    return False
                release_omp_threads()
                self._changed.wait()
        return True

    def _leave(self) -> None:
        """Those who are cancelled or late make room."""
        now = time.monotonic()
        for making, job in list(self._working.items()):
            if job.cancelled or now > job.deadline:
                self._session.remove(making)
                self._end(job, DeadlineError("It took longer than it may; ask for less at once."))
        with self._changed:
            for queue in (self._waiting, self._alone):
                for job in [job for job in queue if job.cancelled or now > job.deadline]:
                    queue.remove(job)
                    self._end(job, DeadlineError("It waited longer than it may; ask again later."))

    def _join(self) -> None:
        """Those who wait take the places that are free; suspects go one at a time."""
        with self._changed:
            while self._waiting and not self._alone and len(self._working) < self.max_at_once:
                self._begin(self._waiting.popleft())
            if self._alone and not self._working:
                self._begin(self._alone.popleft())

    def _begin(self, job: Job) -> None:
        assert job.making is not None
        self._working[job.making] = job
        self._session.add(job.making)

    def _hand_out(self, sound: list[tuple[ClipJob, Tensor]]) -> None:
        for making, samples in sound:
            job = self._working[making]
            before = sum(piece.shape[1] for piece in job.sound)
            job.sound.append(samples)
            new = samples[:, max(0, job.num_heard - before) :]
            if new.shape[1] and not job.cancelled:
                job.num_heard += new.shape[1]
                self._tell(job, new)
            if making.done:
                self._end(job, making.clip(job.sound))

    def _end(self, job: Job, told: Told) -> None:
        if job.making is not None:
            self._working.pop(job.making, None)
        if not job.cancelled:
            self._tell(job, told)
        trim_malloc()  # takes 2 ms; else the C library keeps more and more of it for later

    def _take_apart(self, error: Exception) -> None:
        """After a failure: the clip that was alone has failed, others try again, each alone."""
        self._session = self.pipeline.session()
        jobs = list(self._working.values())
        self._working.clear()
        if len(jobs) == 1:
            self._end(jobs[0], error)
            return
        for job in jobs:
            try:
                job.making = self.pipeline.start(job.request, job.prompt)
            except Exception as own:
                self._end(job, own)
                continue
            job.sound = []
            self._alone.append(job)

    def _tell(self, job: Job, told: Told) -> None:
        try:
            job.tell(told)
        except Exception:  # whoever asked is gone
            job.cancelled = True
