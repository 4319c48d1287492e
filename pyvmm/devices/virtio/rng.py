"""Entropy device: fills the driver's buffers with random bytes, at a bounded rate.

Spec: virtio 1.2, "Entropy Device".
"""

import os
import time
from collections.abc import Callable
from typing import ClassVar, Final

from pyvmm.devices.ioloop import SetTimer
from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.queue import VirtQueue

#: Bytes per second: no guest may keep the host busy with making random numbers.
RATE: Final = 1 << 20
#: Bytes at once, after a pause.  Buffers may overlap, so a chain can request more than guest memory
#: has; this limits the answer to one request, too.
MAX_BURST: Final = 64 << 10
#: Bytes that a smaller request counts as: it costs the host time, too.
MIN_COST: Final = 64


class VirtioRng(VirtioDevice):
    """One queue of device-writable buffers.

    Args:
        set_timer: sets a timer; used only while a request waits for its turn.
        source: returns so many random bytes.
        clock: seconds, monotonic.
    """

    device_id = 4
    queue_sizes: tuple[int, ...] = (64,)
    counter_names: ClassVar[tuple[str, ...]] = ("bytes", "delays")
    saved_names: ClassVar[tuple[str, ...] | None] = ()

    def __init__(
        self,
        set_timer: SetTimer,
        source: Callable[[int], bytes] = os.urandom,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._set_timer = set_timer
        self._source = source
        self._clock = clock
        self._allowance = float(MAX_BURST)  # bytes
        self._since = clock()

    def notify(self, queue: VirtQueue) -> None:
        """Fill the available buffers, as far as the rate permits; the others wait."""
        for chain in queue.available():
            size = min(chain.writable_size, MAX_BURST)
            cost = max(size, MIN_COST)
            if cost > self._renew_allowance():
                queue.unpop()
                self.counters["delays"] += 1
                self._set_timer(self._continue, (cost - self._allowance) / RATE)
                return
            self._allowance -= cost
            queue.push_used(chain, chain.write(self._source(size)))
            self.counters["bytes"] += size

    def reset(self) -> None:
        """Forget the requests that wait; the allowance remains what it is."""
        super().reset()
        self._set_timer(self._continue, None)

    def _renew_allowance(self) -> float:
        now = self._clock()
        self._allowance = min(self._allowance + (now - self._since) * RATE, MAX_BURST)
        self._since = now
        return self._allowance

    def _continue(self) -> None:
        """Serve the requests that wait; on the timer's thread."""
        with self.transport:
            self.notify(self.queues[0])
