"""The network cards of a virtual machine, read from the texts that a user writes."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.devices.net_user import PortForward
from pyvmm.vm.memory_map import MAX_CPUS

#: Of the first card; each further one counts on.
DEFAULT_MAC: Final = bytes.fromhex("021515151515")
BACKENDS: Final = ("passt", "slirp")
MAC_SIZE: Final = 6
MIN_MTU: Final = 68
MAX_MTU: Final = 65535
MAX_CARDS: Final = 16

#: ADDRESS:PORT:PORT/PROTOCOL, as docker takes it.
_FORWARD: Final = re.compile(
    r"(?:(\d+\.\d+\.\d+\.\d+|\[[0-9a-fA-F:.]+\]):)?(\d{1,5}):(\d{1,5})(?:/(tcp|udp))?"
)
_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)


class Mode(StrEnum):
    """What a network card is connected to."""

    NONE = "none"  # there is no card
    USER = "user"
    TAP = "tap"
    SOCKET = "socket"


#: The modes of each key; the keys of `_SHARED` are for all cards.
_MODES: Final = {
    "backend": Mode.USER,
    "hostfwd": Mode.USER,
    "tapif": Mode.TAP,
    "mq": Mode.TAP,
    "listen": Mode.SOCKET,
    "connect": Mode.SOCKET,
}
_SHARED: Final = ("mac", "guest_mac", "mtu", "pcap")
_KEYS: Final = ("mode", *_MODES, *_SHARED)

HELP: Final = (
    "network card: mode=user|tap|socket|none, mac=MAC, mtu=BYTES, pcap=FILE; user:"
    " backend=passt|slirp, hostfwd=tcp:8080-:80; tap: tapif=NAME, mq=QUEUES; socket: listen=PATH or"
    " connect=PATH"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkOptions:
    """A network card and what it is connected to."""

    mode: Mode = Mode.USER
    mac: bytes = DEFAULT_MAC
    mtu: int = 0  # 0: the default of what it is connected to
    capture: Path | None = None  # gets every frame

    backend: str = ""  # in user mode, one of BACKENDS; the default is what is installed
    is_optional: bool = False  # in user mode, its link is down if nothing is installed
    forwards: tuple[PortForward, ...] = ()
    tap: str = ""
    num_queues: int = 0  # of the tap interface; 0: one per CPU, if it has so many
    listen: Path | None = None  # a socket for peers
    connect: Path | None = None  # the socket of a peer


def parse_networks(texts: Sequence[str]) -> tuple[NetworkOptions, ...]:
    """Read KEY=VALUE,... of each card; mode=none is no card.

    Raises:
        UserError: an unknown key, an invalid value, keys that exclude each other, too many cards,
            or two of them with one address.
    """
    cards: list[NetworkOptions] = []
    for text in texts:
        card = _parse_card(text, len(cards))
        if card is not None:
            cards.append(card)
    if len(cards) > MAX_CARDS:
        raise UserError(f"-n: {len(cards)} network cards: give at most {MAX_CARDS}")
    for mac, count in Counter(card.mac for card in cards).items():
        if count > 1:
            raise UserError(f"-n: {count} network cards have mac={mac.hex(':')}: give each its own")
    return tuple(cards)


def parse_forwards(texts: Sequence[str]) -> tuple[PortForward, ...]:
    """Read [ADDRESS:]PORT:PORT[/tcp|/udp] of each forwarded port.

    Raises:
        UserError: a text has another form.
    """
    return tuple(map(_parse_forward, texts))


def is_forward(text: str) -> bool:
    """Return whether a text has the form of a forwarded port; no kernel parameter has."""
    return _FORWARD.fullmatch(text) is not None


def _parse_forward(text: str) -> PortForward:
    match = _FORWARD.fullmatch(text)
    if match is None:
        raise UserError(
            f"--publish {text}: give HOST_PORT:GUEST_PORT such as 8080:80, 0.0.0.0:8080:80 or"
            " 5353:53/udp"
        )
    address, host_port, guest_port, protocol = match.groups()
    host = f"{address}:" if address else ""
    return PortForward.parse(f"{protocol or 'tcp'}:{host}{host_port}-:{guest_port}")


def with_forwards(
    networks: tuple[NetworkOptions, ...], forwards: tuple[PortForward, ...]
) -> tuple[NetworkOptions, ...]:
    """Return cards that forward ports: the first one in user mode does, or a new one.

    Raises:
        UserError: there are cards, but none in user mode.
    """
    if not forwards:
        return networks
    for index, card in enumerate(networks):
        if card.mode == Mode.USER:
            new = replace(card, forwards=(*card.forwards, *forwards), is_optional=False)
            return (*networks[:index], new, *networks[index + 1 :])
    if networks:
        raise UserError("--publish requires a card in user mode: add -n mode=user")
    return (NetworkOptions(forwards=forwards),)


def _parse_card(text: str, index: int) -> NetworkOptions | None:
    words = _Words(text)
    mode = words.mode
    if mode == Mode.NONE:
        if len(words.values) > 1:
            raise UserError(f"-n {text}: mode=none excludes all other keys: omit them")
        return None
    for key in words.values:
        if _MODES.get(key, mode) != mode:
            raise UserError(f"-n {text}: {key} requires mode={_MODES[key]}")
    if mode == Mode.TAP and not words.one("tapif"):
        raise UserError(f"-n {text}: mode=tap requires the interface: add tapif=NAME")
    if mode == Mode.SOCKET and bool(words.one("listen")) == bool(words.one("connect")):
        raise UserError(f"-n {text}: mode=socket requires either listen=PATH or connect=PATH")
    return NetworkOptions(
        mode=mode,
        mac=words.mac or _default_mac(index),
        mtu=words.number("mtu", MIN_MTU, MAX_MTU),
        capture=words.path("pcap"),
        backend=words.backend,
        forwards=tuple(map(PortForward.parse, words.values.get("hostfwd", ()))),
        tap=words.one("tapif"),
        num_queues=words.number("mq", 1, MAX_CPUS),
        listen=words.path("listen"),
        connect=words.path("connect"),
    )


def _default_mac(index: int) -> bytes:
    return (int.from_bytes(DEFAULT_MAC, "big") + index).to_bytes(6, "big")


class _Words:
    """The words KEY=VALUE of a card.

    Raises:
        UserError: in all methods, if the user's text is invalid.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self.values: dict[str, list[str]] = {}
        for word in filter(None, text.split(",")):
            key, _, value = word.partition("=")
            if key not in _KEYS:
                raise UserError(f"-n {word}: unknown key: give {', '.join(_KEYS)}")
            if not value:
                raise UserError(f"-n {word}: {key} has no value: give {key}=VALUE")
            self.values.setdefault(key, []).append(value)
        for key, values in self.values.items():
            if len(values) > 1 and key != "hostfwd":
                raise UserError(f"-n {text}: {key} occurs {len(values)} times: give it once")

    def one(self, key: str) -> str:
        """Return the value of a key, or an empty text."""
        return self.values.get(key, [""])[0]

    def number(self, key: str, low: int, high: int) -> int:
        """Return the value of a key, or 0."""
        value = self.one(key)
        if not value:
            return 0
        if not value.isascii() or not value.isdecimal() or not low <= int(value[:9]) <= high:
            raise UserError(f"-n {key}={value}: give {low} to {high}")
        return int(value)

    def path(self, key: str) -> Path | None:
        """Return the value of a key, or None."""
        value = self.one(key)
        return Path(value).absolute() if value else None

    @property
    def mode(self) -> Mode:
        """The mode, by default user."""
        value = self.one("mode") or Mode.USER
        if value not in {mode.value for mode in Mode}:
            raise UserError(f"-n mode={value}: give mode={'|'.join(Mode)}")
        return Mode(value)

    @property
    def backend(self) -> str:
        """The program for user mode."""
        value = self.one("backend")
        if value and value not in BACKENDS:
            raise UserError(f"-n backend={value}: give backend={'|'.join(BACKENDS)}")
        return value

    @property
    def mac(self) -> bytes:
        """The address, by either name, or an empty one."""
        if "mac" in self.values and "guest_mac" in self.values:
            raise UserError(f"-n {self._text}: mac and guest_mac are the same key: give one")
        value = self.one("mac") or self.one("guest_mac")
        if not value:
            return b""
        mac = bytes.fromhex(value.replace(":", "")) if _MAC.fullmatch(value) else b""
        if not any(mac) or mac[0] & 1:
            raise UserError(
                f"-n mac={value}: give a unicast address such as {DEFAULT_MAC.hex(':')}"
            )
        return mac
