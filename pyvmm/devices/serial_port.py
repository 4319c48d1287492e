"""What all serial ports share: the two directions of the line, and the interrupt.

A port's registers are in a file of its own: `uart.py`, `pl011.py`.
"""

import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Final

from pyvmm.arch import saved
from pyvmm.arch.saved import State
from pyvmm.devices.bus import IrqLine
from pyvmm.devices.ioloop import SetTimer
from pyvmm.devices.transmitter import Transmitter

FIFO_SIZE: Final = 16
#: Successive reads of the status that show a guest waiting for input without interrupts.
MANY_POLLS: Final = 16
#: Bytes buffered for a guest that does not read; more are lost.
MAX_BACKLOG: Final = 1 << 20
_SAVED: Final = ("_level", "_fifo", "_waiting", "_polls")


class SerialPort:
    """The end of a line: bytes in and out, a level interrupt.

    Args:
        irq: the interrupt line; called only when the level changes.
        sink: called with the guest's output, in lines as `Transmitter` does; a part of one waits
            for the rest until the driver uses another register than the status, or for a moment.
        set_timer: runs out after that moment.
        break_word: what stands for a break condition in the FIFO.

    Concurrency: every method may be called from any thread.
    """

    def __init__(
        self, irq: IrqLine, sink: Callable[[bytes], None], set_timer: SetTimer, break_word: int
    ) -> None:
        self._irq = irq
        self._lock = threading.RLock()
        self._output = Transmitter(sink, set_timer, self._lock)
        self._break_word = break_word
        self._level = False
        self._fifo: deque[int] = deque()
        self._waiting: deque[int] = deque()  # received, not in the FIFO yet
        self._polls = 0  # reads of the status in a row while input waits

    @property
    def backlog(self) -> int:
        """The number of received bytes waiting for the FIFO; a sender should watch it."""
        return len(self._waiting)

    def receive(self, data: bytes) -> None:
        """Receive bytes from the other end of the line.

        They wait outside the FIFO until the guest is ready: until its driver enables the receive
        interrupt, or polls for input repeatedly.  So input from before the guest opens the port is
        not lost when the driver clears the FIFO.
        """
        with self._lock:
            self._waiting.extend(data[: max(MAX_BACKLOG - len(self._waiting), 0)])
            self._fill()

    def receive_break(self, data: bytes) -> None:
        """Receive a break condition, then bytes."""
        with self._lock:
            if len(self._waiting) < MAX_BACKLOG:
                self._waiting.append(self._break_word)
            self.receive(data)

    def flush(self) -> None:
        """Pass the transmitted bytes to the sink now."""
        with self._lock:
            self._output.flush()

    def _save_line(self) -> State:
        """Return the state of the line, after passing on what was transmitted; the lock is held."""
        self.flush()
        return saved.save(self, _SAVED)

    def _load_line(self, state: State) -> None:
        """Set the state of the line; StateError if it is not one."""
        self._level = state.get("_level") is True
        self._polls = saved.number(state, "_polls", 1 << 32)
        for name in ("_fifo", "_waiting"):
            values = saved.items(state, name)
            if len(values) > MAX_BACKLOG + 64:
                raise saved.StateError(f"{name} has {len(values)} values")
            numbers = (saved.number({name: each}, name, 1 << 12) for each in values)
            setattr(self, name, deque(numbers))

    @abstractmethod
    def _fill(self) -> None:
        """Move waiting bytes into the FIFO if the guest is listening."""

    def _count_poll(self) -> None:
        """Note that the guest has read the status."""
        if self._waiting and not self._fifo:
            self._polls += 1
            self._fill()

    def _set_level(self, level: bool) -> None:
        if level != self._level:
            self._level = level
            self._irq(level)
