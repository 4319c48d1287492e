"""The output of a serial port on its way to the sink, which gets whole lines if it can."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from pyvmm.devices.ioloop import SetTimer

_MAX_HELD: Final = 256  # bytes that wait for the end of their line
_MOMENT: Final = 0.02  # seconds for which they wait
_NEWLINE: Final = 0x0A


class Transmitter:
    """Holds the part of a line for a moment.

    Args:
        sink: called with the output.
        set_timer: runs out after the moment.
        lock: of the port, whose owner calls every method.
    """

    def __init__(
        self,
        sink: Callable[[bytes], None],
        set_timer: SetTimer,
        lock: AbstractContextManager[object],
    ) -> None:
        self._sink = sink
        self._set_timer = set_timer
        self._lock = lock
        self._held = bytearray()
        self._is_timer_set = False

    def put(self, byte: int) -> None:
        """Transmit a byte."""
        self._held.append(byte)
        if byte == _NEWLINE or len(self._held) >= _MAX_HELD:
            self.flush()
        elif not self._is_timer_set:
            self._is_timer_set = True
            self._set_timer(self._flush_late, _MOMENT)

    def flush(self) -> None:
        """Pass what was transmitted to the sink now."""
        if self._held:
            data = bytes(self._held)
            self._held.clear()
            self._sink(data)

    def _flush_late(self) -> None:
        with self._lock:
            self._is_timer_set = False
            self.flush()
