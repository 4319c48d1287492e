"""The block device, over a disk in memory and over an image file."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.arch.errors import UserError
from pyvmm.devices.disk import RawDisk
from pyvmm.devices.virtio.blk import (
    ERASE_STEP,
    MAX_DISCARD_SECTORS,
    MAX_DISCARD_SEGMENTS,
    MAX_SEGMENT_SIZE,
    STEP,
    BlkFeature,
    VirtioBlk,
)
from tests.devices.driver import WRITE, Driver, Ram
from tests.devices.hosts import NUM_SECTORS, Inline, MemoryDisk, VastDisk

IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2


class BlkDriver(Driver):
    """A driver that makes requests."""

    def request(
        self, kind: int, sector: int = 0, data: bytes = b"", into: int = 0, *, split: int = 16
    ) -> tuple[int, bytes]:
        """Execute one request; return status and data.  ``split`` splits the header."""
        header = pack("<IIQ", kind, 0, sector) + data
        out = [header[:split], header[split:]]
        sizes = [into // 3, into - into // 3, 1] if into else [1]
        request = self.rings[0].add([part for part in out if part], sizes, indirect=True)
        self.kick()
        ((head, written),) = self.rings[0].used_entries()
        answer = request.answer()
        assert (head, self.is_broken) == (request.head, False)
        assert written in (1, into + 1)
        return answer[-1], answer[:-1]


@pytest.fixture
def disk() -> MemoryDisk:
    """Return a disk whose sector n is full of bytes n."""
    return MemoryDisk()


@pytest.fixture
def driver(disk: MemoryDisk) -> BlkDriver:
    """Return a live block device."""
    return BlkDriver(VirtioBlk(disk, Inline(), b"serial")).start()


def test_blk_describes_its_disk(driver: BlkDriver) -> None:
    """The configuration space, at the offsets the specification gives."""
    assert driver.config(0, 8) == NUM_SECTORS
    assert (driver.config(8, 4), driver.config(12, 4)) == (MAX_SEGMENT_SIZE, 510)
    assert (driver.config(20, 4), driver.config(32, 1)) == (512, 1)
    assert (driver.config(36, 4), driver.config(40, 4)) == (
        MAX_DISCARD_SECTORS,
        MAX_DISCARD_SEGMENTS,
    )
    assert (driver.config(44, 4), driver.config(48, 4), driver.config(56, 4)) == (8, 1 << 22, 1)
    assert driver.config(60, 4) == 0
    assert not driver.offered() & BlkFeature.RO


@pytest.mark.parametrize("split", [16, 4, 1, 15])
def test_blk_writes_and_reads_back(driver: BlkDriver, disk: MemoryDisk, split: int) -> None:
    """The split of header and data into buffers makes no difference."""
    data = bytes(range(256)) * 4
    assert driver.request(OUT, 3, data, split=split) == (OK, b"")
    assert driver.request(IN, 3, into=1024, split=split) == (OK, data)
    assert disk.bytes[5 * 512 : 5 * 512 + 1] == b"\x05"
    assert disk.log == [("write", 1536, 1024), ("read", 1536, 1024)]
    counted = {"reads": 1, "read_bytes": 1024, "writes": 1, "written_bytes": 1024}
    assert driver.device.counters == counted | {"flushes": 0, "errors": 0}


def test_blk_answers_flush_and_get_id(driver: BlkDriver, disk: MemoryDisk) -> None:
    """The serial number is padded with zeros to 20 bytes."""
    assert driver.request(FLUSH) == (OK, b"")
    assert driver.request(GET_ID, into=20) == (OK, b"serial".ljust(20, b"\0"))
    assert disk.log == [("flush", 0, 0)]


def test_blk_flushes_every_write_when_the_driver_cannot_ask(disk: MemoryDisk) -> None:
    """Without FLUSH, a completed write is on stable storage."""
    driver = BlkDriver(VirtioBlk(disk, Inline()), refuse=BlkFeature.FLUSH).start()
    driver.request(OUT, 0, bytes(512))
    assert disk.log == [("write", 0, 512), ("flush", 0, 0)]


def test_blk_discards_and_zeroes_ranges(driver: BlkDriver, disk: MemoryDisk) -> None:
    """Several segments in one request; the flag chooses unmapping."""
    assert driver.request(DISCARD, 0, pack("<QIIQII", 8, 8, 0, 32, 16, 0)) == (OK, b"")
    assert driver.request(WRITE_ZEROES, 0, pack("<QIIQII", 0, 1, 0, 1, 1, 1)) == (OK, b"")
    assert disk.log == [
        ("discard", 4096, 4096), ("discard", 16384, 8192), ("zero", 0, 512), ("unmap", 512, 512),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ((IN, NUM_SECTORS, b"", 512), IOERR),
        ((IN, NUM_SECTORS - 1, b"", 1024), IOERR),
        ((IN, (1 << 64) - 1, b"", 512), IOERR),
        ((IN, 0, b"", 100), IOERR),
        ((OUT, NUM_SECTORS, bytes(512), 0), IOERR),
        ((OUT, 0, bytes(100), 0), IOERR),
        ((99, 0, b"", 0), UNSUPP),
        ((2, 0, b"", 512), UNSUPP),
        ((DISCARD, 0, b"", 0), IOERR),
        ((DISCARD, 0, bytes(15), 0), IOERR),
        ((DISCARD, 0, pack("<QIIQII", 0, 1, 0, NUM_SECTORS, 1, 0), 0), IOERR),
        ((DISCARD, 0, pack("<QII", 0, 1, 1), 0), UNSUPP),
        ((DISCARD, 0, pack("<QII", 0, MAX_DISCARD_SECTORS + 1, 0), 0), IOERR),
        ((DISCARD, 0, bytes(16) * (MAX_DISCARD_SEGMENTS + 1), 0), IOERR),
        ((WRITE_ZEROES, 0, pack("<QII", 0, 1, 2), 0), UNSUPP),
    ],
)
def test_blk_refuses_and_changes_nothing(
    driver: BlkDriver, disk: MemoryDisk, arguments: tuple[int, int, bytes, int], status: int
) -> None:
    """Out of range, not whole sectors, unknown, or past a limit: the disk is not changed."""
    assert driver.request(*arguments)[0] == status
    assert disk.log == []


@pytest.mark.parametrize(
    ("kind", "data"), [(OUT, bytes(512)), (DISCARD, pack("<QII", 0, 1, 0)),
                       (WRITE_ZEROES, pack("<QII", 0, 1, 0))],
)  # fmt: skip
def test_blk_refuses_every_change_of_a_read_only_disk(kind: int, data: bytes) -> None:
    """RO is offered, features for writes are not; a driver that writes anyway gets an error."""
    disk = MemoryDisk(is_read_only=True)
    driver = BlkDriver(VirtioBlk(disk, Inline())).start()
    assert driver.offered() & BlkFeature.RO
    assert not driver.offered() & (BlkFeature.FLUSH | BlkFeature.DISCARD | BlkFeature.WRITE_ZEROES)
    assert driver.request(kind, 0, data) == (IOERR, b"")
    assert driver.request(FLUSH) == (OK, b"")
    assert disk.log == []


def test_blk_reports_a_failing_host_as_an_io_error(disk: MemoryDisk) -> None:
    """The guest gets the host's error, and the user a message; the device continues to work."""
    told: list[OSError] = []
    driver = BlkDriver(VirtioBlk(disk, Inline(), on_failure=told.append)).start()
    disk.is_failing = True
    assert driver.request(IN, 0, into=512)[0] == IOERR
    assert driver.request(FLUSH)[0] == IOERR
    assert [error.strerror for error in told] == ["broken", "broken"]
    disk.is_failing = False
    assert driver.request(IN, 1, into=512) == (OK, b"\x01" * 512)
    assert driver.device.counters["errors"] == 2


