"""The memory map."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.arch.its import ITS_SIZE
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.vm import memory_map
from pyvmm.vm.memory_map import GIB, MIB, RAM_BASE, VIRT, MemoryMap, place


def test_dtb_lies_where_kvmtool_puts_it() -> None:
    """From 256 MiB on its place does not depend on the RAM size."""
    for ram_size in (256 * MIB, 512 * MIB, 4 * GIB):
        placement = place(ram_size, 5, RAM_BASE)
        assert placement is not None
        assert placement.dtb == 0x8FE0_0000
        assert placement.initrd == 0x8FDF_FFF8


@pytest.mark.parametrize(
    ("size", "gap"),
    [
        *((4096, 4), (4097, 3), (4098, 2), (4099, 1), (4100, 4)),
        *((4101, 3), (4102, 2), (4103, 1), (4104, 4), (4105, 3)),
        *((1, 3), (4, 4)),
    ],
)
def test_initrd_lies_where_kvmtool_puts_it(size: int, gap: int) -> None:
    """There is always a gap of 1 to 4 bytes between it and the device tree."""
    placement = place(512 * MIB, size, RAM_BASE)
    assert placement is not None
    assert placement.initrd == 0x8FE0_0000 - size - gap


def test_no_initrd_needs_no_room() -> None:
    """A kernel may reach up to the device tree."""
    placement = place(512 * MIB, 0, 0x8FE0_0000)
    assert placement is not None
    assert placement.dtb == 0x8FE0_0000


@given(
    ram_size=st.integers(1024, 1 << 20).map(lambda granules: granules * GRANULE_SIZE),
    initrd_size=st.integers(0, GIB),
    kernel_end=st.integers(RAM_BASE, RAM_BASE + GIB),
)
def test_payload_never_overlaps(ram_size: int, initrd_size: int, kernel_end: int) -> None:
    """Kernel, initrd and DTB follow each other inside RAM, or there is no placement."""
    placement = place(ram_size, initrd_size, kernel_end)
    if placement is not None:
        assert kernel_end <= placement.initrd
        assert placement.initrd + initrd_size <= placement.dtb
        assert placement.dtb + memory_map.DTB_SIZE <= RAM_BASE + ram_size
        assert placement.dtb % (2 * MIB) == placement.initrd % 4 == 0
        assert placement.initrd // GRANULE_SIZE > (kernel_end - 1) // GRANULE_SIZE


def test_large_initrd_gets_a_place_above_256_mib() -> None:
    """A payload that does not fit in the usual window may use the first 1 GiB."""
    placement = place(2 * GIB, 400 * MIB, RAM_BASE + 64 * MIB)
    assert placement is not None
    assert placement.initrd + 400 * MIB <= placement.dtb


def test_ipa_space_has_an_unprotected_half() -> None:
    """RAM ends below half of the realm's IPA space."""
    assert MemoryMap(512 * MIB, 1).ipa_bits == 33
    assert MemoryMap(4 * GIB, 1).ipa_bits == 34


def test_devices_do_not_overlap() -> None:
    """The regions of the fixed map do not overlap, with the maximum number of CPUs."""
    layout = MemoryMap(GIB, memory_map.MAX_CPUS)
    regions = [
        (memory_map.PCI_IO.start, len(memory_map.PCI_IO)),
        *((memory_map.uart_base(n), memory_map.UART_SIZE) for n in range(memory_map.NUM_UARTS)),
        (memory_map.RTC_BASE, memory_map.RTC_SIZE),
        (memory_map.PL031_BASE, memory_map.PL031_SIZE),
        *(
            (memory_map.virtio_base(n), memory_map.VIRTIO_STRIDE)
            for n in range(memory_map.NUM_VIRTIO)
        ),
        (layout.its_base, ITS_SIZE),
        (layout.gicr_base, layout.gicr_size),
        (memory_map.GICD_BASE, layout.gicd_size),
        *((each.start, len(each)) for each in (memory_map.PCI_CONFIG, memory_map.PCI_MEMORY)),
        (RAM_BASE, layout.ram_size),
    ]
    for (base, size), (following, _) in itertools.pairwise(regions):
        assert base + size <= following


def test_devices_of_virt_do_not_overlap() -> None:
    """Nor do their interrupts; the flash ends where the GIC begins."""
    layout = MemoryMap(GIB, memory_map.MAX_CPUS, VIRT)
    last = VIRT.virtio_window(VIRT.num_virtio - 1)
    regions = [
        (VIRT.gicd_base, layout.gicd_size),
        (layout.its_base, ITS_SIZE),
        (layout.gicr_base, layout.gicr_size),
        *((each.base, each.size) for each in (VIRT.uart, VIRT.pl031)),
        (VIRT.pv_time_base, GRANULE_SIZE),
        (VIRT.watchdog.base, VIRT.watchdog.size),
        (VIRT.virtio.base, last.base + last.size - VIRT.virtio.base),
        *((each.start, len(each)) for each in (VIRT.pci_memory, VIRT.pci_io, VIRT.pci_config)),
        (VIRT.ram_base, layout.ram_size),
    ]
    for (base, size), (following, _) in itertools.pairwise(regions):
        assert base + size <= following
    assert max(last.spis) < memory_map.PCI_SPI
