"""The file of a record: complete, cut off, damaged, of another version, or something else."""

from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.vm.record.file import VERSION, Reader, Writer
from pyvmm.vm.record.items import encode

ITEMS = [encode(kind, "x" * kind, b"\0" * 1000) for kind in range(100)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Write a record."""
    path = tmp_path / "record"
    writer = Writer(path)
    for item in ITEMS:
        writer.write(item)
    writer.close()
    return path


def test_items_are_read_as_written(file: Path) -> None:
    """All of them, in their order."""
    assert list(Reader(file).items()) == ITEMS


def test_only_the_owner_can_read_it(file: Path) -> None:
    """It has keys of the realm, and what was typed."""
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("size", [20, 24, 27, 28, 60])
def test_a_record_that_is_cut_off_is_a_line(file: Path, size: int) -> None:
    """Wherever it ends."""
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UserError, match="is cut off") as error:
        list(Reader(file).items())
    assert "\n" not in str(error.value)


def test_every_changed_byte_is_a_line(file: Path) -> None:
    """No byte of it can change without an error."""
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with pytest.raises(UserError):
            list(Reader(file).items())


def test_another_version_is_a_line(file: Path) -> None:
    """Its own pyvmm can replay it."""
    whole = bytearray(file.read_bytes())
    whole[16] = VERSION + 1
    file.write_bytes(whole)
    with pytest.raises(UserError, match=f"version {VERSION + 1}; this pyvmm reads {VERSION}"):
        Reader(file)


@pytest.mark.parametrize("content", [b"", b"\x7fELF" + bytes(100)])
def test_another_file_is_a_line(tmp_path: Path, content: bytes) -> None:
    """It does not begin like a record."""
    file = tmp_path / "other"
    file.write_bytes(content)
    with pytest.raises(UserError, match="is no record"):
        Reader(file)


def test_a_file_that_cannot_be_used_is_a_line(tmp_path: Path) -> None:
    """Neither read nor written."""
    with pytest.raises(UserError, match="No such file"):
        Reader(tmp_path / "missing")
    with pytest.raises(UserError, match="choose another file"):
        Writer(tmp_path)
