"""The PCI host bridge, configuration spaces, MSI-X and virtio over PCI."""

import pytest

from pyvmm.arch.saved import State, StateError, part
from pyvmm.devices.pci import config as pci
from pyvmm.devices.pci.host import SLOT_SIZE
from pyvmm.devices.virtio.console import VirtioConsole
from pyvmm.devices.virtio.mmio import Register
from pyvmm.devices.virtio.pci import NO_VECTOR, CapType, Common
from pyvmm.devices.virtio.rng import VirtioRng
from pyvmm.devices.virtio.state import Feature, Status
from tests.devices.hosts import no_timer
from tests.devices.pci_driver import (
    BAR,
    CONFIG_BASE,
    MEMORY,
    MESSAGE_ADDRESS,
    SLOT,
    PciDriver,
)


def console() -> PciDriver:
    """Return a console with its driver, which wants an interrupt for every used buffer."""
    device = VirtioConsole(lambda _: None, (80, 25))
    return PciDriver(device, refuse=Feature.RING_EVENT_IDX).start()


def show(driver: PciDriver) -> None:
    """Let the console show a letter, so that queue 1 has a used buffer."""
    driver.rings[1].add([b"x"], [])
    driver.kick(1)


# --- the host bridge --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "offset", [0, SLOT * SLOT_SIZE + 0x1000, SLOT * SLOT_SIZE + (1 << 20), 0xFFF_FFFC]
)
def test_place_without_a_function_reads_as_ones(offset: int) -> None:
    """Another slot, another function of the slot, another bus; writes have no effect."""
    driver = PciDriver(VirtioRng(no_timer))
    driver.bus.write(CONFIG_BASE + offset, 4, 0)
    assert driver.bus.read(CONFIG_BASE + offset, 4) == 0xFFFF_FFFF
    assert driver.bus.read(CONFIG_BASE + offset, 2) == 0xFFFF


def test_function_is_a_modern_virtio_device() -> None:
    """A legacy driver does not know its numbers; it has a pin, and capabilities."""
    driver = PciDriver(VirtioRng(no_timer))
    assert driver.read_pci(pci.VENDOR_ID, 4) == 0x1044_1AF4
    assert driver.read_pci(pci.REVISION, 4) == 0xFF_00_00_01
    assert driver.read_pci(pci.STATUS, 2) == 0x10
    assert driver.read_pci(pci.INTERRUPT_PIN, 1) == 1
    assert driver.read_pci(0x0E, 1) == 0  # a single function
    assert driver.read_pci(0x100, 4) == 0  # no extended capabilities


def test_bar_tells_its_size_when_ones_are_written() -> None:
    """32 KiB of memory with 32 bits; the other BARs and the ROM do not exist."""
    driver = PciDriver(VirtioRng(no_timer))
    for offset in (*range(pci.BAR, pci.BAR + 24, 4), 0x30):
        driver.write_pci(offset, 4, 0xFFFF_FFFF)
    sizes = [driver.read_pci(offset, 4) for offset in range(pci.BAR, pci.BAR + 24, 4)]
    assert sizes == [0xFFFF_8000, 0, 0, 0, 0, 0]
    assert driver.read_pci(0x30, 4) == 0


def test_registers_are_where_the_bar_is() -> None:
    """They move with it, and are gone without memory decoding or outside the host's window."""
    driver = PciDriver(VirtioRng(no_timer))
    driver.write_common(Common.STATUS, 1, Status.ACKNOWLEDGE)
    moved = MEMORY.stop - 0x8000
    driver.write_pci(pci.BAR, 4, moved)
    assert driver.bus.read(BAR + Common.STATUS, 1) == 0
    assert driver.bus.read(moved + Common.STATUS, 1) == Status.ACKNOWLEDGE
    for place in (MEMORY.start - 0x8000, MEMORY.stop, 0xFFFF_8000):
        driver.write_pci(pci.BAR, 4, place)
        assert driver.bus.read(place + Common.STATUS, 1) in {0, 0xFF}
    driver.write_pci(pci.BAR, 4, moved)
    driver.write_pci(pci.COMMAND, 2, 0)
    assert driver.bus.read(moved + Common.STATUS, 1) == 0


def test_bar_cannot_hide_another_device() -> None:
    """At the addresses of the configuration spaces, or of another function."""
    driver, other = PciDriver(VirtioRng(no_timer)), PciDriver(VirtioRng(no_timer))
    driver.bridge.plug(4, other.function, "other")
    driver.write_pci(pci.BAR, 4, BAR)
    place = CONFIG_BASE + 4 * SLOT_SIZE
    driver.bus.write(place + pci.BAR, 4, BAR)
    driver.write_common(Common.STATUS, 1, Status.ACKNOWLEDGE)
    assert driver.function.read(Common.STATUS, 1) == Status.ACKNOWLEDGE
    assert other.function.read(Common.STATUS, 1) == 0
    driver.write_pci(pci.BAR, 4, 0)
    driver.write_common(Common.STATUS, 1, Status.ACKNOWLEDGE)
    assert other.function.read(Common.STATUS, 1) == Status.ACKNOWLEDGE


