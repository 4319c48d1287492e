"""The values of a virtual machine's options, read from the texts that a user writes."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.arch.islet import METADATA_SIZE
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.pmu import NUM_EVENT_COUNTERS
from pyvmm.arch.sysregs import DEFAULT_FEATURES, Feature
from pyvmm.arch.system import MAX_SOCKET_PATH
from pyvmm.arch.user_file import read_file
from pyvmm.devices.virtio.vsock import FIRST_GUEST_CID, MAX_CID
from pyvmm.host.guest import RPV_SIZE
from pyvmm.vm.memory_map import GIB, MAX_CPUS, MAX_RAM_SIZE, MIB, MIN_RAM_SIZE

MAX_PORT: Final = 65535
MAX_SERIAL: Final = 20

FORMATS: Final = ("raw", "qcow2")  # of disks
CACHES: Final = ("writeback", "none", "writethrough")
_DISK_WORDS: Final = (
    "ro, rw, direct, snapshot, serial=TEXT, cache=MODE, format=raw|qcow2 or backing=FILE"
)
_SIZE: Final = re.compile(r"(\d{1,18})([BKMGTP]?)", re.IGNORECASE)
_UNITS: Final = {unit: 1 << 10 * rank for rank, unit in enumerate("BKMGTP")}


@dataclass(frozen=True, slots=True)
class DiskOptions:
    """A disk: an image file or a block device; its default serial number derives from the path."""

    path: Path
    is_read_only: bool = False
    serial: str = ""
    is_direct: bool = False  # not through the host's page cache
    is_snapshot: bool = False  # what the guest writes is thrown away
    is_write_through: bool = False  # a write is answered when it is on stable storage
    format: str = ""  # one of FORMATS; empty: raw, if it does not look like another one
    backing: Path | None = None  # of a qcow2 image, instead of the one that it names

    @property
    def is_kept(self) -> bool:
        """Whether the file is not written to."""
        return self.is_read_only or self.is_snapshot


@dataclass(frozen=True, slots=True)
class VsockOptions:
    """A guest's vsock: its CID, and the host's socket for it; None chooses."""

    cid: int | None = None
    socket: Path | None = None


@dataclass(frozen=True, slots=True)
class GdbAddress:
    """Where a debugger connects: a TCP port of the loopback interface, or a Unix socket."""

    port: int = 0
    path: Path | None = None


def parse_gdb(text: str) -> GdbAddress:
    """Read PORT or SOCKET; port 0 means any free port.

    Raises:
        UserError: the text is neither a port nor a possible path of a socket.
    """
    if text.isascii() and text.isdigit():
        if int(text) > MAX_PORT:
            raise UserError(f"--gdb {text}: a port is at most {MAX_PORT}")
        return GdbAddress(port=int(text))
    path = Path(text).absolute()
    if not text or len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise UserError(
            f"--gdb {text}: give a port, or the path of a socket of at most {MAX_SOCKET_PATH} bytes"
        )
    return GdbAddress(path=path)


def parse_ram_size(text: str) -> int:
    """Read the memory size of a guest that runs here, as `parse_size` does; return bytes.

    Raises:
        UserError: the text is not a size, or no guest can have that size on this machine.
    """
    return _parse_ram_size(text, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def parse_planned_ram_size(text: str) -> int:
    """Read the memory size of a guest that runs elsewhere, as `parse_size` does; return bytes.

    Raises:
        UserError: the text is not a size, or no guest can have that size.
    """
    return _parse_ram_size(text, None)


def _parse_ram_size(text: str, host_size: int | None) -> int:
    size = parse_size(text, "-m")
    if size < MIN_RAM_SIZE:
        raise UserError(f"-m {text}: a guest needs at least {MIN_RAM_SIZE // MIB}M")
    if host_size is not None and size > host_size:
        raise UserError(f"-m {text}: this machine has {host_size // MIB}M; give less")
    if size > MAX_RAM_SIZE:
        raise UserError(f"-m {text}: the limit is {MAX_RAM_SIZE // GIB}G")
    if size % GRANULE_SIZE:
        raise UserError(f"-m {text}: give a multiple of 4K")
    return size


def parse_size(text: str, option: str) -> int:
    """Read SIZE[BKMGTP], by default in MiB; return bytes.

    Raises:
        UserError: the text is not a size; the message names the option.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UserError(f"{option} {text}: give a size such as 512M or 2G")
    return int(match[1]) * _UNITS[match[2].upper() or "M"]


def parse_num_cpus(text: str) -> int:
    """Read a number of CPUs.

    Raises:
        UserError: the text is not a number, or the number is out of range.
    """
    if not text.isdecimal() or not 1 <= int(text[:9]) <= MAX_CPUS:
        raise UserError(f"-c {text}: give 1 to {MAX_CPUS} CPUs")
    return int(text)


def parse_num_counters(text: str) -> int:
    """Read a number of event counters.

    Raises:
        UserError: the text is not a number, or the number is out of range.
    """
    if not text.isdecimal() or not 1 <= int(text[:9]) <= NUM_EVENT_COUNTERS:
        raise UserError(f"--pmu-counters {text}: give 1 to {NUM_EVENT_COUNTERS} counters")
    return int(text)


def parse_cpu_features(text: str) -> Feature:
    """Read +NAME,-NAME,...: what to add to the default features, and what to remove.

    Raises:
        UserError: a sign is missing, a name is unknown, or a name occurs twice.
    """
    features, seen = DEFAULT_FEATURES, Feature(0)
    for word in text.split(","):
        sign, name = word[:1], word[1:]
        feature = Feature.__members__.get(name.upper())
        if sign not in {"+", "-"} or feature is None or name != name.lower():
            known = ", ".join(f"+{each.lower()} or -{each.lower()}" for each in Feature.__members__)
            raise UserError(f"--cpu-features {text}: unknown feature {word!r}: give {known}")
        if feature in seen:
            raise UserError(f"--cpu-features {text}: {name} occurs twice: give it once")
        seen |= feature
        features = features | feature if sign == "+" else features & ~feature
    return features


