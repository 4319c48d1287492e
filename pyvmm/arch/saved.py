"""The state of an object as plain values, to be written to a file and read back.

A class names the attributes that are its state.  A value that is read has the type of the one that
it replaces, and no number is out of range: what a file contains cannot make a handler fail later.
"""

import math
from collections.abc import Iterable, Mapping

#: A value: a number, bytes, text, a list of values, or the state of a part.
Value = int | float | bool | bytes | str | None | list["Value"] | dict[str, "Value"]
State = dict[str, Value]


class StateError(ValueError):
    """Values that cannot be the state of an object."""


def save(target: object, names: Iterable[str]) -> State:
    """Return the state of an object; sequences become lists."""
    return {name: _plain(getattr(target, name)) for name in names}


def load(target: object, names: Iterable[str], state: Mapping[str, Value]) -> None:
    """Set the state of an object; its present values are examples of what is allowed.

    Raises:
        StateError: a value is missing, or has another type.
    """
    for name in names:
        if name not in state:
            raise StateError(f"{name} is missing")
        setattr(target, name, _like(getattr(target, name), state[name], name))


def part(state: Mapping[str, Value], name: str) -> State:
    """Return the state of a part.

    Raises:
        StateError: it is missing.
    """
    value = state.get(name)
    if not isinstance(value, dict):
        raise StateError(f"{name} is missing")
    return value


def items(state: Mapping[str, Value], name: str, count: int | None = None) -> list[Value]:
    """Return a list, of so many values if that is given.

    Raises:
        StateError: it is missing, or has another length.
    """
    value = state.get(name)
    if not isinstance(value, list) or (count is not None and len(value) != count):
        raise StateError(f"{name} is no list of {count} values")
    return value


def bits(state: Mapping[str, Value], name: str) -> int:
    """Return a bitmap of any size, which is saved as bytes.

    Raises:
        StateError: it is missing.
    """
    value = state.get(name)
    if not isinstance(value, bytes):
        raise StateError(f"{name} is {value!r:.40}")
    return int.from_bytes(value, "little")


def number(state: Mapping[str, Value], name: str, end: int) -> int:
    """Return a number of a state, from 0 to below ``end``.

    Raises:
        StateError: it is missing or out of range.
    """
    value = state.get(name)
    if type(value) is not int or not 0 <= value < end:
        raise StateError(f"{name} is {value!r}")
    return value


def _plain(value: object) -> Value:
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if value is None or isinstance(value, bool | int | float | bytes | str):
        return value
    if isinstance(value, Iterable):
        return [_plain(each) for each in value]
    raise TypeError(f"a state contains {type(value).__name__}")


def _like(old: object, new: Value, name: str) -> object:
    """Return the new value in the type of the old one."""
    if isinstance(old, bool | bytes | str):
        if type(new) is type(old):
            return new
    elif isinstance(old, int):
        if type(new) is int and -1 << 63 <= new < 1 << 64:
            return new
    elif isinstance(old, float):
        if type(new) in {int, float} and math.isfinite(float(new)):  # type: ignore[arg-type]
            return float(new)  # type: ignore[arg-type]
    elif isinstance(old, bytearray):
        if isinstance(new, bytes):
            return bytearray(new)
    elif isinstance(old, tuple | list) and isinstance(new, list) and len(old) == len(new):
        return type(old)(_like(one, other, name) for one, other in zip(old, new, strict=True))
    raise StateError(f"{name} is {new!r:.40}")
