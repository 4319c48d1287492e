"""Function names from a vmlinux."""

from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.vm.diagnosis.symbols import Symbols
from tests.vm.elf_file import vmlinux

BASE = 0xFFFF_8000_8000_0000
LOADED = 0x8000_0000
CODE = 2  # STT_FUNC
LOCAL = 0  # STT_NOTYPE
DATA = 1  # STT_OBJECT

#: Name, type, section, address.
SYMBOLS = (
    ("_text", LOCAL, 1, BASE),
    ("start_kernel", CODE, 1, BASE + 0x1000),
    ("$x", LOCAL, 1, BASE + 0x1004),
    ("table", DATA, 1, BASE + 0x1008),
    ("bad_vectors", CODE, 1, BASE + 0x1800),
    ("vectors", CODE, 1, BASE + 0x2000),
    ("absolute", LOCAL, 0xFFF1, BASE + 0x2004),
    ("undefined", CODE, 0, BASE + 0x2004),
)


@pytest.fixture
def symbols(tmp_path: Path) -> Symbols:
    """Read a good file."""
    return make(tmp_path, vmlinux(*SYMBOLS))


def make(directory: Path, data: bytes) -> Symbols:
    """Read a file with this content."""
    path = directory / "vmlinux"
    path.write_bytes(data)
    return Symbols(path)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (BASE - 4, ""),
        (BASE, "_text+0x0"),
        (BASE + 0x1000, "start_kernel+0x0"),
        (BASE + 0x100C, "start_kernel+0xc"),  # neither a mapping symbol nor data
        (BASE + 0x2010, "vectors+0x10"),
        (BASE + (8 << 20), ""),
        (0, ""),
        ((1 << 64) - 1, ""),
    ],
)
def test_an_address_belongs_to_the_function_before_it(
    symbols: Symbols, address: int, name: str
) -> None:
    """A symbol that is too far away does not count."""
    assert symbols.find(address) == name


def test_a_physical_address_is_found_while_the_mmu_is_off(symbols: Symbols) -> None:
    """The distance from the load address identifies it."""
    assert symbols.find(LOADED + 0x1004, LOADED) == "start_kernel+0x4"


def test_kaslr_is_undone_by_the_exception_vectors(symbols: Symbols) -> None:
    """VBAR_EL1 shows where they are; a value that cannot be Linux's is ignored."""
    slide = 0x2A40_0000
    assert symbols.find(BASE + slide + 0x1004, LOADED, BASE + slide + 0x2000) == "start_kernel+0x4"
    assert symbols.find(BASE + 0x1004, LOADED, BASE + 0x1800) == "start_kernel+0x4"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is a damaged ELF file"),
        (b"MZ" + bytes(1000), "is a damaged ELF file"),
        (vmlinux(*SYMBOLS)[:100], "is a damaged ELF file"),
        (vmlinux(*SYMBOLS)[:-1], "is a damaged ELF file"),
        (vmlinux(*SYMBOLS, machine=62), "is for x64"),
        (vmlinux(*SYMBOLS, kind=1), "has no symbol table: give the vmlinux of the kernel's build"),
        (vmlinux(*SYMBOLS, size=1 << 60), "is a damaged ELF file"),
        (vmlinux(*SYMBOLS, size=25), "is a damaged ELF file"),
        (vmlinux(*SYMBOLS, link=77), "is a damaged ELF file"),
        (vmlinux(*SYMBOLS, offset=1 << 63), "is a damaged ELF file"),
        (vmlinux(*SYMBOLS, entry_size=0), "is a damaged ELF file"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    """The error is one line, whatever its headers claim."""
    with pytest.raises(UserError, match=f"^--vmlinux .*{message}"):
        make(tmp_path, data)


def test_a_name_that_is_no_file_is_refused(tmp_path: Path) -> None:
    """A directory and a missing file are rejected."""
    with pytest.raises(UserError, match="is a directory"):
        Symbols(tmp_path)
    with pytest.raises(UserError, match="No such file or directory: check the path"):
        Symbols(tmp_path / "none")
