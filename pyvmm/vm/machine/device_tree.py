"""The device tree of a guest: kvmtool's nodes, the Realm VM specification's interrupts.

The same description gives the same bytes, so that a realm's measurement is predictable.
Source: Devicetree Specification 0.4; the bindings of each node's `compatible` in Linux.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import libfdt

from pyvmm.arch.errors import UserError
from pyvmm.arch.gic import (
    NUM_SGIS,
    PPI_HYP_VIRTUAL_TIMER,
    PPI_MAINTENANCE,
    PPI_PMU,
    affinity_of,
)
from pyvmm.arch.its import ITS_SIZE
from pyvmm.devices import pl011, uart
from pyvmm.devices.tree import Trigger
from pyvmm.vm import memory_map
from pyvmm.vm.machine.plan import Kind, PlannedDevice
from pyvmm.vm.memory_map import MemoryMap

_GIC_PHANDLE: Final = 1
_SPI, _PPI = 0, 1
#: Secure physical, non-secure physical, virtual and hypervisor timer.
_TIMER_PPIS: Final = (13, 14, 11, 10)
#: Serial ports, with the paths of their nodes.
_SERIAL: Final = {Kind.UART: uart.node_path, Kind.PL011: pl011.node_path}


@dataclass(frozen=True, slots=True)
class Description:
    """The parts of a guest's device tree that are not fixed."""

    map: MemoryMap
    bootargs: str
    initrd: tuple[int, int] | None = None  # first IPA, and the first after it
    devices: tuple[PlannedDevice, ...] = ()
    uses_smc: bool = False  # to call PSCI
    has_its: bool = False
    has_pmu: bool = False
    has_el2: bool = False


def build_fdt(description: Description) -> bytes:
    """Return the flattened device tree.

    Raises:
        UserError: the command line makes it larger than the reserved space.
    """
    tree = _Tree()
    with tree.node(""):
        tree.cells("interrupt-parent", _GIC_PHANDLE)
        tree.text("compatible", "linux,dummy-virt")
        tree.cells("#address-cells", 2)
        tree.cells("#size-cells", 2)
        _chosen(tree, description)
        _memory(tree, description.map)
        _cpus(tree, description.map.num_cpus)
        _gic(tree, description.map, has_its=description.has_its, has_el2=description.has_el2)
        _timer(tree, has_el2=description.has_el2)
        if description.has_pmu:
            _pmu(tree)
        for device in description.devices:
            device.describe(tree, device.place)
        _psci(tree, "smc" if description.uses_smc else "hvc")
        with tree.node("aliases"):
            for device in description.devices:
                if device.kind in _SERIAL:
                    path = _SERIAL[device.kind](device.place)
                    tree.text(f"serial{device.index}", path)
    return tree.finish()


class _Tree:
    """A device tree, written from its root on."""

    def __init__(self) -> None:
        self._writer = libfdt.FdtSw()
        self._writer.finish_reservemap()
        self._last_phandle = _GIC_PHANDLE
        self._its: int | None = None

    @contextmanager
    def node(self, name: str) -> Iterator[None]:
        with self._writer.add_node(name):
            yield

    def text(self, name: str, *values: str) -> None:
        self._writer.property(name, b"".join(os.fsencode(value) + b"\0" for value in values))

    def cells(self, name: str, *values: int) -> None:
        self._writer.property(name, struct.pack(f">{len(values)}I", *values))

    def wide_cells(self, name: str, *values: int) -> None:
        self._writer.property(name, struct.pack(f">{len(values)}Q", *values))

    def flag(self, name: str) -> None:
        self._writer.property(name, b"")

    def interrupts(self, spis: tuple[int, ...], trigger: Trigger) -> None:
        self.cells("interrupts", *(cell for spi in spis for cell in (_SPI, spi, trigger)))

    def interrupt_map(self, rows: Sequence[tuple[tuple[int, ...], int]], trigger: Trigger) -> None:
        parent = (_GIC_PHANDLE, 0, 0, _SPI)  # with an address of two cells
        self.cells(
            "interrupt-map",
            *(cell for unit, spi in rows for cell in (*unit, *parent, spi, trigger)),
        )

    def msi_controller(self) -> int | None:
        return self._its

    def new_phandle(self) -> int:
        self._last_phandle += 1
        return self._last_phandle

    def its(self, base: int) -> None:
        """Write the node of the ITS, to which devices send messages."""
        self._its = self.new_phandle()
        with self.node(f"msi-controller@{base:x}"):
            self.text("compatible", "arm,gic-v3-its")
            self.flag("msi-controller")
            self.cells("#msi-cells", 1)
            self.wide_cells("reg", base, ITS_SIZE)
            self.cells("phandle", self._its)

    def finish(self) -> bytes:
        used = len(self._writer.as_bytearray())
        self._writer.resize(used + self._writer.INC_SIZE)  # room for the end: as_fdt() makes none
        fdt = self._writer.as_fdt()
        fdt.pack()
        blob = bytes(fdt.as_bytearray())
        if len(blob) > memory_map.DTB_SIZE:
            raise UserError("the kernel parameters are too long: keep -p below 60 KiB")
        return blob


