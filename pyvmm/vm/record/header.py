"""The header of a record: what the run began with."""

import os
from dataclasses import fields
from enum import Flag
from hashlib import sha256
from pathlib import Path
from typing import Final, get_type_hints

import msgspec

from pyvmm.arch.errors import UserError
from pyvmm.host.guest import GuestConfig
from pyvmm.vm.declare import Scope
from pyvmm.vm.network_options import Mode, NetworkOptions
from pyvmm.vm.options import OPTIONS, VmOptions
from pyvmm.vm.record.disks import disk_digests

#: Options of a run that do not concern the guest.
_KEPT: Final = frozenset({"engine"})


class Header(msgspec.Struct, frozen=True):
    """What the run began with.  Options are as the guest needs them; files, by their digests."""

    build: bytes  # digest of the program
    pyvmm: str
    options: dict[str, msgspec.Raw]
    payload: dict[str, bytes]  # name of a part of the payload -> its SHA-256
    disks: list[bytes]  # SHA-256 of the content
    start: float  # seconds since 1970
    size: tuple[int, int]  # of the terminal

    def encode(self) -> bytes:
        """Return the item of the header."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, item: bytes, path: Path) -> "Header":
        """Return the header of an item.

        Raises:
            UserError: it is none.
        """
        try:
            return msgspec.msgpack.decode(item, type=cls)
        except (msgspec.DecodeError, RecursionError):
            raise UserError(f"{path} is damaged: record the run again") from None


def save_options(options: VmOptions) -> dict[str, msgspec.Raw]:
    """Return the options that determine the guest, without those that have their defaults."""
    default = VmOptions()
    return {
        each.name: msgspec.Raw(_encode(getattr(options, each.name)))
        for each in fields(options)
        if each.name != "networks"
        and (OPTIONS[each.name].scope is not Scope.RUN or each.name in _KEPT)
        and getattr(options, each.name) != getattr(default, each.name)
        and each.name != "name"
    } | {"networks": msgspec.Raw(_encode([_card(each) for each in options.networks]))}


def _card(options: NetworkOptions) -> tuple[str, bytes, int]:
    """Return what a replay needs of a card: it has no backend."""
    return options.mode.value, options.mac, options.mtu


def load_options(header: Header, name: str, path: Path) -> VmOptions:
    """Return the options of a record, for an instance of a name.

    Raises:
        UserError: there are no such options.
    """
    types = get_type_hints(VmOptions)
    values: dict[str, object] = {}
    try:
        for key, raw in header.options.items():
            kind = types[key]
            if key == "networks":
                cards = msgspec.msgpack.decode(raw, type=list[tuple[Mode, bytes, int]])
                values[key] = tuple(
                    NetworkOptions(mode=mode, mac=mac, mtu=mtu) for mode, mac, mtu in cards
                )
            elif isinstance(kind, type) and issubclass(kind, Flag):
                values[key] = kind(msgspec.msgpack.decode(raw, type=int))
            else:
                values[key] = msgspec.msgpack.decode(raw, type=kind, dec_hook=_decode_path)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): record the run again") from None
    return VmOptions(**{**values, "name": name})  # type: ignore[arg-type]  # decoded by type


def check_files(header: Header, options: VmOptions, config: GuestConfig) -> None:
    """Check that all files are as they were when the run was recorded.

    Raises:
        UserError: one of them has changed.
    """
    now = payload_digests(config)
    for name, digest in header.payload.items():
        if now.get(name) != digest:
            raise UserError(f"the {name} has changed since the recording: use the old one")
    for disk, content, recorded in zip(
        options.disks, disk_digests(options.disks), header.disks, strict=False
    ):
        if content != recorded:
            raise UserError(f"disk {disk.path} has changed since the recording: use the old one")


def _encode(value: object) -> bytes:
    if isinstance(value, Flag):
        value = value.value
    return msgspec.msgpack.encode(value, enc_hook=_encode_path)


def _encode_path(value: object) -> bytes:
    if isinstance(value, Path):
        return os.fsencode(value.absolute())
    raise NotImplementedError


def _decode_path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, bytes):
        return Path(os.fsdecode(value))
    raise NotImplementedError


def payload_digests(config: GuestConfig) -> dict[str, bytes]:
    """Return the digest of each part of a payload, and of where it begins."""
    parts: dict[str, bytes] = {}
    for segment in config.segments:
        digest = sha256(parts.get(segment.name, b"") + segment.ipa.to_bytes(8, "little"))
        digest.update(segment.data)
        parts[segment.name] = digest.digest()
    start = repr((config.entry, config.args, config.ram_base, config.ram_size, config.num_cpus))
    parts["start"] = sha256(start.encode()).digest()
    return parts
