"""qcow2 images, their backing files, and the qemu-nbd that serves them."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.devices.disk_file import open_disk_file
from pyvmm.devices.disk_qcow2 import MAX_LAYERS, Qcow2Disk, open_qcow2
from tests.waiting import PATIENCE

MIB = 1 << 20


def qemu_img(*words: str | Path) -> None:
    """Run qemu-img."""
    subprocess.run(["qemu-img", *words], check=True, stdout=subprocess.DEVNULL)


def create(path: Path, *, backing: str = "", format_: str = "qcow2", size: str = "") -> Path:
    """Make an image, with a backing file that need not exist."""
    words = ["-u", "-b", backing, *(["-F", format_] if format_ else [])] if backing else []
    qemu_img("create", "-q", "-f", "qcow2", *words, path, size or "16M")
    return path


@contextmanager
def opened(
    path: Path, *, is_read_only: bool = False, backing: Path | None = None
) -> Iterator[Qcow2Disk]:
    """Open an image, and close it at the end."""
    disk = open_qcow2(path, is_read_only=is_read_only, backing=backing)
    try:
        yield disk
    finally:
        disk.close()


def read(disk: Qcow2Disk, offset: int, size: int) -> bytes:
    """Return some of its content."""
    data = bytearray(size)
    half = memoryview(data)[: size // 2]
    disk.read(offset, [half, memoryview(data)[size // 2 :]])
    return bytes(data)


def test_image_keeps_what_was_written(tmp_path: Path) -> None:
    """Written in pieces, flushed, read again by another server; the lock is free at once."""
    path = create(tmp_path / "a.qcow2")
    with opened(path) as disk:
        assert (disk.size, disk.is_read_only) == (16 * MIB, False)
        disk.write(512, [memoryview(b"a" * 512), memoryview(b"b" * 1024)])
        disk.flush()
        assert read(disk, 0, 2560) == bytes(512) + b"a" * 512 + b"b" * 1024 + bytes(512)
        assert not disk.read_now(0, [memoryview(bytearray(512))])
    with opened(path, is_read_only=True) as disk:
        assert disk.is_read_only
        assert read(disk, 512, 1536) == b"a" * 512 + b"b" * 1024
        with pytest.raises(OSError, match="Invalid argument"):
            disk.write(0, [memoryview(bytes(512))])


def test_image_discards_and_zeroes(tmp_path: Path) -> None:
    """Discarded space goes back to the host."""
    path = create(tmp_path / "a.qcow2")
    with opened(path) as disk:
        disk.write(0, [memoryview(b"x" * (4 * MIB))])
        disk.write_zeroes(MIB, 512, may_unmap=False)
        disk.write_zeroes(2 * MIB, MIB, may_unmap=True)
        assert read(disk, MIB - 512, 1536) == b"x" * 512 + bytes(512) + b"x" * 512
        assert not any(read(disk, 2 * MIB, MIB))
        disk.flush()
        before = path.stat().st_blocks
        disk.discard(0, 4 * MIB)
        disk.flush()
        assert path.stat().st_blocks < before


def test_backing_files_are_read_and_never_written(tmp_path: Path) -> None:
    """A raw one behind a qcow2 one, in the same directory or below."""
    (tmp_path / "sub").mkdir()
    raw = tmp_path / "sub/raw.img"
    raw.write_bytes(b"r" * MIB)
    middle = create(tmp_path / "middle.qcow2", backing="sub/raw.img", format_="raw")
    with opened(middle) as disk:
        disk.write(MIB, [memoryview(b"m" * 512)])
    top = create(tmp_path / "top.qcow2", backing=str(middle))
    before = middle.read_bytes()
    with opened(top) as disk:
        assert read(disk, MIB - 512, 1024) == b"r" * 512 + b"m" * 512
        disk.write(MIB - 512, [memoryview(b"t" * 1024)])
        assert read(disk, MIB - 1024, 1536) == b"r" * 512 + b"t" * 1024
        # Readers share the backing files; nobody writes to one meanwhile.
        with opened(create(tmp_path / "other.qcow2", backing="middle.qcow2")) as other:
            assert read(other, MIB - 512, 1024) == b"r" * 512 + b"m" * 512
        for path in (top, middle, raw):
            with pytest.raises(UserError, match="in use by another instance"):
                open_disk_file(path, is_read_only=False)
    assert (middle.read_bytes(), raw.read_bytes()) == (before, b"r" * MIB)


def refusal(path: Path, backing: Path | None = None) -> str:
    """Return the one line with which an image is refused; no file stays locked."""
    with pytest.raises(UserError) as refused:
        open_qcow2(path, backing=backing)
    line = str(refused.value)
    assert "\n" not in line
    assert str(path) in line
    os.close(open_disk_file(path, is_read_only=False))
    return line


def test_backing_file_elsewhere_must_be_named_by_the_user(tmp_path: Path) -> None:
    """An image from elsewhere could show a guest any file of the host."""
    (tmp_path / "images").mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * MIB)
    (tmp_path / "images/link").symlink_to(secret)
    for index, name in enumerate((str(secret), "../secret", "link")):
        path = create(tmp_path / f"images/{index}.qcow2", backing=name, format_="raw")
        assert f"{name} is not in its directory" in refusal(path)
        with opened(path, backing=secret) as disk:
            assert read(disk, 0, 512) == b"s" * 512


@pytest.mark.parametrize(
    "name",
    [
        'json:{"driver":"file","filename":"/etc/passwd"}',
        "nbd:unix:/tmp/x",
        "fat:/etc",
        "file:/etc/passwd",
        "none",
    ],
)
def test_backing_file_is_never_more_than_a_name_of_a_file(tmp_path: Path, name: str) -> None:
    """QEMU would open other things."""
    path = create(tmp_path / "a.qcow2", backing="x" * len(name), format_="raw")
    path.write_bytes(path.read_bytes().replace(b"x" * len(name), name.encode()))
    line = refusal(path)
    assert "does not exist" in line or "not in its directory" in line


def test_backing_file_without_a_format_is_refused(tmp_path: Path) -> None:
    """A guest could have written a header to a raw one."""
    create(tmp_path / "base.qcow2")
    path = create(tmp_path / "a.qcow2", backing="base.qcow2")
    data = bytearray(path.read_bytes())
    at = data.index(b"\xe2\x79\x2a\xca")  # the header extension with the format
    data[at : at + 4] = b"\x12\x34\x56\x78"
    path.write_bytes(data)
    assert "has no format that is supported" in refusal(path)


def test_loops_and_long_chains_are_refused(tmp_path: Path) -> None:
    """An image that is its own backing file, two in a circle, and too many."""
    itself = create(tmp_path / "itself.qcow2", backing="itself.qcow2")
    assert "form a loop" in refusal(itself)
    first = create(tmp_path / "first.qcow2", backing="second.qcow2")
    create(tmp_path / "second.qcow2", backing="first.qcow2")
    assert "form a loop" in refusal(first)
    names = [f"{index}.qcow2" for index in range(MAX_LAYERS + 1)]
    create(tmp_path / names[0])
    for name, backing in zip(names[1:], names, strict=False):
        create(tmp_path / name, backing=backing)
    assert f"more than {MAX_LAYERS - 1} backing files" in refusal(tmp_path / names[-1])
    with opened(tmp_path / names[-2]) as disk:
        assert disk.size == 16 * MIB


def test_data_in_another_file_is_refused(tmp_path: Path) -> None:
    """An image from elsewhere could let a guest write to any file."""
    victim = tmp_path / "victim"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={victim}", tmp_path / "a.qcow2", "1M")
    victim.write_bytes(b"v" * MIB)
    assert "keeps its data in another file" in refusal(tmp_path / "a.qcow2")
    assert victim.read_bytes() == b"v" * MIB


def test_damaged_images_are_refused(tmp_path: Path, seed: int) -> None:
    """Any header is refused in one line, or serves a disk."""
    good = create(tmp_path / "good.qcow2").read_bytes()
    path, chance = tmp_path / "bad.qcow2", random.Random(seed)
    for content in (b"", b"QFI\xfb", b"QFI\xfb" + bytes(508), b"raw" * 1000):
        path.write_bytes(content)
        refusal(path)
    for _ in range(20):
        data = bytearray(good)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(4, 112)] = chance.randrange(256)
        path.write_bytes(data)
        with suppress(UserError):  # it is not always damaged beyond use
            open_qcow2(path, is_read_only=True).close()
        os.close(open_disk_file(path, is_read_only=False))


@pytest.mark.parametrize("tool", ["qemu-img", "qemu-nbd"])
def test_missing_tool_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    """It names the package."""
    path = create(tmp_path / "a.qcow2")
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == tool else which(name))
    assert f"qcow2 needs {tool}: install the package qemu-utils" in refusal(path)


def pid_of(disk: Qcow2Disk) -> int:
    """Return the process of a disk's qemu-nbd."""
    for line in Path(f"/proc/self/fdinfo/{disk._process}").read_text().splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    raise AssertionError


