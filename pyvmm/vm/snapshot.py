"""A snapshot: the file with the state of a normal VM, from which it can be restored.

::

    magic, version | place, size and digest of the header | memory ... | header

The memory is in pieces, each compressed by itself; the header says which part of RAM each is, and
has everything else.  A file that was damaged or made up cannot do more than a guest can.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from struct import Struct
from struct import error as struct_error
from typing import BinaryIO, Final
from zlib import crc32

import msgspec
import zstandard

from pyvmm import __version__
from pyvmm.arch.errors import UserError
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.pmu import NUM_EVENT_COUNTERS
from pyvmm.arch.saved import State, StateError
from pyvmm.arch.sysregs import Feature
from pyvmm.vm import memory_map
from pyvmm.vm.network_options import MAC_SIZE, MAX_MTU, NetworkOptions
from pyvmm.vm.option_values import FORMATS, DiskOptions, VsockOptions, disk_serials
from pyvmm.vm.options import VmOptions

VERSION: Final = 4
_MAGIC: Final = b"pyvmm snapshot\r\n"
_preface = Struct("<16sIIQQ32s")  # magic, version, 0, place and size of the header, its SHA-256
_PIECE: Final = 1 << 20
_LEVEL: Final = 1  # of compression: a higher one takes longer and gains little
_MAX_HEADER: Final = 64 << 20
_NUM_THREADS: Final = 2


class SavedDisk(msgspec.Struct, frozen=True):
    """A disk: its file, and how to recognise that it has changed."""

    path: bytes
    is_read_only: bool
    serial: str
    size: int
    modified: int  # nanoseconds since 1970
    format: str = ""
    backing: bytes | None = None

    @classmethod
    def of(cls, disk: DiskOptions, serial: str) -> "SavedDisk":
        """Return a disk whose file has everything that the guest has written."""
        status, backing = disk.path.stat(), disk.backing
        return cls(
            os.fsencode(disk.path.absolute()),
            disk.is_read_only,
            serial,
            status.st_size,
            status.st_mtime_ns,
            disk.format,
            None if backing is None else os.fsencode(backing.absolute()),
        )

    def apply(self, asked: DiskOptions | None) -> DiskOptions:
        """Return the options of the restored disk: in its own file, or in a copy that is asked for.

        Raises:
            UserError: there is no such file, or it has changed.
        """
        if self.format not in {"", *FORMATS}:
            raise StateError(f"a disk in format {self.format!r:.40}")
        disk = asked or DiskOptions(Path(os.fsdecode(self.path)))
        try:
            status = disk.path.stat()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"disk {disk.path}: {reason}: give a copy of it with -d") from None
        if (status.st_size, status.st_mtime_ns) != (self.size, self.modified):
            raise UserError(
                f"disk {disk.path} has changed since the snapshot: give a copy from that time with"
                " -d (cp -p keeps the time), and add ,snapshot to keep it"
            )
        backing = disk.backing
        if backing is None and self.backing is not None:
            backing = Path(os.fsdecode(self.backing))
        return replace(
            disk,
            is_read_only=self.is_read_only,
            serial=self.serial,
            format=self.format,
            backing=backing,
        )


class SavedNetwork(msgspec.Struct, frozen=True):
    """A network card: what its driver knows, and what it was connected to."""

    mode: str
    mac: bytes
    mtu: int
    num_queues: int

    def apply(self, asked: NetworkOptions) -> NetworkOptions:
        """Return the options of the restored card, which the user connects again."""
        is_card = len(self.mac) == MAC_SIZE and 0 <= self.mtu <= MAX_MTU
        if not is_card or not 0 <= self.num_queues <= memory_map.MAX_CPUS:
            raise StateError(f"a network card mac={self.mac!r:.40},mtu={self.mtu}")
        if asked.mode != self.mode:
            raise UserError(f"--restore: the card was made with -n mode={self.mode}: give the same")
        return replace(asked, mac=self.mac, mtu=self.mtu, num_queues=self.num_queues)


class SavedOptions(msgspec.Struct, frozen=True):
    """The options that determine the machine."""

    kernel: bytes | None
    ram_size: int
    num_cpus: int
    cpu_features: int
    console: str
    has_rng: bool
    has_balloon: bool
    has_agent: bool
    has_power_button: bool
    has_watchdog: bool
    num_counters: int  # of the PMU; 0: no PMU
    networks: list[SavedNetwork]
    machine: str
    transport: str
    irqchip: str
    ports: list[str]  # their names
    has_vsock: bool

    @classmethod
    def of(cls, options: VmOptions) -> "SavedOptions":
        """Return the options of a VM.

        Raises:
            UserError: it has devices that cannot be saved.
        """
        for is_given, what in (
            (options.firmware, "--firmware"),
            (options.directories, "a shared directory"),
            (any(disk.is_snapshot for disk in options.disks), "a disk that keeps nothing"),
        ):
            if is_given:
                raise UserError(f"a guest with {what} cannot be saved: create it without")
        kernel = options.kernel
        return cls(
            None if kernel is None else os.fsencode(kernel.absolute()),
            options.ram_size,
            options.num_cpus,
            options.cpu_features.value,
            options.console,
            options.has_rng,
            options.has_balloon,
            options.has_agent,
            options.has_power_button,
            options.has_watchdog,
            options.num_counters if options.has_pmu else 0,
            [
                SavedNetwork(each.mode, each.mac, each.mtu, each.num_queues)
                for each in options.networks
            ],
            options.machine,
            "pci" if options.has_pci else "mmio",
            "gicv3-its" if options.has_its else "gicv3",
            [each.name for each in options.ports],
            options.vsock is not None,
        )

    def apply(self, options: VmOptions, disks: tuple[DiskOptions, ...]) -> VmOptions:
        """Return the options of the restored VM; StateError if no machine has them."""
        is_size = self.ram_size % GRANULE_SIZE == 0
        is_size &= memory_map.MIN_RAM_SIZE <= self.ram_size <= memory_map.MAX_RAM_SIZE
        if not is_size or not 1 <= self.num_cpus <= memory_map.MAX_CPUS:
            raise StateError(f"{self.num_cpus} CPUs and {self.ram_size} bytes of RAM")
        if not 0 <= self.num_counters <= NUM_EVENT_COUNTERS:
            raise StateError(f"{self.num_counters} PMU counters")
        if len(options.networks) != len(self.networks):
            raise UserError(
                f"--restore: the guest has {len(self.networks)} network cards: give each with -n,"
                " in the same order"
            )
        if tuple(self.ports) != tuple(each.name for each in options.ports):
            names = " ".join(f"--port {name}=SOCKET" for name in self.ports) or "none"
            raise UserError(f"--restore: the guest has these ports: {names}: give the same")
        if options.vsock is not None and not self.has_vsock:
            raise UserError("--restore: the guest has no vsock: omit --vsock")
        self._check_buses()
        known = sum(feature.value for feature in Feature)
        if self.console not in {"serial", "virtio"} or self.cpu_features & ~known:
            raise StateError(f"console {self.console}, CPU features {self.cpu_features:#x}")
        return replace(
            options,
            kernel=None if self.kernel is None else Path(os.fsdecode(self.kernel)),
            disks=disks,
            ram_size=self.ram_size,
            num_cpus=self.num_cpus,
            cpu_features=Feature(self.cpu_features),
            console=self.console,
            has_rng=self.has_rng,
            has_balloon=self.has_balloon,
            wants_agent=self.has_agent,
            wants_power_button=self.has_power_button,
            has_watchdog=self.has_watchdog,
            has_pmu=self.num_counters > 0,
            num_counters=self.num_counters or NUM_EVENT_COUNTERS,
            networks=tuple(
                each.apply(asked)
                for each, asked in zip(self.networks, options.networks, strict=True)
            ),
            machine=self.machine,
            transport=self.transport,
            irqchip=self.irqchip,
            vsock=(options.vsock or VsockOptions()) if self.has_vsock else None,
        )

    def _check_buses(self) -> None:
        for value, known in (
            (self.machine, memory_map.MACHINES),
            (self.transport, ("mmio", "pci")),
            (self.irqchip, ("gicv3", "gicv3-its")),
        ):
            if value not in known:
                raise StateError(f"a machine with {value!r:.40}")


class Header(msgspec.Struct, frozen=True):
    """Everything but the memory."""

    pyvmm: str
    options: SavedOptions
    disks: list[SavedDisk]
    counter: int
    vcpus: list[msgspec.Raw]
    gic: msgspec.Raw
    devices: msgspec.Raw
    agent: msgspec.Raw
    console: bytes  # its last output
    pieces: list[tuple[int, int, int, int]]  # IPA and size; size and CRC in the file


def pack(state: State) -> msgspec.Raw:
    """Return a state for a header."""
    return msgspec.Raw(msgspec.msgpack.encode(state))


def unpack(raw: msgspec.Raw) -> State:
    """Return a state of a header; StateError if it is none."""
    try:
        state: object = msgspec.msgpack.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise StateError(str(error)) from None
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise StateError("it has no names")
    return state


# --- writing ----------------------------------------------------------------------------------


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file for a snapshot; if that is complete at the end, it replaces an earlier one.

    Raises:
        UserError: the file cannot be made.
    """
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "w+b", opener=_private) as file:
            try:
                yield file
                if os.pread(file.fileno(), len(_MAGIC), 0) == _MAGIC:
                    part.replace(path)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: choose another file") from None


