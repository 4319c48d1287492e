"""The items of a record, and what a run has to be the same as another one.

An item is a MessagePack array: its kind, and its fields.  The order of the items is the order in
which they happened.
"""

from collections.abc import Callable
from enum import Enum, IntEnum
from operator import attrgetter
from typing import Final

import msgspec

from pyvmm.arch import events
from pyvmm.arch.events import Event


class Kind(IntEnum):
    """The kind of an item."""

    INPUT = 0  # turn, position, target, data
    SLEPT = 1  # turn, position, ticks: input ended a sleep of all vCPUs after so many ticks
    DRAWN = 2  # what, data: something that the machine does not compute
    EVENT = 3  # the number of its class, its fields
    END = 4  # State


class State(msgspec.Struct, frozen=True):
    """The end of a run."""

    outcome: str
    position: int  # instructions executed by all PEs
    counter: int
    registers: bytes  # SHA-256 of the registers of all vCPUs
    memory: dict[str, bytes]  # the same of the memory of each physical address space
    num_events: int
    num_output: int  # bytes on the console


_encode = msgspec.msgpack.Encoder(
    enc_hook=lambda value: value.value if isinstance(value, Enum) else str(value)
).encode

#: Events that follow from others: each SMC is an RMI, RSI or PSCI command, or a call of EL3.
_IMPLIED: Final = frozenset(events.KINDS["smc"].events)
_CLASSES: Final = tuple(
    dict.fromkeys(
        each for kind in events.KINDS.values() for each in kind.events if each not in _IMPLIED
    )
)


def _fields_of(kind: type[Event]) -> Callable[[Event], object]:
    return attrgetter(*kind.__struct_fields__)


_NUMBERS: Final = {kind: (number, _fields_of(kind)) for number, kind in enumerate(_CLASSES)}


def encode(*item: object) -> bytes:
    """Return an item."""
    return _encode(item)


def encode_event(event: Event) -> bytes | None:
    """Return the item of an event; None for one that follows from others."""
    if type(event) in _IMPLIED:
        return None
    number, fields = _NUMBERS[type(event)]
    return _encode((3, number, fields(event)))


def decode(item: bytes) -> list[object]:
    """Return the kind of an item and its fields; ValueError if it is none."""
    decoded: object = msgspec.msgpack.decode(item)
    if not isinstance(decoded, list) or not decoded or not isinstance(decoded[0], int):
        raise ValueError("an item without a kind")
    return decoded


def kind_of(item: bytes) -> int:
    """Return the kind of an item, without decoding it."""
    return item[1]  # after the header of a short array


def describe(item: bytes) -> str:
    """Return an item in one line, for a user."""
    try:
        kind, *fields = decode(item)
    except (ValueError, msgspec.DecodeError):
        return "something else"
    match kind, fields:
        case Kind.EVENT, [int(number), list(values)] if number < len(_CLASSES):
            names = _CLASSES[number].__struct_fields__
            shown = (f"{name}={_show(each)}" for name, each in zip(names, values, strict=False))
            return f"{_CLASSES[number].__name__} {' '.join(shown)}"
        case Kind.INPUT, [_, int(position), str(target), bytes(data)]:
            return f"input for {target} at instruction {position}: {data[:40]!r}"
        case Kind.SLEPT, [_, int(position), int(ticks)]:
            return f"a sleep of {ticks} ticks at instruction {position}"
        case Kind.DRAWN, [str(what), bytes(data)]:
            return f"{len(data)} bytes of {what}"
        case Kind.END, _:
            return "the end"
        case _:
            return "something else"


def _show(value: object) -> str:
    if isinstance(value, int):
        return hex(value)
    if isinstance(value, list):
        return f"({' '.join(map(_show, value))})"
    return value.hex() if isinstance(value, bytes) else str(value)