@pytest.mark.parametrize("kind", [IN, OUT])
def test_blk_moves_a_large_request_step_by_step(kind: int) -> None:
    """The steps are in order; after the guest's end the rest is skipped."""
    disk, ends = VastDisk(), [False, False, True]
    device = VirtioBlk(disk, Inline(), is_over=lambda: ends.pop(0))
    driver = BlkDriver(device, Ram(2 * STEP)).start()
    header, status = driver.ram.alloc(16), driver.ram.alloc(1)
    piece = driver.ram.alloc(STEP)
    driver.ram.write(header, pack("<IIQ", kind, 0, 8))
    flags = WRITE if kind == IN else 0
    driver.rings[0].offer_table([(header, 16, 0), *[(piece, STEP, flags)] * 4, (status, 1, WRITE)])
    driver.kick()
    name = "read" if kind == IN else "write"
    assert disk.log == [(name, 4096, STEP), (name, 4096 + STEP, STEP)]
    assert driver.ram.read(status, 1)[0] == IOERR


@pytest.mark.parametrize(("kind", "name"), [(DISCARD, "discard"), (WRITE_ZEROES, "zero")])
def test_blk_erases_a_large_range_step_by_step(kind: int, name: str) -> None:
    """The guest's end stops it between two steps too."""
    disk, ends = VastDisk(), [False, False, False, False, True]
    driver = BlkDriver(VirtioBlk(disk, Inline(), is_over=lambda: ends.pop(0))).start()
    num_sectors = 2 * ERASE_STEP // 512 + 1
    segments = pack("<QII", 8, num_sectors, 0) * 2
    assert driver.request(kind, 0, segments) == (IOERR, b"")
    assert disk.log == [
        (name, 4096, ERASE_STEP),
        (name, 4096 + ERASE_STEP, ERASE_STEP),
        (name, 4096 + 2 * ERASE_STEP, 512),
    ]


