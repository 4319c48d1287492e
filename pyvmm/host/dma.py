"""Guest memory for devices: all RAM of a normal VM, the shared pages of a realm.

A refused access raises ``GranuleProtectionFault`` with the guest's address and transfers nothing.
"""

from pyvmm.arch.machine import PhysicalMemory
from pyvmm.arch.pas import GRANULE_SHIFT, GranuleProtectionFault, Pas


class LinearMemory:
    """RAM that is one contiguous range of Non-secure memory."""

    __slots__ = ("_base", "_memory", "_pa", "_size")

    def __init__(self, memory: PhysicalMemory, ram_base: int, ram_size: int, pa: int) -> None:
        self._memory = memory
        self._base = ram_base
        self._size = ram_size
        self._pa = pa

    def read(self, addr: int, size: int) -> bytes:
        """Return a copy of the bytes."""
        return self._memory.read(self._translate(addr, size), size)

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        """Store the bytes."""
        self._memory.write(self._translate(addr, len(data)), data)

    def view(self, addr: int, size: int) -> memoryview:
        """Return a writable window."""
        return self._memory.view(self._translate(addr, size), size)

    def _translate(self, addr: int, size: int) -> int:
        """Return the physical address, if the device may access the whole range."""
        offset = addr - self._base
        if not 0 <= offset <= self._size - size or size < 0:
            raise GranuleProtectionFault(addr, Pas.NS)
        self._check(addr, offset, size)
        return self._pa + offset

    def _check(self, addr: int, offset: int, size: int) -> None:
        """Refuse RAM that is not for devices; here nothing."""


class SharedMemory(LinearMemory):
    """A realm's RAM as its devices see it: only shared pages, by either address.

    A shared page at IPA ram_base + n has the physical address pa + n; so shared pages that are
    adjacent for the realm are adjacent here, and one window contains them.
    """

    __slots__ = ("_alias", "is_shared")

    def __init__(
        self, memory: PhysicalMemory, ram_base: int, ram_size: int, pa: int, alias: int
    ) -> None:
        """``alias`` is the address bit of the unprotected half."""
        super().__init__(memory, ram_base, ram_size, pa)
        self._alias = alias
        self.is_shared = bytearray(ram_size >> GRANULE_SHIFT)  # 1 for a shared page

    def _translate(self, addr: int, size: int) -> int:
        return super()._translate(addr & ~self._alias, size)

    def _check(self, addr: int, offset: int, size: int) -> None:
        first = offset >> GRANULE_SHIFT
        end = (offset + size - 1 >> GRANULE_SHIFT) + 1
        private = self.is_shared.find(0, first, end)
        if private >= 0:
            raise GranuleProtectionFault(max(addr, self._base + (private << GRANULE_SHIFT)), Pas.NS)
