"""What holds for all tests."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread_from_the_start() -> None:
    """For fixtures that outlive a test."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models are faster so, most of all on a busy machine; tests of threads say how many.

    With several, oneDNN also chooses kernels by length, and equal results to the bit are luck.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
