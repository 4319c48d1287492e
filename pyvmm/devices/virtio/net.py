"""Network device: Ethernet frames between the guest and an injected backend.

Spec: virtio 1.2, "Network Device".  Not implemented: checksum and segmentation offloads, the
control queue, multi-queue.
"""

from collections.abc import Sequence
from enum import IntEnum
from struct import Struct
from typing import ClassVar, Protocol

from pyvmm.devices.virtio import bounce
from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.queue import Chain, VirtQueue, fill, split

_RECEIVE, _TRANSMIT = 0, 1
_HEADER_SIZE = 12  # virtio_net_hdr with num_buffers
_header = Struct("<10xH").pack  # no offload; num_buffers
_config = Struct("<6sHHH").pack  # mac, status, max_virtqueue_pairs, mtu
_LINK_UP = 1

ETHERNET_HEADER_SIZE = 14
#: Longest frame accepted from the guest: the longest IP packet in Ethernet, with a VLAN tag.
MAX_FRAME = 65535 + ETHERNET_HEADER_SIZE + 4


class NetFeature(IntEnum):
    """Offered feature bits."""

    MTU = 1 << 3
    MAC = 1 << 5
    MRG_RXBUF = 1 << 15
    STATUS = 1 << 16


class NetPort(Protocol):
    """The device as its backend sees it; any thread."""

    def receive(self, frames: Sequence[bytes | memoryview]) -> int:
        """Pass frames to the guest; return how many it took.

        If the guest lacks buffers, it takes fewer; the backend keeps the rest until ``resume``.
        """
        ...

    def sendable(self) -> None:
        """Report that the backend accepts frames again after a refused ``send``."""
        ...

    def set_link(self, *, is_up: bool) -> None:
        """Set whether the cable is plugged in."""
        ...


class NetBackend(Protocol):
    """The host side of a network device."""

    @property
    def mtu(self) -> int:
        """The largest IP packet that it can carry, in bytes."""
        ...

    def start(self, port: NetPort) -> None:
        """Start to deliver frames to ``port``."""
        ...

    def send(self, frame: list[memoryview]) -> bool:
        """Send one Ethernet frame; return False to refuse it now, and get it again later."""
        ...

    def resume(self) -> None:
        """Continue to deliver: the guest has new buffers."""
        ...

    def close(self) -> None:
        """Stop; no frame is delivered afterwards."""
        ...


class VirtioNet(VirtioDevice):
    """One network card.

    Args:
        backend: start it with this device once the device has its transport.
        mac: 6 bytes.
        is_bounced: the driver has a small bounce pool.
    """

    device_id = 1
    queue_sizes: tuple[int, ...] = (256, 256)
    counter_names: ClassVar[tuple[str, ...]] = (
        "sent_frames", "sent_bytes", "received_frames", "received_bytes",
    )  # fmt: skip
    features: int = NetFeature.MTU | NetFeature.MAC | NetFeature.MRG_RXBUF | NetFeature.STATUS

    def __init__(self, backend: NetBackend, mac: bytes, *, is_bounced: bool = False) -> None:
        if len(mac) != 6:
            raise ValueError("a MAC address has 6 bytes")
        if is_bounced:
            self.queue_sizes = (bounce.NUM_RECEIVE_BUFFERS, 256)
        self._backend = backend
        self._mac = mac
        self._is_up = True
        self._is_backend_waiting = False

    def config(self) -> bytes:
        """Return address, link state and MTU."""
        return _config(self._mac, _LINK_UP if self._is_up else 0, 1, self._backend.mtu)

    def notify(self, queue: VirtQueue) -> None:
        """Send the guest's frames, or resume a backend that waits for buffers."""
        if queue.index == _TRANSMIT:
            self._transmit(queue)
        elif self._is_backend_waiting:
            self._is_backend_waiting = False
            self._backend.resume()

    def reset(self) -> None:
        """Resume a waiting backend; its frames are dropped."""
        super().reset()
        if self._is_backend_waiting:
            self._is_backend_waiting = False
            self._backend.resume()

    def receive(self, frames: Sequence[bytes | memoryview]) -> int:
        """Pass frames to the guest; drop them if it has no driver yet."""
        with self.transport:
            if not self.queues or not self.queues[_RECEIVE].is_ready:
                return len(frames)
            for index, frame in enumerate(frames):
                if not self._deliver(self.queues[_RECEIVE], frame):
                    self._is_backend_waiting = True
                    return index
            return len(frames)
        return len(frames)  # the queue is broken: drop the rest

    def sendable(self) -> None:
        """Send the frames that waited for the backend."""
        with self.transport:
            if self.queues:
                self._transmit(self.queues[_TRANSMIT])

    def set_link(self, *, is_up: bool) -> None:
        """Plug or unplug the cable."""
        with self.transport:
            self._is_up = is_up
            self.transport.config_changed()

    def _transmit(self, queue: VirtQueue) -> None:
        for chain in queue.available():
            frame = split(chain.readable, _HEADER_SIZE)[1]
            # Drop frames of an invalid size, as a switch would.
            size = sum(map(len, frame))
            if ETHERNET_HEADER_SIZE <= size <= MAX_FRAME:
                if not self._backend.send(frame):
                    queue.unpop()
                    return
                self.counters["sent_frames"] += 1
                self.counters["sent_bytes"] += size
            queue.push_used(chain, 0)

    def _deliver(self, queue: VirtQueue, frame: bytes | memoryview) -> bool:
        """Write one frame to buffers; return False if there are not enough now."""
        size = _HEADER_SIZE + len(frame)
        chains: list[tuple[Chain, int]] = []
        room, is_mergeable = 0, bool(self.acked_features & NetFeature.MRG_RXBUF)
        while room < size:
            chain = queue.pop()
            if chain is None:
                queue.unpop(len(chains))
                return False
            chains.append((chain, min(chain.writable_size, size - room)))
            room += chains[-1][1]
            if not is_mergeable:
                break
        if room < size:
            # Too long for the one buffer of a driver without MRG_RXBUF: drop the frame and keep
            # the buffer for the next one.
            queue.unpop(len(chains))
            return True
        buffers = [buffer for chain, _ in chains for buffer in chain.writable]
        fill(buffers, b"".join((_header(len(chains)), frame)))
        for chain, written in chains:
            queue.push_used(chain, written)
        self.counters["received_frames"] += 1
        self.counters["received_bytes"] += len(frame)
        return True
