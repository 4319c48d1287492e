"""Kernel files: those that load, and the error line for each of those that do not."""

import gzip
import itertools
import os
import random
import struct
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.arch.errors import UserError
from pyvmm.vm import guests
from pyvmm.vm.images.loader import FLAT_OFFSET, Kernel, load_kernel, read_payload
from pyvmm.vm.memory_map import MIB

RAM = 64 * MIB
CODE = struct.pack("<I", 0xD503_201F) * 1024  # NOPs


def image(
    size: int = 8192, text_offset: int = 0, image_size: int = 0x4000, flags: int = 0xA
) -> bytes:
    """Make an arm64 Image."""
    head = struct.pack("<IIQQQ24xII", 0x91005A4D, 0x14000000, text_offset, image_size, flags, 0, 0)
    head = head[:56] + b"ARM\x64" + struct.pack("<I", 0x40)
    pe = b"PE\0\0" + struct.pack("<HH12xHH", 0xAA64, 1, 0, 0)
    section = b".text\0\0\0" + struct.pack("<IIII16x", size, 0, size - 4096, 4096)
    return (head + pe + section).ljust(4096, b"\0") + CODE[: size - 4096]


@dataclass(frozen=True)
class Part:
    """A segment of an ELF file: where it goes, its bytes, and how much memory it takes."""

    pa: int
    data: bytes
    memory_size: int = 0  # 0: that of the data
    va: int | None = None  # None: the same as pa
    file_offset: int | None = None  # None: after the previous part


BASE = 0xFFFF_8000_8000_0000
PARTS = (Part(BASE, CODE[:0x100]), Part(BASE + 0x2000, b"datadata", 0x1000))


def elf(
    machine: int = 183,
    *parts: Part,
    entry: int = BASE + 0x10,
    num_headers: int | None = None,
    header_size: int = 56,
) -> bytes:
    """Make an ELF file, by default of two segments at kernel addresses."""
    parts = parts or PARTS
    num_headers = len(parts) if num_headers is None else num_headers
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH",
        *(2, machine, 1, entry, 64, 0, 0),
        *(64, header_size, num_headers, 64, 0, 0),
    )
    rows, content, start = b"", b"", 64 + 56 * len(parts)
    for part in parts:
        va, at = part.pa if part.va is None else part.va, part.file_offset
        at = start + len(content) if at is None else at
        size = part.memory_size or len(part.data)
        rows += struct.pack("<IIQQQQQQ", 1, 5, at, va, part.pa, len(part.data), size, 0x1000)
        content += part.data if part.file_offset is None else b""
    return header + rows + content


def endless_elf() -> bytes:
    """Make an ELF file that claims billions of program headers, all of them the same."""
    whole = bytearray(elf(num_headers=0xFFFF, header_size=0).ljust(0x1000, b"\0") + bytes(64))
    struct.pack_into("<Q", whole, 0x28, 0x1000)  # the section table
    struct.pack_into("<H", whole, 0x3C, 1)
    struct.pack_into("<I", whole, 0x1000 + 0x2C, 0xFFFF_FFFF)  # sh_info of section 0
    return bytes(whole)


def load(tmp_path: Path, data: bytes) -> object:
    """Load a kernel with this content."""
    path = tmp_path / "kernel"
    path.write_bytes(data)
    return load_kernel(path, RAM)


def test_image_goes_to_its_text_offset(tmp_path: Path) -> None:
    """The header says where it starts and how much RAM it takes."""
    data = image(text_offset=0x8_0000)
    path = tmp_path / "Image"
    path.write_bytes(data)
    kernel = load_kernel(path, RAM)
    assert kernel.segments == ((0x8_0000, data),)
    assert (kernel.entry, kernel.end) == (0x8_0000, 0x8_4000)


def test_compressed_image_is_the_same_kernel(tmp_path: Path) -> None:
    """An Image.gz loads as the Image in it."""
    assert load(tmp_path, gzip.compress(image())) == load(tmp_path, image())


