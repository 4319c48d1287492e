"""The configuration space of a PCI function: bytes, of which software may change some bits.

A base address register needs nothing else: its size is the bits of the address that cannot be
changed, so software finds it by writing ones.

Spec: PCI Local Bus 3.0, chapter 6.
"""

from struct import pack, pack_into, unpack_from
from typing import Final

SIZE: Final = 0x100
VENDOR_ID: Final = 0x00
DEVICE_ID: Final = 0x02
COMMAND: Final = 0x04
STATUS: Final = 0x06
REVISION: Final = 0x08
CLASS: Final = 0x09
BAR: Final = 0x10  # + 4 * n
SUBSYSTEM_VENDOR_ID: Final = 0x2C
SUBSYSTEM_ID: Final = 0x2E
CAPABILITIES: Final = 0x34
INTERRUPT_LINE: Final = 0x3C
INTERRUPT_PIN: Final = 0x3D
_FIRST_CAPABILITY: Final = 0x40

COMMAND_MEMORY: Final = 1 << 1
COMMAND_MASTER: Final = 1 << 2
COMMAND_NO_INTX: Final = 1 << 10
STATUS_INTERRUPT: Final = 1 << 3
_STATUS_CAPABILITIES: Final = 1 << 4
_PIN_A: Final = 1

CAP_VENDOR: Final = 0x09
CAP_MSIX: Final = 0x11


class ConfigSpace:
    """The 256 bytes of a function with one BAR for memory (BAR 0, 32 bits) and capabilities.

    Args:
        ids: the vendor and the device.
        class_code: base class, subclass and programming interface, 8 bits each.
        subsystem: the vendor and the number of the subsystem.
        bar_size: bytes, a power of two.
    """

    def __init__(
        self,
        ids: tuple[int, int],
        class_code: int,
        subsystem: tuple[int, int],
        bar_size: int,
    ) -> None:
        self._bytes = bytearray(SIZE)
        self._writable = bytearray(SIZE)
        self._bar_size = bar_size
        self._end = _FIRST_CAPABILITY  # of the capabilities
        self._last_link = CAPABILITIES
        pack_into("<HH", self._bytes, VENDOR_ID, *ids)
        pack_into("<I", self._bytes, REVISION, class_code << 8 | 1)
        pack_into("<HH", self._bytes, SUBSYSTEM_VENDOR_ID, *subsystem)
        pack_into("<H", self._bytes, STATUS, _STATUS_CAPABILITIES)
        self._bytes[INTERRUPT_PIN] = _PIN_A
        self._allow(COMMAND, pack("<H", COMMAND_MEMORY | COMMAND_MASTER | COMMAND_NO_INTX))
        self._allow(BAR, pack("<I", -bar_size & 0xFFFF_FFFF))
        self._allow(INTERRUPT_LINE, b"\xff")

    def _allow(self, offset: int, mask: bytes) -> None:
        """Let software change the bits of a mask."""
        self._writable[offset : offset + len(mask)] = mask

    def add_capability(self, kind: int, body: bytes, writable: bytes = b"") -> int:
        """Append a capability; return its offset.

        Args:
            kind: its identifier.
            body: what follows the identifier and the link.
            writable: the mask of the bits of the body that software may change.
        """
        offset = self._end
        self._bytes[self._last_link] = offset
        self._last_link = offset + 1
        self._bytes[offset] = kind
        self._bytes[offset + 2 : offset + 2 + len(body)] = body
        self._allow(offset + 2, writable)
        self._end = -(-(offset + 2 + len(body)) // 4) * 4
        return offset

    def read(self, offset: int, size: int) -> int:
        """Return ``size`` bytes; what is beyond the end reads as zero."""
        return int.from_bytes(self._bytes[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Change the writable bits of ``size`` bytes."""
        data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        for place, new in enumerate(data[: max(0, SIZE - offset)], offset):
            mask = self._writable[place]
            self._bytes[place] = self._bytes[place] & ~mask | new & mask

    def save(self) -> bytes:
        """Return the bytes."""
        return bytes(self._bytes)

    def load(self, data: bytes) -> None:
        """Set the bits that software may change, and the interrupt status."""
        self.write(0, SIZE, int.from_bytes(data[:SIZE], "little"))
        self.set_interrupt(bool(int.from_bytes(data[STATUS : STATUS + 1]) & STATUS_INTERRUPT))

    def put(self, offset: int, value: int) -> None:
        """Set four bytes, whether software may change them or not."""
        pack_into("<I", self._bytes, offset, value)

    def half(self, offset: int) -> int:
        """Return 16 bits."""
        value: int = unpack_from("<H", self._bytes, offset)[0]
        return value

    def set_interrupt(self, is_pending: bool) -> None:
        """Set the interrupt status."""
        status = self.half(STATUS) & ~STATUS_INTERRUPT
        pack_into("<H", self._bytes, STATUS, status | (STATUS_INTERRUPT if is_pending else 0))

    @property
    def bar(self) -> tuple[int, int] | None:
        """The address and the size of the BAR; None if the function does not decode memory."""
        if not self.half(COMMAND) & COMMAND_MEMORY:
            return None
        return self.read(BAR, 4), self._bar_size
