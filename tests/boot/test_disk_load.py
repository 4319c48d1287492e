"""A guest's disk under load: what was flushed, what was written by many, and what is stopped."""

import itertools
import os
import random
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.devices.disk_file import open_disk_file
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.images.debian import Image
from tests.boot.command import (
    DOWNLOAD_PATIENCE,
    Running,
    build_image,
    call,
    copy_disk,
    guest_options,
    pyvmm,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.boot

SIZE = 16 << 20
#: Write the number of each sector there and flush it, while another program writes elsewhere.
LOAD = (
    "while :; do dd if=/dev/zero of=/dev/vda bs=64k seek=128 count=32 oflag=direct; done"
    " 2>/dev/null &\n"
    "n=1; while :; do printf '%512d' $n | dd of=/dev/vda bs=512 seek=$n conv=fsync 2>/dev/null"
    " && echo acknowledged $n; n=$((n + 1)); done\n"
)


def make_disk(path: Path) -> Path:
    """Make an empty disk, in the format that its name says."""
    format_ = path.suffix.removeprefix(".")
    command = ("qemu-img", "create", "-q", "-f", format_, str(path), str(SIZE))
    subprocess.run(command, check=True)
    return path


def users_of(path: Path) -> list[int]:
    """Return the processes that have a file open."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if link.readlink() == path:
                found.append(int(link.parts[2]))
    return sorted(set(found))


def is_free(path: Path) -> bool:
    """Return whether nobody uses a disk, also not a killed qemu-nbd that has yet to end."""
    if call("qemu-img", "info", str(path)).code:
        return False
    try:
        os.close(open_disk_file(path, is_read_only=False))
    except UserError:
        return False
    return True


def content_of(path: Path) -> bytes:
    """Return what a guest sees on a disk."""
    raw = path.with_suffix(".copy")
    command = ("qemu-img", "convert", "-f", path.suffix[1:], "-O", "raw", str(path), str(raw))
    subprocess.run(command, check=True)
    return raw.read_bytes()


def kill_under_load(debian: Image, path: Path, wait: float) -> int:
    """Kill a guest, and what serves its disk, a while after its first acknowledged write.

    Returns: the last sector whose write was acknowledged after a flush.
    """
    with Running("run", *guest_options(debian, None), "-c", "2", "--disk", path) as guest:
        guest.shell.log_in()
        guest.shell.type(LOAD)
        guest.shell.expect(re.compile(rb"acknowledged 1\r"))
        time.sleep(wait)
        for process in (*users_of(path), guest.pid):  # qemu-nbd has a qcow2 image open
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        assert guest.wait() == -signal.SIGKILL
        guest.shell.read_all()
        found = re.findall(rb"acknowledged (\d+)\r", guest.shell.log)
    wait_until(lambda: is_free(path))
    return int(found[-1])


@pytest.mark.parametrize("name", ["disk.raw", "disk.qcow2"])
@pytest.mark.parametrize("count", [1, pytest.param(100, marks=pytest.mark.slow)])
def test_what_was_flushed_survives_a_kill_under_load(
    debian: Image, tmp_path: Path, seed: int, name: str, count: int
) -> None:
    """Each write that was acknowledged after a flush is there, and qcow2 is not damaged."""
    chance, path = random.Random(seed), tmp_path / name
    for _ in range(count):
        path.unlink(missing_ok=True)
        last = kill_under_load(debian, make_disk(path), chance.uniform(0, 1))
        content = content_of(path)
        for number in range(1, last + 1):
            assert content[512 * number :][:512] == b"%512d" % number
        if path.suffix == ".qcow2":
            # Clusters may be lost, which is harmless, but none may be used twice.
            checked = call("qemu-img", "check", "-q", str(path))
            assert checked.code in {0, 3}, checked.output


#: One of several jobs: fill a part of a disk with pieces of all sizes, read it twice, compare.
JOB = (
    "mkdir -p /tmp; job() { for each in 512:128 4096:64 65536:8 1048576:1; do"
    " bs=${each%:*}; count=${each#*:}; at=$(($2 * 3145728 / bs)); file=/tmp/$2;"
    " head -c $((bs * count)) /dev/urandom >$file;"
    " dd if=$file of=$1 bs=$bs seek=$at oflag=direct 2>/dev/null;"
    " for flag in direct fullblock; do"
    ' [ "$(dd if=$1 bs=$bs skip=$at count=$count iflag=$flag 2>/dev/null | md5sum)" ='
    ' "$(md5sum <$file)" ] || echo job $2 differs; done; done; echo job $2 done; }'
)


@pytest.mark.parametrize("kind", [(), ("--realm", "--no-hes")], ids=["normal", "realm"])
def test_four_jobs_read_what_they_wrote(
    debian: Image, tmp_path: Path, kind: tuple[str, ...]
) -> None:
    """Each has its part of the disk; there are two CPUs."""
    disks = [make_disk(tmp_path / name) for name in ("disk.raw", "disk.qcow2")]
    given = [word for disk in disks for word in ("--disk", disk)]
    with Running("run", *kind, *guest_options(debian, None), "-c", "2", *given) as guest:
        guest.shell.log_in()
        for path in ("/dev/vda", "/dev/vdb"):
            jobs = f"{JOB}; for n in 0 1 2 3; do job {path} $n & done; wait"
            said = guest.shell.run(jobs, DOWNLOAD_PATIENCE).output  # seconds, unless it is busy
            assert sorted(said.splitlines()) == [f"job {number} done" for number in range(4)]
        guest.shell.type("poweroff -f\n")
        assert guest.wait() == ExitCode.OK


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", ",direct", ",snapshot", ",cache=writethrough"])
@pytest.mark.parametrize("name", ["disk.raw", "disk.qcow2"])
def test_fio_verifies_what_it_wrote(tmp_path: Path, name: str, options: str) -> None:
    """Four jobs of random sizes, many requests at a time, two CPUs."""
    image = build_image("debian-fio", "--with", "fio")
    disk, root = make_disk(tmp_path / name), copy_disk(image, tmp_path)
    command = (
        "cd /run && fio --name=job --numjobs=4 --filename=/dev/vdb --size=4M --offset_increment=4M"
        " --rw=randrw --bsrange=512-64k --blockalign=512 --direct=1 --ioengine=libaio --iodepth=16"
        " --verify=crc32c --verify_fatal=1 --fsync=32 --loops=4 --serialize_overlap=1 --minimal"
    )
    with Running(
        "run", *guest_options(image, root), "-c", "2", "--disk", f"{disk}{options}"
    ) as guest:
        guest.shell.log_in()
        answer = guest.shell.run(command, DOWNLOAD_PATIENCE)
        assert answer.status == 0, answer.output
        guest.shell.type("poweroff -f\n")
        assert guest.wait() == ExitCode.OK


def test_stop_ends_a_guest_in_the_middle_of_its_writes(debian: Image, tmp_path: Path) -> None:
    """A signal ends it soon, whatever is under way; the disks are free afterwards."""
    kinds = list(itertools.product(("raw", "qcow2"), ("", ",direct", ",snapshot")))
    disks = [make_disk(tmp_path / f"{n}.{format_}") for n, (format_, _) in enumerate(kinds)]
    given = [f"--disk={disk}{options}" for disk, (_, options) in zip(disks, kinds, strict=True)]
    with Running("run", *guest_options(debian, None), "-c", "2", *given) as guest:
        guest.shell.log_in()
        write = "for n in 1 2; do while :; do cat /dev/zero | dd of=$d bs=4M; done & done"
        assert guest.shell.run(f"for d in /dev/vd?; do {write} 2>/dev/null; done").status == 0
        is_writing = "read a b c d writes rest <$stat && [ $writes != 0 ]"
        wait = f"for stat in /sys/block/vd?/stat; do until {is_writing}; do :; done; done"
        assert guest.shell.run(f"{wait}; ls /dev/vd? | wc -l").output == str(len(disks))
        os.kill(guest.pid, signal.SIGTERM)
        start = time.monotonic()
        assert guest.wait() == ExitCode.QUIT
        assert time.monotonic() - start < 10  # on a busy machine, with the flush of the disks
    assert all(map(is_free, disks))


def test_debian_runs_on_a_qcow2_disk_with_a_backing_file(debian: Image, tmp_path: Path) -> None:
    """In a realm; the backing file does not change, the overlay keeps the changes."""
    before = debian.rootfs.stat().st_mtime_ns
    disk = tmp_path / "work.qcow2"
    create = ("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(debian.rootfs.absolute()))
    subprocess.run([*create, "-F", "raw", str(disk)], check=True)
    options = (*guest_options(debian, None), "--disk", f"{disk},backing={debian.rootfs}")
    refused = pyvmm("run", *guest_options(debian, disk))
    assert refused.code == ExitCode.BAD_INPUT
    assert f",backing={debian.rootfs.absolute()}\n" in refused.errors
    written = pyvmm(
        "run",
        *("--realm", "--no-hes"),
        *options,
        typed="echo kept >/root/file; sync; poweroff -f\n",
    )
    assert written.code == ExitCode.OK, written.errors
    read = pyvmm("run", *options, typed="cat /root/file; poweroff -f\n")
    assert read.code == ExitCode.OK, read.errors
    assert "\r\nkept\r\n" in read.output
    assert debian.rootfs.stat().st_mtime_ns == before
    assert is_free(disk)
