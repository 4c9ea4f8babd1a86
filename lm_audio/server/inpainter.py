"""Spans made anew, one clip after the other, beside the running batch.

An inpainting compares whole fillings of each stage, so it has no steps to share with others.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from lm_audio.clip import Clip
from lm_audio.server.engine import BusyError, DeadlineError, StoppedError, Told

logger = logging.getLogger(__name__)

Work = Callable[..., Clip]
"""Makes a clip; takes `progress`, which it calls at each step."""


class GivenUpError(Exception):
    """Nobody waits for it any more."""


class Inpainter:
    """A thread that inpaints.

    Args:
        max_waiting: more than these are refused.
    """

    def __init__(self, *, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._changed = threading.Lock()
        self._num_waiting = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="inpainter")

    @property
    def num_waiting(self) -> int:
        """With the one in work."""
        return self._num_waiting

    def submit(
        self, work: Work, *, tell: Callable[[Told], None], deadline: float
    ) -> Callable[[], None]:
        """Queues work and returns what gives it up; it is told nothing more from then on."""
        given_up = threading.Event()

        def look(_: float) -> None:
            if given_up.is_set():
                raise GivenUpError
            if time.monotonic() > deadline:
                raise DeadlineError("It took longer than it may; ask for less at once.")

        def run() -> None:
            try:
                look(0.0)
                tell(work(progress=look))
            except GivenUpError:
                pass
            except Exception as error:
                if not isinstance(error, ValueError | DeadlineError):
                    logger.exception("An inpainting failed.")
                tell(error)
            finally:
                self._count(-1)

        self._count(1)
        try:
            self._pool.submit(run)
        except RuntimeError as error:
            self._count(-1)
            raise StoppedError("The service is shutting down; ask another time.") from error
        return given_up.set

    def close(self) -> None:
        """Takes no more and returns when all is done."""
        self._pool.shutdown()

    def _count(self, change: int) -> None:
        with self._changed:
            if change > 0 and self._num_waiting > self.max_waiting:
                raise BusyError(f"{self.max_waiting} requests wait already; ask a little later.")
            self._num_waiting += change
