"""The guest's memory map and interrupt lines, of two machines.

`KVMTOOL` is kvmtool's, with the Realm VM specification's numbers; the constants are its parts.
`VIRT` is QEMU's machine `virt`, for which firmware exists.

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
FLASH_BANK: Final = 64 * MIB


@dataclass(frozen=True, slots=True)
class Window:
    """The registers of a device (IPA, bytes), and its shared interrupt, if it has one."""

    base: int
    size: int
    spi: int | None = None

    @property
    def spis(self) -> tuple[int, ...]:
        """Its shared interrupts."""
        return () if self.spi is None else (self.spi,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The part of the map that is the same for all guests of a machine."""

    name: str
    ram_base: int
    gicd_base: int
    gicr_base: int | None = None  # None: the redistributors end where the distributor begins
    its_base: int | None = None  # None: the ITS ends where the redistributors begin
    uart: Window  # the first one
    pl031: Window
    watchdog: Window
    pv_time_base: int
    virtio: Window  # the first one
    num_virtio: int
    pci_config: range
    pci_memory: range
    pci_io: range
    flash: Window | None = None  # two banks, for firmware and its variables
    fw_cfg: Window | None = None

    def virtio_window(self, slot: int) -> Window:
        """Return the window of a virtio device."""
        first = self.virtio
        return Window(first.base + slot * first.size, first.size, (first.spi or 0) + slot)


KVMTOOL: Final = Machine(
    name="kvmtool",
    ram_base=RAM_BASE,
    gicd_base=GICD_BASE,
    uart=Window(UART_BASE, UART_SIZE, UART_SPI),
    pl031=Window(PL031_BASE, PL031_SIZE, PL031_SPI),
    watchdog=Window(WATCHDOG_BASE, WATCHDOG_SIZE, WATCHDOG_SPI),
    pv_time_base=PV_TIME_BASE,
    virtio=Window(VIRTIO_BASE, VIRTIO_STRIDE, VIRTIO_SPI),
    num_virtio=NUM_VIRTIO,
    pci_config=PCI_CONFIG,
    pci_memory=PCI_MEMORY,
    pci_io=PCI_IO,
)
#: Addresses of QEMU, and its interrupts except those of PCI and the watchdog, which it lacks.
VIRT: Final = Machine(
    name="virt",
    ram_base=0x4000_0000,
    gicd_base=0x0800_0000,
    gicr_base=0x080A_0000,
    its_base=0x0808_0000,
    uart=Window(0x0900_0000, 0x1000, 1),
    pl031=Window(0x0901_0000, 0x1000, 2),
    watchdog=Window(0x090E_0000, WATCHDOG_SIZE, WATCHDOG_SPI),
    pv_time_base=0x090A_0000,
    virtio=Window(0x0A00_0000, 0x200, 16),
    num_virtio=32,
    pci_config=range(0x3F00_0000, 0x4000_0000),
    pci_memory=range(0x1000_0000, 0x3EFF_0000),
    pci_io=range(0x3EFF_0000, 0x3F00_0000),
    flash=Window(0, 2 * FLASH_BANK),
    fw_cfg=Window(0x0902_0000, 0x18),
)
MACHINES: Final = {machine.name: machine for machine in (KVMTOOL, VIRT)}


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """The part of the map that depends on the guest: RAM size (bytes) and number of CPUs."""

    ram_size: int
    num_cpus: int
    machine: Machine = KVMTOOL

    @property
    def ram_end(self) -> int:
        """The first address after RAM."""
        return self.machine.ram_base + self.ram_size

    @property
    def ipa_bits(self) -> int:
        """The width of a realm's IPA space: twice what the map needs, half of it unprotected."""
        return max(32, (self.ram_end - 1).bit_length()) + 1

    @property
    def gicr_base(self) -> int:
        """The first redistributor; they are contiguous."""
        base = self.machine.gicr_base
        return self.machine.gicd_base - self.gicr_size if base is None else base

    @property
    def gicr_size(self) -> int:
        """The size of all redistributors together."""
        return self.num_cpus * GICR_SIZE

    @property
    def its_base(self) -> int:
        """The ITS."""
        base = self.machine.its_base
        return self.gicr_base - ITS_SIZE if base is None else base

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


def place(
    ram_size: int, initrd_size: int, kernel_end: int, ram_base: int = RAM_BASE
) -> Placement | None:
    """Place DTB and initrd at the top of RAM's first 256 MiB, or 1 GiB if they need it.

    The addresses are exactly kvmtool's, because they are measured: subtract the size and one unit
    of alignment, then round up.  So there is always a gap below the DTB.

    Args:
        ram_size: bytes.
        initrd_size: bytes; 0 gives it the address of the DTB.
        kernel_end: the first IPA after the kernel and its zero-initialised data.
        ram_base: the first IPA of RAM.

    Returns: None if the three do not fit.
    """
    for window in _PAYLOAD_WINDOWS:
        top = ram_base + min(ram_size, window) - 1
        dtb = _align_up(top - DTB_SIZE - _DTB_ALIGNMENT, _DTB_ALIGNMENT)
        initrd = dtb
        if initrd_size:
            initrd = _align_up(dtb - initrd_size - _INITRD_ALIGNMENT, _INITRD_ALIGNMENT)
        if initrd >= _align_up(kernel_end, GRANULE_SIZE):  # they share no page
            return Placement(dtb, initrd)
    return None


def _align_up(address: int, alignment: int) -> int:
    return -(-address // alignment) * alignment
