"""The threads that do what may wait for the host."""

import time
from threading import Event, Thread

import pytest

from pyvmm.arch.system import NoThreadError
from pyvmm.devices.workers import MAX_THREADS, Workers
from tests.waiting import PATIENCE, wait_until


def test_work_runs_on_as_many_threads_as_it_needs() -> None:
    """One at first; a few at most; more work waits for a free one."""
    workers, goes_on, began = Workers("test"), Event(), list[int]()

    def work() -> None:
        began.append(1)
        assert goes_on.wait(PATIENCE)

    assert len(workers._threads) == 1
    for _ in range(MAX_THREADS + 2):
        workers.submit(work)
    wait_until(lambda: len(began) == MAX_THREADS)
    assert len(workers._threads) == MAX_THREADS
    goes_on.set()
    wait_until(lambda: len(began) == MAX_THREADS + 2)
    assert workers.close(PATIENCE)


def test_quick_work_needs_one_thread() -> None:
    """It is reused."""
    workers = Workers("test")
    for _ in range(10):
        done = Event()
        workers.submit(done.set)
        assert done.wait(PATIENCE)
        wait_until(lambda: not workers._num_pending)
    assert len(workers._threads) == 1
    assert workers.close(PATIENCE)


def test_close_drops_what_has_not_begun_and_does_not_wait_for_ever() -> None:
    """Work that the host does not finish stays behind; nothing is done after the end."""
    workers, goes_on, began = Workers("test", 1), Event(), list[int]()

    def work() -> None:
        began.append(1)
        assert goes_on.wait(PATIENCE)

    workers.submit(work)
    wait_until(lambda: bool(began))
    workers.submit(work)
    start = time.monotonic()
    assert not workers.close(0.05)
    assert time.monotonic() - start < PATIENCE / 2
    goes_on.set()
    assert workers.close(PATIENCE)
    workers.submit(work)
    assert began == [1]


def test_a_shortage_of_threads_is_an_error_only_for_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The work is done by those that there are."""

    def refuse(_thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    workers, done = Workers("test"), list[int]()
    with monkeypatch.context() as patch:
        patch.setattr(Thread, "start", refuse)
        with pytest.raises(NoThreadError):
            Workers("test")
        for _ in range(5):
            workers.submit(lambda: done.append(1))
    wait_until(lambda: len(done) == 5)
    assert len(workers._threads) == 1
    assert workers.close(PATIENCE)
