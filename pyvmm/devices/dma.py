"""What a device may do with guest memory, and the fault when it may not."""

from typing import Protocol

from pyvmm.arch.pas import GranuleProtectionFault


class DmaFault(Exception):
    """A DMA access outside guest RAM, or to a granule that the device may not reach.

    ``addr`` and ``size`` are the access as the driver asked for it; no byte of it was moved.
    """

    def __init__(self, addr: int, size: int) -> None:
        super().__init__(addr, size)
        self.addr = addr
        self.size = size

    def __str__(self) -> str:
        return f"DMA fault at {self.addr:#x}, {self.size} bytes"


class Dma(Protocol):
    """Guest memory as a device sees it, by the addresses the driver gave it (bytes).

    Every method raises ``DmaFault`` and moves nothing if any byte of the range is refused.
    """

    def read(self, addr: int, size: int) -> bytes:
        """Return a copy of ``size`` bytes."""
        ...

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data``."""
        ...

    def view(self, addr: int, size: int) -> memoryview:
        """Return the bytes themselves, writable; for use at once, as the check is made now."""
        ...


class Memory(Protocol):
    """Guest memory as the host offers it, by the same addresses.

    Every method raises ``GranuleProtectionFault`` and moves nothing if any byte is refused.
    """

    def read(self, addr: int, size: int) -> bytes:
        """Return a copy of ``size`` bytes."""
        ...

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data``."""
        ...

    def view(self, addr: int, size: int) -> memoryview:
        """Return the bytes themselves, writable."""
        ...


class GuestDma:
    """DMA over the host's view of guest memory: its refusals become ``DmaFault``."""

    __slots__ = ("_memory",)

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def read(self, addr: int, size: int) -> bytes:
        """Return a copy of ``size`` bytes."""
        try:
            return self._memory.read(addr, size)
        except GranuleProtectionFault as fault:
            raise DmaFault(addr, size) from fault

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data``."""
        try:
            self._memory.write(addr, data)
        except GranuleProtectionFault as fault:
            raise DmaFault(addr, len(data)) from fault

    def view(self, addr: int, size: int) -> memoryview:
        """Return the bytes themselves."""
        try:
            return self._memory.view(addr, size)
        except GranuleProtectionFault as fault:
            raise DmaFault(addr, size) from fault
