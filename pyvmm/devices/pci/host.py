"""The PCI host bridge: one bus, whose configuration spaces are in a window (ECAM).

A function is at a slot of bus 0 and decodes one region of memory, where the guest has put it.
Other slots, buses and function numbers have no function: they read as ones.

Spec: PCI Express Base, "Enhanced Configuration Access Mechanism"; the binding of
`pci-host-ecam-generic` in Linux.
"""

from collections.abc import Mapping
from threading import Lock
from typing import Final, Protocol

from pyvmm.arch.saved import State, part
from pyvmm.devices.bus import Bus, MmioDevice
from pyvmm.devices.tree import Place, TreeWriter, Trigger

FUNCTION_SIZE: Final = 0x1000
SLOT_SIZE: Final = 8 * FUNCTION_SIZE
NUM_REQUESTERS: Final = 0x100  # the functions of one bus: 32 slots of 8

# In the cells of the device tree.
_IO_SPACE: Final = 0x0100_0000
_MEMORY_SPACE: Final = 0x0200_0000
_SLOT_SHIFT: Final = 11
_SLOT_MASK: Final = 0x1F << _SLOT_SHIFT
_PIN_A: Final = 1
_PIN_MASK: Final = 7


def requester(slot: int) -> int:
    """Return the number by which the function in a slot signs its messages."""
    return slot << 3


class Function(MmioDevice, Protocol):
    """A PCI function: the memory that it decodes, as a device, and its configuration space."""

    @property
    def bar(self) -> tuple[int, int] | None:
        """The address and the size of the memory that it decodes; None if there is none."""

    def read_config(self, offset: int, size: int, /) -> int:
        """Read the configuration space."""

    def write_config(self, offset: int, size: int, value: int, /) -> None:
        """Write the configuration space.

        Raises:
            RepeatAccess: the vCPU has to repeat the write.
        """

    def save(self) -> State:
        """Return the state."""

    def load(self, state: State, /) -> None:
        """Set the state; StateError if it is not that of such a function."""


class HostBridge:
    """The window with the configuration spaces, an MMIO device.

    Args:
        bus: gets the memory that the functions decode, where it is inside ``memory``.
        memory: the addresses for the functions.
    """

    def __init__(self, bus: Bus, memory: range) -> None:
        self._bus = bus
        self._memory = memory
        self._functions: dict[int, tuple[Function, str]] = {}  # by slot; with the name
        self._mapped: list[tuple[int, int] | None] = []
        self._lock = Lock()

    def plug(self, slot: int, function: Function, name: str) -> None:
        """Put a function into a slot, before the guest runs."""
        self._functions[slot] = function, name

    def read(self, offset: int, size: int) -> int:
        """Read a configuration space."""
        function = self._find(offset)
        if function is None:
            return (1 << 8 * size) - 1
        return function.read_config(offset % FUNCTION_SIZE, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a configuration space.

        Raises:
            RepeatAccess: the vCPU has to repeat the write.
        """
        function = self._find(offset)
        if function is not None:
            function.write_config(offset % FUNCTION_SIZE, size, value)
            self._map()

    def save(self) -> State:
        """Return the states of the functions by slot; each is still."""
        return {f"slot{slot}": function.save() for slot, (function, _) in self._functions.items()}

    def load(self, state: State) -> None:
        """Set the states of the functions; StateError if these are others."""
        for slot, (function, _) in self._functions.items():
            function.load(part(state, f"slot{slot}"))
        self._map()

    def _find(self, offset: int) -> Function | None:
        slot, rest = divmod(offset, SLOT_SIZE)
        found = self._functions.get(slot) if rest < FUNCTION_SIZE else None
        return found and found[0]

    def _map(self) -> None:
        """Map the memory of the functions to where the guest has put it."""
        with self._lock:
            bars = [function.bar for function, _ in self._functions.values()]
            if bars == self._mapped:
                return
            self._mapped = bars
            self._bus.set_movable(
                (*bar, function, name)
                for bar, (function, name) in zip(bars, self._functions.values(), strict=True)
                if bar and bar[0] in self._memory and sum(bar) <= self._memory.stop
            )


def describe(
    tree: TreeWriter, place: Place, *, memory: range, io: range, spis: Mapping[int, int]
) -> None:
    """Write the node of the host bridge.

    Args:
        tree: gets the node.
        place: of the window.
        memory: the addresses for the functions' memory.
        io: the addresses for the functions' I/O ports.
        spis: the interrupts of the functions without MSI-X, by slot.
    """
    with tree.node(f"pci@{place.base:x}"):
        tree.text("compatible", "pci-host-ecam-generic")
        tree.text("device_type", "pci")
        tree.cells("#address-cells", 3)
        tree.cells("#size-cells", 2)
        tree.cells("#interrupt-cells", 1)
        tree.cells("bus-range", 0, 0)
        tree.wide_cells("reg", place.base, place.size)
        tree.cells(
            "ranges",
            *(_IO_SPACE, 0, 0, *divmod(io.start, 1 << 32), *divmod(len(io), 1 << 32)),
            *(_MEMORY_SPACE, *divmod(memory.start, 1 << 32)),
            *(*divmod(memory.start, 1 << 32), *divmod(len(memory), 1 << 32)),
        )
        tree.flag("dma-coherent")
        tree.cells("interrupt-map-mask", _SLOT_MASK, 0, 0, _PIN_MASK)
        pins = [((slot << _SLOT_SHIFT, 0, 0, _PIN_A), spi) for slot, spi in spis.items()]
        tree.interrupt_map(pins, Trigger.LEVEL_HIGH)
        its = tree.msi_controller()
        if its is not None:
            tree.cells("msi-map", 0, its, 0, NUM_REQUESTERS)
