"""Firmware images: accepted, or refused in one line with what to do."""

from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.vm.images.firmware import read_firmware

SIZE = 1 << 20
BRANCH = (0x1400_0010).to_bytes(4, "little")


def test_an_image_is_read_without_its_padding(tmp_path: Path) -> None:
    """Debian's AAVMF_CODE.fd has 64 MiB, most of them zeros."""
    path = tmp_path / "firmware"
    path.write_bytes((BRANCH * 100).ljust(SIZE, b"\0"))
    assert read_firmware(path, SIZE) == (BRANCH * 100).rstrip(b"\0")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x7fELF" + bytes(100), "is an ELF file: give the flat image"),
        (b"QFI\xfb" + bytes(100), "is a qcow2 image: convert it"),
        (b"\x1f\x8b" + bytes(100), "is compressed with gzip: gunzip it first"),
        (bytes(56) + b"ARM\x64" + bytes(8), "is an arm64 kernel: give it with -k"),
        (b"MZ" + bytes(100), "is not an arm64 image"),
        (bytes(SIZE), "is empty"),
        (BRANCH * (SIZE // 4 + 1), "is larger than 1 MiB: the flash bank is not larger"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    """By its content, not by its name."""
    path = tmp_path / "QEMU_EFI.fd"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_firmware(path, SIZE)