def write(file: BinaryIO, header: Header, memory: Iterable[tuple[int, bytes]]) -> None:
    """Write a snapshot.

    Args:
        file: it is empty; its beginning is written last.
        header: everything but the pieces.
        memory: address and content of the parts of RAM that are in use, from `pieces_of`.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        file.write(bytes(_preface.size))
        pieces = []
        for ipa, size, data in _compressed(memory):
            pieces.append((ipa, size, file.write(data), crc32(data)))
        place = file.tell()
        packed = msgspec.msgpack.encode(msgspec.structs.replace(header, pieces=pieces))
        packed = zstandard.ZstdCompressor(_LEVEL).compress(packed)
        file.write(packed)
        file.flush()
        file.seek(0)
        digest = hashlib.sha256(packed).digest()
        file.write(_preface.pack(_MAGIC, VERSION, 0, place, len(packed), digest))
        file.flush()
    except OSError as error:
        raise UserError(f"the snapshot: {error.strerror}: choose another file") from None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _compressed(memory: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, int, bytes]]:
    """Yield address, size and compressed content of what is not only zeros."""

    def compress(item: tuple[int, bytes]) -> tuple[int, int, bytes]:
        ipa, data = item
        return ipa, len(data), zstandard.ZstdCompressor(_LEVEL).compress(data)

    zeros = bytes(_PIECE)
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        used = (item for item in memory if item[1] != zeros[: len(item[1])])
        yield from pool.map(compress, used)


def pieces_of(parts: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Split ranges, given by address and size, into pieces."""
    for ipa, size in parts:
        for at in range(0, size, _PIECE):
            yield ipa + at, min(_PIECE, size - at)


