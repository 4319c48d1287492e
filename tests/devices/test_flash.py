"""Flash, as the drivers of EDK2, U-Boot and Linux use it, and against any guest."""

import errno
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.devices.flash import BLOCK_SIZE, Flash
from pyvmm.devices.flash_file import FlashFile

SIZE: Final = 4 * BLOCK_SIZE
BOTH: Final = 0x1_0001  # the same for both chips
READY, ERASE_FAILED, PROGRAM_FAILED, LOCKED = (n * BOTH for n in (0x80, 0x20, 0x10, 0x02))
ARRAY, PROGRAM, ERASE, CONFIRM, STATUS, CLEAR, QUERY, ID, BUFFER, LOCK = (
    n * BOTH for n in (0xFF, 0x40, 0x20, 0xD0, 0x70, 0x50, 0x98, 0x90, 0xE8, 0x60)
)


class Memory:
    """The content, and whether the guest sees it."""

    def __init__(self) -> None:
        self.bytes = bytearray(SIZE)
        self.size = SIZE
        self.is_visible = True

    def read(self, offset: int, size: int) -> bytes:
        """Return a copy."""
        assert 0 <= offset <= self.size - size
        return bytes(self.bytes[offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes."""
        assert 0 <= offset <= self.size - len(data)
        self.bytes[offset : offset + len(data)] = data

    def set_visible(self, *, is_visible: bool) -> None:
        """Note it."""
        self.is_visible = is_visible


class Driver:
    """A driver with words of 32 bits."""

    def __init__(self, **options: bool) -> None:
        self.memory = Memory()
        self.failures: list[OSError] = []
        self.kept = Memory()
        self.flash = Flash(self.memory, self.kept, on_failure=self.failures.append, **options)

    def write(self, offset: int, *values: int) -> None:
        """Write words one after another at the same place."""
        for value in values:
            self.flash.write(offset, 4, value)

    def read(self, offset: int) -> int:
        """Read a word."""
        return self.flash.read(offset, 4)

    def status(self) -> int:
        """Read the status and clear it; then the array can be read."""
        self.write(0, STATUS)
        status = self.read(0)
        self.write(0, CLEAR, ARRAY)
        return status

    def fill(self, offset: int, words: list[int], confirm: int = CONFIRM) -> int:
        """Program through the buffer; return the status."""
        self.write(offset, BUFFER)
        assert self.read(offset) == READY
        self.write(offset, (len(words) - 1) * BOTH)
        for n, word in enumerate(words):
            self.write(offset + 4 * n, word)
        self.write(offset, confirm)
        return self.status()


@pytest.fixture
def driver() -> Driver:
    """Return a driver whose flash is full of zeros."""
    return Driver()


def test_query_describes_two_chips_of_16_bits(driver: Driver) -> None:
    """CFI: QRY, Intel's command set, half the size each, blocks of 128 KiB each."""
    driver.write(0x55 * 4, QUERY)
    table = [driver.read(4 * n) for n in range(0x40)]
    assert all(word == (word & 0xFF) * BOTH for word in table)
    low = bytes(word & 0xFF for word in table)
    assert low[0x10:0x15] == b"QRY\x01\0"
    assert 2 << low[0x27] == SIZE
    assert low[0x2C] == 1
    count, size = (int.from_bytes(low[n : n + 2], "little") for n in (0x2D, 0x2F))
    assert (count + 1) * size * 256 * 2 == SIZE
    assert low[low[0x15] :][:3] == b"PRI"
    assert [driver.flash.read(0x40 + n, 1) for n in range(4)] == [ord("Q"), 0, ord("Q"), 0]
    assert driver.read(0x40) != 0
    driver.write(0, ARRAY)
    assert driver.read(0x40) == 0


@pytest.mark.parametrize(("command", "is_visible"), [(QUERY, False), (ID, False), (ARRAY, True)])
def test_a_command_hides_the_array(driver: Driver, command: int, *, is_visible: bool) -> None:
    """Then reads come to the device, until the driver reads the array again."""
    driver.write(0, STATUS, command)
    assert driver.memory.is_visible == is_visible


def test_erased_blocks_are_ones_and_programming_clears_bits(driver: Driver) -> None:
    """Only the block of the address is erased; an erased word can be programmed twice."""
    driver.write(BLOCK_SIZE + 0x100, ERASE, CONFIRM)
    assert driver.status() == READY
    content = driver.memory.bytes
    assert content.count(0xFF) == BLOCK_SIZE == content.count(0xFF, BLOCK_SIZE, 2 * BLOCK_SIZE)
    driver.write(BLOCK_SIZE, PROGRAM, 0x1234_5678)
    driver.write(BLOCK_SIZE, PROGRAM, 0xFFFF_00FF)
    assert driver.status() == READY
    assert driver.read(BLOCK_SIZE) == 0x1234_0078
    assert driver.kept.bytes == content


def test_buffer_programs_its_words_at_once(driver: Driver) -> None:
    """A gap stays; nothing happens before the confirmation."""
    driver.write(0, ERASE, CONFIRM, ARRAY)
    assert driver.fill(0x40, [1, 2, 3]) == READY
    assert driver.memory.bytes[0x40:0x50] == b"\1\0\0\0\2\0\0\0\3\0\0\0\xff\xff\xff\xff"
    assert driver.kept.bytes == driver.memory.bytes
    assert driver.fill(0x80, [7], confirm=ARRAY) == READY | ERASE_FAILED | PROGRAM_FAILED
    assert driver.read(0x80) == 0xFFFF_FFFF


def test_a_buffer_has_limits(driver: Driver) -> None:
    """Its words must be in one aligned part, and not more than it has."""
    failed = READY | ERASE_FAILED | PROGRAM_FAILED
    driver.write(0, ERASE, CONFIRM, ARRAY)
    assert driver.fill(0xFFC, [1, 2]) == failed
    driver.write(0, BUFFER, 0x400)
    assert driver.status() == failed
    assert driver.fill(0, [0] * 1024) == READY
    assert driver.memory.bytes.count(0xFF) == BLOCK_SIZE - 4096


def test_a_protected_bank_does_not_change() -> None:
    """The firmware itself: both kinds of change are refused with the reason."""
    driver = Driver(is_protected=True)
    driver.write(0, ERASE, CONFIRM)
    assert driver.status() == READY | ERASE_FAILED | LOCKED
    driver.memory.bytes[:4] = b"\xff" * 4
    driver.write(0, PROGRAM, 0)
    assert driver.status() == READY | PROGRAM_FAILED | LOCKED
    assert driver.memory.bytes[:4] == b"\xff" * 4


def test_locks_are_accepted_and_a_wrong_sequence_is_not(driver: Driver) -> None:
    """Drivers unlock a block before they erase it."""
    driver.write(0, LOCK, CONFIRM, LOCK, BOTH, LOCK, 0x2F * BOTH)
    assert driver.status() == READY
    driver.write(0, ERASE, 0x12 * BOTH)
    assert driver.status() == READY | ERASE_FAILED | PROGRAM_FAILED
    driver.write(0, ERASE, ARRAY)
    assert driver.memory.is_visible
    driver.write(0, ID)
    assert (driver.read(0), driver.read(4), driver.read(8)) == (0x89 * BOTH, 0x18 * BOTH, 0)


def test_full_storage_is_a_status_of_the_guest(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content does not change, and the user is told."""

    def fail(_offset: int, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(driver.kept, "write", fail)
    driver.write(0, ERASE, CONFIRM)
    assert driver.status() == READY | ERASE_FAILED
    assert driver.memory.bytes == bytes(SIZE)
    assert [failure.errno for failure in driver.failures] == [errno.ENOSPC]


# --- a hostile guest ---------------------------------------------------------------------------


def abuse(seed: int, count: int) -> None:
    """Make random accesses: bits only change from 1 to 0, unless a block is erased.

    After any of them, a driver that writes "read array" again and again gets the array.
    """
    rng, driver = random.Random(seed), Driver()
    commands = [0, 0x10, 0x20, 0x40, 0x50, 0x60, 0x70, 0x90, 0x98, 0xD0, 0xE8, 0xF0, 0xFF, 1, 2]
    flash, content = driver.flash, driver.memory.bytes
    content[:] = rng.randbytes(SIZE)
    driver.kept.bytes[:] = content
    for turn in range(count):
        offset = rng.choice((rng.randrange(64), rng.randrange(SIZE), SIZE - rng.randrange(9)))
        size = 1 << rng.randrange(4)
        if rng.randrange(4) == 0:
            assert 0 <= flash.read(offset, size) < 1 << 8 * size
            continue
        before = content[offset : offset + 8]
        value = rng.choice((rng.choice(commands), rng.getrandbits(64)))
        flash.write(offset, size, value)
        after = content[offset : offset + 8]
        pairs = zip(before, after, strict=True)
        assert all(new == 0xFF or new & ~old == 0 for old, new in pairs)
        assert len(flash._buffer) <= 1024
        if turn % 1000 == 0:
            assert driver.kept.bytes == content
    for _ in range(1100):
        driver.write(0, ARRAY)
    assert driver.memory.is_visible
    assert driver.read(0) == int.from_bytes(content[:4], "little")


def test_flash_survives_any_guest(seed: int) -> None:
    """No access raises an exception."""
    abuse(seed, 20_000)


@pytest.mark.slow
def test_flash_survives_any_guest_for_long(seed: int) -> None:
    """A million accesses."""
    for turn in range(10):
        abuse(seed + turn, 100_000)


# --- the file ----------------------------------------------------------------------------------


def test_a_new_file_has_the_size_of_the_bank(tmp_path: Path) -> None:
    """Without using the space; what is written is there when it is opened again."""
    path = tmp_path / "vars.fd"
    with FlashFile(path, SIZE) as file:
        assert file.read() == b""
        file.write(SIZE - 4, b"last")
    assert path.stat().st_size == SIZE
    assert path.stat().st_blocks * 512 < SIZE // 4
    with FlashFile(path, SIZE) as file:
        assert file.read() == bytes(SIZE - 4) + b"last"


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda path: path.write_bytes(bytes(1000)), "has 1000 bytes: give a file of 1 MiB, or"),
        (lambda path: path.mkdir(), "is a directory: give a regular file"),
        (lambda path: path.symlink_to("none/file"), "check the path"),
    ],
)
def test_another_file_is_refused(
    tmp_path: Path, prepare: Callable[[Path], object], words: str
) -> None:
    """Its content is not touched."""
    prepare(tmp_path / "vars.fd")
    with pytest.raises(UserError, match=words):
        FlashFile(tmp_path / "vars.fd", SIZE)


def test_a_file_has_one_user(tmp_path: Path) -> None:
    """Another instance is refused; this one goes on."""
    path = tmp_path / "vars.fd"
    code = f"from {FlashFile.__module__} import *; FlashFile(Path({str(path)!r}), {SIZE})"
    with FlashFile(path, SIZE):
        done = subprocess.run(
            [sys.executable, "-c", code], check=False, capture_output=True, text=True
        )
    assert "in use by another instance; stop that first" in done.stderr
    FlashFile(path, SIZE).close()
