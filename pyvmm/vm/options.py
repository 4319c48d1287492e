"""What a user may ask of a virtual machine, checked as far as it can be without the machine."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.arch.islet import METADATA_SIZE
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.sysregs import DEFAULT_FEATURES, Feature
from pyvmm.arch.user_file import read_file
from pyvmm.devices.disk import RawDisk
from pyvmm.devices.net_user import PortForward
from pyvmm.host.guest import REALM_IS_CLOSED, RPV_SIZE, RealmOptions
from pyvmm.vm.memory_map import GIB, MAX_CPUS, MAX_RAM_SIZE, MIB, MIN_RAM_SIZE

DEFAULT_MAC: Final = bytes.fromhex("021515151515")
MAX_PORT: Final = 65535
MAX_SOCKET_PATH: Final = 107
MAX_SERIAL: Final = 20
CONSOLES: Final = ("serial", "virtio")
MODES: Final = ("user", "tap", "none")
BACKENDS: Final = ("passt", "slirp")
MEASUREMENT_ALGOS: Final = ("sha256", "sha512")

_SIZE: Final = re.compile(r"(\d{1,18})([BKMGTP]?)", re.IGNORECASE)
_UNITS: Final = {unit: 1 << 10 * rank for rank, unit in enumerate("BKMGTP")}
_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DiskOptions:
    """A disk: an image file or a block device; without a serial number it has one by its path."""

    path: Path
    is_read_only: bool = False
    serial: str = ""


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """A network card: through a tap interface, or, without one, in user mode."""

    tap: str = ""
    backend: str = ""  # in user mode, one of BACKENDS; by default, what is installed
    mac: bytes = DEFAULT_MAC
    forwards: tuple[PortForward, ...] = ()


@dataclass(frozen=True, slots=True)
class GdbAddress:
    """Where a debugger connects: a TCP port of the loopback interface, or a Unix socket."""

    port: int = 0
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class GdbOptions:
    """A stub for a debugger; ``waits``: the guest starts when the debugger says so."""

    address: GdbAddress
    waits: bool = False


@dataclass(frozen=True, slots=True)
class VmOptions:
    """A virtual machine as asked for; sizes in bytes."""

    name: str = ""
    kernel: Path | None = None  # None: the built-in guest
    initrd: Path | None = None
    disks: tuple[DiskOptions, ...] = ()
    ram_size: int = 512 * MIB
    num_cpus: int = 1
    cpu_features: Feature = DEFAULT_FEATURES
    params: str | None = None
    console: str = "serial"
    dtb: Path | None = None
    dump_dtb: Path | None = None
    has_defaults: bool = True
    network: NetworkOptions | None = None
    has_rng: bool = False
    has_balloon: bool = False  # only a normal VM has
    has_agent: bool = False
    realm: RealmOptions | None = None
    token_profile: str = "g1"  # noqa: S105  no secret
    has_hes: bool = False  # only a realm has
    hes_directory: Path | None = None  # None: the user's
    gdb: GdbOptions | None = None
    vmlinux: Path | None = None  # names the code of a guest that failed

    @property
    def bootargs(self) -> str:
        """The kernel's command line.

        A normal VM's is the defaults, then the user's parameters.  A realm's is measured, so
        nothing is added to what the user gave; only who gave none gets the defaults.
        """
        if not self.has_defaults or (self.realm is not None and self.params is not None):
            return self.params or ""
        words = [f"console={'hvc0' if self.console == 'virtio' else 'ttyS0'}"]
        if self.disks:
            words.append(f"root=/dev/vda {'ro' if self.disks[0].is_read_only else 'rw'}")
        return " ".join([*words, self.params or ""]).strip()


def parse_gdb(text: str) -> GdbAddress:
    """Read PORT or SOCKET; port 0 is any free one.

    Raises:
        UserError: no port, and no path that a socket can have.
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


