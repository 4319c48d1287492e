"""The last events of a run, for any number of observers at their own pace.

The threads of the guest only append to a ring.  A thread of the log encodes what is there and keeps
it in batches: thirty times a second while somebody reads, otherwise when the ring is half full, so
that it does not compete with the guest.  Events have numbers; a gap between the numbers of two
batches is events that were lost: because the ring was full, or because the reader was slow.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition, Thread, local
from typing import Final

import msgspec

from pyvmm.arch.events import Event, Smc, WorldSwitch
from pyvmm.arch.pas import Pas
from pyvmm.arch.system import start_thread

#: Events that may wait for the thread; more are lost.
_MAX_WAITING: Final = 1 << 18
#: Bytes of encoded events that are kept: more than a boot of Debian in a realm.
SIZE: Final = 96 << 20
_MAX_BATCH: Final = 256 << 10  # bytes of events
_PACE: Final = 1 / 30  # seconds between two batches

_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Batch:
    """Encoded events in a row."""

    number: int  # of the batch
    first: int  # number of its first event
    inside: list[int]  # PEs that are in the realm world
    events: bytes  # a JSON array, see `StampedEvent`


class _Entry(local):
    """The last switch between worlds of a thread; it ends with the thread."""

    pe = -1  # there was none yet
    time = 0.0


class EventLog:
    """Keeps the events of a run until it is closed.

    Args:
        size: bytes of events that are kept.
        clock: seconds.
    """

    def __init__(self, size: int = SIZE, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._epoch = clock()
        self._ring: deque[tuple[float, int, float, Event]] = deque()
        self._num_dropped = 0
        self._entry = _Entry()
        self._inside: dict[int, bool] = {}  # by PE
        self._batches: deque[Batch] = deque()
        self._kept = 0  # bytes
        self._next_batch = self._next_event = 0
        self._changed = Condition()
        self._num_waiting = 0  # readers that wait for a batch
        self._is_closed = False
        self._thread = Thread(target=self._collect, name="event-log", daemon=True)

    def start(self) -> None:
        """Start collecting.

        Raises:
            NoThreadError: the system refused a thread.
        """
        start_thread(self._thread)

    def listen(self, event: Event) -> None:
        """Take an event; any thread.  Of a switch between worlds, only its time is kept."""
        now, kind = self._clock(), type(event)
        if kind is Smc:
            return  # the event of the command itself follows
        if isinstance(event, WorldSwitch):
            self._entry.pe, self._entry.time = event.pe, now
            self._inside[event.pe] = event.new is Pas.REALM
            return
        if len(self._ring) >= _MAX_WAITING:
            self._num_dropped += 1
            return
        self._ring.append((now, self._entry.pe, self._entry.time, event))

    def close(self) -> None:
        """End the log: the events so far are its last."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def wake(self) -> None:
        """Make the readers call ``is_leaving`` again."""
        with self._changed:
            self._changed.notify_all()

    def read(self, number: int, is_leaving: Callable[[], bool]) -> Batch | None:
        """Wait for the batch with a number, or the next one that is still kept.

        Returns: None once the log is closed, or if ``is_leaving`` returns true.
        """
        with self._changed:
            self._num_waiting += 1
            self._changed.wait_for(
                lambda: self._next_batch > number or self._is_over or is_leaving()
            )
            self._num_waiting -= 1
            if self._next_batch <= number or is_leaving():
                return None
            return self._batches[max(0, number - self._batches[0].number)]

    @property
    def _is_over(self) -> bool:
        return self._is_closed and not self._thread.is_alive()

    # --- the thread of the log ----------------------------------------------------------------

    def _collect(self) -> None:
        inside: list[int] = []
        while True:
            with self._changed:
                is_last = self._changed.wait_for(lambda: self._is_closed, _PACE)
                is_wanted = is_last or self._num_waiting > 0
            if not is_wanted and len(self._ring) < _MAX_WAITING // 2:
                continue
            before, inside = inside, sorted(pe for pe, is_in in self._inside.items() if is_in)
            while self._ring or inside != before:
                before = inside
                self._add(inside)
            if is_last:
                break
        with self._changed:
            self._changed.notify_all()

    def _add(self, inside: list[int]) -> None:
        """Add a batch of the events that wait, as many as are allowed in one."""
        dropped, self._num_dropped = self._num_dropped, 0
        parts, size = list[bytes](), 0
        while self._ring and size < _MAX_BATCH:
            parts.append(self._encode(*self._ring.popleft()))
            size += len(parts[-1])
        batch = Batch(
            self._next_batch,
            self._next_event,
            inside,
            b"[" + b",".join(parts) + b"]",
        )
        with self._changed:
            self._next_batch += 1
            self._next_event += len(parts) + dropped
            self._batches.append(batch)
            self._kept += len(batch.events)
            while self._kept > self._size and len(self._batches) > 1:
                self._kept -= len(self._batches.popleft().events)
            self._changed.notify_all()

    def _encode(self, now: float, pe: int, since: float, event: Event) -> bytes:
        time_, took = round((now - self._epoch) * 1e6), round((now - since) * 1e6) if since else 0
        kind = type(event).__name__
        return b'[%d,%d,%d,"%s",%s]' % (time_, pe, took, kind.encode(), _encode(event))
