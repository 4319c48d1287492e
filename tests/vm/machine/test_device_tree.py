"""The device tree, read back with libfdt."""

import struct
from dataclasses import replace
from pathlib import Path

import libfdt
import pytest

from pyvmm.arch.errors import UserError
from pyvmm.vm import memory_map
from pyvmm.vm.machine.device_tree import Description, build_fdt
from pyvmm.vm.machine.plan import device_plan
from pyvmm.vm.memory_map import MIB, MemoryMap
from pyvmm.vm.option_values import DiskOptions
from pyvmm.vm.options import VmOptions

DEVICES = device_plan(VmOptions(console="virtio", has_rng=True))
SMALL = Description(MemoryMap(512 * MIB, 2), "console=ttyS0", (0x8FC0_0000, 0x8FC0_0123), DEVICES)


class Tree:
    """A device tree with properties by path."""

    def __init__(self, blob: bytes) -> None:
        self._fdt = libfdt.FdtRo(blob)

    def bytes(self, path: str, name: str) -> bytes:
        """Return a property's value."""
        return bytes(self._fdt.getprop(self._fdt.path_offset(path), name))

    def cells(self, path: str, name: str) -> tuple[int, ...]:
        """Return a property as 32-bit cells."""
        value = self.bytes(path, name)
        return struct.unpack(f">{len(value) // 4}I", value)

    def has(self, path: str) -> bool:
        """Check whether a node exists."""
        return int(self._fdt.path_offset(path, [libfdt.NOTFOUND])) >= 0


def test_tree_is_the_same_for_the_same_guest() -> None:
    """A realm's measurement depends on it."""
    assert build_fdt(SMALL) == build_fdt(SMALL)


def test_tree_may_have_any_size() -> None:
    """Also one that just fills what libfdt has reserved."""
    sizes = [len(build_fdt(replace(SMALL, bootargs="x" * count))) for count in range(0, 1100, 4)]
    assert sizes == list(range(sizes[0], sizes[0] + 1100, 4))


def test_chosen_says_what_to_boot() -> None:
    """It has the command line, the console and the initial RAM disk."""
    tree = Tree(build_fdt(SMALL))
    assert tree.bytes("/chosen", "bootargs") == b"console=ttyS0\0"
    assert tree.bytes("/chosen", "stdout-path") == b"serial0\0"
    assert tree.cells("/chosen", "linux,initrd-end") == (0, 0x8FC0_0123)
    assert tree.bytes("/aliases", "serial0") == b"/U6_16550A@1000000\0"
    assert tree.has("/U6_16550A@1000000")


def test_performance_monitors_are_there_only_if_asked_for() -> None:
    """With PPI 7, level-sensitive, as kvmtool describes them."""
    assert not Tree(build_fdt(SMALL)).has("/pmu")
    tree = Tree(build_fdt(replace(SMALL, has_pmu=True)))
    assert tree.bytes("/pmu", "compatible") == b"arm,armv8-pmuv3\0"
    assert tree.cells("/pmu", "interrupts") == (1, 7, 4)


def test_interrupts_are_those_of_the_realm_vm_specification() -> None:
    """UARTs have SPI 0 to 3, level; virtio devices SPI 4 on, edge."""
    tree = Tree(build_fdt(SMALL))
    assert tree.cells("/U6_16550A@1003000", "interrupts") == (0, 3, 4)
    assert tree.cells("/virtio@3000200", "interrupts") == (0, 5, 1)
    assert not tree.has("/virtio@3000400")


def test_a_watchdog_has_two_frames_if_it_is_asked_for() -> None:
    """Control and refresh frame, and a level interrupt."""
    assert not Tree(build_fdt(SMALL)).has("/watchdog@1012000")
    devices = device_plan(VmOptions(has_watchdog=True))
    tree = Tree(build_fdt(Description(MemoryMap(64 * MIB, 1), "", devices=devices)))
    assert tree.bytes("/watchdog@1012000", "compatible") == b"arm,sbsa-gwdt\0"
    assert tree.cells("/watchdog@1012000", "reg") == (
        0,
        0x101_2000,
        0,
        4096,
        0,
        0x101_3000,
        0,
        4096,
    )
    assert tree.cells("/watchdog@1012000", "interrupts") == (0, 96, 4)


def test_cpus_and_redistributors_agree() -> None:
    """Each CPU has one redistributor, directly below the distributor."""
    tree = Tree(build_fdt(SMALL))
    assert tree.has("/cpus/cpu@1")
    assert not tree.has("/cpus/cpu@2")
    reg = tree.cells(f"/intc@{memory_map.GICD_BASE:x}", "reg")
    assert reg == (0, 0x3FFF_0000, 0, 0x1_0000, 0, 0x3FFB_0000, 0, 0x4_0000)


