"""A guest's disk when the host fails: killed, or out of space."""

import os
import re
import signal
from pathlib import Path

import pytest

from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.images.debian import Image
from pyvmm.vm.option_values import disk_serials, parse_disks
from tests.boot.command import (
    PYVMM,
    Running,
    call,
    copy_file,
    guest_options,
    is_clean,
    pyvmm,
    read_from,
    recover,
    sbin,
)

pytestmark = pytest.mark.boot

#: Run the rest with a sparse image of 64 MiB at DIRECTORY/disk, which has room for 8.
FULL_DISK = (
    *("unshare", "--mount", "sh", "-c"),
    'mount -t tmpfs -o size=8m none "$0" && truncate -s 64M "$0/disk" && exec "$@"',
)


@pytest.fixture(scope="module")
def killed_disk(debian: Image, disk: Path) -> Path:
    """Return a disk whose guest was killed while it wrote, after a sync."""
    with Running("run", *guest_options(debian, disk)) as guest:
        guest.shell.log_in()
        assert guest.shell.run("seq 100000 >/root/numbers; sync").status == 0
        guest.shell.type("while :; do seq 100000 >/root/more; echo more; done\n")
        guest.shell.expect(re.compile(b"more"))
        os.kill(guest.pid, signal.SIGKILL)
        assert guest.wait() == -signal.SIGKILL
    return disk


@pytest.fixture
def dirty_disk(killed_disk: Path, tmp_path: Path) -> Path:
    """Return a copy of it, its journal not replayed."""
    return copy_file(killed_disk, tmp_path / "rootfs.img")


def test_what_was_flushed_outlives_the_process(dirty_disk: Path) -> None:
    """After sync and SIGKILL the file exists, and unfinished writes do no harm."""
    recover(dirty_disk)
    assert is_clean(dirty_disk)
    assert read_from(dirty_disk, "/root/numbers") == "".join(f"{n}\n" for n in range(1, 100_001))


@pytest.mark.parametrize("kind", [(), ("--realm", "--no-hes")], ids=["normal", "realm"])
def test_each_disk_has_its_serial_and_all_its_bytes(
    debian: Image, tmp_path: Path, kind: tuple[str, ...]
) -> None:
    """Linux shows serial numbers, and the tail of a disk with an incomplete sector."""
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    first.write_bytes(bytes(1 << 20) + b"tail" * 25)
    second.write_bytes(bytes(1 << 20))
    third.write_bytes(bytes(1 << 20))
    disks = ("--disk", first, "--disk", f"{second},ro", "--disk", f"{third},serial=my disk")
    with Running("run", *kind, *guest_options(debian, None), *disks) as guest:
        guest.shell.log_in()
        said = guest.shell.run("grep -h . /sys/block/vd?/serial").output.splitlines()
        assert said == disk_serials(parse_disks(list(map(str, disks[1::2]))))
        assert len(set(said)) == 3
        assert guest.shell.run("cat /sys/block/vda/size").output == "2049"
        tail = guest.shell.run("dd if=/dev/vda bs=512 skip=2048 2>/dev/null | tr '\\0' .").output
        assert tail == "tail" * 25 + "." * 412
        guest.shell.type("poweroff -f\n")
        assert guest.wait() == ExitCode.OK


def test_dirty_journal_on_a_read_only_disk_is_told(debian: Image, dirty_disk: Path) -> None:
    """The kernel's message and the remedy, which works."""
    disk, options = dirty_disk, guest_options(debian, None)
    with Running("run", *options, "--disk", f"{disk},ro") as guest:
        guest.shell.log_in()
        said = guest.shell.log.decode().replace("\r\n", "\n")
        assert "No root file system on /dev/vda: it cannot be mounted.\nKernel messages:\n" in said
        assert "\n  INFO: recovery required on readonly filesystem\n" in said
        assert "the disk is read-only: start the machine once without ,ro.\n" in said
    assert pyvmm("run", *guest_options(debian, disk), typed="poweroff -f\n").code == ExitCode.OK
    with Running("run", *options, "--disk", f"{disk},ro") as guest:
        guest.shell.log_in()
        assert guest.shell.run("cat /etc/hostname").output == "debian"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "the disk does not exist.\nGive the machine one"),
        ("nothing", "it cannot be mounted.\nGive the machine a disk with an ext4"),
        ("no init", "it has no /sbin/init.\nName the program to start with init="),
    ],
)
def test_disk_without_a_system_is_told(
    debian: Image, tmp_path: Path, content: str, why: str
) -> None:
    """There is no disk, it is empty, or it has no init."""
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(1 << 22)
    if content == "no init":
        assert call(sbin("mke2fs"), "-q", "-t", "ext4", image).code == 0
    disk = ("--disk", image) if content else ()
    with Running("run", *guest_options(debian, None), *disk) as guest:
        guest.shell.log_in()
        said = guest.shell.log.decode().replace("\r\n", "\n")
        assert f"No root file system on /dev/vda: {why}" in said


def test_full_host_is_an_io_error_of_the_guest(debian: Image, tmp_path: Path) -> None:
    """The guest continues, and the user gets one line."""
    if call(*FULL_DISK, tmp_path, "true").code:
        pytest.skip("mounting a small file system in a namespace of its own is not permitted")
    image = tmp_path / "disk"
    script = (
        "echo before >/dev/vda; sync; dmesg -n 1\n"
        "dd if=/dev/zero of=/dev/vda bs=1M seek=1 count=32 conv=fsync; echo status $?\n"
        "echo 3 >/proc/sys/vm/drop_caches; head -n 1 /dev/vda\n"
        "poweroff -f\n"
    )
    command = (PYVMM, "run", *guest_options(debian, image))
    ended = call(*FULL_DISK, tmp_path, *command, typed=script)
    assert ended.code == ExitCode.OK, ended.errors
    assert "\r\nstatus 1\r\n" in ended.output
    assert "\r\nbefore\r\n" in ended.output
    line = f"pyvmm: disk {image}: No space left on device; the guest gets I/O errors\n"
    assert ended.errors == line