def test_elf_keeps_the_distances_of_its_segments(tmp_path: Path) -> None:
    """The lowest segment goes to the start of RAM; the entry moves with its segment."""
    path = tmp_path / "vmlinux"
    path.write_bytes(elf())
    kernel = load_kernel(path, RAM)
    assert kernel.segments == ((0, CODE[:0x100]), (0x2000, b"datadata"))
    assert (kernel.entry, kernel.end) == (0x10, 0x3000)


def load_elf(tmp_path: Path, *parts: Part, entry: int) -> Kernel:
    """Load an ELF kernel with these segments."""
    path = tmp_path / "vmlinux"
    path.write_bytes(elf(183, *parts, entry=entry))
    return load_kernel(path, RAM)


def test_elf_segment_goes_to_its_physical_address_if_that_is_ram(tmp_path: Path) -> None:
    """A segment is loaded at the address it was linked for."""
    low, high = Part(0x8020_0000, CODE[:64]), Part(0x8030_0000, b"data", 0x100)
    kernel = load_elf(tmp_path, low, high, entry=0x8020_0008)
    assert kernel.segments == ((0x20_0000, CODE[:64]), (0x30_0000, b"data"))
    assert (kernel.entry, kernel.end) == (0x20_0008, 0x30_0100)


def test_elf_segment_of_another_virtual_address_goes_to_its_physical_one(tmp_path: Path) -> None:
    """The entry point is virtual, and moves with its segment."""
    kernel = load_elf(tmp_path, Part(0x8020_0000, CODE[:64], va=BASE), entry=BASE + 4)
    assert (kernel.segments, kernel.entry) == (((0x20_0000, CODE[:64]),), 0x20_0004)


def test_elf_may_end_where_its_next_segment_begins_in_any_order(tmp_path: Path) -> None:
    """Neighbours do not overlap."""
    parts = Part(0x8000_1000, b"back"), Part(0x8000_0000, CODE[:4096])
    kernel = load_elf(tmp_path, *parts, entry=0x8000_0000)
    assert kernel.segments == ((0, CODE[:4096]), (0x1000, b"back"))


def test_elf_segments_that_overlap_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    """Many segments that repeat one part of a small file would take many times its size."""
    count, data = 100, bytes(MIB)
    parts = [Part(0x8000_0000, data, file_offset=64 + 56 * count) for _ in range(count)]
    path = tmp_path / "vmlinux"
    path.write_bytes(elf(183, *parts, entry=0x8000_0000) + data)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="overlap at 0x80000000: link it again"):
            load_kernel(path, 8 * MIB)
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()


def test_flat_binary_goes_to_its_fixed_place(tmp_path: Path) -> None:
    """Without a header it is code from its first byte on."""
    path = tmp_path / "flat.bin"
    path.write_bytes(guests.hello())
    kernel = load_kernel(path, RAM)
    assert kernel.segments == ((FLAT_OFFSET, guests.hello()),)
    assert kernel.entry == FLAT_OFFSET


