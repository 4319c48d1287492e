"""The event loop for the file descriptors of network backends and terminals, and for timers.

One daemon thread waits for all of them.  A callback runs on that thread and may take a device's
lock; it must not block otherwise.
"""

import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from pyvmm.arch.system import start_thread

Callback = Callable[[], None]
#: Sets a callback's timer, in seconds, in place of an earlier one; None: cancels it.
SetTimer = Callable[[Callback, float | None], None]


class IoEvents(Protocol):
    """An event loop as a backend uses it; any thread may call.

    A removed callback is not started again, but one that is running may still finish.
    """

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call ``callback`` while ``fd`` is readable."""
        ...

    def remove_reader(self, fd: int) -> None:
        """Stop watching ``fd`` for input; nothing happens if it was not watched."""
        ...

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call ``callback`` while ``fd`` is writable."""
        ...

    def remove_writer(self, fd: int) -> None:
        """Stop watching ``fd`` for output; nothing happens if it was not watched."""
        ...

    def call_soon(self, callback: Callback) -> None:
        """Call ``callback`` once on the loop's thread, after its current work."""
        ...


_Watch = dict[int, Callback]  # selectors event -> callback


class IoLoop:
    """An ``IoEvents`` with its own thread.

    Start it once, stop it once.  Remove a file descriptor before closing it.
    """

    def __init__(self, name: str = "pyvmm-io") -> None:
        self._stopping = False
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()  # guards the following; never held in a callback
        self._watches: dict[int, _Watch] = {}
        self._deadlines: dict[Callback, float] = {}
        self._calls: deque[Callback] = deque()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.add_reader(self._wakeup, self._wake)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start serving.

        Raises:
            NoThreadError: the system cannot create a thread.
        """
        start_thread(self._thread)

    def stop(self) -> None:
        """Stop serving; return when no callback is running."""
        with self._lock:
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
        with self._lock:
            self._calls.append(callback)
            self._wake_up()

    def set_timer(self, callback: Callback, seconds: float | None) -> None:
        """Call ``callback`` once after some seconds (at most some days); a ``SetTimer``."""
        with self._lock:
            if seconds is None:
                self._deadlines.pop(callback, None)
                return
            self._deadlines[callback] = time.monotonic() + seconds
            self._wake_up()

    def _wake_up(self) -> None:
        """Make the thread check for changes; the lock is held."""
        if not self._stopping:  # otherwise the event may be closed already
            os.eventfd_write(self._wakeup, 1)

    def _set(self, fd: int, event: int, callback: Callback | None) -> None:
        with self._lock:
            if self._stopping:
                return  # the selector may be closed already
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
            for key, ready in self._selector.select(self._patience()):
                for event in (selectors.EVENT_READ, selectors.EVENT_WRITE):
                    # Looked up now, because an earlier callback of this round may have removed it.
                    callback = self._watches.get(key.fd, {}).get(event)
                    if ready & event and callback is not None and not self._stopping:
                        callback()
            self._call_due()

    def _patience(self) -> float | None:
        """Return the seconds until the first deadline."""
        with self._lock:
            first = min(self._deadlines.values(), default=None)
        return None if first is None else max(first - time.monotonic(), 0)

    def _call_due(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = [callback for callback, deadline in self._deadlines.items() if deadline <= now]
            for callback in due:
                del self._deadlines[callback]
        for callback in due:
            if not self._stopping:
                callback()
