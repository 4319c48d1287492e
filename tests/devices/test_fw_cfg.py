"""The firmware configuration device, as EDK2 and U-Boot use it, and against any guest."""

import random
import struct
from typing import Final

import pytest

from pyvmm.arch.errors import RepeatAccess
from pyvmm.devices.fw_cfg import FwCfg
from tests.devices.driver import RAM_BASE, RAM_SIZE, Ram

DATA, SELECTOR, DMA = 0, 8, 16
ERROR, READ, SKIP, SELECT, WRITE = 1, 2, 4, 8, 16
REQUEST: Final = RAM_BASE + 0x100
TARGET: Final = RAM_BASE + 0x1000


class Driver:
    """A driver in a guest with a little memory."""

    def __init__(self) -> None:
        self.ram = Ram()
        self.is_halting = False
        items, files = {5: b"\x02\0"}, {"etc/one": b"first", "opt/two": bytes(range(256)) * 16}
        self.device = FwCfg(self.ram, items, files, lambda: self.is_halting)

    def select(self, number: int) -> None:
        """Choose an item; the register is big-endian."""
        self.device.write(SELECTOR, 2, int.from_bytes(number.to_bytes(2), "little"))

    def read(self, count: int) -> bytes:
        """Read bytes of the item."""
        return bytes(self.device.read(DATA, 1) for _ in range(count))

    def request(self, control: int, length: int, target: int = TARGET) -> int:
        """Make a request; return the control word afterwards."""
        self.ram.write(REQUEST, struct.pack(">IIQ", control, length, target))
        self.device.write(DMA, 8, int.from_bytes(REQUEST.to_bytes(8), "little"))
        return int.from_bytes(self.ram.read(REQUEST, 4))


@pytest.fixture
def driver() -> Driver:
    """Return a driver."""
    return Driver()


def test_registers_identify_the_device(driver: Driver) -> None:
    """The signature, the DMA interface, and its own signature in the register of it."""
    driver.select(0)
    assert driver.read(6) == b"QEMU\0\0"
    driver.select(1)
    assert driver.device.read(DATA, 4) == 3
    assert driver.device.read(DMA, 8) == int.from_bytes(b"QEMU CFG", "little")
    assert driver.device.read(DMA + 4, 4) == int.from_bytes(b" CFG", "little")
    driver.select(5)
    assert driver.device.read(DATA, 2) == 2
    driver.select(0x1234)
    assert driver.read(2) == b"\0\0"


def test_files_are_found_in_the_directory(driver: Driver) -> None:
    """Number, size and name of each; the number selects it."""
    driver.select(0x19)
    assert driver.read(4) == b"\0\0\0\2"
    entries = [struct.unpack(">IHH56s", driver.read(64)) for _ in range(2)]
    assert [(size, name.rstrip(b"\0")) for size, _, _, name in entries] == [
        (5, b"etc/one"),
        (4096, b"opt/two"),
    ]
    driver.select(entries[0][1])
    assert driver.read(6) == b"first\0"


def test_dma_reads_and_skips(driver: Driver) -> None:
    """Select and read in one request; continue behind what was read; zeros behind the end."""
    number = 0x21
    assert driver.request(number << 16 | SELECT | READ, 16) == 0
    assert driver.ram.read(TARGET, 17) == bytes(range(16)) + b"\0"
    assert driver.request(SKIP, 4080) == 0
    driver.ram.write(TARGET, b"x" * 16)
    assert driver.request(READ, 8) == 0
    assert driver.ram.read(TARGET, 9) == bytes(8) + b"x"
    driver.device.write(DMA, 4, 0)
    driver.ram.write(REQUEST, struct.pack(">IIQ", 0x20 << 16 | SELECT | READ, 5, TARGET))
    driver.device.write(DMA + 4, 4, int.from_bytes(REQUEST.to_bytes(4), "little"))
    assert driver.ram.read(TARGET, 5) == b"first"


def test_errors_are_reported_in_the_request(driver: Driver) -> None:
    """A write, and memory that does not exist; a request nowhere is ignored."""
    assert driver.request(WRITE, 4) == ERROR
    assert driver.request(0x20 << 16 | SELECT | READ, 4, target=0) == ERROR
    assert driver.request(READ, 0xFFFF_FFFF) == ERROR
    driver.device.write(DMA, 8, 0xFFFF_FFFF_FFFF_FFFF)


def test_a_long_request_can_be_interrupted(driver: Driver) -> None:
    """It is repeated as a whole when the vCPU runs again."""
    driver.ram = Ram(4 << 20)
    driver.device = FwCfg(driver.ram, {}, {"etc/long": b"long"}, lambda: driver.is_halting)
    driver.is_halting = True
    with pytest.raises(RepeatAccess):
        driver.request(0x20 << 16 | SELECT | READ, 3 << 20)
    driver.is_halting = False
    assert driver.request(0x20 << 16 | SELECT | READ, 3 << 20) == 0
    assert driver.ram.read(TARGET, 8) == b"long\0\0\0\0"
    driver.is_halting = True
    assert driver.request(READ, 4) == 0


def abuse(seed: int, count: int) -> None:
    """Make random accesses and requests; then the device works."""
    rng, driver = random.Random(seed), Driver()
    places = (REQUEST, TARGET, RAM_BASE + RAM_SIZE - 8, RAM_BASE, 0, (1 << 64) - 8)
    lengths = (0, 1, 4, 64, 5000, RAM_SIZE, 0xFFFF_FFFF)
    for _ in range(count):
        match rng.randrange(4):
            case 0:
                size = 1 << rng.randrange(4)
                assert 0 <= driver.device.read(rng.randrange(25 - size), size) < 1 << 8 * size
            case 1:
                size = 1 << rng.randrange(4)
                driver.device.write(rng.randrange(25 - size), size, rng.getrandbits(64))
            case 2:
                driver.select(rng.choice((0, 1, 5, 0x19, 0x20, 0x21, rng.getrandbits(16))))
            case _:
                control = rng.choice((0, 0x20, 0x21, 0x19)) << 16 | rng.getrandbits(6)
                length = rng.choice((*lengths[:5], *lengths[:5], *lengths))
                driver.request(control, length, rng.choice(places) + rng.randrange(8))
    driver.select(0x20)
    assert driver.read(5) == b"first"


def test_device_survives_any_guest(seed: int) -> None:
    """No access raises an exception, and memory outside the guest is not reached."""
    abuse(seed, 20_000)


@pytest.mark.slow
def test_device_survives_any_guest_for_long(seed: int) -> None:
    """A million accesses."""
    for turn in range(10):
        abuse(seed + turn, 100_000)
