"""Raw disks without the host's page cache."""

import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.devices.disk import RawDisk

SIZE = 1 << 20
Transfer = Callable[[int, list[memoryview], int], int]


@pytest.fixture
def image(tmp_path: Path, seed: int) -> Path:
    """Return an image, if its file system has direct I/O."""
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(seed).randbytes(SIZE))
    return path


def aligned(size: int) -> memoryview:
    """Return a buffer for direct I/O."""
    return memoryview(mmap.mmap(-1, size))


def require_blocks(patch: pytest.MonkeyPatch, block_size: int) -> None:
    """Make the storage refuse what is not in whole blocks."""

    def check(transfer: Transfer) -> Transfer:
        def checked(fd: int, buffers: list[memoryview], offset: int) -> int:
            if offset % block_size or sum(map(len, buffers)) % block_size:
                raise OSError(22, "Invalid argument")
            return transfer(fd, buffers, offset)

        return checked

    patch.setattr(os, "preadv", check(os.preadv))
    patch.setattr(os, "pwritev", check(os.pwritev))


@pytest.mark.parametrize("block_size", [512, 4096])
def test_any_buffers_can_be_transferred(
    image: Path, seed: int, monkeypatch: pytest.MonkeyPatch, block_size: int
) -> None:
    """Aligned or not, whatever blocks the storage has; it is compared with an array of bytes."""
    chance, model = random.Random(seed), bytearray(image.read_bytes())
    require_blocks(monkeypatch, block_size)
    disk = RawDisk(image, is_direct=True)
    for number in range(200):
        size = 512 * chance.choice((1, 7, 8, 64, 300))
        offset = 512 * chance.randrange((SIZE - size) // 512 + 1)
        shift, cut = chance.choice((0, 1, 512)), 512 * chance.randrange(size // 512)
        room = aligned(size + 4096)[shift : shift + size]
        buffers = [room[:cut], room[cut:]] if cut else [room]
        if number % 2:
            room[:] = bytes([number]) * size
            disk.write(offset, buffers)
            model[offset : offset + size] = room
        else:
            disk.read(offset, buffers)
            assert room == model[offset : offset + size]
    disk.write_zeroes(512, 4096, may_unmap=False)
    model[512:4608] = bytes(4096)
    disk.flush()
    disk.close()
    assert image.read_bytes() == model


def test_writes_to_parts_of_a_block_do_not_undo_each_other(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where blocks are larger than sectors, each write copies the rest of its block."""
    require_blocks(monkeypatch, 4096)
    disk = RawDisk(image, is_direct=True)

    def write(sector: int) -> None:
        for value in range(100):
            disk.write(512 * sector, [memoryview(bytes([value + 1]) * 512)])

    threads = [Thread(target=write, args=(sector,)) for sector in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    disk.close()
    assert image.read_bytes()[:4096] == bytes([100]) * 4096


def test_incomplete_last_sector(image: Path) -> None:
    """It reads as zeros behind the end until it is written."""
    with image.open("ab") as file:
        file.write(b"tail" * 25)
    disk, data = RawDisk(image, is_direct=True), bytearray(512)
    assert disk.size == SIZE + 512
    disk.read(SIZE, [memoryview(data)])
    assert data == (b"tail" * 25).ljust(512, b"\0")
    disk.write(SIZE, [memoryview(b"x" * 512)])
    disk.read(SIZE, [memoryview(data)])
    assert data == b"x" * 512
    disk.close()


def test_storage_that_cannot_be_used_so_is_one_line(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the option."""
    require_blocks(monkeypatch, 4096)
    with image.open("ab") as file:
        file.write(bytes(512))
    with pytest.raises(UserError, match=r"not a multiple of 4096.*: omit direct"):
        RawDisk(image, is_direct=True)
    require_blocks(monkeypatch, 8192)
    with pytest.raises(UserError, match="direct I/O does not work here: omit direct"):
        RawDisk(image, is_direct=True)