def _chosen(tree: _Tree, description: Description) -> None:
    with tree.node("chosen"):
        tree.text("bootargs", description.bootargs)
        tree.text("stdout-path", "serial0")
        if description.initrd is not None:
            tree.wide_cells("linux,initrd-start", description.initrd[0])
            tree.wide_cells("linux,initrd-end", description.initrd[1])


def _memory(tree: _Tree, layout: MemoryMap) -> None:
    base = layout.machine.ram_base
    with tree.node(f"memory@{base:x}"):
        tree.text("device_type", "memory")
        tree.wide_cells("reg", base, layout.ram_size)


def _cpus(tree: _Tree, num_cpus: int) -> None:
    with tree.node("cpus"):
        tree.cells("#address-cells", 1)
        tree.cells("#size-cells", 0)
        for affinity in map(affinity_of, range(num_cpus)):
            with tree.node(f"cpu@{affinity:x}"):
                tree.text("device_type", "cpu")
                tree.text("compatible", "arm,arm-v8")
                tree.text("enable-method", "psci")
                tree.cells("reg", affinity)


def _gic(tree: _Tree, layout: MemoryMap, *, has_its: bool, has_el2: bool) -> None:
    gicd_base = layout.machine.gicd_base
    with tree.node(f"intc@{gicd_base:x}"):
        tree.text("compatible", "arm,gic-v3")
        tree.cells("#interrupt-cells", 3)
        tree.flag("interrupt-controller")
        tree.cells("#address-cells", 2)
        tree.cells("#size-cells", 2)
        tree.flag("ranges")
        tree.wide_cells(
            "reg",
            *(gicd_base, layout.gicd_size),
            *(layout.gicr_base, layout.gicr_size),
        )
        tree.cells("phandle", _GIC_PHANDLE)
        if has_el2:
            tree.cells("interrupts", _PPI, PPI_MAINTENANCE - NUM_SGIS, Trigger.LEVEL_HIGH)
        if has_its:
            tree.its(layout.its_base)


def _timer(tree: _Tree, *, has_el2: bool) -> None:
    with tree.node("timer"):
        tree.text("compatible", "arm,armv8-timer")
        ppis = (*_TIMER_PPIS, PPI_HYP_VIRTUAL_TIMER - NUM_SGIS) if has_el2 else _TIMER_PPIS
        lines = ((_PPI, ppi, Trigger.LEVEL_LOW) for ppi in ppis)
        tree.cells("interrupts", *(cell for line in lines for cell in line))
        tree.flag("always-on")


def _pmu(tree: _Tree) -> None:
    with tree.node("pmu"):
        tree.text("compatible", "arm,armv8-pmuv3")
        tree.cells("interrupts", _PPI, PPI_PMU - NUM_SGIS, Trigger.LEVEL_HIGH)


def _psci(tree: _Tree, method: str) -> None:
    with tree.node("psci"):
        tree.text("compatible", "arm,psci-1.0", "arm,psci-0.2", "arm,psci")
        tree.text("method", method)