X86 = bytes(0x1FE) + b"\x55\xaa\xeb\x66HdrS" + bytes(4096)
ZBOOT = b"MZ\0\0zimg" + struct.pack("<II8x", 0x1000, 0x2000) + b"gzip\0" + bytes(100)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "empty"),
        (image()[:5000], "truncated"),
        (image()[:63], "truncated"),
        (image(flags=1), "big-endian"),
        (image(image_size=1 << 60), "damaged"),
        (gzip.compress(os.urandom(100_000))[:1000], "truncated"),
        (b"\x1f\x8b" + bytes(1000), "damaged"),
        (gzip.compress(os.urandom(5000)), "not an arm64 kernel"),
        (random.Random(1).randbytes(100_000), "not an arm64 kernel"),
        (bytes(100_000), "text file|not an arm64 kernel"),
        (X86, "x86 kernel"),
        (elf(62), "x64"),
        (elf()[:-4], "truncated"),
        (elf(183, Part(0x8000_0000, CODE[:64], 32), entry=0x8000_0000), "damaged ELF"),
        (elf(183, Part(BASE, CODE), Part(BASE + 4092, b"x")), "overlap at 0x"),
        (elf(183, Part(BASE, CODE), Part(1 << 20, b"x")), "a segment at 0x.*: link it for 0x80000"),
        (elf(183, Part(1 << 63, CODE, 1 << 63), entry=1 << 63), "a segment at 0x"),
        (elf(183, Part(0x8000_0000, CODE), Part(0x7FFF_0000, b"x")), "a segment at 0x7fff0000"),
        (elf(183, Part(0x8000_0000, CODE), Part(0xC000_0000, b"x")), "a segment at 0xc0000000"),
        (elf(183, Part(BASE, CODE), entry=BASE - 4), "an entry point outside its segments"),
        (elf(num_headers=1025), "1025 program headers"),
        (elf(num_headers=2, header_size=0), "program headers of 0 bytes"),
        (endless_elf(), "4294967295 program headers of 0 bytes"),
        (elf()[:100], "damaged|nothing to load|truncated"),
        (b"\x7fELF" + bytes(100), "damaged ELF"),
        (elf()[:32] + b"\xff" * 8 + elf()[40:], "damaged ELF"),  # headers behind the end
        (ZBOOT, r"zboot.*tail -c \+4097 \S*/kernel \| head -c 8192 \| zcat >Image"),
        (ZBOOT.replace(b"gzip\0", b"zstd22\0"), r"zboot.* \| zstdcat >Image"),
        (b"\xfd7zXZ\0" + bytes(100), "unxz"),
        (b"#!/bin/sh\necho hello\n" * 100, "text file"),
    ],
    ids=itertools.count(),
)
def test_bad_kernel_is_refused_in_one_line(tmp_path: Path, data: bytes, complaint: str) -> None:
    """The line says what is wrong and what to do."""
    with pytest.raises(UserError, match=complaint) as refusal:
        load(tmp_path, data)
    assert "\n" not in str(refusal.value)


@given(st.data())
def test_loading_never_fails_in_another_way(data: st.DataObject) -> None:
    """A kernel file is input: any bytes load or are refused."""
    whole = data.draw(st.sampled_from([image(), elf(), ZBOOT, X86, gzip.compress(image())]))
    damaged = bytearray(whole[: data.draw(st.integers(1, len(whole)))])
    for _ in range(data.draw(st.integers(0, 8))):
        damaged[data.draw(st.integers(0, min(len(damaged), 300) - 1))] = data.draw(
            st.integers(0, 255)
        )
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"pyvmm-kernel-{os.getpid()}"  # noqa: S108
    path.write_bytes(damaged)
    try:
        kernel = load_kernel(path, RAM)
    except UserError:
        return
    finally:
        path.unlink()
    assert all(0 <= offset <= kernel.end for offset, _ in kernel.segments)
    assert 0 <= kernel.entry < kernel.end


def test_payload_is_a_readable_file_of_a_fitting_size(tmp_path: Path) -> None:
    """No directory, no missing or empty file, and none larger than guest memory."""
    with pytest.raises(UserError, match="is a directory"):
        read_payload(tmp_path, "initrd", RAM)
    with pytest.raises(UserError, match="No such file"):
        read_payload(tmp_path / "none", "initrd", RAM)
    huge = tmp_path / "huge"
    huge.touch()
    with pytest.raises(UserError, match="is empty: download or build it again"):
        read_payload(huge, "initrd", RAM)
    os.truncate(huge, 1 << 40)
    with pytest.raises(UserError, match="is larger than 64 MiB: give more with -m"):
        read_payload(huge, "initrd", RAM)


def test_file_is_read_into_memory_of_its_own_size(tmp_path: Path) -> None:
    """The guest's memory may be larger than this machine's."""
    path = tmp_path / "kernel"
    path.write_bytes(image())
    assert load_kernel(path, 1 << 45) == load_kernel(path, RAM)
