"""A few threads that do what may wait for the host, so that vCPUs do not."""

from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread
from time import monotonic
from typing import Final, Protocol

from pyvmm.arch.system import NoThreadError, start_thread

Work = Callable[[], None]

#: Enough to keep a disk busy; more would only compete for the interpreter.
MAX_THREADS: Final = 4


class Executor(Protocol):
    """Something that does work, now or later."""

    def submit(self, work: Work) -> None:
        """Do it, on any thread."""
        ...


class Workers:
    """An ``Executor`` with threads of its own, which start when they are needed.

    Raises:
        NoThreadError: the system cannot create even one thread.
    """

    def __init__(self, name: str, max_threads: int = MAX_THREADS) -> None:
        self._name = name
        self._max_threads = max_threads
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        self._lock = Lock()  # guards the next two
        self._num_pending = 0  # submitted, not done
        self._is_closed = False
        self._threads: list[Thread] = []
        self._add_thread()

    def _add_thread(self) -> None:
        name = f"{self._name}-{len(self._threads)}"
        thread = Thread(target=self._run, name=name, daemon=True)
        start_thread(thread)
        self._threads.append(thread)

    def submit(self, work: Work) -> None:
        """Do the work on the next free thread; nothing happens after ``close``."""
        with self._lock:
            if self._is_closed:
                return
            self._num_pending += 1
            if len(self._threads) < min(self._num_pending, self._max_threads):
                with suppress(NoThreadError):  # the others do it
                    self._add_thread()
        self._work.put(work)

    def close(self, patience: float) -> bool:
        """Begin no more work; return whether the running work was done within ``patience`` seconds.

        The threads are daemons: one that the host never lets go does not keep the process.
        """
        with self._lock:
            self._is_closed = True
        for _ in self._threads:
            self._work.put(None)
        end = monotonic() + patience
        for thread in self._threads:
            thread.join(max(0, end - monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while (work := self._work.get()) is not None and not self._is_closed:
            try:
                work()
            finally:
                with self._lock:
                    self._num_pending -= 1