@pytest.mark.parametrize(("is_realm", "method"), [(False, b"hvc\0"), (True, b"smc\0")])
def test_psci_conduit_tells_a_realm(is_realm: bool, method: bytes) -> None:
    """Linux looks for RSI only if PSCI uses SMC."""
    description = Description(MemoryMap(64 * MIB, 1), "", uses_smc=is_realm)
    assert Tree(build_fdt(description)).bytes("/psci", "method") == method


def test_overlong_parameters_are_refused() -> None:
    """The limit for the tree is 64 KiB."""
    with pytest.raises(UserError, match="too long"):
        build_fdt(Description(MemoryMap(64 * MIB, 1), "x" * 70_000))


@pytest.mark.parametrize("irqchip", [None, "gicv3"])
def test_pci_is_described_as_in_kvmtool(irqchip: str | None) -> None:
    """Addresses, a pin per slot and, with an ITS, the target of messages."""
    options = VmOptions(transport="pci", irqchip=irqchip, has_rng=True, console="virtio")
    layout = MemoryMap(512 * MIB, 2)
    devices = device_plan(options)
    tree = Tree(build_fdt(Description(layout, "", devices=devices, has_its=options.has_its)))
    pci, its = "/pci@40000000", f"/intc@{memory_map.GICD_BASE:x}/msi-controller@{layout.its_base:x}"
    assert tree.cells(pci, "reg") == (0, 0x4000_0000, 0, 0x1000_0000)
    io = (0x0100_0000, 0, 0, 0, 0, 0, 0x1_0000)
    memory = (0x0200_0000, 0, 0x5000_0000, 0, 0x5000_0000, 0, 0x3000_0000)
    assert tree.cells(pci, "ranges") == io + memory
    (gic,) = tree.cells(f"/intc@{memory_map.GICD_BASE:x}", "phandle")
    pins = tree.cells(pci, "interrupt-map")
    assert pins == (0, 0, 0, 1, gic, 0, 0, 0, 64, 4, 0x800, 0, 0, 1, gic, 0, 0, 0, 65, 4)
    assert not tree.has("/virtio@3000000")
    assert tree.has(its) == options.has_its
    if options.has_its:
        assert tree.cells(its, "reg") == (0, 0x3FF9_0000, 0, 0x2_0000)
        (phandle,) = tree.cells(its, "phandle")
        assert tree.cells(pci, "msi-map") == (0, phandle, 0, 0x100)


def test_virt_is_described_as_in_qemu() -> None:
    """The addresses and interrupts of `qemu-system-aarch64 -M virt,gic-version=3,its=on`."""
    options = VmOptions(machine="virt", ram_size=512 * MIB, irqchip="gicv3-its", has_rng=True)
    description = Description(
        options.layout, "", devices=device_plan(options), has_its=options.has_its
    )
    tree = Tree(build_fdt(description))
    assert tree.cells("/memory@40000000", "reg") == (0, 0x4000_0000, 0, 0x2000_0000)
    gic = tree.cells("/intc@8000000", "reg")
    assert gic[:6] == (0, 0x800_0000, 0, 0x1_0000, 0, 0x80A_0000)
    its = tree.cells("/intc@8000000/msi-controller@8080000", "reg")
    assert its == (0, 0x808_0000, 0, 0x2_0000)
    assert tree.bytes("/aliases", "serial0") == b"/pl011@9000000\0"
    assert tree.bytes("/pl011@9000000", "compatible") == b"arm,pl011\0arm,primecell\0"
    assert tree.cells("/pl011@9000000", "interrupts") == (0, 1, 4)
    assert tree.cells("/rtc@9010000", "interrupts") == (0, 2, 4)
    assert tree.cells("/virtio@a000000", "reg") == (0, 0xA00_0000, 0, 0x200)
    assert tree.cells("/virtio@a000000", "interrupts") == (0, 16, 1)
    assert not tree.has("/U6_16550A@1000000")


@pytest.mark.parametrize(("transport", "limit"), [("mmio", 60), ("pci", 31)])
def test_bus_has_room_for_so_many_devices(transport: str, limit: int) -> None:
    """One more is a mistake of the user."""
    disks = tuple(DiskOptions(Path(f"disk{number}")) for number in range(limit - 2))
    most = VmOptions(disks=disks, transport=transport, has_watchdog=True)  # agent, power button
    spis = [spi for device in device_plan(most) for spi in device.place.spis]
    assert len(set(spis)) == len(spis)
    with pytest.raises(UserError, match=rf"{limit + 1} virtio devices; the limit is {limit}: omit"):
        device_plan(replace(most, has_rng=True))
