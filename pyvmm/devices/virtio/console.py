"""Console device with one port: a byte stream in each direction, and the size of the terminal.

Spec: virtio 1.2, "Console Device".  Not implemented: MULTIPORT, EMERG_WRITE.
"""

from collections.abc import Callable
from enum import IntEnum
from struct import Struct
from typing import ClassVar

from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.queue import VirtQueue

_RECEIVE, _TRANSMIT = 0, 1
_config = Struct("<HHII").pack  # cols, rows, max_nr_ports, emerg_wr

#: Longest output taken from one chain: its buffers may overlap and claim more than guest memory.
MAX_OUTPUT = 1 << 20
#: Bytes buffered for a guest that does not read; more are lost.
MAX_BACKLOG = 1 << 20


class ConsoleFeature(IntEnum):
    """Offered feature bits."""

    SIZE = 1 << 0


class VirtioConsole(VirtioDevice):
    """Port 0 of a console.

    Args:
        sink: called with the guest's output, on the thread of the vCPU.
        size: columns and rows of the terminal; (0, 0) if there is none.

    Concurrency: ``receive`` and ``resize`` may be called from any thread.
    """

    device_id = 3
    queue_sizes: tuple[int, ...] = (8, 64)
    features: int = ConsoleFeature.SIZE
    saved_names: ClassVar[tuple[str, ...] | None] = ("_waiting",)

    def __init__(self, sink: Callable[[bytes], None], size: tuple[int, int] = (0, 0)) -> None:
        self._sink = sink
        self._size = size
        self._waiting = bytearray()

    @property
    def backlog(self) -> int:
        """The number of received bytes for which the guest has no buffer yet."""
        return len(self._waiting)

    def receive(self, data: bytes) -> None:
        """Receive bytes from the terminal; they wait until the guest offers buffers."""
        with self.transport:
            self._waiting += data[: max(MAX_BACKLOG - len(self._waiting), 0)]
            if self.queues:
                self._deliver(self.queues[_RECEIVE])

    def resize(self, columns: int, rows: int) -> None:
        """Tell the guest the new size of the terminal."""
        with self.transport:
            self._size = (columns, rows)
            self.transport.config_changed()

    def config(self) -> bytes:
        """Return the size of the terminal."""
        columns, rows = self._size
        return _config(columns & 0xFFFF, rows & 0xFFFF, 1, 0)

    def notify(self, queue: VirtQueue) -> None:
        """Process output, or new buffers for input."""
        if queue.index == _RECEIVE:
            self._deliver(queue)
            return
        for chain in queue.available():
            self._sink(chain.read(MAX_OUTPUT))
            queue.push_used(chain, 0)

    def _deliver(self, queue: VirtQueue) -> None:
        while self._waiting and (chain := queue.pop()) is not None:
            written = chain.write(self._waiting)
            del self._waiting[:written]
            queue.push_used(chain, written)
