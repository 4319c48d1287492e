"""Access of devices to guest memory, and the fault if it is refused."""

from typing import Protocol

from pyvmm.arch.pas import GranuleProtectionFault


class DmaFault(Exception):
    """A DMA access outside guest RAM, or to a granule that the device must not access.

    ``addr`` and ``size`` are the access that the driver requested; nothing was transferred.
    """

    def __init__(self, addr: int, size: int) -> None:
        super().__init__(addr, size)
        self.addr = addr
        self.size = size

    def __str__(self) -> str:
        return f"DMA fault at {self.addr:#x}, {self.size} bytes"


class Dma(Protocol):
    """Guest memory as a device sees it, by the addresses that the driver uses (bytes).

    Every method raises ``DmaFault`` and transfers nothing if any byte of the range is refused.
    """

    def read(self, addr: int, size: int) -> bytes:
        """Return a copy of ``size`` bytes."""
        ...

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data``."""
        ...

    def view(self, addr: int, size: int) -> memoryview:
        """Return a writable view of the bytes.

        It is checked now, so use it immediately, or until the end of the transfer that has begun.
        """
        ...

    def begin_transfer(self) -> int:
        """Keep the views made from now on valid until ``end_transfer`` with the result."""
        ...

    def end_transfer(self, transfer: int) -> None:
        """End a transfer."""
        ...


class Memory(Protocol):
    """Guest memory as the host provides it, by the same addresses.

    Every method raises ``GranuleProtectionFault`` and transfers nothing if any byte is refused.
    """

    def read(self, addr: int, size: int) -> bytes:
        """Return a copy of ``size`` bytes."""
        ...

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data``."""
        ...

    def view(self, addr: int, size: int) -> memoryview:
        """Return a writable view of the bytes."""
        ...

    def begin_transfer(self) -> int:
        """Keep the views made from now on valid until ``end_transfer`` with the result."""
        ...

    def end_transfer(self, transfer: int) -> None:
        """End a transfer."""
        ...


class GuestDma:
    """DMA through the host's view of guest memory; its faults become ``DmaFault``."""

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
        """Return a view of the bytes."""
        try:
            return self._memory.view(addr, size)
        except GranuleProtectionFault as fault:
            raise DmaFault(addr, size) from fault

    def begin_transfer(self) -> int:
        """Begin a transfer."""
        return self._memory.begin_transfer()

    def end_transfer(self, transfer: int) -> None:
        """End a transfer."""
        self._memory.end_transfer(transfer)
