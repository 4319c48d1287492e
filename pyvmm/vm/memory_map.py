"""The guest's memory map and interrupt lines: kvmtool's, with the Realm VM specification's numbers.

An address here is an IPA as a normal VM sees it; a realm sees the same devices at their
unprotected alias, the address with the top IPA bit set.
"""

from dataclasses import dataclass
from typing import Final

from pyvmm.arch.gic import GICD_SIZE, GICR_SIZE
from pyvmm.arch.its import ITS_SIZE
from pyvmm.arch.pas import GRANULE_SIZE

MIB: Final = 1 << 20
GIB: Final = 1 << 30

PCI_IO: Final = range(0x1_0000)  # no function has I/O ports
UART_BASE: Final = 0x0100_0000
UART_STRIDE: Final = 0x1000
UART_SIZE: Final = 8
NUM_UARTS: Final = 4
#: Two clocks share the block: kvmtool's, and one for which arm64 Linux has a driver.
RTC_BASE: Final = 0x0101_0000
RTC_SIZE: Final = 2
PL031_BASE: Final = 0x0101_1000
PL031_SIZE: Final = 0x1000
WATCHDOG_BASE: Final = 0x0101_2000
WATCHDOG_SIZE: Final = 0x2000
PV_TIME_BASE: Final = 0x0102_0000
VIRTIO_BASE: Final = 0x0300_0000
VIRTIO_STRIDE: Final = 0x200
GICD_BASE: Final = 0x3FFF_0000
PCI_CONFIG: Final = range(0x4000_0000, 0x5000_0000)
PCI_MEMORY: Final = range(0x5000_0000, 0x8000_0000)
RAM_BASE: Final = 0x8000_0000

NUM_PRIVATE_INTIDS: Final = 32
UART_SPI: Final = 0
VIRTIO_SPI: Final = 4
PCI_SPI: Final = 64
PL031_SPI: Final = 95
WATCHDOG_SPI: Final = 96
NUM_VIRTIO: Final = 60
NUM_PCI: Final = 31  # slots; the interrupt of another one would be the clock's

MAX_CPUS: Final = 16
MIN_RAM_SIZE: Final = 4 * MIB
MAX_RAM_SIZE: Final = 512 * GIB
#: From the start of RAM; an arm64 kernel finds the whole payload there for every RAM size.
_PAYLOAD_WINDOWS: Final = (256 * MIB, 1 * GIB)
DTB_SIZE: Final = 0x1_0000
_DTB_ALIGNMENT: Final = 2 * MIB
_INITRD_ALIGNMENT: Final = 4


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """The part of the map that depends on the guest: RAM size (bytes) and number of CPUs."""

    ram_size: int
    num_cpus: int

    @property
    def ram_end(self) -> int:
        """The first address after RAM."""
        return RAM_BASE + self.ram_size

    @property
    def ipa_bits(self) -> int:
        """The width of a realm's IPA space: twice what the map needs, half of it unprotected."""
        return max(32, (self.ram_end - 1).bit_length()) + 1

    @property
    def gicr_base(self) -> int:
        """The first redistributor; they are contiguous, directly below the distributor."""
        return GICD_BASE - self.num_cpus * GICR_SIZE

    @property
    def gicr_size(self) -> int:
        """The size of all redistributors together."""
        return self.num_cpus * GICR_SIZE

    @property
    def its_base(self) -> int:
        """The ITS, directly below the redistributors."""
        return self.gicr_base - ITS_SIZE

    @property
    def gicd_size(self) -> int:
        """The size of the distributor."""
        return GICD_SIZE


def uart_base(index: int) -> int:
    """Return the address of UART 0..3."""
    return UART_BASE + index * UART_STRIDE


def virtio_base(slot: int) -> int:
    """Return the address of a virtio device, given its slot."""
    return VIRTIO_BASE + slot * VIRTIO_STRIDE


@dataclass(frozen=True, slots=True)
class Placement:
    """The addresses of the payload (IPA)."""

    dtb: int
    initrd: int


def place(ram_size: int, initrd_size: int, kernel_end: int) -> Placement | None:
    """Place DTB and initrd at the top of RAM's first 256 MiB, or 1 GiB if they need it.

    The addresses are exactly kvmtool's, because they are measured: subtract the size and one unit
    of alignment, then round up.  So there is always a gap below the DTB.

    Args:
        ram_size: bytes.
        initrd_size: bytes; 0 gives it the address of the DTB.
        kernel_end: the first IPA after the kernel and its zero-initialised data.

    Returns: None if the three do not fit.
    """
    for window in _PAYLOAD_WINDOWS:
        top = RAM_BASE + min(ram_size, window) - 1
        dtb = _align_up(top - DTB_SIZE - _DTB_ALIGNMENT, _DTB_ALIGNMENT)
        initrd = dtb
        if initrd_size:
            initrd = _align_up(dtb - initrd_size - _INITRD_ALIGNMENT, _INITRD_ALIGNMENT)
        if initrd >= _align_up(kernel_end, GRANULE_SIZE):  # they share no page
            return Placement(dtb, initrd)
    return None


def _align_up(address: int, alignment: int) -> int:
    return -(-address // alignment) * alignment
