"""Files named by a user: which are accepted, which are refused, and that nothing blocks."""

import os
import socket
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.arch.user_file import open_file, read_file, read_start, write_file

MIB = 1 << 20


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """Return a named pipe."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_regular_file_is_read(tmp_path: Path) -> None:
    """All of it, up to the limit."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    assert read_file(path, "file", 1000) == b"x" * 1000
    assert read_start(path, "file", 10) == b"x" * 10
    with pytest.raises(UserError, match=f" {path} is larger than 999 bytes: give a smaller one"):
        read_file(path, "file", 999)


def test_file_without_a_size_is_read() -> None:
    """For example, in /proc."""
    assert os.stat("/proc/self/limits").st_size == 0  # noqa: PTH116
    assert read_file(Path("/proc/self/limits"), "file", MIB).startswith(b"Limit")


def test_reading_takes_the_memory_of_the_content(tmp_path: Path) -> None:
    """Not that of the limit, or of a size above the limit."""
    small, huge = tmp_path / "small", tmp_path / "huge"
    small.write_bytes(bytes(MIB))
    huge.touch()
    os.truncate(huge, 1 << 40)
    tracemalloc.start()
    try:
        read_file(small, "file", 1 << 40)
        with pytest.raises(UserError, match="is larger than 2 MiB"):
            read_file(huge, "file", 2 * MIB)
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


def test_pipe_is_refused(fifo: Path) -> None:
    """Unless the caller accepts one, and it has a writer."""
    with pytest.raises(UserError, match="is a pipe: give a regular file or a block device"):
        open_file(fifo, "disk", os.O_RDWR)
    with pytest.raises(UserError, match="is a pipe: give a regular file or a block device"):
        read_file(fifo, "kernel", 10)
    with pytest.raises(UserError, match="is a pipe without a writer: start the writer first"):
        read_file(fifo, "token", 10, takes_pipe=True)


def test_pipe_with_a_writer_is_read_to_its_end() -> None:
    """As in a shell's <(command), which may be slow."""
    reader, writer = os.pipe()

    def write() -> None:
        for _ in range(3):
            time.sleep(0.05)
            os.write(writer, b"slowly")
        os.close(writer)

    thread = threading.Thread(target=write)
    thread.start()
    assert read_file(Path(f"/dev/fd/{reader}"), "token", MIB, takes_pipe=True) == b"slowly" * 3
    thread.join()
    os.close(reader)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("/dev/zero", "character device"),
        ("/dev/null", "character device"),
        ("directory", "directory"),
        ("socket", "socket"),
    ],
)
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_other_kind_is_refused(tmp_path: Path, name: str, complaint: str, flags: int) -> None:
    """Before it is opened, because opening can have an effect."""
    (tmp_path / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for takes_pipe in (False, True):
            with pytest.raises(UserError, match=f"disk .*{name} is a {complaint}: give a regular"):
                open_file(tmp_path / name, "disk", flags, takes_pipe=takes_pipe)


@pytest.mark.parametrize("name", ["none", "x" * 300, "file/x", "loop"])
def test_failure_to_open_is_one_line(tmp_path: Path, name: str) -> None:
    """With the name."""
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=f"kernel {tmp_path / name}: .*: check the path"):
        read_file(tmp_path / name, "kernel", 10)


def test_file_is_written_without_waiting_for_a_reader(tmp_path: Path, fifo: Path) -> None:
    """A pipe without a reader is an error; a reader gets the data."""
    write_file(tmp_path / "file", b"data")
    assert (tmp_path / "file").read_bytes() == b"data"
    with pytest.raises(OSError, match="No such device or address"):
        write_file(fifo, b"data")
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_file(fifo, b"data")
        assert os.read(reader, 10) == b"data"
    finally:
        os.close(reader)
