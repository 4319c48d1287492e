"""What firmware finds on the machine `virt`: its flash, and QEMU's configuration device."""

from collections.abc import Callable
from contextlib import ExitStack
from enum import IntEnum

from pyvmm.devices.bus import Bus
from pyvmm.devices.dma import Dma
from pyvmm.devices.flash import Flash
from pyvmm.devices.flash_file import FlashFile
from pyvmm.devices.fw_cfg import FwCfg
from pyvmm.host.guest import Guest
from pyvmm.vm.machine.plan import PlannedDevice
from pyvmm.vm.options import VmOptions


class Item(IntEnum):
    """Numbers of items of the configuration device."""

    UUID = 0x02
    RAM_SIZE = 0x03
    HAS_NO_SCREEN = 0x04
    NUM_CPUS = 0x05
    MAX_CPUS = 0x0F


def add_flash(
    options: VmOptions,
    device: PlannedDevice,
    guest: Guest,
    bus: Bus,
    resources: ExitStack,
    notify: Callable[[str], None],
) -> None:
    """Add both banks to the bus: the firmware's is protected, the other keeps its variables.

    ``resources`` gets what must be closed at the end; ``notify`` is called with a line if the
    host's storage fails.

    Raises:
        UserError: the file of the variables cannot be used.
    """
    code, variables = guest.roms
    store = None
    if options.flash is not None:
        store = resources.enter_context(FlashFile(options.flash, variables.size))
        variables.write(0, store.read())

    def report(error: OSError) -> None:
        notify(f"--flash {options.flash}: {error.strerror}; the firmware gets an error")

    banks = (Flash(code, is_protected=True), Flash(variables, store, on_failure=report))
    base = device.place.base
    for number, (bank, memory) in enumerate(zip(banks, guest.roms, strict=True)):
        bus.add(base, memory.size, bank, f"{device.name}{number}")
        base += memory.size


def make_fw_cfg(options: VmOptions, dma: Dma, is_halting: Callable[[], bool]) -> FwCfg:
    """Make the configuration device of a guest."""
    num_cpus = options.num_cpus.to_bytes(2, "little")
    items: dict[int, bytes] = {
        Item.UUID: bytes(16),
        Item.RAM_SIZE: options.ram_size.to_bytes(8, "little"),
        Item.HAS_NO_SCREEN: b"\x01\0",
        Item.NUM_CPUS: num_cpus,
        Item.MAX_CPUS: num_cpus,
    }
    return FwCfg(dma, items, {}, is_halting)
