"""Function names from an ELF file with a symbol table, such as the vmlinux of a kernel."""

import os
import re
import struct
from bisect import bisect_right
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from pyvmm.arch.errors import UserError
from pyvmm.arch.text import printable
from pyvmm.arch.user_file import open_file
from pyvmm.vm.images.elf import open_elf
from pyvmm.vm.memory_map import MIB

_SYMBOL: Final = struct.Struct("<IBBHQQ")  # Elf64_Sym: name, info, other, section, value, size
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")  # Elf64_Shdr
_SHT_SYMTAB: Final = 2
_SHN_RESERVED: Final = 0xFF00
_CODE_TYPES: Final = frozenset({0, 2})  # STT_NOTYPE, STT_FUNC
_MAX_TABLE_SIZE: Final = 64 * MIB
_MAX_NAME: Final = 128
#: No function is longer; an address farther from a symbol is outside the file's code.
_MAX_DISTANCE: Final = MIB
#: KASLR moves Linux by a multiple of this; VBAR_EL1 shows the distance.
_SLIDE_ALIGNMENT: Final = 0x1_0000


class _Section(NamedTuple):
    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


class Symbols:
    """The code symbols of one file.

    Raises:
        UserError: it is not an arm64 ELF file with a symbol table.
    """

    def __init__(self, path: Path) -> None:
        self._name = f"--vmlinux {path}"
        try:
            with os.fdopen(open_file(path, "--vmlinux"), "rb") as file:
                self._table, self._names = self._read(file)
        except OSError as error:
            raise UserError(f"{self._name}: {error.strerror}: check the path") from None

    def find(self, address: int, load_address: int = 0, vbar: int = 0) -> str:
        """Return the symbol of a guest's address as ``name+0x10``; empty if there is none.

        Args:
            address: a virtual address or, while the MMU is off, a physical one.
            load_address: the physical address of the kernel's first byte, if known.
            vbar: VBAR_EL1.
        """
        candidates = [address]
        vectors, start = self._marks
        if vbar and vectors is not None and not (vbar - vectors) % _SLIDE_ALIGNMENT:
            candidates.insert(0, address - vbar + vectors)
        if load_address and start is not None:
            candidates.append(address - load_address + start)
        return next(filter(None, map(self._find, candidates)), "")

    def _find(self, address: int) -> str:
        for row in range(bisect_right(self._rows, (address, MIB << 32)) - 1, -1, -1):
            value, name_offset = self._rows[row]
            if address - value >= _MAX_DISTANCE:
                break
            name = self._text(name_offset)
            if name and not name.startswith("$"):  # $x and $d mark code and data
                return f"{name}+{address - value:#x}"
        return ""

    def _text(self, offset: int) -> str:
        name = self._names[offset : offset + _MAX_NAME].partition(b"\0")[0]
        return printable(name.decode("latin-1"))

    @cached_property
    def _rows(self) -> list[tuple[int, int]]:
        """Values and name offsets of the code symbols, sorted."""
        return sorted(
            (value, name)
            for name, info, _, section, value, _ in _SYMBOL.iter_unpack(self._table)
            if info & 0xF in _CODE_TYPES and 0 < section < _SHN_RESERVED
        )

    @cached_property
    def _marks(self) -> tuple[int | None, int | None]:
        """The link addresses of Linux's exception vectors and of its first byte."""
        return self._address_of(b"vectors"), self._address_of(b"_text")

    def _address_of(self, name: bytes) -> int | None:
        offsets = {match.start() for match in re.finditer(name + b"\0", self._names)}
        return next((value for value, offset in self._rows if offset in offsets), None)

    def _read(self, file: BinaryIO) -> tuple[bytes, bytes]:
        """Return the symbol table and the names."""
        with open_elf(file, self._name) as elf:
            header = elf.header
            size = _SECTION.size * header.e_shnum
            if elf.elfclass != 64 or not elf.little_endian or header.e_shentsize != _SECTION.size:
                raise ValueError
            headers = _read_part(file, header.e_shoff, size)
            sections = [_Section(*row) for row in _SECTION.iter_unpack(headers)]
            table = next((each for each in sections if each.type == _SHT_SYMTAB), None)
            if table is not None:
                if table.size % _SYMBOL.size or table.link >= len(sections):
                    raise ValueError
                names = sections[table.link]
                return (
                    _read_part(file, table.offset, table.size),
                    _read_part(file, names.offset, names.size),
                )
        raise UserError(
            f"{self._name} has no symbol table: give the vmlinux of the kernel's build, not a"
            " stripped file"
        )


def _read_part(file: BinaryIO, offset: int, size: int) -> bytes:
    """Return a part of the file; ValueError if it is incomplete or too large."""
    if size > _MAX_TABLE_SIZE:
        raise ValueError
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise ValueError
    return data