def test_blk_survives_requests_without_header_or_status(driver: BlkDriver) -> None:
    """Without room for the status there is no answer; a short header is an error."""
    ring = driver.rings[0]
    ring.add([bytes(16)], [])
    short = ring.add([bytes(15)], [1])
    empty_tail = ring.add([pack("<IIQ", IN, 0, 0)], [512, 1, 0])
    driver.kick()
    assert [written for _, written in ring.used_entries()] == [0, 1, 513]
    assert (short.answer(), empty_tail.answer()[-1], driver.is_broken) == (b"\x01", OK, False)


@settings(max_examples=60)
@given(
    st.lists(st.binary(max_size=40), max_size=4),
    st.lists(st.integers(0, 600), max_size=4),
    st.integers(0, 16),
)
def test_blk_is_total_over_any_request(out: list[bytes], into: list[int], kind: int) -> None:
    """Any bytes in any layout are answered, and writes stay inside the disk."""
    disk = MemoryDisk()
    driver = BlkDriver(VirtioBlk(disk, Inline())).start()
    if out or into:
        ring = driver.rings[0]
        ring.add([pack("<I", kind), *out], into)
        driver.kick()
        assert len(ring.used_entries()) == 1
    assert len(disk.bytes) == disk.size


# --- the image file -------------------------------------------------------------------------------


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return an image of 1 MiB of 0xff."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"\xff" * (1 << 20))
    return path


def test_raw_disk_holds_what_the_guest_wrote(image: Path) -> None:
    """Through the device and back, and in the file after the flush."""
    disk = RawDisk(image)
    driver = BlkDriver(VirtioBlk(disk, Inline())).start()
    data = bytes(range(256)) * 2
    assert driver.request(OUT, 7, data)[0] == OK
    assert driver.request(FLUSH)[0] == OK
    assert image.read_bytes()[7 * 512 : 8 * 512] == data
    assert driver.request(IN, 7, into=512) == (OK, data)
    disk.close()


