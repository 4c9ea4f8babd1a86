"""Whoever is done with torch leaves no threads waiting: counted by the system's own list."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import lm_audio
from lm_audio.generation.request import make_requests
from lm_audio.pipeline import AudioPipeline
from lm_audio.server.engine import BatchJob, Engine
from lm_audio.system import releases_omp_threads, releases_omp_threads_between

TASKS = Path("/proc/self/task")

pytestmark = pytest.mark.skipif(not TASKS.is_dir(), reason="needs Linux to count threads")


@pytest.fixture(scope="module")
def model() -> AudioPipeline:
    """It has made sound: whatever libraries start once and for all is there."""
    loaded = lm_audio.load(device="cpu")
    loaded.generate("rain", duration=0.1, seed=1)
    return loaded


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def native_threads() -> set[int]:
    """Those that Python did not start."""
    return {int(task.name) for task in TASKS.iterdir()} - {
        thread.native_id or 0 for thread in threading.enumerate()
    }


def work() -> set[int]:
    """Has a team for this thread; what there is with it."""
    torch.ones(1_000_000).mul(2)
    return native_threads()


def in_a_new_thread(look: Callable[[set[int]], None]) -> None:
    """Runs in a thread that has never used torch, with those of before; raises what goes wrong."""
    wrong = []

    def run() -> None:
        try:
            look(native_threads())
        except BaseException as error:
            wrong.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if wrong:
        raise wrong[0]


def test_a_function_leaves_no_team() -> None:
    def look(before: set[int]) -> None:
        assert len(releases_omp_threads(work)() - before) == 1
        assert native_threads() <= before
        assert len(work() - before) == 1  # a new one comes when it is needed

    in_a_new_thread(look)


def test_a_function_that_fails_leaves_no_team() -> None:
    @releases_omp_threads
    def fails() -> None:
        work()
        raise ValueError("no")

    def look(before: set[int]) -> None:
        with pytest.raises(ValueError, match="no"):
            fails()
        assert native_threads() <= before

    in_a_new_thread(look)


def test_a_generator_leaves_no_team_between_its_pieces() -> None:
    @releases_omp_threads_between
    def pieces() -> Iterator[set[int]]:
        yield work()
        yield work()

    def look(before: set[int]) -> None:
        sizes = []
        for with_team in pieces():
            sizes.append(len(with_team - before))
            assert native_threads() <= before
        assert sizes == [1, 1]

    in_a_new_thread(look)


def test_loading_and_making_sound_leave_no_team(model: AudioPipeline) -> None:
    def look(before: set[int]) -> None:
        lm_audio.load(device="cpu")
        assert native_threads() <= before
        model.generate("rain", duration=0.5, seed=1)
        assert native_threads() <= before
        for _ in model.stream("rain", duration=0.5, seed=1):
            assert native_threads() <= before

    in_a_new_thread(look)


def test_an_engine_without_work_has_no_team(model: AudioPipeline) -> None:
    before = native_threads()
    engine = Engine(model)
    (request,) = make_requests("rain", duration=0.5, seed=1, sample_rate=model.sample_rate)
    job = BatchJob(request)
    engine.submit(job)
    with_team: set[int] = set()
    deadline = time.monotonic() + 60
    while not job.over and time.monotonic() < deadline:
        with_team.update(native_threads() - before)
        time.sleep(0.005)
    assert job.clip is not None
    end = time.monotonic() + 10
    while not native_threads() <= before and time.monotonic() < end:
        time.sleep(0.01)
    assert with_team
    assert native_threads() <= before
    engine.close()
