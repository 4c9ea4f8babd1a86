"""One running batch for all requests: clips join and leave it at any step.

A worker thread steps the batch, and routes read the sound while it is made. Tokens do not depend on
the rest of the batch. After a failure the engine therefore restarts each clip of the batch on its
own and skips the sound that it already delivered; only a clip that also fails alone is lost.

Inpaintings compare complete fillings of each stage, so they share no steps with other requests:
they run beside the batch, one at a time.

Shapes: C channels, N samples.
"""

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from lm_audio.clip import Clip
from lm_audio.generation.clip_job import ClipJob
from lm_audio.generation.request import Request, make_requests
from lm_audio.pipeline import AudioPipeline
from lm_audio.system import release_omp_threads, trim_malloc

logger = logging.getLogger(__name__)

WARM_UP_SECONDS = 0.2

Work = Callable[..., Clip]
"""Makes a clip; takes a `progress` callback, which it calls at each step."""


class BusyError(Exception):
    """The queue is full."""


class StoppedError(Exception):
    """The server is shutting down."""


class DeadlineError(Exception):
    """The request timed out."""


class CancelledJobError(Exception):
    """The job was cancelled; there is no reader to inform."""


class Job:
    """One clip for one client: a worker thread makes it, a route reads it.

    The job keeps all sound made so far, so reading may start at any time. It has one reader.

    Args:
        timeout: seconds from now until the worker gives up.
    """

    def __init__(self, *, seed: int, timeout: float = math.inf) -> None:
        self.seed, self.timeout = seed, timeout
        self.created_at = time.monotonic()
        self.uploads: dict[str, str] = {}  # the client's names for the audio that it sent, by use
        self.clip: Clip | None = None
        self.error: Exception | None = None
        self.cancelled = False
        self._progress = 0.0
        self._pieces: list[Tensor] = []
        self._wake: Callable[[], object] = lambda: None

    @property
    def over(self) -> bool:
        """Whether the job is complete, failed or cancelled."""
        return self.cancelled or self.clip is not None or self.error is not None

    @property
    def progress(self) -> float:
        """The completed fraction, from 0 to 1."""
        return self._progress

    def report(self, progress: float) -> None:
        self._progress = progress

    @property
    def expired(self) -> bool:
        return time.monotonic() > self.created_at + self.timeout

    async def sound(self) -> AsyncGenerator[Tensor]:
        """Yields samples [C, N] as they are made; closing it early cancels the job."""
        changed = asyncio.Event()
        self._wake = partial(asyncio.get_running_loop().call_soon_threadsafe, changed.set)
        num_read = 0
        try:
            while True:
                changed.clear()
                over = self.over  # read first: pieces that come before the end are never missed
                while num_read < len(self._pieces):
                    num_read += 1
                    yield self._pieces[num_read - 1]
                if over:
                    break
                await changed.wait()
            if self.error is not None:
                raise self.error
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Drops the job unless it is over; the worker stops within one step."""
        if not self.over:
            self.cancelled = True
            self._notify()

    def finish(self, outcome: Clip | Exception) -> None:
        """Completes or fails the job, unless it is over already."""
        if not self.over:
            if isinstance(outcome, Clip):
                self.clip = outcome
            else:
                self.error = outcome
            self._notify()

    def _notify(self) -> None:
        try:
            self._wake()
        except RuntimeError:  # the reader's event loop is closed
            self.cancelled = True


class BatchJob(Job):
    """A job for the running batch.

    Args:
        prompt: the samples [C, N] that the clip continues.
    """

    clip_job: ClipJob

    def __init__(
        self, request: Request, *, prompt: Tensor | None = None, timeout: float = math.inf
    ) -> None:
        super().__init__(seed=request.seed, timeout=timeout)
        self.request, self.prompt = request, prompt
        self._num_repeated = 0

    def start(self, pipeline: AudioPipeline) -> None:
        """Plans the clip from its beginning, again after a failure."""
        self.clip_job = pipeline.start(self.request, self.prompt)
        self._num_repeated = sum(piece.shape[1] for piece in self._pieces)

    def push(self, samples: Tensor) -> None:
        """Adds the samples [C, N] of one step, but for those that the job already has."""
        skipped = min(self._num_repeated, samples.shape[1])
        self._num_repeated -= skipped
        if skipped < samples.shape[1]:
            self._pieces.append(samples[:, skipped:])
            self._notify()

    @property
    def progress(self) -> float:
        return self.clip_job.progress

    def whole(self) -> Clip:
        return self.clip_job.clip(self._pieces)


class Engine:
    """Makes the clips of many clients with one pipeline, on its own thread.

    Args:
        max_batch_size: clips in the running batch.
        max_queue: queued jobs; further ones are refused.
    """

    def __init__(
        self, pipeline: AudioPipeline, *, max_batch_size: int = 8, max_queue: int = 64
    ) -> None:
        self.pipeline = pipeline
        self.max_batch_size, self.max_queue = max_batch_size, max_queue
        self._queue: deque[BatchJob] = deque()
        self._suspects: deque[BatchJob] = deque()  # from a failed batch; each runs alone
        self._running: dict[ClipJob, BatchJob] = {}
        self._session = pipeline.session()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def num_queued(self) -> int:
        return len(self._queue) + len(self._suspects)

    @property
    def num_running(self) -> int:
        return len(self._running)

    def position(self, job: BatchJob) -> int:
        """The place of a job in the queue, from 1; 0 once it has left the queue."""
        with self._changed:
            waiting: list[BatchJob] = [*self._suspects, *self._queue]
        return waiting.index(job) + 1 if job in waiting else 0

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closing

    def submit(self, job: BatchJob) -> None:
        """Queues a job; raises ValueError for an invalid request, `BusyError`, `StoppedError`."""
        job.start(self.pipeline)
        with self._changed:
            if self._closing:
                raise StoppedError("The server is shutting down. Try again later.")
            if len(self._queue) >= self.max_queue:
                raise BusyError(f"The queue is full ({self.max_queue} requests). Try again later.")
            self._queue.append(job)
            self._changed.notify()

    def warm_up(self) -> None:
        """Queues a short clip of a prompt that the model knows, if it lists any.

        The first clip of a process is slower: kernels, tokenizers and the notice load what they
        need. Clients need not wait for that.
        """
        if (known := self.pipeline.card.known) is None:
            return
        prompt = known.first_examples[0]
        self.pipeline.notice(prompt)
        rate = self.pipeline.sample_rate
        (request,) = make_requests(prompt, duration=WARM_UP_SECONDS, seed=0, sample_rate=rate)
        self.submit(BatchJob(request))

    def close(self, *, finish: bool = True) -> None:
        """Accepts no more jobs, then finishes or fails the open ones, and returns when done."""
        with self._changed:
            self._closing = True
            if not finish:
                for job in [*self._queue, *self._suspects, *self._running.values()]:
                    job.finish(StoppedError("The server is shutting down."))
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while self._wait_for_work():
            try:
                self._remove_stale()
                self._fill_batch()
                with torch.inference_mode():
                    for clip_job, samples in self._session.step():
                        self._push(self._running[clip_job], samples)
            except Exception as error:
                logger.exception("A step of %d clips failed.", len(self._running))
                self._take_apart(error)

    def _wait_for_work(self) -> bool:
        """Returns False once the engine is closing and has no work left."""
        with self._changed:
            while not (self._queue or self._suspects or self._running):
                if self._closing:
                    return False
                release_omp_threads()
                self._changed.wait()
        return True

    def _remove_stale(self) -> None:
        """Frees the places of jobs that are over or out of time."""
        for clip_job, job in list(self._running.items()):
            if job.over or job.expired:
                self._session.remove(clip_job)
                message = f"Request timed out after {job.timeout:g} s. Try a shorter duration."
                self._end(job, DeadlineError(message))
        with self._changed:
            for queue in (self._queue, self._suspects):
                for job in [job for job in queue if job.over or job.expired]:
                    queue.remove(job)
                    message = f"Request timed out after {job.timeout:g} s in the queue."
                    self._end(job, DeadlineError(f"{message} Try again later."))

    def _fill_batch(self) -> None:
        """Moves jobs from the queue to free places; suspects run one at a time."""
        with self._changed:
            while self._queue and not self._suspects and self.num_running < self.max_batch_size:
                self._add(self._queue.popleft())
            if self._suspects and not self._running:
                self._add(self._suspects.popleft())

    def _add(self, job: BatchJob) -> None:
        self._running[job.clip_job] = job
        self._session.add(job.clip_job)

    def _push(self, job: BatchJob, samples: Tensor) -> None:
        job.push(samples)
        if job.clip_job.done:
            self._end(job, job.whole())

    def _end(self, job: BatchJob, outcome: Clip | Exception) -> None:
        self._running.pop(job.clip_job, None)  # first: readers may count on the free place
        job.finish(outcome)
        trim_malloc()  # takes 2 ms; without it the C library holds on to more and more memory

    def _take_apart(self, error: Exception) -> None:
        """After a failure: a clip that ran alone has failed; others are retried one by one."""
        self._session = self.pipeline.session()
        jobs = list(self._running.values())
        self._running.clear()
        if len(jobs) == 1:
            self._end(jobs[0], error)
            return
        for job in jobs:
            try:
                job.start(self.pipeline)
            except Exception as own:
                self._end(job, own)
            else:
                self._suspects.append(job)


class Inpainter:
    """Runs inpainting jobs on its own thread.

    Args:
        max_queue: queued jobs; further ones are refused.
    """

    def __init__(self, *, max_queue: int) -> None:
        self.max_queue = max_queue
        self._lock = threading.Lock()
        self._open: list[Job] = []  # the running one first
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="inpainter")

    @property
    def num_open(self) -> int:
        """Jobs that are queued or running."""
        return len(self._open)

    def position(self, job: Job) -> int:
        """The place of a job in the queue, from 1; 0 once it runs."""
        with self._lock:
            return self._open.index(job) if job in self._open else 0

    def submit(self, job: Job, work: Work) -> None:
        """Queues a job; raises `BusyError` or `StoppedError`."""
        with self._lock:
            if len(self._open) > self.max_queue:
                raise BusyError(f"The queue is full ({self.max_queue} requests). Try again later.")
            self._open.append(job)
        try:
            self._pool.submit(self._run, job, work)
        except RuntimeError as error:
            self._forget(job)
            raise StoppedError("The server is shutting down. Try again later.") from error

    def close(self) -> None:
        """Accepts no more jobs, and returns when the open ones are done."""
        self._pool.shutdown()

    def _run(self, job: Job, work: Work) -> None:
        def check(progress: float) -> None:
            job.report(progress)
            if job.cancelled:
                raise CancelledJobError
            if job.expired:
                raise DeadlineError(
                    f"Request timed out after {job.timeout:g} s. "
                    "Try fewer candidates or a shorter span."
                )

        try:
            check(0.0)
            job.finish(work(progress=check))
        except CancelledJobError:
            pass
        except Exception as error:
            if not isinstance(error, ValueError | DeadlineError):
                logger.exception("An inpainting failed.")
            job.finish(error)
        finally:
            self._forget(job)

    def _forget(self, job: Job) -> None:
        with self._lock:
            self._open.remove(job)
