"""Code in a process of its own."""

import sys

import pytest

from measures.start_up import measure_start_up


def test_time_and_memory_are_those_of_the_code() -> None:
    ballast = bytearray(300_000_000)  # of this process, not of the other
    found = measure_start_up("import time; time.sleep(0.2); x = bytearray(50_000_000)")
    assert 0.2 <= found.seconds < 5
    if sys.platform == "linux":
        assert found.peak_bytes is not None
        assert 50_000_000 < found.peak_bytes < len(ballast)


def test_code_that_fails_is_told() -> None:
    with pytest.raises(ValueError, match="failed in a separate process: NameError"):
        measure_start_up("nothing")