def test_requests_fail_when_qemu_nbd_has_ended(tmp_path: Path) -> None:
    """All of them, at once."""
    with opened(create(tmp_path / "a.qcow2")) as disk:
        os.kill(pid_of(disk), signal.SIGKILL)
        for _ in range(10):
            with pytest.raises(OSError, match="the NBD server is gone"):
                disk.flush()
            with pytest.raises(OSError, match="the NBD server is gone"):
                disk.read(0, [memoryview(bytearray(512))])


def test_requests_that_do_not_end_are_given_up(tmp_path: Path) -> None:
    """qemu-nbd is killed if it hangs."""
    disk = open_qcow2(create(tmp_path / "a.qcow2"))
    os.kill(pid_of(disk), signal.SIGSTOP)
    failures: list[OSError] = []

    def wait() -> None:
        try:
            disk.flush()
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=wait) for _ in range(6)]
    for thread in threads:
        thread.start()
    start = time.monotonic()
    disk.abandon()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(failures) == 6
    assert time.monotonic() - start < PATIENCE / 2


def test_qemu_nbd_ends_with_its_user(tmp_path: Path) -> None:
    """Also if that is killed: nothing stays locked."""
    path = create(tmp_path / "a.qcow2")
    program = (
        "import sys, time; from pathlib import Path;"
        "from pyvmm.devices.disk_qcow2 import open_qcow2;"
        "d = open_qcow2(Path(sys.argv[1])); print(flush=True); time.sleep(100)"
    )
    with subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        with pytest.raises(UserError, match="in use"):
            open_disk_file(path, is_read_only=False)
        process.kill()
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            os.close(open_disk_file(path, is_read_only=False))
            break
        except UserError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
