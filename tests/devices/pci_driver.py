"""The driver's side of virtio over PCI: finds the parts of the BAR by the capabilities."""

from dataclasses import dataclass, field
from typing import Self

from pyvmm.arch.events import EventStream
from pyvmm.devices.bus import Bus
from pyvmm.devices.pci import config as pci
from pyvmm.devices.pci.host import SLOT_SIZE, HostBridge
from pyvmm.devices.virtio.mmio import Register
from pyvmm.devices.virtio.pci import CapType, Common, VirtioPci
from tests.devices.driver import Driver

CONFIG_BASE = 0x4000_0000
MEMORY = range(0x5000_0000, 0x8000_0000)
BAR = 0x5000_8000
SLOT = 3
MESSAGE_ADDRESS = 0x3FF0_0040

#: A register of virtio-mmio as a field of the common configuration, with its size.
FIELDS = {
    Register.DEVICE_FEATURES_SEL: (Common.DEVICE_FEATURE_SELECT, 4),
    Register.DEVICE_FEATURES: (Common.DEVICE_FEATURE, 4),
    Register.DRIVER_FEATURES_SEL: (Common.DRIVER_FEATURE_SELECT, 4),
    Register.DRIVER_FEATURES: (Common.DRIVER_FEATURE, 4),
    Register.QUEUE_SEL: (Common.QUEUE_SELECT, 2),
    Register.QUEUE_SIZE_MAX: (Common.QUEUE_SIZE, 2),
    Register.QUEUE_SIZE: (Common.QUEUE_SIZE, 2),
    Register.QUEUE_READY: (Common.QUEUE_ENABLE, 2),
    Register.STATUS: (Common.STATUS, 1),
    Register.CONFIG_GENERATION: (Common.CONFIG_GENERATION, 1),
    Register.QUEUE_DESC: (Common.QUEUE_DESC, 4),
    Register.QUEUE_DESC + 4: (Common.QUEUE_DESC + 4, 4),
    Register.QUEUE_DRIVER: (Common.QUEUE_DRIVER, 4),
    Register.QUEUE_DRIVER + 4: (Common.QUEUE_DRIVER + 4, 4),
    Register.QUEUE_DEVICE: (Common.QUEUE_DEVICE, 4),
    Register.QUEUE_DEVICE + 4: (Common.QUEUE_DEVICE + 4, 4),
}


@dataclass
class PciDriver(Driver):
    """A device in a slot; without MSI-X until ``use_msix``."""

    has_msix: bool = True
    messages: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bus = Bus(EventStream())
        self.bridge = HostBridge(self.bus, MEMORY)
        self.bus.add(CONFIG_BASE, 0x1000_0000, self.bridge, "pci")
        self.function = VirtioPci(
            self.device,
            self.ram,
            self.irq,
            (lambda *message: self.messages.append(message)) if self.has_msix else None,
            access_platform=self.access_platform,
            is_halting=self.is_halting,
        )
        self.bridge.plug(SLOT, self.function, "subject")
        self.write_pci(pci.BAR, 4, BAR)
        self.write_pci(pci.COMMAND, 2, pci.COMMAND_MEMORY | pci.COMMAND_MASTER)
        self.parts = {
            CapType(self.read_pci(at + 3, 1)): BAR + self.read_pci(at + 8, 4)
            for at in self.capabilities(pci.CAP_VENDOR)
        }

    # --- configuration space ------------------------------------------------------------------

    def read_pci(self, offset: int, size: int) -> int:
        """Read the configuration space."""
        return self.bus.read(CONFIG_BASE + SLOT * SLOT_SIZE + offset, size)

    def write_pci(self, offset: int, size: int, value: int) -> None:
        """Write the configuration space."""
        self.bus.write(CONFIG_BASE + SLOT * SLOT_SIZE + offset, size, value)

    def capabilities(self, kind: int) -> list[int]:
        """Return the offsets of the capabilities of a kind."""
        found, at = [], self.read_pci(pci.CAPABILITIES, 1)
        while at:
            if self.read_pci(at, 1) == kind:
                found.append(at)
            at = self.read_pci(at + 1, 1)
        return found

    # --- registers ----------------------------------------------------------------------------

    def read_common(self, offset: int, size: int) -> int:
        """Read the common configuration."""
        return self.bus.read(self.parts[CapType.COMMON] + offset, size)

    def write_common(self, offset: int, size: int, value: int) -> None:
        """Write the common configuration."""
        self.bus.write(self.parts[CapType.COMMON] + offset, size, value)

    def read(self, register: int) -> int:
        """Read what virtio-mmio has in a register."""
        if register == Register.INTERRUPT_STATUS:
            return self.bus.read(self.parts[CapType.ISR], 1)
        return self.read_common(*FIELDS[register])

    def write(self, register: int, value: int) -> None:
        """Write what virtio-mmio has in a register."""
        if register == Register.QUEUE_NOTIFY:
            self.write_common(Common.QUEUE_SELECT, 2, value)
            offset = self.read_common(Common.QUEUE_NOTIFY_OFF, 2)
            self.bus.write(self.parts[CapType.NOTIFY] + 4 * offset, 2, value)
        elif register != Register.INTERRUPT_ACK:  # reading the causes is enough
            offset, size = FIELDS[register]
            self.write_common(offset, size, value)

    def config(self, offset: int, size: int) -> int:
        """Read the device's configuration space."""
        return self.bus.read(self.parts[CapType.DEVICE] + offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Write the device's configuration space."""
        self.bus.write(self.parts[CapType.DEVICE] + offset, size, value)

    # --- MSI-X --------------------------------------------------------------------------------

    def use_msix(self) -> Self:
        """Enable MSI-X; the vector of the configuration is 0, that of queue n is n + 1."""
        (at,) = self.capabilities(pci.CAP_MSIX)
        self.msix_control = at + 2
        self.table = BAR + (self.read_pci(at + 4, 4) & ~7)
        self.pending = BAR + (self.read_pci(at + 8, 4) & ~7)
        self.write_pci(self.msix_control, 2, 0x8000)
        self.write_common(Common.CONFIG_VECTOR, 2, 0)
        for queue in range(len(self.device.queue_sizes)):
            self.write_common(Common.QUEUE_SELECT, 2, queue)
            self.write_common(Common.QUEUE_VECTOR, 2, queue + 1)
        for vector in range(self.read_pci(self.msix_control, 2) + 1 & 0x7FF):
            self.bus.write(self.table + 16 * vector, 8, MESSAGE_ADDRESS)
            self.bus.write(self.table + 16 * vector + 8, 4, 100 + vector)
            self.set_masked(vector, is_masked=False)
        return self

    def set_masked(self, vector: int, *, is_masked: bool) -> None:
        """Mask or unmask a vector."""
        self.bus.write(self.table + 16 * vector + 12, 4, int(is_masked))
