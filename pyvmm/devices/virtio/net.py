"""Network device: Ethernet frames between the guest and an injected backend.

What a backend cannot do with a frame (complete a checksum, cut a long segment) is not offered to
the guest.  Spec: virtio 1.2, "Network Device".  Not implemented: UDP fragmentation and
segmentation, VLAN filtering, receive-side scaling, hash reports, notification coalescing.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from struct import Struct
from typing import ClassVar, Final, Protocol

from pyvmm.arch.saved import State, StateError, number
from pyvmm.devices.buffers import fill, split
from pyvmm.devices.ioloop import SetTimer
from pyvmm.devices.virtio import bounce
from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.net_control import MAX_COMMAND, execute
from pyvmm.devices.virtio.net_filter import ADDRESS_SIZE, ReceiveFilter
from pyvmm.devices.virtio.queue import Chain, QueueFault, VirtQueue

HEADER_SIZE: Final = 12  # virtio_net_hdr with num_buffers
_header = Struct("<B9xH").pack  # flags; no segmentation; num_buffers
_NUM_BUFFERS: Final = slice(10, HEADER_SIZE)
_PLAIN: Final = memoryview(bytes(HEADER_SIZE))
_DATA_VALID: Final = 2  # header flag: the checksum has been checked
_config = Struct("<6sHHH").pack  # mac, status, max_virtqueue_pairs, mtu
_LINK_UP, _ANNOUNCE = 1, 2
_QUEUE_SIZE: Final = 256
_CONTROL_QUEUE_SIZE: Final = 64
_RETURN_TIME: Final = 0.002  # seconds
_MAX_SENT: Final = 64  # buffers

ETHERNET_HEADER_SIZE: Final = 14
#: Longest frame accepted from the guest: the longest IP packet in Ethernet, with a VLAN tag.
MAX_FRAME: Final = 65535 + ETHERNET_HEADER_SIZE + 4


class NetFeature(IntEnum):
    """Feature bits."""

    CSUM = 1 << 0
    GUEST_CSUM = 1 << 1
    CTRL_GUEST_OFFLOADS = 1 << 2
    MTU = 1 << 3
    MAC = 1 << 5
    GUEST_TSO4 = 1 << 7
    GUEST_TSO6 = 1 << 8
    GUEST_ECN = 1 << 9
    HOST_TSO4 = 1 << 11
    HOST_TSO6 = 1 << 12
    HOST_ECN = 1 << 13
    MRG_RXBUF = 1 << 15
    STATUS = 1 << 16
    CTRL_VQ = 1 << 17
    CTRL_RX = 1 << 18
    CTRL_RX_EXTRA = 1 << 20
    GUEST_ANNOUNCE = 1 << 21
    MQ = 1 << 22
    CTRL_MAC_ADDR = 1 << 23


_ALWAYS: Final = (
    NetFeature.MTU
    | NetFeature.MAC
    | NetFeature.MRG_RXBUF
    | NetFeature.STATUS
    | NetFeature.CTRL_VQ
    | NetFeature.CTRL_RX
    | NetFeature.CTRL_RX_EXTRA
    | NetFeature.GUEST_ANNOUNCE
    | NetFeature.CTRL_MAC_ADDR
)
#: What the driver can accept from a backend, and change while it runs.
GUEST_OFFLOADS: Final = (
    NetFeature.GUEST_CSUM | NetFeature.GUEST_TSO4 | NetFeature.GUEST_TSO6 | NetFeature.GUEST_ECN
)


class NetPort(Protocol):
    """The device as its backend sees it; any thread."""

    def receive(self, frames: Iterable[bytes | memoryview], queue: int = 0) -> int:
        """Pass frames from a queue of the backend to the guest; return how many it took.

        If the guest lacks buffers, it takes fewer and does not ask ``frames`` for more; the backend
        keeps the rest until ``resume``.
        """
        ...

    def sendable(self) -> None:
        """Report that the backend accepts frames again after a refused ``send``."""
        ...

    def set_link(self, *, is_up: bool) -> None:
        """Set whether the backend's end of the cable is plugged in."""
        ...