def test_function_that_is_no_bus_master_reaches_no_memory() -> None:
    """Its device breaks, and sends no message."""
    driver = console().use_msix()
    driver.write_pci(pci.COMMAND, 2, pci.COMMAND_MEMORY)
    show(driver)
    assert (driver.is_broken, driver.messages) == (True, [])
    driver.write_pci(pci.COMMAND, 2, pci.COMMAND_MEMORY | pci.COMMAND_MASTER)
    driver.start()
    show(driver)
    assert not driver.is_broken


# --- virtio's registers -----------------------------------------------------------------------


def test_capabilities_name_the_parts() -> None:
    """Every structure is in the BAR; a device without a configuration space has none of it."""
    assert set(console().parts) == set(CapType)
    assert set(PciDriver(VirtioRng(no_timer)).parts) == set(CapType) - {CapType.DEVICE}
    driver = PciDriver(VirtioRng(no_timer), has_msix=False)
    assert driver.capabilities(pci.CAP_MSIX) == []


def test_common_configuration_shows_what_was_written() -> None:
    """The driver's features, the selectors, and the areas of a queue, by halves."""
    driver = PciDriver(VirtioRng(no_timer))
    driver.write_common(Common.DRIVER_FEATURE_SELECT, 4, 1)
    driver.write_common(Common.DRIVER_FEATURE, 4, 1)
    assert driver.read_common(Common.DRIVER_FEATURE, 4) == 1
    assert driver.read_common(Common.NUM_QUEUES, 2) == 1
    driver.write_common(Common.QUEUE_DESC + 4, 4, 0x12)
    driver.write_common(Common.QUEUE_DESC, 4, 0x3450)
    assert driver.read_common(Common.QUEUE_DESC, 8) == 0x12_0000_3450
    assert driver.read_common(Common.QUEUE_NOTIFY_OFF, 2) == 0
    driver.write_common(Common.QUEUE_SELECT, 2, 1)
    assert driver.read_common(Common.QUEUE_SIZE, 2) == 0
    assert driver.read_common(Common.QUEUE_ENABLE, 2) == 0


def test_realm_has_to_accept_access_platform() -> None:
    """As over MMIO."""
    driver = PciDriver(VirtioRng(no_timer), access_platform=True)
    driver.write(Register.STATUS, Status.ACKNOWLEDGE | Status.DRIVER)
    assert not driver.accept(Feature.VERSION_1)
    assert driver.accept(driver.offered())


def test_reset_forgets_queues_vectors_and_the_interrupt() -> None:
    """Status 0 makes it as new; what PCI configured stays."""
    driver = console()
    show(driver)
    driver.use_msix()
    driver.write_common(Common.STATUS, 1, 0)
    assert not driver.irq.is_high()
    assert driver.read_common(Common.CONFIG_VECTOR, 2) == NO_VECTOR
    driver.write_common(Common.QUEUE_SELECT, 2, 1)
    assert driver.read_common(Common.QUEUE_VECTOR, 2) == NO_VECTOR
    assert driver.read_common(Common.QUEUE_ENABLE, 2) == 0
    assert driver.read_pci(driver.msix_control, 2) & 0x8000


@pytest.mark.parametrize("size", [1, 2, 4])
def test_register_is_visible_through_the_configuration_space(size: int) -> None:
    """Firmware without a mapping of the BAR reads and writes registers through a capability."""
    driver = console()
    (at,) = (at for at in driver.capabilities(pci.CAP_VENDOR) if driver.read_pci(at + 3, 1) == 5)
    driver.write_pci(at + 12, 4, size)
    driver.write_pci(at + 8, 4, driver.parts[CapType.DEVICE] - BAR)
    assert driver.read_pci(at + 16, size) == (25 << 16 | 80) & (1 << 8 * size) - 1
    driver.write_pci(at + 8, 4, Common.DRIVER_FEATURE_SELECT)
    driver.write_pci(at + 12, 4, 4)
    driver.write_pci(at + 16, 4, 1)
    assert driver.read_common(Common.DRIVER_FEATURE_SELECT, 4) == 1
    driver.write_pci(at + 4, 1, 1)  # another BAR
    driver.write_pci(at + 16, 4, 0)
    assert driver.read_common(Common.DRIVER_FEATURE_SELECT, 4) == 1
    assert driver.read_pci(at + 16, 4) == 0


# --- interrupts -------------------------------------------------------------------------------