def with_gdb(options: VmOptions, gdb: str | None, *, waits: bool) -> VmOptions:
    """Return the virtual machine with the debugger that is asked for.

    Raises:
        UserError: there is no such address, nobody to wait for, or nothing to be seen.
    """
    if gdb is None:
        if waits:
            raise UserError("--gdb-wait waits for a debugger: say where with --gdb")
        return options
    if options.realm and not options.realm.is_debuggable:
        raise UserError(f"--gdb: {REALM_IS_CLOSED}")
    return replace(options, gdb=GdbOptions(parse_gdb(gdb), waits))


def parse_ram_size(text: str, *, is_run: bool = True) -> int:
    """Read SIZE[BKMGTP], by default in MiB; return bytes.

    Raises:
        UserError: no size, or none that a guest (one to run here, if ``is_run``) could have.
    """
    size = parse_size(text, "-m")
    if size < MIN_RAM_SIZE:
        raise UserError(f"-m {text}: a guest needs at least {MIN_RAM_SIZE // MIB}M")
    host_size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if is_run and size > host_size:
        raise UserError(f"-m {text}: this machine has {host_size // MIB}M; give less")
    if size > MAX_RAM_SIZE:
        raise UserError(f"-m {text}: a guest has at most {MAX_RAM_SIZE // GIB}G")
    if size % GRANULE_SIZE:
        raise UserError(f"-m {text}: give a multiple of 4K")
    return size