class NetBackend(ABC):
    """The host side of a network device."""

    #: The largest IP packet that it can carry, in bytes.
    mtu: int
    #: Its queues: frames of one flow stay in one of them.
    num_queues: int = 1
    #: The offloads (NetFeature) that it can do in either direction.
    offloads: int = 0
    #: Whether each frame follows its virtio_net_hdr; otherwise the offloads need none.
    has_headers: bool = False

    @abstractmethod
    def start(self, port: NetPort) -> None:
        """Start to deliver frames to ``port``."""

    @abstractmethod
    def send(self, frame: list[memoryview], queue: int = 0) -> bool:
        """Send one Ethernet frame; return False to refuse it now, and get it again later."""

    def poll(self, queue: int = 0) -> None:  # noqa: B027  few have answers so soon
        """Deliver an answer to what was just sent if it is there; on the same thread."""

    @abstractmethod
    def resume(self, queue: int = 0) -> None:
        """Continue to deliver: the guest has new buffers."""

    def set_offloads(self, offloads: int) -> None:  # noqa: B027  few have any
        """Use these of the GUEST_* offloads for the frames that the guest receives."""

    @abstractmethod
    def close(self) -> None:
        """Stop; no frame is delivered afterwards."""


#: Is called with the parts of a frame.
Record = Callable[[Sequence[bytes | memoryview]], None]


def record_nothing(_frame: Sequence[bytes | memoryview]) -> None:
    """Record no frame."""


