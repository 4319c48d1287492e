"""A test that takes too long is reported while its threads continue."""

import os
import threading
from collections.abc import Iterator

import pytest

from tests.watchdog import watched


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Return both ends of a pipe: for reading and for writing."""
    ends = os.pipe()
    yield ends
    for each in ends:
        os.close(each)


def test_threads_of_what_takes_long_are_shown(pipe: tuple[int, int]) -> None:
    """All of them, by name and function."""
    done = threading.Event()

    def is_busy() -> None:
        done.wait()

    thread = threading.Thread(target=is_busy, name="worker")
    thread.start()
    try:
        with watched("tests/x.py::test", 0.01, pipe[1]):
            shown = os.read(pipe[0], 1)  # which waits for it
        shown += os.read(pipe[0], 1 << 16)
    finally:
        done.set()
        thread.join()
    assert shown.startswith(b"tests/x.py::test: 0.01 seconds\n")
    assert b"--- MainThread" in shown
    worker = shown.split(b"--- worker")[1]
    assert b"in is_busy" in worker


def test_what_is_over_in_time_is_not_shown(pipe: tuple[int, int]) -> None:
    """And nothing waits for it."""
    before = threading.active_count()
    with watched("tests/x.py::test", 1000, pipe[1]):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    os.set_blocking(pipe[0], False)
    with pytest.raises(BlockingIOError):
        os.read(pipe[0], 1)
