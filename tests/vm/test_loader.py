"""Kernel files: the ones that load, and the one line for each that does not."""

import gzip
import itertools
import os
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.arch.errors import UserError
from pyvmm.vm import guests
from pyvmm.vm.loader import FLAT_OFFSET, load_kernel, read_file
from pyvmm.vm.machine import MIB

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


def elf(machine: int = 183, *, truncate: int = 0) -> bytes:
    """Make an ELF file of two segments at kernel addresses."""
    base = 0xFFFF_8000_8000_0000
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, machine, 1, base + 0x10, 64, 0, 0, 64, 56, 2, 64, 0, 0
    )
    rows = [
        struct.pack("<IIQQQQQQ", 1, 5, 0x1000, base, base, 0x100, 0x100, 0x1000),
        struct.pack("<IIQQQQQQ", 1, 6, 0x1100, base + 0x2000, base + 0x2000, 8, 0x1000, 0x1000),
    ]
    whole = b"".join([header, *rows]).ljust(0x1000, b"\0") + CODE[:0x100] + b"datadata"
    return whole[: len(whole) - truncate]


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
        (gzip.compress(os.urandom(5000)), "no arm64 kernel"),
        (random.Random(1).randbytes(100_000), "no arm64 kernel"),
        (bytes(100_000), "text file|no arm64 kernel"),
        (X86, "x86 kernel"),
        (elf(62), "x64"),
        (elf(truncate=4), "truncated"),
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
    """What is wrong and what to do."""
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


def test_read_file_refuses_what_is_no_readable_file_of_a_fitting_size(tmp_path: Path) -> None:
    """A directory, a missing file and a file larger than guest memory."""
    with pytest.raises(UserError, match="is a directory"):
        read_file(tmp_path, "initrd", RAM)
    with pytest.raises(UserError, match="No such file"):
        read_file(tmp_path / "none", "initrd", RAM)
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match="do not fit"):
        read_file(huge, "initrd", RAM)
