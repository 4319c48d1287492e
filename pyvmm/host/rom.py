"""Memory that a normal VM only reads: a write exits to the host, as every access does while hidden.

It is Non-secure memory like the RAM, mapped read-only by stage 2.
"""

from typing import Final

from pyvmm.arch.machine import PhysicalMemory
from pyvmm.arch.pas import Pas
from pyvmm.arch.stage2 import level_size
from pyvmm.host.allocator import Allocator
from pyvmm.host.guest import RomRegion
from pyvmm.host.machine import Machine
from pyvmm.host.stage2 import BLOCK_LEVEL, ROM_ATTRIBUTES, Stage2

ALIGNMENT: Final = level_size(BLOCK_LEVEL)


class RomMemory:
    """One region of such memory, of whole blocks.

    Concurrency: one thread at a time, while the VM runs.
    """

    def __init__(
        self,
        machine: Machine,
        memory: PhysicalMemory,
        allocator: Allocator,
        stage2: Stage2,
        vmid: int,
        region: RomRegion,
    ) -> None:
        """Allocate the memory and map it; MemoryError if there is not enough."""
        self.size = region.size
        self._machine = machine
        self._memory = memory
        self._allocator = allocator
        self._stage2 = stage2
        self._vmid = vmid
        self._ipa = region.ipa
        self._pa = allocator.allocate(region.size, ALIGNMENT)
        self._is_visible = False
        self.set_visible(is_visible=True)

    def read(self, offset: int, size: int) -> bytes:
        """Return a copy of the bytes, which must be inside."""
        return self._memory.read(self._pa + offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes, which must be inside."""
        self._memory.write(self._pa + offset, data)

    def set_visible(self, *, is_visible: bool) -> None:
        """Let the VM read it, or make its reads exit, too."""
        if is_visible == self._is_visible:
            return
        self._is_visible = is_visible
        if is_visible:
            self._stage2.map(self._ipa, self._pa, self.size, ROM_ATTRIBUTES)
        else:
            self._stage2.unmap(self._ipa, self.size)
            self._machine.tlbi_vmid(self._vmid)

    def close(self) -> None:
        """Free the memory after emptying it; no vCPU may be running."""
        self._machine.punch(Pas.NS, self._pa, self.size)
        self._allocator.free(self._pa, self.size)
