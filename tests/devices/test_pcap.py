"""Capture files, read by tshark where it is installed."""

import os
import shutil
import subprocess
from pathlib import Path
from struct import unpack_from

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.devices.pcap import Capture


def test_capture_is_readable_at_any_time(tmp_path: Path) -> None:
    """A header, then each frame with its time; the file is the user's alone."""
    path = tmp_path / "pcap"
    capture = Capture(path, print, lambda: 5_000_000_007)
    capture.record([b"ab", memoryview(b"cde")])
    data = path.read_bytes()
    assert unpack_from("<IHHIIII", data) == (0xA1B23C4D, 2, 4, 0, 0, 1 << 18, 1)
    assert unpack_from("<IIII", data, 24) == (5, 7, 5, 5)
    assert data[40:] == b"abcde"
    assert path.stat().st_mode & 0o777 == 0o600
    capture.close()
    capture.close()
    capture.record([b"late"])
    assert path.read_bytes() == data


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_tshark_reads_a_capture(tmp_path: Path) -> None:
    """It finds each frame."""
    capture = Capture(tmp_path / "pcap", print)
    for size in (60, 1514, 65535):
        capture.record([b"\xff" * 6 + b"\2" + bytes(5) + b"\x88\xb5", bytes(size - 14)])
    capture.close()
    command = ["tshark", "-r", str(tmp_path / "pcap"), "-T", "fields", "-e", "frame.len"]
    shown = subprocess.run(command, capture_output=True, check=True, text=True)
    assert shown.stdout.split() == ["60", "1514", "65535"]


def test_full_disk_ends_a_capture_with_one_line() -> None:
    """The guest goes on."""
    lines: list[str] = []
    with pytest.raises(UserError, match="give another file"):
        Capture(Path("/dev/full"), lines.append)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    capture = Capture(Path(f"/dev/fd/{writer}"), lines.append)
    for _ in range(100):
        capture.record([bytes(60_000)])
    os.close(reader)
    os.close(writer)
    capture.close()
    assert len(lines) == 1
    assert lines[0].endswith("the capture ends")


@pytest.mark.parametrize("name", ["", "none/file"])
def test_file_that_cannot_be_written_is_refused(tmp_path: Path, name: str) -> None:
    """A directory, or a file in a directory that does not exist."""
    with pytest.raises(UserError, match=r"^-n pcap=.*: give another file$"):
        Capture(tmp_path / name, print)
