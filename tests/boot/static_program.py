"""Static arm64 Linux programs, assembled here."""

from struct import pack

from tests.core.program import assemble

BASE = 0x40_0000
HEADER_SIZE = 64 + 56
DATA_SIZE = 4096


def static_program(source: str, data: bytes = b"") -> bytes:
    """Return an ELF file: the code, whose comments begin with //, then data and zeros."""
    image = assemble("\n".join(line.split("//")[0] for line in source.splitlines())) + data
    entry, size = BASE + HEADER_SIZE, HEADER_SIZE + len(image)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = pack("<16sHHIQQQIHHHHHH", ident, 2, 183, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = pack("<IIQQQQQQ", 1, 7, 0, BASE, BASE, size, size + DATA_SIZE, 0x1000)
    return header + segment + image