# --- reading ----------------------------------------------------------------------------------


class Snapshot:
    """A snapshot in a file.

    Raises:
        UserError: it cannot be read, or is not a snapshot of this version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                self.header = self._read_header(file.read(_preface.size), file.fileno())
        except OSError as error:
            raise UserError(f"--restore {path}: {error.strerror}: check the path") from None
        except (StateError, struct_error) as error:
            raise self.damaged(error) from None

    def damaged(self, error: Exception) -> UserError:
        """Return the error for a file whose content is impossible."""
        return UserError(
            f"--restore {self._path} is no snapshot, or is damaged ({error}): save it again"
        )

    def _read_header(self, preface: bytes, file: int) -> Header:
        magic, version, _, place, size, digest = _preface.unpack(preface)
        if magic != _MAGIC:
            raise StateError("it begins differently")
        if version != VERSION:
            raise UserError(
                f"--restore {self._path} has version {version}; this pyvmm reads {VERSION}: save it"
                " with this one"
            )
        if not 0 < size <= _MAX_HEADER or place >= 1 << 63:
            raise StateError(f"a header of {size} bytes at {place}")
        packed = os.pread(file, size, place)
        if hashlib.sha256(packed).digest() != digest:
            raise StateError("its header has another digest")
        plain = _decompress(packed, _MAX_HEADER)
        try:
            header = msgspec.msgpack.decode(plain, type=Header)
        except (msgspec.DecodeError, RecursionError) as error:
            raise StateError(str(error)) from None
        if sum(size for _, size, _, _ in header.pieces) > header.options.ram_size:
            raise StateError("it has more memory than the guest")
        return header

    def options(self, asked: VmOptions) -> VmOptions:
        """Return the options of the restored VM, with what the user has asked for.

        Raises:
            UserError: the file is damaged, or a disk is not as it was.
        """
        try:
            disks = self._disks(asked.disks)
            return self.header.options.apply(asked, disks)
        except StateError as error:
            raise self.damaged(error) from None

    def _disks(self, given: Sequence[DiskOptions]) -> tuple[DiskOptions, ...]:
        saved = self.header.disks
        if given and len(given) != len(saved):
            raise UserError(f"--restore {self._path} has {len(saved)} disks: give copies of all")
        asked: Sequence[DiskOptions | None] = given or [None] * len(saved)
        return tuple(each.apply(one) for each, one in zip(saved, asked, strict=True))

    def memory(self) -> Iterator[tuple[int, bytes]]:
        """Yield address and content of the parts of RAM that were in use.

        Raises:
            UserError: the file cannot be read, or is damaged.
        """
        file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            place = _preface.size
            places = []
            for ipa, size, stored, checksum in self.header.pieces:
                places.append((ipa, size, place, stored, checksum))
                place += stored

            with ThreadPoolExecutor(_NUM_THREADS) as pool:
                yield from pool.map(partial(_read_piece, file), places)
        except OSError as error:
            raise UserError(f"--restore {self._path}: {error.strerror}: check the file") from None
        except StateError as error:
            raise self.damaged(error) from None
        finally:
            os.close(file)


def _read_piece(file: int, piece: tuple[int, int, int, int, int]) -> tuple[int, bytes]:
    """Return address and content of a piece, given also by place, size and CRC in the file."""
    ipa, size, place, stored, checksum = piece
    if not 0 < size <= _PIECE or not 0 < stored <= 2 * _PIECE or place >= 1 << 62:
        raise StateError(f"a piece of {size} bytes")
    packed = os.pread(file, stored, place)
    if crc32(packed) != checksum:
        raise StateError("a piece has another checksum")
    data = _decompress(packed, size)
    if len(data) != size:
        raise StateError("a piece has another size")
    return ipa, data


def _decompress(data: bytes, limit: int) -> bytes:
    try:
        if zstandard.frame_content_size(data) > limit:
            raise StateError("a part is too large")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=limit)
    except zstandard.ZstdError as error:
        raise StateError(str(error)) from None


def new_header(options: VmOptions, counter: int) -> Header:
    """Return a header without disks, states and memory."""
    empty, saved = pack({}), SavedOptions.of(options)
    return Header(__version__, saved, [], counter, [], empty, empty, empty, b"", [])


def saved_disks(disks: Sequence[DiskOptions]) -> list[SavedDisk]:
    """Return disks whose devices have been saved: their files are complete."""
    serials = disk_serials(disks)
    return [SavedDisk.of(disk, serial) for disk, serial in zip(disks, serials, strict=True)]