def parse_disks(texts: Sequence[str]) -> tuple[DiskOptions, ...]:
    """Read FILE[,OPTION...] of each disk.

    Raises:
        UserError: an unknown option, an invalid serial number, or the same one twice.
    """
    disks = tuple(map(parse_disk, texts))
    for serial, count in Counter(disk.serial for disk in disks).items():
        if serial and count > 1:
            raise UserError(f"--disk: {count} disks have serial={serial}: give each its own")
    return disks


def parse_disk(text: str) -> DiskOptions:
    """Read FILE and the options of a disk behind it, in any order.

    Raises:
        UserError: an unknown option after a comma, an invalid value, or options that exclude each
            other.
    """
    path, changes = text, dict[str, str]()
    while True:
        rest, comma, word = path.rpartition(",")
        key, _, value = word.partition("=")
        if not comma or not _is_disk_option(text, key, value, has_value="=" in word):
            break
        if key in changes:
            raise UserError(f"--disk {text}: {key} occurs twice: give it once")
        changes[key] = value
        path = rest
    if comma and path == text:
        raise UserError(
            f"--disk {text}: after a comma give {_DISK_WORDS};"
            " if the file's name contains a comma, add ,rw"
        )
    return _make_disk(text, path, changes)


def _is_disk_option(text: str, key: str, value: str, *, has_value: bool) -> bool:
    """Check whether a word is an option of a disk.

    Raises:
        UserError: it is, but its value is invalid.
    """
    if not has_value:
        return key in {"ro", "rw", "direct", "snapshot"}
    match key:
        case "serial":
            if not 0 < len(value) <= MAX_SERIAL or not value.isascii() or not value.isprintable():
                raise UserError(
                    f"--disk {text}: a serial has 1 to {MAX_SERIAL} printable ASCII characters"
                )
        case "cache":
            if value not in CACHES:
                raise UserError(f"--disk {text}: unknown cache {value}: give {', '.join(CACHES)}")
        case "format":
            if value not in FORMATS:
                raise UserError(f"--disk {text}: unknown format {value}: give {', '.join(FORMATS)}")
        case "backing":
            if not value:
                raise UserError(f"--disk {text}: backing= is empty: give a file")
        case _:
            return False
    return True


def _make_disk(text: str, path: str, words: Mapping[str, str]) -> DiskOptions:
    for first, second in (("ro", "rw"), ("ro", "snapshot")):
        if first in words and second in words:
            raise UserError(f"--disk {text}: {first} and {second} exclude each other: give one")
    format_ = words.get("format", "qcow2" if path.endswith(".qcow2") else "")
    if "backing" in words and format_ != "qcow2":
        raise UserError(f"--disk {text}: backing requires a qcow2 image: add format=qcow2")
    cache = words.get("cache", "writeback")
    return DiskOptions(
        Path(path),
        is_read_only="ro" in words,
        serial=words.get("serial", ""),
        is_direct="direct" in words or cache == "none",
        is_snapshot="snapshot" in words,
        is_write_through=cache == "writethrough",
        format=format_,
        backing=Path(words["backing"]) if "backing" in words else None,
    )


def disk_serials(disks: Sequence[DiskOptions]) -> list[str]:
    """Return the serial number of each disk; a default one depends on its path alone.

    A path that occurs several times has several numbers.
    """
    seen: Counter[str] = Counter()
    serials = []
    for disk in disks:
        path = os.path.normpath(disk.path.absolute())  # a link stays: its name lasts
        digest = sha256(os.fsencode(path) + b"\0" * seen[path]).hexdigest()
        seen[path] += 1
        serials.append(disk.serial or f"pyvmm-{digest[: MAX_SERIAL - len('pyvmm-')]}")
    return serials


def parse_vsock(text: str) -> VsockOptions:
    """Read CID|auto[,uds=PATH].

    Raises:
        UserError: an invalid CID, or an unknown key.
    """
    word, comma, rest = text.partition(",")
    path = rest.removeprefix("uds=")
    if comma and (not path or path == rest):
        raise UserError(f"--vsock {text}: after the comma give uds=PATH")
    socket = Path(path) if path else None
    if word == "auto":
        return VsockOptions(None, socket)
    if not re.fullmatch(r"[0-9]{1,10}", word) or not FIRST_GUEST_CID <= int(word) <= MAX_CID:
        raise UserError(f"--vsock {text}: give auto, or a CID from {FIRST_GUEST_CID} to {MAX_CID}")
    return VsockOptions(int(word), socket)


def parse_personalization(text: str) -> bytes:
    """Read a realm personalization value.

    Raises:
        UserError: it is empty, which would be the value of a realm without one, or too long.
    """
    if not text:
        raise UserError("--realm-pv is empty: give a value, or omit the option")
    value = os.fsencode(text)
    if len(value) > RPV_SIZE:
        raise UserError(f"--realm-pv has {len(value)} bytes: give at most {RPV_SIZE}")
    return value


def read_metadata(path: str) -> bytes:
    """Read a file with a realm's metadata; the RMM checks the content.

    Raises:
        UserError: the file cannot be read, or has the size of no metadata.
    """
    data = read_file(Path(path), "--metadata", MIB)
    if not METADATA_SIZE <= len(data) <= GRANULE_SIZE:
        raise UserError(
            f"--metadata {path} has {len(data)} bytes: give a block of {METADATA_SIZE} to"
            f" {GRANULE_SIZE}"
        )
    return data