def parse_size(text: str, option: str) -> int:
    """Read SIZE[BKMGTP], by default in MiB; return bytes.

    Raises:
        UserError: no size; it names the option.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UserError(f"{option} {text}: give a size such as 512M or 2G")
    return int(match[1]) * _UNITS[match[2].upper() or "M"]


def parse_num_cpus(text: str) -> int:
    """Read a number of CPUs.

    Raises:
        UserError: no number, or out of range.
    """
    if not text.isdecimal() or not 1 <= int(text[:9]) <= MAX_CPUS:
        raise UserError(f"-c {text}: give 1 to {MAX_CPUS} CPUs")
    return int(text)


def parse_disks(texts: Sequence[str]) -> tuple[DiskOptions, ...]:
    """Read FILE[,ro][,serial=TEXT], each with a serial number of its own.

    Raises:
        UserError: an unknown option, or no such serial number.
    """
    disks = tuple(map(parse_disk, texts))
    for serial, count in Counter(disk.serial for disk in disks).items():
        if serial and count > 1:
            raise UserError(f"--disk: two have serial={serial}: give each its own")
    return disks


def parse_cpu_features(text: str) -> Feature:
    """Read +NAME,-NAME,...: what to add to the default features, and what to leave out.

    Raises:
        UserError: no sign, an unknown name, or one that is there twice.
    """
    features, seen = DEFAULT_FEATURES, Feature(0)
    for word in text.split(","):
        sign, name = word[:1], word[1:]
        feature = Feature.__members__.get(name.upper())
        if sign not in {"+", "-"} or feature is None or name != name.lower():
            known = ", ".join(f"+{each.lower()} or -{each.lower()}" for each in Feature.__members__)
            raise UserError(f"--cpu-features {text}: no feature {word!r}: give {known}")
        if feature in seen:
            raise UserError(f"--cpu-features {text}: {name} is there twice: give it once")
        seen |= feature
        features = features | feature if sign == "+" else features & ~feature
    return features


def parse_disk(text: str) -> DiskOptions:
    """Read FILE[,ro][,serial=TEXT].

    Raises:
        UserError: an unknown option after a comma, or no such serial number.
    """
    disk, path = DiskOptions(Path()), text
    while True:
        rest, comma, option = path.rpartition(",")
        if option in {"ro", "rw"} and comma:
            disk = replace(disk, is_read_only=option == "ro")
        elif option.startswith("serial=") and comma:
            disk = replace(disk, serial=_check_serial(text, option.removeprefix("serial=")))
        elif comma and path == text:
            raise UserError(
                f"--disk {text}: after a comma give ro, rw or serial=TEXT;"
                " if the name has one, end it with ,rw"
            )
        else:
            return replace(disk, path=Path(path))
        path = rest


def _check_serial(text: str, serial: str) -> str:
    if not 0 < len(serial) <= MAX_SERIAL or not serial.isascii() or not serial.isprintable():
        raise UserError(f"--disk {text}: a serial has 1 to {MAX_SERIAL} printable ASCII characters")
    return serial


def disk_serials(disks: Sequence[DiskOptions]) -> list[str]:
    """Return the disks' serial numbers; the same path has the same one, in every guest.

    A path that a guest has several times has several numbers.
    """
    seen: Counter[str] = Counter()
    serials = []
    for disk in disks:
        path = os.path.normpath(disk.path.absolute())  # a link stays: it is the name that lasts
        digest = sha256(os.fsencode(path) + b"\0" * seen[path]).hexdigest()
        seen[path] += 1
        serials.append(disk.serial or f"pyvmm-{digest[: MAX_SERIAL - len('pyvmm-')]}")
    return serials


def check_disks(disks: Sequence[DiskOptions]) -> None:
    """Open and close each disk, so that a mistake is told before anything is started.

    Raises:
        UserError: one cannot be had, or the guest would have it twice and write to it.
    """
    for disk in disks:
        RawDisk(disk.path, is_read_only=disk.is_read_only).close()
    for one, other in combinations(disks, 2):
        is_written = not (one.is_read_only and other.is_read_only)
        if is_written and one.path.samefile(other.path):
            raise UserError(
                f"disk {other.path}: given twice: copy the image, or give it with ,ro both times"
            )


def parse_network(text: str) -> NetworkOptions | None:
    """Read mode=user|tap|none[,tapif=NAME][,backend=passt|slirp][,guest_mac=MAC][,hostfwd=...]...

    Returns: None for mode=none, which is no network card.

    Raises:
        UserError: an unknown key, or a value that the key cannot have.
    """
    mode, tap, backend, mac = "user", "", "", DEFAULT_MAC
    forwards = []
    words = list(filter(None, text.split(",")))
    for word in words:
        key, _, value = word.partition("=")
        match key:
            case "mode" if value in MODES:
                mode = value
            case "tapif" if value:
                tap = value
            case "backend" if value in BACKENDS:
                backend = value
            case "guest_mac" if _MAC.fullmatch(value):
                mac = bytes.fromhex(value.replace(":", ""))
            case "hostfwd":
                forwards.append(PortForward.parse(value))
            case _:
                raise UserError(
                    f"-n {word}: give mode={'|'.join(MODES)}, tapif=NAME, backend=passt or"
                    " backend=slirp, guest_mac=MAC, hostfwd=tcp:8080-:80"
                )
    if mode == "none":
        if len(words) > 1:
            raise UserError(f"-n {text}: mode=none is no network card: give nothing else with it")
        return None
    if (mode == "tap") != bool(tap):
        raise UserError(f"-n {text}: mode=tap and tapif=NAME go together")
    if tap and (forwards or backend):
        raise UserError(f"-n {text}: hostfwd and backend are for mode=user")
    return NetworkOptions(tap, backend, mac, tuple(forwards))


def parse_realm(
    algo: str | None = None,
    personalization: str | None = None,
    metadata: Path | None = None,
    *,
    is_debuggable: bool = False,
) -> RealmOptions:
    """Check the options that only a realm has.

    Raises:
        UserError: a personalization value that is empty or of more than 64 bytes, or no metadata
            in their file.
    """
    if personalization == "":
        raise UserError("--realm-pv is empty: give a value, or leave the option out")
    value = os.fsencode(personalization or "")
    if len(value) > RPV_SIZE:
        raise UserError(f"--realm-pv has {len(value)} bytes: give at most {RPV_SIZE}")
    block = _read_metadata(metadata) if metadata else b""
    return RealmOptions(algo or MEASUREMENT_ALGOS[0], value, block, is_debuggable)


def _read_metadata(path: Path) -> bytes:
    """Read a realm's metadata; the RMM looks closer."""
    data = read_file(path, "--metadata", MIB)
    if not METADATA_SIZE <= len(data) <= GRANULE_SIZE:
        raise UserError(
            f"--metadata {path} has {len(data)} bytes: give a block of {METADATA_SIZE} to"
            f" {GRANULE_SIZE}"
        )
    return data
