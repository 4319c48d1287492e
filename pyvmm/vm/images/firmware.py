"""Firmware images: flat, with code from the first byte on."""

from pathlib import Path
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.arch.user_file import read_file
from pyvmm.vm.images.loader import is_text, may_be_code

#: (offset, magic, what it is, what to do): files that are not flat images.
_NO_FIRMWARE: Final = (
    (0, b"\x7fELF", "an ELF file", "give the flat image beside it, such as u-boot.bin"),
    (0, b"QFI\xfb", "a qcow2 image", "convert it: qemu-img convert -O raw"),
    (0, b"\x1f\x8b", "compressed with gzip", "gunzip it first"),
    (56, b"ARM\x64", "an arm64 kernel", "give it with -k"),
)


def read_firmware(path: Path, size: int) -> bytes:
    """Read an image for a flash bank of ``size`` bytes, without the zeros at its end.

    Raises:
        UserError: it cannot be read, or cannot be arm64 firmware.
    """
    data = read_file(path, "firmware", size, remedy="the flash bank is not larger").rstrip(b"\0")
    if not data:
        raise UserError(f"firmware {path} is empty: give an image such as QEMU_EFI.fd")
    for offset, magic, what, remedy in _NO_FIRMWARE:
        if data.startswith(magic, offset):
            raise UserError(f"firmware {path} is {what}: {remedy}")
    if is_text(data) or not may_be_code(data):
        raise UserError(
            f"firmware {path} is not an arm64 image: give one such as QEMU_EFI.fd or u-boot.bin"
        )
    return data
