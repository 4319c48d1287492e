"""The driver's side of virtio: builds descriptor chains in a guest memory made of a bytearray."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from struct import pack, pack_into, unpack_from
from typing import Self

from pyvmm.devices.dma import DmaFault
from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.mmio import Register, VirtioMmio
from pyvmm.devices.virtio.queue import never
from pyvmm.devices.virtio.state import Feature, Status

RAM_BASE = 0x8000_0000
RAM_SIZE = 1 << 20

NEXT, WRITE, INDIRECT = 1, 2, 4


class Ram:
    """Guest memory: a Dma over a bytearray; accesses to pages in ``refused`` fault."""

    def __init__(self, size: int = RAM_SIZE) -> None:
        self.bytes = bytearray(size)
        self.refused: set[int] = set()
        self.num_transfers = 0
        self.ended: list[int] = []
        self._free = 0x1000

    def view(self, addr: int, size: int) -> memoryview:
        """Return the bytes themselves."""
        offset = addr - RAM_BASE
        if not 0 <= offset <= len(self.bytes) - size:
            raise DmaFault(addr, size)
        if self.refused & set(range(addr >> 12, (addr + size + 4095) >> 12)):
            raise DmaFault(addr, size)
        return memoryview(self.bytes)[offset : offset + size]

    def read(self, addr: int, size: int) -> bytes:
        """Return a copy."""
        return bytes(self.view(addr, size))

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data``."""
        self.view(addr, len(data))[:] = data

    def begin_transfer(self) -> int:
        """Count it."""
        self.num_transfers += 1
        return self.num_transfers

    def end_transfer(self, transfer: int) -> None:
        """Remember that it ended."""
        self.ended.append(transfer)

    def alloc(self, size: int, align: int = 16) -> int:
        """Return the address of fresh memory."""
        self._free = -(-self._free // align) * align
        addr = RAM_BASE + self._free
        self._free += size
        assert self._free <= len(self.bytes)
        return addr


@dataclass
class IrqRecorder:
    """An interrupt line that records its level and the number of rising edges."""

    level: bool = False
    rises: int = 0

    def __call__(self, level: bool) -> None:
        """Set the level."""
        self.rises += level and not self.level
        self.level = level

    def is_high(self) -> bool:
        """Return the level."""
        return self.level


@dataclass
class Ring:
    """One queue in guest memory, filled by hand."""

    ram: Ram
    size: int
    desc: int = 0
    avail: int = 0
    used: int = 0
    next_desc: int = 0
    seen: int = 0  # used entries read so far
    avail_idx: int = 0

    def __post_init__(self) -> None:
        self.desc = self.ram.alloc(16 * self.size, 16)
        self.avail = self.ram.alloc(6 + 2 * self.size, 2)
        self.used = self.ram.alloc(6 + 8 * self.size, 4)

    def put_desc(self, index: int, addr: int, size: int, flags: int = 0, nxt: int = 0) -> None:
        """Write one descriptor."""
        self.ram.write(self.desc + 16 * index, pack("<QIHH", addr, size, flags, nxt))

    def offer(self, head: int) -> None:
        """Append a head to the avail ring."""
        slot = self.avail + 4 + 2 * (self.avail_idx % self.size)
        self.ram.write(slot, pack("<H", head))
        self.avail_idx = (self.avail_idx + 1) & 0xFFFF
        self.ram.write(self.avail + 2, pack("<H", self.avail_idx))

    def add(
        self, readable: Sequence[bytes], writable: Sequence[int], *, indirect: bool = False
    ) -> "Request":
        """Offer one request: buffers with content, then empty buffers of these sizes."""
        buffers = [(self.ram.alloc(len(data), 1), len(data), 0) for data in readable]
        for (addr, _, _), data in zip(buffers, readable, strict=True):
            self.ram.write(addr, data)
        targets = [(self.ram.alloc(size, 1), size) for size in writable]
        buffers += [(addr, size, WRITE) for addr, size in targets]
        head = self.next_desc % self.size
        table = self.ram.alloc(16 * len(buffers)) if indirect else 0
        for index, (addr, size, flags) in enumerate(buffers):
            is_last = index == len(buffers) - 1
            nxt = index + 1 if indirect else (head + index + 1) % self.size
            entry = pack("<QIHH", addr, size, flags | (0 if is_last else NEXT), nxt)
            where = (
                table + 16 * index if indirect else self.desc + 16 * ((head + index) % self.size)
            )
            self.ram.write(where, entry)
        if indirect:
            self.put_desc(head, table, 16 * len(buffers), INDIRECT)
        self.next_desc += 1 if indirect else len(buffers)
        self.offer(head)
        return Request(self.ram, head, targets)

    def offer_table(self, buffers: Sequence[tuple[int, int, int]]) -> None:
        """Offer buffers (address, size, flags) that are memory already, through a table."""
        table = self.ram.alloc(16 * len(buffers))
        for index, (addr, size, flags) in enumerate(buffers, 1):
            has_next = NEXT * (index != len(buffers))
            entry = pack("<QIHH", addr, size, flags | has_next, index)
            self.ram.write(table + 16 * (index - 1), entry)
        head = self.next_desc % self.size
        self.put_desc(head, table, 16 * len(buffers), INDIRECT)
        self.next_desc += 1
        self.offer(head)

    def used_entries(self) -> list[tuple[int, int]]:
        """Return the (head, written) pairs that came back since the last call."""
        (idx,) = unpack_from("<H", self.ram.view(self.used + 2, 2))
        entries = []
        while self.seen != idx:
            slot = self.used + 4 + 8 * (self.seen % self.size)
            head, written = unpack_from("<II", self.ram.view(slot, 8))
            entries.append((head, written))
            self.seen = (self.seen + 1) & 0xFFFF
        return entries


@dataclass
class Request:
    """An offered request: the buffers for the device's answer."""

    ram: Ram
    head: int
    targets: list[tuple[int, int]]

    def answer(self) -> bytes:
        """Return everything in the device-writable buffers."""
        return b"".join(self.ram.read(addr, size) for addr, size in self.targets)


@dataclass
class Driver:
    """A device with its transport, initialised as by a driver."""

    device: VirtioDevice
    ram: Ram = field(default_factory=Ram)
    irq: IrqRecorder = field(default_factory=IrqRecorder)
    ring_size: int = 16  # of queues that can be so long
    refuse: int = 0  # feature bits not to take
    access_platform: bool = False
    is_halting: Callable[[], bool] = never
    rings: list[Ring] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mmio = VirtioMmio(
            self.device,
            self.ram,
            self.irq,
            access_platform=self.access_platform,
            is_halting=self.is_halting,
        )

    def read(self, register: int) -> int:
        """Read a 32-bit register."""
        return self.mmio.read(register, 4)

    def write(self, register: int, value: int) -> None:
        """Write a 32-bit register."""
        self.mmio.write(register, 4, value)

    def offered(self) -> int:
        """Return the 64 feature bits on offer."""
        value = 0
        for half in (0, 1):
            self.write(Register.DEVICE_FEATURES_SEL, half)
            value |= self.read(Register.DEVICE_FEATURES) << 32 * half
        return value

    def accept(self, features: int) -> bool:
        """Write the driver's features; return whether FEATURES_OK sticks."""
        for half in (0, 1):
            self.write(Register.DRIVER_FEATURES_SEL, half)
            self.write(Register.DRIVER_FEATURES, features >> 32 * half & 0xFFFF_FFFF)
        self.write(Register.STATUS, self.read(Register.STATUS) | Status.FEATURES_OK)
        return bool(self.read(Register.STATUS) & Status.FEATURES_OK)

    def set_up_queue(self, index: int) -> Ring:
        """Allocate a ring and enable the queue."""
        self.write(Register.QUEUE_SEL, index)
        ring = Ring(self.ram, min(self.ring_size, self.read(Register.QUEUE_SIZE_MAX)))
        self.write(Register.QUEUE_SIZE, ring.size)
        for register, addr in (
            (Register.QUEUE_DESC, ring.desc),
            (Register.QUEUE_DRIVER, ring.avail),
            (Register.QUEUE_DEVICE, ring.used),
        ):
            self.write(register, addr & 0xFFFF_FFFF)
            self.write(register + 4, addr >> 32)
        self.write(Register.QUEUE_READY, 1)
        return ring

    def start(self) -> Self:
        """Do the whole initialisation sequence."""
        self.write(Register.STATUS, 0)
        self.write(Register.STATUS, Status.ACKNOWLEDGE)
        self.write(Register.STATUS, Status.ACKNOWLEDGE | Status.DRIVER)
        assert self.accept(self.offered() & ~self.refuse)
        self.rings = [self.set_up_queue(i) for i in range(len(self.device.queue_sizes))]
        self.write(Register.STATUS, self.read(Register.STATUS) | Status.DRIVER_OK)
        return self

    def kick(self, queue: int = 0) -> None:
        """Notify the device."""
        self.write(Register.QUEUE_NOTIFY, queue)

    def acknowledge(self) -> int:
        """Read and acknowledge the interrupt causes."""
        causes = self.read(Register.INTERRUPT_STATUS)
        self.write(Register.INTERRUPT_ACK, causes)
        return causes

    @property
    def is_broken(self) -> bool:
        """Whether the device asks for a reset."""
        return bool(self.read(Register.STATUS) & Status.NEEDS_RESET)

    def config(self, offset: int, size: int) -> int:
        """Read the configuration space."""
        return self.mmio.read(Register.CONFIG + offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Write the configuration space."""
        self.mmio.write(Register.CONFIG + offset, size, value)

    def set_used_event(self, index: int, value: int) -> None:
        """Ask for an interrupt when used.idx passes ``value`` (EVENT_IDX)."""
        ring = self.rings[index]
        pack_into("<H", self.ram.view(ring.avail + 4 + 2 * ring.size, 2), 0, value)

    def avail_event(self, index: int) -> int:
        """Return when the device wants the next notification (EVENT_IDX)."""
        ring = self.rings[index]
        (value,) = unpack_from("<H", self.ram.view(ring.used + 4 + 8 * ring.size, 2))
        return int(value)


NO_RING_FEATURES = Feature.RING_EVENT_IDX | Feature.RING_INDIRECT_DESC
