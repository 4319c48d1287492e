"""The boot handshake with EL3: checks of the arguments and the shared page.

Spec: TF-A, RMM-EL3 communication interface, "RMM boot" and "boot manifest" 0.3.
"""

from struct import unpack
from typing import Final

from pyvmm.arch.bits import MASK64, Layout
from pyvmm.arch.machine import PhysicalMemory
from pyvmm.arch.pas import GRANULE_SIZE, GranuleProtectionFault
from pyvmm.arch.rmmd import (
    BANKS_OFFSET,
    INTERFACE_VERSION,
    MANIFEST_VERSION,
    BootError,
    BootManifest,
    ConsoleInfo,
    DramBank,
)

MAX_CPUS: Final = 1024
_BANK: Final = DramBank.packer()
_MAX_DRAM: Final = 1 << 40  # bytes from the first bank to the last; one byte of state per granule


class BootRefused(Exception):
    """The RMM cannot boot; ``status`` is the reason."""

    def __init__(self, status: BootError) -> None:
        super().__init__(status)
        self.status = int(status)


def dram_banks(
    memory: PhysicalMemory, version: int, num_cpus: int, shared_pa: int
) -> list[tuple[int, int]]:
    """Check the boot arguments and the manifest; return base and size of each DRAM bank.

    Raises: BootRefused.
    """
    if not _compatible(version, INTERFACE_VERSION):
        raise BootRefused(BootError.VERSION_MISMATCH)
    if not 0 < num_cpus <= MAX_CPUS:
        raise BootRefused(BootError.CPUS_OUT_OF_RANGE)
    page = _shared_page(memory, shared_pa)
    manifest = BootManifest(page)
    if not _compatible(manifest.version, MANIFEST_VERSION):
        raise BootRefused(BootError.MANIFEST_VERSION)
    consoles = manifest.num_consoles, manifest.consoles, manifest.console_checksum
    _array(page, shared_pa, ConsoleInfo, *consoles)
    dram = manifest.dram_num_banks, manifest.dram_banks, manifest.dram_checksum
    banks: list[tuple[int, int]] = list(_BANK.iter_unpack(_array(page, shared_pa, DramBank, *dram)))
    if not banks or not _well_formed(banks):
        raise BootRefused(BootError.MANIFEST_DATA)
    return banks


def _array(
    page: bytes, shared_pa: int, item: type[Layout], count: int, array_pa: int, checksum: int
) -> bytes:
    """Return an array of the manifest: aligned, after the header, inside the page, sum zero.

    Raises: BootRefused.
    """
    start = array_pa - shared_pa
    size = count * item.size
    is_inside = start >= BANKS_OFFSET and start % 8 == 0 and start + size <= GRANULE_SIZE
    if count and not is_inside:
        raise BootRefused(BootError.MANIFEST_DATA)
    array = page[start : start + size] if count else b""
    words = unpack(f"<{len(array) // 8}Q", array)
    if (count + array_pa + checksum + sum(words)) & MASK64:
        raise BootRefused(BootError.MANIFEST_DATA)
    return array


def _compatible(offered: int, needed: int) -> bool:
    """Check whether a version has our major number and at least our minor number."""
    return offered >> 16 == needed >> 16 and offered & 0xFFFF >= needed & 0xFFFF


def _shared_page(memory: PhysicalMemory, shared_pa: int) -> bytes:
    if shared_pa % GRANULE_SIZE:
        raise BootRefused(BootError.INVALID_SHARED_BUFFER)
    try:
        return memory.read(shared_pa, GRANULE_SIZE)
    except GranuleProtectionFault:
        raise BootRefused(BootError.INVALID_SHARED_BUFFER) from None


def _well_formed(banks: list[tuple[int, int]]) -> bool:
    """Check whether the banks are granule-aligned, not empty, ascending and disjoint."""
    previous_end = 0
    for base, size in banks:
        if (base | size) % GRANULE_SIZE or not size or base < previous_end:
            return False
        previous_end = base + size
    return previous_end - banks[0][0] <= _MAX_DRAM
