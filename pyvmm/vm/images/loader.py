"""Kernels and initial RAM disks: recognise the format, and place the bytes in the guest's RAM.

Accepted: an arm64 Image, Image.gz, an arm64 ELF file, and a flat binary without any header.  For
every other file a ``UserError`` says what it is and what to do.
"""

import math
import shlex
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.arch.user_file import read_file
from pyvmm.vm.images.elf import open_elf
from pyvmm.vm.memory_map import GIB, MIB, RAM_BASE

FLAT_OFFSET: Final = 0x8_0000
#: No kernel or initial RAM disk is larger; a .gz that unpacks to more is a mistake or an attack.
MAX_PAYLOAD_SIZE: Final = GIB

_IMAGE_MAGIC: Final = b"ARM\x64"  # at 56; Documentation/arch/arm64/booting.rst
_IMAGE_MAGIC_OFFSET: Final = 56
_IMAGE_HEADER_SIZE: Final = 64
#: COMMAND_LINE_SIZE of arm64 without the zero byte; Linux silently cuts off the rest.
_LINUX_PARAMETERS: Final = 2047

#: (offset, magic, what it is, what to do): files often mistaken for an arm64 kernel.
_NO_KERNELS: Final = (
    (0x202, b"HdrS", "an x86 kernel", "build or download one for arm64"),
    (0x24, b"\x18\x28\x6f\x01", "a 32-bit Arm kernel (zImage)", "use one for arm64"),
    (56, b"RSC\x05", "a RISC-V kernel", "use one for arm64"),
    (0, b"\x27\x05\x19\x56", "a U-Boot uImage", "use the Image it was made from"),
    (0, b"\xd0\x0d\xfe\xed", "a device tree or FIT image", "use the kernel Image itself"),
    (0, b"\xfd7zXZ\0", "compressed with xz", "unxz it first"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", "unzstd it first"),
    (0, b"\x02\x21\x4c\x18", "compressed with lz4", "unlz4 it first"),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4", "unlz4 it first"),
    (0, b"BZh", "compressed with bzip2", "bunzip2 it first"),
    (0, b"PK\x03\x04", "a zip archive", "unzip it first"),
    (0, b"!<arch>\n", "a Debian package or library archive", "unpack the kernel from it"),
    (0, b"070701", "a cpio archive", "give it with --initrd"),
    (0, b"QFI\xfb", "a qcow2 disk", "give a raw disk with --disk"),
    (0x438, b"\x53\xef", "an ext4 file system", "give it with --disk"),
)

#: By the compression in a zboot header; older versions of Linux write zstd22 and xzkern.
_ZBOOT_UNPACKERS: Final = {
    "gzip": "zcat",
    "zstd": "zstdcat",
    "zstd22": "zstdcat",
    "xz": "xzcat",
    "xzkern": "xzcat",
    "lzma": "lzcat",
    "lz4": "lz4cat",
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel ready to load; offsets count from the start of RAM."""

    segments: tuple[tuple[int, bytes], ...]
    entry: int
    end: int  # first byte after the kernel and its zero-initialised data
    max_parameters: int | None = None  # limit for its parameters in bytes, if it has one


def read_payload(path: Path, what: str, ram_size: int) -> bytes:
    """Read a file that goes into guest memory of ``ram_size`` bytes.

    Raises:
        UserError: it is missing, not a regular file, unreadable, empty or too large.
    """
    remedy = "give more with -m" if ram_size < MAX_PAYLOAD_SIZE else "no guest accepts a larger one"
    data = read_file(path, what, min(ram_size, MAX_PAYLOAD_SIZE), remedy=remedy)
    if not data:
        raise UserError(f"{what} {path} is empty: download or build it again")
    return data


def load_kernel(path: Path, ram_size: int, ram_base: int = RAM_BASE) -> Kernel:
    """Read a kernel file and lay it out.

    Raises:
        UserError: a guest with this RAM cannot run it.
    """
    name = f"kernel {path}"
    data = read_payload(path, "kernel", ram_size)
    data = unpack_kernel(data, name, min(ram_size, MAX_PAYLOAD_SIZE))
    if data.startswith(b"\x7fELF"):
        return _load_elf(data, name, range(ram_base, ram_base + ram_size))
    _reject_known_formats(data, name)
    if data[_IMAGE_MAGIC_OFFSET:_IMAGE_HEADER_SIZE].startswith(_IMAGE_MAGIC):
        return _load_image(data, name)
    return load_flat(data, name)


def unpack_kernel(data: bytes, name: str, limit: int = MAX_PAYLOAD_SIZE) -> bytes:
    """Return the kernel in a .gz file, of at most ``limit`` bytes; return other data unchanged.

    Raises:
        UserError: the compressed data is damaged or unpacks to too much.
    """
    if not data.startswith(b"\x1f\x8b"):
        return data
    unpacker = zlib.decompressobj(wbits=31)
    try:
        kernel = unpacker.decompress(data, limit)
    except zlib.error:
        raise UserError(f"{name} has damaged gzip data: download it again") from None
    if not unpacker.eof:
        if len(kernel) == limit:
            raise UserError(f"{name} unpacks to more than {limit // MIB} MiB: give more with -m")
        raise UserError(f"{name} is truncated: download it again")
    return kernel


def load_flat(data: bytes, name: str) -> Kernel:
    """Lay out a flat binary: code from its first byte on, at RAM + 0x80000.

    Raises:
        UserError: it cannot be A64 code.
    """
    if not may_be_code(data):
        raise UserError(
            f"{name} is not an arm64 kernel: give an Image, Image.gz, ELF or flat binary"
        )
    return Kernel(((FLAT_OFFSET, data),), FLAT_OFFSET, FLAT_OFFSET + len(data))


def _load_image(data: bytes, name: str) -> Kernel:
    text_offset, image_size, flags = (
        int.from_bytes(data[at : at + 8], "little") for at in (8, 16, 24)
    )
    if flags & 1:
        raise UserError(f"{name} is big-endian; the CPU is little-endian: use a little-endian one")
    if image_size == 0:  # before Linux 3.17; the boot protocol then sets this offset
        text_offset = FLAT_OFFSET
    if len(data) < _raw_size(data):
        raise UserError(f"{name} is truncated: download or copy it again")
    size = max(image_size, len(data))
    if size > MAX_PAYLOAD_SIZE or text_offset > MAX_PAYLOAD_SIZE:
        raise UserError(f"{name} has a damaged header: download or build it again")
    return Kernel(((text_offset, data),), text_offset, text_offset + size, _LINUX_PARAMETERS)


def _raw_size(data: bytes) -> int:
    """Return the file's minimum size by its PE section table; 0 if it has none."""
    pe = int.from_bytes(data[0x3C:0x40], "little")
    if not data.startswith(b"MZ"):
        return 0
    if pe + 24 > len(data):
        return pe + 24
    if data[pe : pe + 4] != b"PE\0\0":
        return 0
    num_sections = int.from_bytes(data[pe + 6 : pe + 8], "little")
    table = pe + 24 + int.from_bytes(data[pe + 20 : pe + 22], "little")
    needed = table + 40 * num_sections
    for row in range(table, min(needed, len(data) - 40), 40):
        raw_size, raw_pointer = (
            int.from_bytes(data[row + at : row + at + 4], "little") for at in (16, 20)
        )
        needed = max(needed, raw_size + raw_pointer)
    return needed


def _load_elf(data: bytes, name: str, ram: range) -> Kernel:
    with open_elf(data, name) as elf:
        rows = [_LoadSegment.read(segment.header) for segment in elf.iter_segments("PT_LOAD")]
        entry = int(elf.header.e_entry)
    rows = sorted((row for row in rows if row.memory_size), key=lambda row: row.pa)
    if not rows:
        raise UserError(
            f"{name} has no segments to load: give the linked kernel, not an object file"
        )
    _check_segments(rows, name, len(data))
    base = _load_base(rows, name, ram)
    homes = [row for row in rows if row.va <= entry < row.va + row.memory_size]
    if not homes:
        raise UserError(f"{name} has an entry point outside its segments: link it again")
    return Kernel(
        tuple((row.pa - base, row.content(data)) for row in rows if row.file_size),
        homes[0].pa - base + entry - homes[0].va,
        rows[-1].end - base,
    )


@dataclass(frozen=True, slots=True)
class _LoadSegment:
    va: int
    pa: int
    file_offset: int
    file_size: int
    memory_size: int

    @classmethod
    def read(cls, row: Mapping[str, int]) -> "_LoadSegment":
        fields = ("p_vaddr", "p_paddr", "p_offset", "p_filesz", "p_memsz")
        return cls(*(row[field] for field in fields))

    @property
    def end(self) -> int:
        return self.pa + self.memory_size

    def content(self, data: bytes) -> bytes:
        return data[self.file_offset : self.file_offset + self.file_size]


def _check_segments(rows: list[_LoadSegment], name: str, file_size: int) -> None:
    """Check that the segments, sorted by address, are whole and do not overlap."""
    if any(row.file_offset + row.file_size > file_size for row in rows):
        raise UserError(f"{name} is truncated: build or copy it again")
    if any(row.file_size > row.memory_size for row in rows):
        raise UserError(f"{name} is a damaged ELF file: build or copy it again")
    for row, following in pairwise(rows):
        if following.pa < row.end:
            raise UserError(f"{name} has segments that overlap at {following.pa:#x}: link it again")


def _load_base(rows: list[_LoadSegment], name: str, ram: range) -> int:
    """Return the physical address in the file that corresponds to the start of RAM.

    A segment with a physical address in RAM is loaded there.  A Linux ELF file has virtual
    addresses in their place, which are outside RAM: then only the differences count, and the
    lowest segment is loaded at the start of RAM.
    """
    base = rows[0].pa
    if any(row.pa in ram for row in rows):
        base = ram.start
    outside = [row for row in rows if not 0 <= row.pa - base <= row.end - base <= MAX_PAYLOAD_SIZE]
    if outside:
        low, high = outside[0].pa, outside[0].end
        raise UserError(
            f"{name} has a segment at {low:#x} to {high:#x}, outside the first"
            f" {MAX_PAYLOAD_SIZE // MIB} MiB of guest memory: link it for {ram.start:#x}"
        )
    return base


def _reject_known_formats(data: bytes, name: str) -> None:
    if data.startswith(b"MZ") and data[4:8] == b"zimg":
        raise UserError(f"{name} is an EFI zboot kernel: {_zboot_hint(data, name)}")
    for offset, magic, what, remedy in _NO_KERNELS:
        if data[offset : offset + len(magic)] == magic:
            raise UserError(f"{name} is {what}: {remedy}")
    if is_text(data):
        raise UserError(f"{name} is a text file: give a kernel")


def is_text(data: bytes) -> bool:
    """Check whether data begins as a text file."""
    return data[:1024].isascii() and b"\0" not in data[:1024]


def _zboot_hint(data: bytes, name: str) -> str:
    """Return the command that extracts the Image from a zboot kernel."""
    offset, size = (int.from_bytes(data[at : at + 4], "little") for at in (8, 12))
    method = data[24:56].split(b"\0")[0].decode("ascii", "replace")
    unpacker = _ZBOOT_UNPACKERS.get(method)
    if unpacker is None:
        return "use the Image it was made from"
    file = shlex.quote(name.removeprefix("kernel "))
    return f"unpack it with tail -c +{offset + 1} {file} | head -c {size} | {unpacker} >Image"


def may_be_code(data: bytes) -> bool:
    """Check whether data other than text could begin with A64 code.

    The first word must lie in an allocated group of encodings, and the bytes must not be spread
    evenly as in compressed, encrypted or random data.
    """
    first = int.from_bytes(data[:4], "little")
    is_allocated = first >> 25 & 0xF not in {0b0000, 0b0001, 0b0011}
    return len(data) >= 4 and is_allocated and not _looks_random(data[:4096])


def _looks_random(data: bytes) -> bool:
    """Check whether the bytes have nearly the entropy of random ones."""
    if len(data) < 256:  # too few to decide
        return False
    return _entropy(Counter(data).values(), len(data)) > 0.93 * _random_entropy(len(data))


def _entropy(counts: Iterable[int], size: int) -> float:
    return -sum(n / size * math.log2(n / size) for n in counts)


def _random_entropy(size: int) -> float:
    """Return the expected entropy of random bytes, in bits per byte: their counts are Poisson."""
    mean = size / 256
    expected, likelihood = 0.0, math.exp(-mean)
    for count in range(1, int(mean + 10 * math.sqrt(mean)) + 20):
        likelihood *= mean / count
        expected -= 256 * likelihood * count / size * math.log2(count / size)
    return expected
