"""A disk as an installer leaves it: an EFI system partition with GRUB, and Debian with its kernel.

No root is needed: GRUB's modules come from Debian's arm64 package, and mtools and debugfs write
into file systems inside image files.
"""

import os
import struct
import uuid
from pathlib import Path
from typing import Final
from zlib import crc32

from pyvmm.vm.images.apt import PrivateApt
from pyvmm.vm.images.debian import Image
from pyvmm.vm.images.lock import building
from pyvmm.vm.images.store import Store
from tests.boot.command import BUILT_IMAGE, call, copy_disk, sbin

_SECTOR: Final = 512
_MIB: Final = 1 << 20
_ESP: Final = range(1 * _MIB, 65 * _MIB)
_ESP_TYPE: Final = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
_LINUX_TYPE: Final = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
_GPT_SIZE: Final = 33 * _SECTOR  # header and entries, at both ends
_entry = struct.Struct("<16s16sQQQ72s")
_header = struct.Struct("<8sIIIIQQQQ16sQIII")

_MODULES: Final = ("part_gpt", "fat", "ext2", "normal", "linux", "configfile", "search", "echo")
_EARLY: Final = """\
search --file --set=root /boot/grub/grub.cfg
configfile ($root)/boot/grub/grub.cfg
"""
_MENU: Final = """\
set timeout=0
menuentry "Debian" {
    linux /boot/vmlinuz root=/dev/vda2 rw console=ttyAMA0
    initrd /boot/initrd.img
}
"""


def make_grub_disk(image: Image, directory: Path) -> Path:
    """Make the disk in a directory."""
    root = copy_disk(image, directory)
    (directory / "grub.cfg").write_text(_MENU)
    commands = ["mkdir /boot/grub", f"write {directory}/grub.cfg /boot/grub/grub.cfg"]
    commands += [f"write {image.kernel} /boot/vmlinuz", f"write {image.initrd} /boot/initrd.img"]
    _run(sbin("debugfs"), "-w", "-f", "/dev/stdin", root, typed="\n".join(commands) + "\n")
    disk = directory / "disk.img"
    parts = [(_ESP_TYPE, _ESP), (_LINUX_TYPE, range(_ESP.stop, _ESP.stop + root.stat().st_size))]
    _partition(disk, parts)
    _run(
        "dd",
        f"if={root}",
        f"of={disk}",
        "bs=1M",
        f"seek={_ESP.stop // _MIB}",
        "conv=notrunc,sparse",
    )
    root.unlink()
    esp = f"{disk}@@{_ESP.start}"
    _run("mformat", "-i", esp, "-F", "-T", str(len(_ESP) // _SECTOR), "::")
    _run("mmd", "-i", esp, "::/EFI", "::/EFI/BOOT")
    _run("mcopy", "-i", esp, _make_grub(directory), "::/EFI/BOOT/BOOTAA64.EFI")
    return disk


def _make_grub(directory: Path) -> Path:
    """Link GRUB with what it needs to find its menu."""
    early, grub = directory / "early.cfg", directory / "grub.efi"
    early.write_text(_EARLY)
    modules = _modules() / "usr/lib/grub/arm64-efi"
    format_ = ("-O", "arm64-efi", "-d", modules, "-p", "/boot/grub", "-c", early, "-o", grub)
    _run("grub-mkimage", *format_, *_MODULES)
    return grub


def _modules() -> Path:
    """Return the unpacked package with GRUB's modules, fetched once beside Debian's guest."""
    unpacked = BUILT_IMAGE.with_name("grub")
    if not unpacked.exists():
        cache = Store.of_user().cache
        with building(cache):
            apt = PrivateApt(cache / "apt-arm64", "arm64")
            (package,) = apt.download(["grub-efi-arm64-bin"], lambda _: None)
            part = unpacked.with_name("grub.part")
            _run("dpkg-deb", "--extract", package, part)
            part.rename(unpacked)
    return unpacked


def _partition(disk: Path, parts: list[tuple[uuid.UUID, range]]) -> None:
    """Make an empty disk with a GPT.  Source: UEFI 2.10, "GUID Partition Table"."""
    size = parts[-1][1].stop + _MIB
    entries = b"".join(
        _entry.pack(kind.bytes_le, uuid.uuid4().bytes_le, *_sectors(place), 0, b"")
        for kind, place in parts
    ).ljust(128 * _entry.size, b"\0")
    last, identity = size // _SECTOR - 1, uuid.uuid4().bytes_le

    def header(here: int, other: int, table: int) -> bytes:
        def pack(checksum: int) -> bytes:
            usable = (34, last - 33)
            numbers = (0x1_0000, _header.size, checksum, 0, here, other, *usable, identity, table)
            return _header.pack(b"EFI PART", *numbers, 128, _entry.size, crc32(entries))

        return pack(crc32(pack(0))).ljust(_SECTOR, b"\0")

    protective = struct.pack("<446x8sII", b"\0\0\2\0\xee\xff\xff\xff", 1, last).ljust(510, b"\0")
    with disk.open("wb") as file:
        file.write(protective + b"\x55\xaa" + header(1, last, 2) + entries)
        file.seek(size - _GPT_SIZE)
        file.write(entries + header(last, 1, last - 32))
    assert disk.stat().st_size == size


def _sectors(place: range) -> tuple[int, int]:
    """Return the first and the last sector."""
    return place.start // _SECTOR, place.stop // _SECTOR - 1


def _run(*command: str | Path | os.PathLike[str], typed: str = "") -> None:
    done = call(*(str(word) for word in command), typed=typed)
    assert done.code == 0, done.errors