def test_pin_is_raised_until_the_causes_are_read() -> None:
    """For a driver without MSI-X; software can turn it off."""
    driver = console()
    assert isinstance(driver.device, VirtioConsole)
    show(driver)
    assert driver.irq.is_high()
    assert driver.read_pci(pci.STATUS, 2) & pci.STATUS_INTERRUPT
    driver.device.resize(100, 40)
    driver.write_pci(pci.COMMAND, 2, driver.read_pci(pci.COMMAND, 2) | pci.COMMAND_NO_INTX)
    assert not driver.irq.is_high()
    driver.write_pci(pci.COMMAND, 2, driver.read_pci(pci.COMMAND, 2) & ~pci.COMMAND_NO_INTX)
    assert (driver.irq.is_high(), driver.irq.rises) == (True, 2)
    assert driver.acknowledge() == 3
    assert not driver.irq.is_high()
    assert not driver.read_pci(pci.STATUS, 2) & pci.STATUS_INTERRUPT


def test_each_queue_has_its_message() -> None:
    """Configuration changes have their own; the pin stays low."""
    driver = console().use_msix()
    assert isinstance(driver.device, VirtioConsole)
    show(driver)
    assert driver.messages == [(MESSAGE_ADDRESS, 102)]
    driver.device.resize(100, 40)
    assert driver.messages[1:] == [(MESSAGE_ADDRESS, 100)]
    assert (driver.irq.is_high(), driver.acknowledge()) == (False, 0)


def test_vector_that_does_not_exist_is_refused() -> None:
    """The driver reads NO_VECTOR back, and gets no message."""
    driver = console().use_msix()
    for offset in (Common.CONFIG_VECTOR, Common.QUEUE_VECTOR):
        driver.write_common(offset, 2, 3)
        assert driver.read_common(offset, 2) == NO_VECTOR
    show(driver)
    assert driver.messages == []


def test_masked_message_waits() -> None:
    """Masked by its vector or for the function, it is pending, and sent when it is unmasked."""
    driver = console().use_msix()
    driver.set_masked(2, is_masked=True)
    show(driver)
    assert (driver.messages, driver.bus.read(driver.pending, 8)) == ([], 1 << 2)
    driver.set_masked(2, is_masked=False)
    assert (driver.messages.pop(), driver.bus.read(driver.pending, 4)) == (
        (MESSAGE_ADDRESS, 102),
        0,
    )
    driver.write_pci(driver.msix_control, 2, 0xC000)
    show(driver)
    show(driver)
    assert driver.messages == []
    driver.write_pci(driver.msix_control, 2, 0x8000)
    assert driver.messages == [(MESSAGE_ADDRESS, 102)]


# --- a snapshot -------------------------------------------------------------------------------


def restored(driver: PciDriver) -> PciDriver:
    """Return another function with the same state, for a driver that notices nothing."""
    state = driver.bridge.save()
    other = PciDriver(VirtioConsole(lambda _: None, (80, 25)), ram=driver.ram)
    other.bridge.load(state)
    other.rings, other.has_msix = driver.rings, driver.has_msix
    return other


def test_restored_function_is_where_the_guest_has_put_it() -> None:
    """With its command register, its BAR, and its queues, which it serves."""
    driver = console()
    driver.write_pci(pci.BAR, 4, BAR + 0x1_0000)
    driver.write_pci(pci.INTERRUPT_LINE, 1, 77)
    other = restored(driver)
    assert other.read_pci(pci.BAR, 4) == BAR + 0x1_0000
    assert other.read_pci(pci.INTERRUPT_LINE, 1) == 77
    assert other.bus.read(BAR + Common.STATUS, 1) == 0
    status = other.bus.read(BAR + 0x1_0000 + Common.STATUS, 1)
    assert status & Status.DRIVER_OK
    other.write_pci(pci.BAR, 4, BAR)
    show(other)
    assert len(other.rings[1].used_entries()) == 1
    assert other.irq.level


def test_restored_function_sends_its_messages() -> None:
    """With the vectors of the guest; one that was pending and masked comes when it is unmasked."""
    driver = console().use_msix()
    driver.set_masked(2, is_masked=True)
    show(driver)
    other = restored(driver)
    assert other.messages == []
    other.table = driver.table
    other.set_masked(2, is_masked=False)
    assert other.messages == [(MESSAGE_ADDRESS, 102)]
    show(other)
    assert other.messages == [(MESSAGE_ADDRESS, 102)] * 2
    slot = part(driver.bridge.save(), f"slot{SLOT}")
    wrong: tuple[State, ...] = ({"table": b""}, {"pending": -1}, {"pending": 1 << 40})
    for each in wrong:
        spoilt: State = slot | {"msix": part(slot, "msix") | each}
        with pytest.raises(StateError):
            PciDriver(VirtioConsole(lambda _: None, (80, 25))).bridge.load({f"slot{SLOT}": spoilt})
