"""The event loop that serves the file descriptors of network backends and terminals.

One daemon thread waits for all of them.  A callback runs on that thread and may take a device's
lock; it must not block otherwise.
"""

import os
import selectors
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from pyvmm.arch.system import start_thread

Callback = Callable[[], None]


class IoEvents(Protocol):
    """What a backend needs of an event loop; any thread may call.

    A removed callback is not started any more, but one that runs at this moment may still finish.
    """

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call back while ``fd`` is readable."""
        ...

    def remove_reader(self, fd: int) -> None:
        """Stop watching ``fd`` for input; nothing happens if it was not watched."""
        ...

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call back while ``fd`` is writable."""
        ...

    def remove_writer(self, fd: int) -> None:
        """Stop watching ``fd`` for output; nothing happens if it was not watched."""
        ...

    def call_soon(self, callback: Callback) -> None:
        """Call back once, from the thread of the loop, after what it does now."""
        ...


_Watch = dict[int, Callback]  # selectors event -> callback


class IoLoop:
    """An ``IoEvents`` on a thread of its own.

    Start it once, stop it once.  A file descriptor must be removed before it is closed.
    """

    def __init__(self, name: str = "pyvmm-io") -> None:
        self._stopping = False
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()  # guards the selector's map, never held in a callback
        self._watches: dict[int, _Watch] = {}
        self._calls: deque[Callback] = deque()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.add_reader(self._wakeup, self._wake)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start serving.

        Raises:
            NoThreadError: the system has no thread to spare.
        """
        start_thread(self._thread)

    def stop(self) -> None:
        """Stop serving; returns when no callback runs any more."""
        self._stopping = True
        os.eventfd_write(self._wakeup, 1)
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._selector.close()
        os.close(self._wakeup)

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call ``callback`` while ``fd`` is readable."""
        self._set(fd, selectors.EVENT_READ, callback)

    def remove_reader(self, fd: int) -> None:
        """Stop watching ``fd`` for input."""
        self._set(fd, selectors.EVENT_READ, None)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call ``callback`` while ``fd`` is writable."""
        self._set(fd, selectors.EVENT_WRITE, callback)

    def remove_writer(self, fd: int) -> None:
        """Stop watching ``fd`` for output."""
        self._set(fd, selectors.EVENT_WRITE, None)

    def call_soon(self, callback: Callback) -> None:
        """Call ``callback`` once on the loop's thread."""
        self._calls.append(callback)
        if not self._stopping:
            os.eventfd_write(self._wakeup, 1)

    def _set(self, fd: int, event: int, callback: Callback | None) -> None:
        if self._stopping:
            return  # the selector may be closed already
        with self._lock:
            watch = self._watches.setdefault(fd, {})
            was_watched = bool(watch)
            if callback is None:
                watch.pop(event, None)
            else:
                watch[event] = callback
            mask = sum(watch)
            if mask and was_watched:
                self._selector.modify(fd, mask)
            elif mask:
                self._selector.register(fd, mask)
            else:
                del self._watches[fd]
                if was_watched:
                    self._selector.unregister(fd)

    def _wake(self) -> None:
        os.eventfd_read(self._wakeup)
        while self._calls and not self._stopping:
            self._calls.popleft()()

    def _run(self) -> None:
        while not self._stopping:
            for key, ready in self._selector.select():
                for event in (selectors.EVENT_READ, selectors.EVENT_WRITE):
                    # Looked up now: an earlier callback of this round may have removed it.
                    callback = self._watches.get(key.fd, {}).get(event)
                    if ready & event and callback is not None and not self._stopping:
                        callback()