class VirtioNet(VirtioDevice):
    """One network card.

    Args:
        backend: its host side.
        mac: 6 bytes.
        is_bounced: the driver has a small bounce pool.
        set_timer: lets sent buffers return together, later; without it, each returns at once.
        record: called with each frame that is sent or received.
    """

    device_id = 1
    queue_sizes: tuple[int, ...]
    counter_names: ClassVar[tuple[str, ...]] = (
        "sent_frames", "sent_bytes", "received_frames", "received_bytes",
    )  # fmt: skip

    def __init__(
        self,
        backend: NetBackend,
        mac: bytes,
        *,
        is_bounced: bool = False,
        set_timer: SetTimer | None = None,
        record: Record = record_nothing,
    ) -> None:
        if len(mac) != ADDRESS_SIZE:
            raise ValueError("a MAC address has 6 bytes")
        self.max_pairs = backend.num_queues
        receive_size = bounce.NUM_RECEIVE_BUFFERS if is_bounced else _QUEUE_SIZE
        self.queue_sizes = (*(receive_size, _QUEUE_SIZE) * self.max_pairs, _CONTROL_QUEUE_SIZE)
        self.features = _ALWAYS | backend.offloads
        if backend.offloads & GUEST_OFFLOADS:
            self.features |= NetFeature.CTRL_GUEST_OFFLOADS
        if self.max_pairs > 1:
            self.features |= NetFeature.MQ
        self._backend = backend
        self._permanent_mac = mac
        self._record = record
        self._set_timer = set_timer
        self._is_up = self._is_enabled = True
        self._waiting: set[int] = set()  # queues of the backend with frames for the guest
        self._restore()

    def start(self) -> None:
        """Start the backend, once the device has its transport."""
        self._backend.start(self)

    def _restore(self) -> None:
        """Set the state that a driver can change."""
        self.mac = self._permanent_mac
        self.filter = ReceiveFilter()
        self.num_pairs = 1
        self._must_announce = False
        self._received_header = self._is_merging = self._offloads = 0
        self._sent: list[tuple[VirtQueue, Chain]] = []  # buffers that have not returned yet
        self._has_timer = False

    # --- the driver's settings ----------------------------------------------------------------

    def accept(self, features: int) -> None:
        """Begin with the features that the driver has accepted."""
        super().accept(features)
        self._is_merging = features & NetFeature.MRG_RXBUF
        self.set_offloads(features & GUEST_OFFLOADS)

    def set_offloads(self, offloads: int) -> bool:
        """Use these of the accepted GUEST_* offloads; return False if there are others."""
        if offloads & ~(self.acked_features & GUEST_OFFLOADS):
            return False
        self._offloads = offloads
        is_checked = offloads & NetFeature.GUEST_CSUM
        self._received_header = _DATA_VALID if is_checked else 0
        # A segment without its checksum is of no use.
        self._backend.set_offloads(offloads if is_checked else 0)
        return True

    def set_pairs(self, num_pairs: int) -> bool:
        """Use so many pairs of queues; return False if there are not so many."""
        if not 1 <= num_pairs <= self.max_pairs or not self.acked_features & NetFeature.MQ:
            return False
        self.num_pairs = num_pairs
        self._resume()
        return True

    @property
    def mtu(self) -> int:
        """The longest IP packet that the card carries."""
        return self._backend.mtu

    def announced(self) -> None:
        """End the request for an announcement: the driver has seen it."""
        self._must_announce = False

    def config(self) -> bytes:
        """Return address, link state, number of queue pairs and MTU."""
        status = _LINK_UP if self.is_up else 0
        status |= _ANNOUNCE if self._must_announce else 0
        return _config(self.mac, status, self.max_pairs, self.mtu)

    def reset(self) -> None:
        """Return to the initial state; frames of waiting backends are dropped."""
        super().reset()
        self._restore()
        self._backend.set_offloads(0)
        self._resume()

    # --- a snapshot ---------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether all sent buffers have returned."""
        return not self._sent

    def save(self) -> State:
        """Return what the driver and the user have set."""
        return self.filter.save() | {
            "mac": self.mac,
            "num_pairs": self.num_pairs,
            "offloads": int(self._offloads),
            "is_enabled": self._is_enabled,
        }

    def load(self, state: State) -> None:
        """Set what `save` has returned, for a card on another network, which has to learn it.

        Raises:
            StateError: it is not the state of such a card.
        """
        self.filter.load(state)
        mac, is_enabled = state.get("mac"), state.get("is_enabled")
        if not isinstance(mac, bytes) or len(mac) != ADDRESS_SIZE or type(is_enabled) is not bool:
            raise StateError(f"a card has the address {mac!r:.40}")
        self.mac, self._is_enabled = mac, is_enabled
        num_pairs = number(state, "num_pairs", self.max_pairs + 1)
        if num_pairs != 1 and not self.set_pairs(num_pairs):
            raise StateError(f"num_pairs is {num_pairs}")
        if not self.set_offloads(number(state, "offloads", 1 << 64)):
            raise StateError("offloads that the driver has not accepted")
        self._must_announce = self.is_up and bool(self.acked_features & NetFeature.GUEST_ANNOUNCE)
        if self.acked_features:
            self.transport.config_changed()

    # --- link ---------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Whether both ends of the cable are plugged in."""
        return self._is_up and self._is_enabled

    def set_link(self, *, is_up: bool) -> None:
        """Plug in or unplug the backend's end of the cable."""
        with self.transport:
            self._set_link(is_up, self._is_enabled)

    def enable(self, *, is_enabled: bool) -> None:
        """Plug in or unplug the guest's end of the cable, for the user."""
        with self.transport:
            self._set_link(self._is_up, is_enabled)

    def _set_link(self, is_up: bool, is_enabled: bool) -> None:
        was_up = self.is_up
        self._is_up, self._is_enabled = is_up, is_enabled
        if self.is_up == was_up:
            return
        # Switches have to learn the address again.
        self._must_announce = self.is_up and bool(self.acked_features & NetFeature.GUEST_ANNOUNCE)
        self.transport.config_changed()

    # --- queues -------------------------------------------------------------------------------

    def notify(self, queue: VirtQueue) -> None:
        """Send the guest's frames, resume backends that wait for buffers, or execute commands."""
        pair, is_transmit = divmod(queue.index, 2)
        if self._is_control(queue.index):
            self._control(queue)
        elif pair >= self.num_pairs:
            pass  # the driver does not use it
        elif is_transmit:
            self._transmit(queue, pair)
            self._backend.poll(pair)  # the guest gets both with one interrupt, and soon
        else:
            self._resume()

    def _is_control(self, index: int) -> bool:
        """Check whether this is the control queue: its place depends on MQ."""
        num_pairs = self.max_pairs if self.acked_features & NetFeature.MQ else 1
        return index == 2 * num_pairs and bool(self.acked_features & NetFeature.CTRL_VQ)

    def _control(self, queue: VirtQueue) -> None:
        for chain in queue.available():
            acknowledgement = execute(self, chain.read(MAX_COMMAND))
            queue.push_used(chain, chain.write(acknowledgement))

    def _resume(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for queue in waiting:
            self._backend.resume(queue)

    # --- guest to host ------------------------------------------------------------------------

    def sendable(self) -> None:
        """Send the frames that waited for the backend."""
        with self.transport:
            for pair in range(self.num_pairs if self.queues else 0):
                self._transmit(self.queues[2 * pair + 1], pair)

    def _transmit(self, queue: VirtQueue, pair: int) -> None:
        for chain in queue.available():
            header, frame = split(chain.readable, HEADER_SIZE)
            # Drop frames of an invalid size, as a switch would.
            size = sum(map(len, frame))
            if ETHERNET_HEADER_SIZE <= size <= MAX_FRAME and self.is_up:
                if not self._backend.send(self._on_wire(header, frame), pair):
                    queue.unpop()
                    break
                self._record(frame)
                self.counters["sent_frames"] += 1
                self.counters["sent_bytes"] += size
            self._sent.append((queue, Chain(chain.head)))
            if self._set_timer is None or len(self._sent) > _MAX_SENT:
                self._return_sent()
        self._return_later()

    def _return_later(self) -> None:
        """Return sent buffers with the next received frames, or after a short time.

        A driver asks for an interrupt for each, and in most cases needs none: it also looks at them
        when it receives or sends.
        """
        if self._set_timer is not None and self._sent and not self._has_timer:
            self._has_timer = True
            self._set_timer(self._time_out, _RETURN_TIME)

    def _time_out(self) -> None:
        with self.transport:
            self._has_timer = False
            self._return_sent()

    def _return_sent(self) -> None:
        sent, self._sent = self._sent, []
        for queue, chain in sent:
            if queue.is_ready:
                queue.push_used(chain, 0)

    def _on_wire(self, header: list[memoryview], frame: list[memoryview]) -> list[memoryview]:
        """Return a frame as its backend takes it; no offload that the driver has not accepted."""
        if not self._backend.has_headers:
            return frame
        if not self.acked_features & NetFeature.CSUM:
            return [_PLAIN, *frame]
        return [*header, *frame]

    # --- host to guest ------------------------------------------------------------------------

    def receive(self, frames: Iterable[bytes | memoryview], queue: int = 0) -> int:
        """Pass frames to the guest; drop them if it has no driver yet."""
        frames = iter(frames)
        num_taken = 0
        with self.transport:
            target = self.queues[2 * (queue % self.num_pairs)] if self.queues else None
            if target is not None and target.is_ready and self.is_up:
                self._return_sent()
                for frame in frames:
                    num_taken += 1
                    if not self._deliver(target, frame):
                        self._waiting.add(queue)
                        return num_taken - 1
                return num_taken
        # There is no driver, or its queue is broken.
        return num_taken + sum(1 for _ in frames)

    def _deliver(self, queue: VirtQueue, frame: bytes | memoryview) -> bool:
        """Write one frame to buffers; return False if there are not enough now."""
        has_header = self._backend.has_headers
        start = HEADER_SIZE if has_header else 0
        if not self.filter.accepts(bytes(frame[start : start + 6]), self.mac):
            return True
        size = HEADER_SIZE + len(frame) - start
        chains = self._collect(queue, size)
        if not chains:
            return chains is not None
        buffers = [buffer for chain, _ in chains for buffer in chain.writable]
        if has_header:
            header = bytearray(frame[:HEADER_SIZE])
            if not self._received_header:  # the driver does not know the flags
                header[0] = 0
            header[_NUM_BUFFERS] = len(chains).to_bytes(2, "little")
        else:
            header = bytearray(_header(self._received_header, len(chains)))
        head, rest = split(buffers, HEADER_SIZE)
        fill(head, header)
        fill(rest, memoryview(frame)[start:])
        for chain, written in chains:
            queue.push_used(chain, written)
        self._record([frame[start:]])
        self.counters["received_frames"] += 1
        self.counters["received_bytes"] += len(frame) - start
        return True

    def _collect(self, queue: VirtQueue, size: int) -> list[tuple[Chain, int]] | None:
        """Pop chains for ``size`` bytes, each with the number of bytes that it gets.

        Returns: None if there are not enough now; an empty list if the frame is too long for the
            one buffer of a driver without MRG_RXBUF, which keeps the buffer for the next one.
        """
        chains: list[tuple[Chain, int]] = []
        while size:
            if len(chains) == queue.size:
                raise QueueFault(f"queue {queue.index}: all its buffers do not hold one frame")
            chain = queue.pop()
            if chain is None:
                queue.unpop(len(chains))
                return None
            room = min(chain.writable_size, size)
            chains.append((chain, room))
            size -= room
            if size and not self._is_merging:
                queue.unpop()
                return []
        return chains
