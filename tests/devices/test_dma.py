"""DMA into guest memory."""

import pytest

from pyvmm.arch.pas import GranuleProtectionFault, Pas
from pyvmm.devices.dma import DmaFault, GuestDma
from tests.memory import ViewedMemory

SIZE, LIMIT = 0x2000, 0x1000


class Memory(ViewedMemory):
    """Guest memory whose second granule is private to a realm."""

    def __init__(self) -> None:
        self.bytes = bytearray(SIZE)

    def view(self, pa: int, size: int) -> memoryview:
        """Refuse the second granule."""
        if pa + size > LIMIT:
            raise GranuleProtectionFault(LIMIT, Pas.NS)
        return memoryview(self.bytes)[pa : pa + size]


def test_dma_moves_bytes_of_reachable_memory() -> None:
    """Read, write and view access the same bytes."""
    memory = Memory()
    dma = GuestDma(memory)
    dma.write(8, b"abc")
    dma.view(9, 1)[:] = b"B"
    assert (dma.read(8, 3), bytes(memory.bytes[8:11])) == (b"aBc", b"aBc")


@pytest.mark.parametrize(("addr", "size"), [(LIMIT - 1, 2), (LIMIT, 1), (0, SIZE)])
def test_dma_faults_and_moves_nothing_when_a_granule_is_protected(addr: int, size: int) -> None:
    """If any byte is refused, the whole range is; the fault has the driver's address."""
    memory = Memory()
    dma = GuestDma(memory)
    for access in (
        lambda: dma.read(addr, size),
        lambda: dma.view(addr, size),
        lambda: dma.write(addr, b"x" * size),
    ):
        with pytest.raises(DmaFault) as fault:
            access()
        assert (fault.value.addr, fault.value.size) == (addr, size)
    assert not any(memory.bytes)
