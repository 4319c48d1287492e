"""The initial RAM disk's container."""

import os

from hypothesis import given
from hypothesis import strategies as st

from pyvmm.vm.images.cpio import CpioArchive


def entries(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Read a newc archive the way Linux does: name → (mode, content)."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        size, name_size = fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        at += -(-(110 + name_size) // 4) * 4
        content = archive[at : at + size]
        at += -(-size // 4) * 4
        if name == b"TRAILER!!!\0":
            assert at == len(archive)
            return found
        found[name[:-1].decode()] = (fields[1], content)


@given(st.dictionaries(st.text("abc/", min_size=1, max_size=9), st.binary(max_size=9)))
def test_archive_gives_back_every_file(files: dict[str, bytes]) -> None:
    """Names and contents of any length come through the padding."""
    archive = CpioArchive()
    for name, content in files.items():
        archive.add_file(name, content)
    assert {name: content for name, (_, content) in entries(archive.finish()).items()} == files


def test_name_may_be_any_bytes() -> None:
    """Bytes that are not UTF-8 are kept, in a link's target too."""
    archive = CpioArchive()
    archive.add_symlink(os.fsdecode(b"caf\xe9"), os.fsdecode(b"\xff"))
    data = archive.finish()
    assert b"caf\xe9\0" in data
    assert b"\xff" in data


def test_archive_keeps_the_kind_of_an_entry() -> None:
    """Directories, links and devices differ in their mode."""
    archive = CpioArchive()
    archive.add_directory("d")
    archive.add_symlink("l", "d")
    archive.add_char_device("c", 5, 1)
    assert entries(archive.finish()) == {
        "d": (0o040755, b""),
        "l": (0o120777, b"d"),
        "c": (0o020600, b""),
    }
