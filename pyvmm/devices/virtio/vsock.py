"""Socket device: carries packets between the guest's vsock and the injected host side.

A guest that is restored from a snapshot has lost its connections, and perhaps its CID: it gets an
event.

Spec: virtio 1.2, "Socket Device".  Not implemented: SEQPACKET.
"""

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import ClassVar, Final, Protocol

from pyvmm.arch.saved import State
from pyvmm.devices.virtio import bounce
from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.queue import VirtQueue

_RECEIVE, _TRANSMIT, _EVENT = 0, 1, 2
_TRANSPORT_RESET: Final = bytes(4)  # the id of the only event
_config = Struct("<Q").pack  # guest_cid
_header = Struct("<QQIIIHHIII")
HEADER_SIZE: Final = _header.size
STREAM: Final = 1
HOST_CID: Final = 2
FIRST_GUEST_CID: Final = 3
MAX_CID: Final = (1 << 32) - 2
#: Longest data of one packet; Linux sends at most this.
MAX_DATA: Final = 64 << 10


class Op(IntEnum):
    """What a packet is for."""

    REQUEST = 1
    RESPONSE = 2
    RST = 3
    SHUTDOWN = 4
    RW = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


#: Flags of SHUTDOWN: the sender will not receive, will not send.
NO_RECEIVE, NO_SEND = 1, 2


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a packet, in the order of its fields."""

    src_cid: int
    dst_cid: int
    src_port: int
    dst_port: int
    size: int = 0
    kind: int = STREAM
    op: int = 0
    flags: int = 0
    buf_alloc: int = 0
    fwd_cnt: int = 0

    def reset(self) -> "Header":
        """Return the RST that answers the packet."""
        return Header(
            self.dst_cid, self.src_cid, self.dst_port, self.src_port, kind=self.kind, op=Op.RST
        )

    def pack(self) -> bytes:
        """Return the bytes of the header."""
        return _header.pack(
            self.src_cid, self.dst_cid, self.src_port, self.dst_port, self.size, self.kind,
            self.op, self.flags, self.buf_alloc, self.fwd_cnt,
        )  # fmt: skip


class VsockHost(Protocol):
    """The host side; every method is called inside an activity of the device."""

    def received(self, header: Header, data: bytes) -> None:
        """Process a packet of the guest; its data has the size that the header states."""
        ...

    def next_packet(self, room: int) -> bytes | None:
        """Return a packet for the guest with at most ``room`` bytes of data; None: there is none.

        The packet is delivered: it is not asked for again.
        """
        ...

    def reset(self) -> None:
        """Close all connections: the guest has forgotten them."""
        ...


class VirtioVsock(VirtioDevice):
    """Queues for packets to the guest and from it, and for events, which there are none of.

    Args:
        cid: the guest's address.
        host: the host side.
        is_bounced: the driver has a small bounce pool.

    Concurrency: ``deliver`` may be called from any thread.
    """

    device_id = 19
    queue_sizes: tuple[int, ...] = (128, 128, 4)
    counter_names: ClassVar[tuple[str, ...]] = (
        "sent_packets", "sent_bytes", "received_packets", "received_bytes",
    )  # fmt: skip

    saved_names: ClassVar[tuple[str, ...] | None] = ()

    def __init__(self, cid: int, host: VsockHost, *, is_bounced: bool = False) -> None:
        if is_bounced:
            self.queue_sizes = (bounce.NUM_VSOCK_BUFFERS, 128, 4)
        self._cid = cid
        self._host = host
        self._is_restored = False  # and the guest does not know it yet

    def config(self) -> bytes:
        """Return the guest's CID."""
        return _config(self._cid)

    def notify(self, queue: VirtQueue) -> None:
        """Process the guest's packets, or deliver packets that waited for buffers."""
        if queue.index == _TRANSMIT:
            for chain in queue.available():
                self._take(chain.read(HEADER_SIZE + MAX_DATA))
                queue.push_used(chain, 0)
        if queue.index == _EVENT:
            self._tell()
        else:
            self.deliver()

    def load(self, state: State) -> None:
        """Set the state: the guest will reset its connections, and read its CID again."""
        super().load(state)
        self._is_restored = True
        self._tell()

    def _tell(self) -> None:
        """Tell the guest that it is restored, once it has a buffer for the event."""
        if self._is_restored and (chain := self.queues[_EVENT].pop()) is not None:
            self._is_restored = False
            self.queues[_EVENT].push_used(chain, chain.write(_TRANSPORT_RESET))

    def reset(self) -> None:
        """Close all connections."""
        super().reset()
        self._is_restored = False
        self._host.reset()

    def deliver(self) -> None:
        """Deliver the host's packets while the guest has buffers."""
        with self.transport:
            if not self.queues:
                return
            queue = self.queues[_RECEIVE]
            while (chain := queue.pop()) is not None:
                room = chain.writable_size - HEADER_SIZE
                packet = self._host.next_packet(min(room, MAX_DATA)) if room >= 0 else b""
                if packet is None:
                    queue.unpop()
                    return
                queue.push_used(chain, chain.write(packet))
                self.counters["received_packets"] += 1
                self.counters["received_bytes"] += len(packet) - HEADER_SIZE

    def _take(self, packet: bytes) -> None:
        """Pass a packet to the host, unless it is not complete."""
        if len(packet) < HEADER_SIZE:
            return
        header = Header(*_header.unpack_from(packet))
        data = packet[HEADER_SIZE:]
        if header.src_cid != self._cid or len(data) != header.size:
            return
        self.counters["sent_packets"] += 1
        self.counters["sent_bytes"] += len(data)
        self._host.received(header, data)
