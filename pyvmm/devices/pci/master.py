"""A PCI function's access to memory, which software turns on and off (bus mastering).

Spec: PCI Local Bus 3.0, 6.2.2, "Bus Master".
"""

from pyvmm.devices.dma import Dma, DmaFault


class BusMaster:
    """The memory as a function sees it: none while software has not made it a bus master."""

    __slots__ = ("_dma", "is_enabled")

    def __init__(self, dma: Dma) -> None:
        self._dma = dma
        self.is_enabled = False

    def read(self, addr: int, size: int) -> bytes:
        """Return a copy of ``size`` bytes."""
        return bytes(self.view(addr, size))

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data``."""
        self.view(addr, len(data))[:] = data

    def view(self, addr: int, size: int) -> memoryview:
        """Return a writable view of the bytes."""
        if not self.is_enabled:
            raise DmaFault(addr, size)
        return self._dma.view(addr, size)

    def begin_transfer(self) -> int:
        """Begin a transfer."""
        return self._dma.begin_transfer()

    def end_transfer(self, transfer: int) -> None:
        """End a transfer, also when it is no longer a bus master."""
        self._dma.end_transfer(transfer)
