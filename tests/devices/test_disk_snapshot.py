"""Disks whose writes are thrown away."""

import os
import random
from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.devices.disk import RawDisk
from pyvmm.devices.disk_snapshot import SnapshotDisk

SIZE = 40 << 20  # more than two maps
END = SIZE + 3 * 512  # the last block is not whole


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return an image with a different word in each sector."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(number.to_bytes(4, "little") * 128 for number in range(END // 512)))
    return path


def snapshot(path: Path) -> SnapshotDisk:
    """Open it."""
    return SnapshotDisk(RawDisk(path, is_read_only=True))


def read(disk: SnapshotDisk, offset: int, size: int) -> bytes:
    """Return some of its content, read into two buffers."""
    data = bytearray(size)
    disk.read(offset, [memoryview(data)[:512], memoryview(data)[512:]])
    return bytes(data)


def test_writes_are_seen_and_thrown_away(image: Path) -> None:
    """Whole blocks and parts of blocks; the image does not change."""
    before = image.read_bytes()
    disk = snapshot(image)
    assert (disk.size, disk.is_read_only) == (END, False)
    disk.write(512, [memoryview(b"a" * 512), memoryview(b"b" * 8192)])
    disk.flush()
    expected = before[:512] + b"a" * 512 + b"b" * 8192 + before[9216:16384]
    assert read(disk, 0, 16384) == expected
    disk.discard(0, 4096)
    disk.close()
    assert image.read_bytes() == before
    disk = snapshot(image)
    assert read(disk, 0, 16384) == before[:16384]
    disk.close()


def test_any_sequence_of_changes(image: Path, seed: int) -> None:
    """It is compared with an array of bytes."""
    chance, model, disk = random.Random(seed), bytearray(image.read_bytes()), snapshot(image)
    for number in range(400):
        sectors = min(chance.choice((1, 2, 8, 9, 40, 300)), END // 512)
        offset = 512 * chance.choice(
            (chance.randrange(END // 512 - sectors + 1), END // 512 - sectors, 32768 - sectors // 2)
        )
        size = 512 * sectors
        match number % 3:
            case 0:
                data = bytes([number % 251 + 1]) * size
                disk.write(offset, [memoryview(data)])
                model[offset : offset + size] = data
            case 1:
                disk.write_zeroes(offset, size, may_unmap=bool(number % 2))
                model[offset : offset + size] = bytes(size)
            case _:
                assert read(disk, offset, size) == model[offset : offset + size], number
    assert read(disk, 0, END) == model
    disk.close()


def test_what_is_in_memory_is_read_at_once(image: Path) -> None:
    """If the host can, from both places."""
    disk = snapshot(image)
    disk.write(4096, [memoryview(b"x" * 4096)])
    data = bytearray(16384)
    if disk.read_now(0, [memoryview(data)]):
        assert bytes(data) == read(disk, 0, 16384)
    disk.close()


def test_zeros_take_no_space(tmp_path: Path) -> None:
    """A guest that clears a large disk does not fill the host's."""
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 1 << 40)
    disk = snapshot(path)
    disk.write_zeroes(4096 + 512, 1 << 31, may_unmap=False)
    assert os.fstat(disk._own._fd).st_blocks < 1024
    disk.close()


def test_directory_that_cannot_be_used_is_one_line(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the variable."""
    monkeypatch.setenv("TMPDIR", "/nowhere")
    base = RawDisk(image, is_read_only=True)
    with pytest.raises(UserError, match=r"/nowhere: No such file.*TMPDIR"):
        SnapshotDisk(base)
    base.close()