def test_raw_disk_flushes_to_stable_storage(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush is answered after the host has synchronised the image."""
    asked: list[bytes] = []
    monkeypatch.setattr(os, "fdatasync", lambda _: asked.append(image.read_bytes()[:512]))
    disk = RawDisk(image)
    driver = BlkDriver(VirtioBlk(disk, Inline())).start()
    assert driver.request(OUT, 0, b"\x55" * 512)[0] == OK
    assert not asked
    assert driver.request(FLUSH)[0] == OK
    assert asked == [b"\x55" * 512]
    disk.close()


def test_raw_disk_that_gets_no_more_space_fails_the_write(tmp_path: Path) -> None:
    """A sparse image on a full file system gives an I/O error; existing data can be changed."""
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 1 << 20)
    told: list[OSError] = []
    disk = RawDisk(path)
    driver = BlkDriver(VirtioBlk(disk, Inline(), on_failure=told.append)).start()
    with file_size_limit(64 << 10):
        assert driver.request(OUT, 0, b"a" * 4096)[0] == OK
        assert driver.request(OUT, 127, b"b" * 1024)[0] == IOERR  # half of it fits
        assert driver.request(OUT, 512, b"c" * 4096)[0] == IOERR
        assert driver.request(OUT, 0, b"d" * 512)[0] == OK
    assert [error.errno for error in told] == [errno.EFBIG, errno.EFBIG]
    assert driver.request(IN, 0, into=1024) == (OK, b"d" * 512 + b"a" * 512)
    assert not driver.is_broken
    disk.close()
    assert path.stat().st_size == 1 << 20


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Limit the file size of this process: like a full disk, but without root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("may_unmap", [False, True])
def test_raw_disk_zeroes_exactly_the_range(image: Path, may_unmap: bool) -> None:
    """With every file system the bytes read as zeros and the size does not change."""
    disk = RawDisk(image)
    disk.write_zeroes(4096, 8192, may_unmap=may_unmap)
    disk.close()
    assert image.read_bytes() == (
        b"\xff" * 4096 + bytes(8192) + b"\xff" * ((1 << 20) - 4096 - 8192)
    )


def test_raw_disk_zeroes_by_hand_where_the_file_system_cannot(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fallback writes zeros, also in an incomplete last part."""
    disk = RawDisk(image)
    monkeypatch.setattr(RawDisk, "_fallocate", lambda *_: False)
    monkeypatch.setattr("pyvmm.devices.disk._ZEROS", bytes(4096))
    disk.discard(0, 4096)
    disk.write_zeroes(512, 10240, may_unmap=True)
    disk.close()
    assert image.read_bytes() == b"\xff" * 512 + bytes(10240) + b"\xff" * ((1 << 20) - 10752)


def test_raw_disk_gives_discarded_space_back(image: Path) -> None:
    """A hole takes no blocks (the temporary directory's file system supports holes)."""
    before = image.stat().st_blocks
    disk = RawDisk(image)
    disk.discard(0, 1 << 20)
    disk.close()
    assert image.stat().st_blocks < before
    assert image.stat().st_size == 1 << 20


def test_raw_disk_fails_a_read_behind_the_end_of_a_shrunken_image(image: Path) -> None:
    """A truncated file gives an error, not an endless loop."""
    disk = RawDisk(image)
    image.write_bytes(b"")
    with pytest.raises(OSError, match="truncated"):
        disk.read(0, [memoryview(bytearray(512))])
    disk.close()


@pytest.mark.parametrize("is_read_only", [False, True])
def test_raw_disk_has_a_whole_last_sector(image: Path, is_read_only: bool) -> None:
    """If the size is not a multiple of 512, the missing part of the last sector reads as zeros."""
    with image.open("ab") as file:
        file.write(b"tail" * 25)
    disk = RawDisk(image, is_read_only=is_read_only)
    driver = BlkDriver(VirtioBlk(disk, Inline())).start()
    assert driver.config(0, 8) == 2049
    tail = (b"tail" * 25).ljust(512, b"\0")
    assert driver.request(IN, 2047, into=1024) == (OK, b"\xff" * 512 + tail)
    assert driver.request(OUT, 2048, tail[::-1])[0] == (IOERR if is_read_only else OK)
    assert driver.request(IN, 2048, into=512) == (OK, tail if is_read_only else tail[::-1])
    disk.close()
    assert image.stat().st_size == (1 << 20) + (100 if is_read_only else 512)


def test_raw_disk_has_one_writer_or_many_readers(image: Path) -> None:
    """Two guests that write to one image would destroy it."""
    first = RawDisk(image)
    for is_read_only in (False, True):
        with pytest.raises(UserError, match="in use"):
            RawDisk(image, is_read_only=is_read_only)
    first.close()
    readers = [RawDisk(image, is_read_only=True) for _ in range(2)]
    with pytest.raises(UserError, match="in use"):
        RawDisk(image)
    for reader in readers:
        reader.close()


def test_raw_disk_says_what_is_wrong_with_a_path(tmp_path: Path) -> None:
    """Missing, a directory, not a storage device, or empty: one line with the name."""
    (tmp_path / "empty").touch()
    for path, words in (
        (tmp_path / "none", "No such file.*check the path"),
        (tmp_path, "directory"),
        (Path("/dev/null"), "is a character device: give a regular file or a block device"),
        (tmp_path / "empty", "is empty.*truncate"),
    ):
        with pytest.raises(UserError, match=words) as error:
            RawDisk(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
