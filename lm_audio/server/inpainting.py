"""Inpaintings, one after the other, beside the running batch.

An inpainting compares complete fillings of each stage, so it shares no steps with other requests.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from lm_audio.clip import Clip
from lm_audio.server.engine import BusyError, DeadlineError, Job, StoppedError

logger = logging.getLogger(__name__)

Work = Callable[..., Clip]
"""Makes a clip; takes a `progress` callback, which it calls at each step."""


class CancelledJobError(Exception):
    """The job was cancelled; there is no reader to inform."""


class Inpainter:
    """Runs inpainting jobs on its own thread.

    Args:
        max_queue: queued jobs; further ones are refused.
    """

    def __init__(self, *, max_queue: int) -> None:
        self.max_queue = max_queue
        self._lock = threading.Lock()
        self._num_open = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="inpainter")

    @property
    def num_open(self) -> int:
        """Jobs that are queued or running."""
        return self._num_open

    def submit(self, job: Job, work: Work) -> None:
        """Queues a job; raises `BusyError` or `StoppedError`."""
        self._count(1)
        try:
            self._pool.submit(self._run, job, work)
        except RuntimeError as error:
            self._count(-1)
            raise StoppedError("The server is shutting down. Try again later.") from error

    def close(self) -> None:
        """Accepts no more jobs, and returns when the open ones are done."""
        self._pool.shutdown()

    def _run(self, job: Job, work: Work) -> None:
        def check(_: float) -> None:
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
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            if change > 0 and self._num_open > self.max_queue:
                raise BusyError(f"The queue is full ({self.max_queue} requests). Try again later.")
            self._num_open += change
