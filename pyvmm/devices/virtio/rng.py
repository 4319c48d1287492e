"""Entropy device: fills the driver's buffers with random bytes.

Spec: virtio 1.2, "Entropy Device".
"""

import os
from collections.abc import Callable
from typing import ClassVar

from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.queue import VirtQueue

#: Buffers may overlap, so a chain can request more bytes than guest memory has; this limits the
#: host's work for one request.
MAX_REQUEST = 64 << 10


class VirtioRng(VirtioDevice):
    """One queue of device-writable buffers."""

    device_id = 4
    queue_sizes: tuple[int, ...] = (64,)
    counter_names: ClassVar[tuple[str, ...]] = ("bytes",)

    def __init__(self, source: Callable[[int], bytes] = os.urandom) -> None:
        self._source = source

    def notify(self, queue: VirtQueue) -> None:
        """Fill all available buffers."""
        for chain in queue.available():
            size = min(chain.writable_size, MAX_REQUEST)
            queue.push_used(chain, chain.write(self._source(size)))
            self.counters["bytes"] += size
