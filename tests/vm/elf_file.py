"""Makes ELF files with a symbol table."""

import struct


def vmlinux(
    *symbols: tuple[str, int, int, int],
    machine: int = 183,
    size: int | None = None,
    link: int = 2,
    kind: int = 2,
    offset: int = 64,
    entry_size: int = 64,
) -> bytes:
    """Make an ELF file of a symbol table and its names.

    Args:
        symbols: name, type, section and address of each.
        machine: 183 is arm64.
        size: of the symbol table, if the file claims a wrong one.
        link: the section of the names.
        kind: 2 is a symbol table.
        offset: of the symbol table.
        entry_size: of a section header.
    """
    names, table = b"\0", b""
    for name, type_, section, address in symbols:
        table += struct.pack("<IBBHQQ", len(names), type_, 0, section, address, 4)
        names += name.encode() + b"\0"
    sections = (
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (0, kind, 0, 0, offset, len(table) if size is None else size, link, 0, 8, 24),
        (0, 3, 0, 0, 64 + len(table), len(names), 0, 0, 1, 0),
    )
    rows = b"".join(struct.pack("<IIQQQQIIQQ", *row) for row in sections)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        *("<HHIQQQIHHHHHH", 2, machine, 1, 0, 0, 64 + len(table) + len(names), 0, 64, 56, 0),
        *(entry_size, len(sections), 2),
    )
    return header + table + names + rows
