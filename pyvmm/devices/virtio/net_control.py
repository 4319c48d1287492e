"""The commands of a network card's control queue.

Spec: virtio 1.2, "Control Virtqueue" of "Network Device".
"""

from collections.abc import Iterator
from enum import IntEnum
from typing import Final, Protocol

from pyvmm.devices.virtio.net_filter import Mode, ReceiveFilter

_OK: Final = b"\0"
_ERROR: Final = b"\1"
_MAC_SIZE: Final = 6
#: Addresses of one table that are compared; a longer table means all addresses.
MAX_ADDRESSES: Final = 256
#: Longest command that is read; the end of a longer one does not matter.
MAX_COMMAND: Final = 1 << 16


class Command(IntEnum):
    """Class and number of each command, in the order of their bytes."""

    MAC_TABLE_SET = 0x0100
    MAC_ADDR_SET = 0x0101
    ANNOUNCE_ACK = 0x0300
    MQ_VQ_PAIRS_SET = 0x0400
    GUEST_OFFLOADS_SET = 0x0500


_RX_CLASS: Final = 0


class Card(Protocol):
    """What the commands change."""

    mac: bytes
    filter: ReceiveFilter

    def set_offloads(self, offloads: int) -> bool:
        """Use these offloads for received frames; return whether that is possible."""
        ...

    def set_pairs(self, num_pairs: int) -> bool:
        """Use so many pairs of queues; return whether that is possible."""
        ...

    def announced(self) -> None:
        """End the request for an announcement."""
        ...


def execute(card: Card, command: bytes) -> bytes:
    """Execute a command of any content; return its acknowledgement, one byte."""
    return _OK if _execute(card, int.from_bytes(command[:2], "big"), command[2:]) else _ERROR


def _execute(card: Card, command: int, data: bytes) -> bool:
    match command:
        case _ if command >> 8 == _RX_CLASS:
            return _set_mode(card, command, data)
        case Command.MAC_TABLE_SET:
            return _set_tables(card, data)
        case Command.MAC_ADDR_SET if len(data) >= _MAC_SIZE and not data[0] & 1:
            card.mac = data[:_MAC_SIZE]
            return True
        case Command.ANNOUNCE_ACK:
            card.announced()
            return True
        case Command.MQ_VQ_PAIRS_SET if len(data) >= 2:
            return card.set_pairs(int.from_bytes(data[:2], "little"))
        case Command.GUEST_OFFLOADS_SET if len(data) >= 8:
            return card.set_offloads(int.from_bytes(data[:8], "little"))
    return False


def _set_mode(card: Card, number: int, data: bytes) -> bool:
    if number not in {mode.value for mode in Mode} or not data:
        return False
    card.filter.set_mode(Mode(number), is_on=bool(data[0]))
    return True


def _set_tables(card: Card, data: bytes) -> bool:
    tables = list(_tables(data))
    if len(tables) < 2:
        return False
    card.filter.unicast, card.filter.multicast = tables[:2]
    return True


def _tables(data: bytes) -> Iterator[frozenset[bytes] | None]:
    """Yield the tables, each a number of addresses and then the addresses; None for a long one."""
    while len(data) >= 4:
        count = int.from_bytes(data[:4], "little")
        end = 4 + count * _MAC_SIZE
        if end > len(data):
            return
        addresses = (data[at : at + _MAC_SIZE] for at in range(4, end, _MAC_SIZE))
        yield frozenset(addresses) if count <= MAX_ADDRESSES else None
        data = data[end:]
