"""A guest's disks as its options open them."""

import subprocess
from pathlib import Path
from threading import Event

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.devices.disk import RawDisk
from pyvmm.devices.workers import Workers
from pyvmm.vm.machine.disks import check_disks, close_disk, open_disk
from pyvmm.vm.option_values import parse_disk, parse_disks
from tests.waiting import PATIENCE, wait_until

MIB = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return a raw image."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"\xff" * MIB)
    return path


@pytest.fixture
def qcow2(tmp_path: Path) -> Path:
    """Return a qcow2 image."""
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    return path


def change(text: str) -> bytes:
    """Open a disk, write to it, and return what it has at its start."""
    disk, data = open_disk(parse_disk(text)), bytearray(1024)
    if not disk.is_read_only:
        disk.write(512, [memoryview(b"x" * 512)])
    disk.read(0, [memoryview(data)])
    close_disk(disk, Workers("test"))
    return bytes(data)


@pytest.mark.parametrize("options", ["", ",direct", ",cache=none", ",cache=writethrough"])
@pytest.mark.parametrize("name", ["image", "qcow2"])
def test_disk_keeps_what_is_written(
    request: pytest.FixtureRequest, name: str, options: str
) -> None:
    """Whatever its format, and whichever way it is written."""
    path = request.getfixturevalue(name)
    first = b"\xff" if name == "image" else b"\0"
    for text in (f"{path}{options}", f"{path},ro"):
        assert change(text) == first * 512 + b"x" * 512


@pytest.mark.parametrize("options", [",snapshot", ",direct,snapshot"])
@pytest.mark.parametrize("name", ["image", "qcow2"])
def test_snapshot_keeps_nothing(request: pytest.FixtureRequest, name: str, options: str) -> None:
    """The file is as before."""
    path = request.getfixturevalue(name)
    before = path.read_bytes()
    assert change(f"{path}{options}")[512:] == b"x" * 512
    assert path.read_bytes() == before


def test_name_or_option_decides_the_format(image: Path, qcow2: Path) -> None:
    """A guest that writes a header to its raw disk cannot make another format of it."""
    image.write_bytes(qcow2.read_bytes())
    with pytest.raises(UserError, match=r"in qcow2 format.*,format=qcow2.*format=raw"):
        open_disk(parse_disk(str(image)))
    assert change(f"{image},format=qcow2") == bytes(512) + b"x" * 512
    assert change(f"{image},format=raw")[:4] == b"QFI\xfb"
    qcow2.write_bytes(bytes(MIB))
    with pytest.raises(UserError, match="not in qcow2 format"):
        open_disk(parse_disk(str(qcow2)))
    assert change(f"{qcow2},format=raw") == bytes(512) + b"x" * 512


@pytest.mark.parametrize(
    ("offset", "magic", "name"),
    [(0, b"KDMV", "vmdk"), (0, b"vhdxfile", "vhdx"), (0x40, b"\x7f\x10\xda\xbe", "vdi")],
)
def test_other_formats_are_refused(image: Path, offset: int, magic: bytes, name: str) -> None:
    """A guest would find no file system on it, and overwrite it."""
    data = bytearray(MIB)
    data[offset : offset + len(magic)] = magic
    image.write_bytes(data)
    with pytest.raises(UserError, match=f"{name} format: convert it: qemu-img convert -O qcow2"):
        open_disk(parse_disk(str(image)))
    assert image.read_bytes() == data


def test_block_device_is_a_disk(image: Path) -> None:
    """It is written, discarded and zeroed in place; also as a backing file, and directly."""
    attached = subprocess.run(
        ["losetup", "--find", "--show", image], capture_output=True, text=True, check=False
    )
    if attached.returncode:
        pytest.skip("attaching a loop device is not permitted")
    device = attached.stdout.strip()
    try:
        for options in ("", ",direct"):
            disk, data = open_disk(parse_disk(f"{device}{options}")), bytearray(8192)
            assert disk.size == MIB
            disk.write(512, [memoryview(b"x" * 1024)])
            disk.write_zeroes(1024, 512, may_unmap=False)
            disk.write_zeroes(4096, 4096, may_unmap=True)
            disk.discard(MIB // 2, 4096)
            disk.read(0, [memoryview(data)])
            close_disk(disk, Workers("test"))
            assert data == b"\xff" * 512 + b"x" * 512 + bytes(512) + b"\xff" * 2560 + bytes(4096)
            assert change(f"{device},snapshot")[512:] == b"x" * 512
        overlay = image.with_name("overlay.qcow2")
        create = ("qemu-img", "create", "-q", "-f", "qcow2", "-b", device, "-F", "raw")
        subprocess.run([*create, overlay], check=True)
        assert change(f"{overlay},backing={device}") == b"\xff" * 512 + b"x" * 512
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_disks_are_checked_before_a_guest_starts(image: Path, qcow2: Path) -> None:
    """They are not in use afterwards; a file that is written occurs once."""
    check_disks(parse_disks([str(image), str(qcow2)]))
    check_disks(parse_disks([f"{image},ro", f"{image},snapshot", f"{image},ro"]))
    for second in ("", ",ro", ",snapshot"):
        with pytest.raises(UserError, match="given twice"):
            check_disks(parse_disks([str(qcow2), f"{qcow2}{second}"]))
    image.unlink()
    with pytest.raises(UserError, match="No such file"):
        check_disks(parse_disks([str(qcow2), str(image)]))


def test_storage_that_does_not_answer_does_not_hold_up_the_end(image: Path) -> None:
    """A request that does not end stays behind, with its file."""
    disk, workers, begun, goes_on = RawDisk(image), Workers("test"), Event(), Event()

    def hang() -> None:
        begun.set()
        assert goes_on.wait(PATIENCE)

    workers.submit(hang)
    assert begun.wait(PATIENCE)
    with pytest.raises(TimeoutError, match="the storage does not answer"):
        close_disk(disk, workers)
    disk.read(0, [memoryview(bytearray(512))])
    goes_on.set()
    wait_until(lambda: workers.close(PATIENCE))
    disk.close()
