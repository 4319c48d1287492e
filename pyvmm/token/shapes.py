"""The shapes of claim values, and the checks against them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from pyvmm.token.cbor import Value, describe


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A value without the required shape: where it is, what was expected and what was found."""

    path: str
    expected: str
    actual: str
    is_advice: bool = False  # the shape is only recommended


class Shape(Protocol):
    """What a value must look like."""

    def check(self, value: Value, path: str) -> Iterator[Mismatch]:
        """Yield the defects of a value."""
        ...

    def __str__(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Text:
    """Text; one of the given values, if any are given."""

    values: tuple[str, ...] = ()

    def check(self, value: Value, path: str) -> Iterator[Mismatch]:
        """Yield the defects of a value."""
        if not isinstance(value, str) or (self.values and value not in self.values):
            yield Mismatch(path, str(self), describe(value))

    def __str__(self) -> str:
        return " or ".join(map(repr, self.values)) or "text"


@dataclass(frozen=True, slots=True)
class AdvisedText:
    """Text that should be one of the given values, but need not be."""

    values: frozenset[str]
    what: str

    def check(self, value: Value, path: str) -> Iterator[Mismatch]:
        """Yield the defects of a value."""
        if not isinstance(value, str) or value not in self.values:
            yield Mismatch(path, str(self), describe(value), is_advice=isinstance(value, str))

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True, slots=True)
class Bytes:
    """A non-empty byte string, optionally of one of some sizes and with a prefix."""

    sizes: tuple[int, ...] = ()
    prefix: bytes = b""

    def check(self, value: Value, path: str) -> Iterator[Mismatch]:
        """Yield the defects of a value."""
        if (
            not isinstance(value, bytes)
            or (len(value) not in self.sizes if self.sizes else not value)
            or not value.startswith(self.prefix)
        ):
            yield Mismatch(path, str(self), describe(value))

    def __str__(self) -> str:
        size = " or ".join(map(str, self.sizes)) or "1 or more"
        return f"{size} bytes" + (f" starting with {self.prefix.hex()}" if self.prefix else "")


@dataclass(frozen=True, slots=True)
class Uint:
    """An integer; one of the given values, if any are given."""

    values: tuple[int, ...] = ()

    def check(self, value: Value, path: str) -> Iterator[Mismatch]:
        """Yield the defects of a value."""
        if type(value) is not int or (value not in self.values if self.values else value < 0):
            yield Mismatch(path, str(self), describe(value))

    def __str__(self) -> str:
        return " or ".join(map(str, self.values)) or "an unsigned integer"


@dataclass(frozen=True, slots=True)
class Bool:
    """True or false."""

    def check(self, value: Value, path: str) -> Iterator[Mismatch]:
        """Yield the defects of a value."""
        if not isinstance(value, bool):
            yield Mismatch(path, str(self), describe(value))

    def __str__(self) -> str:
        return "a boolean"


@dataclass(frozen=True, slots=True)
class Array:
    """An array whose items have one shape; of an exact size, or not empty."""

    item: Shape
    size: int = 0

    def check(self, value: Value, path: str) -> Iterator[Mismatch]:
        """Yield the defects of a value."""
        if not isinstance(value, list) or not value or (self.size and len(value) != self.size):
            yield Mismatch(path, str(self), describe(value))
            return
        for index, item in enumerate(value):
            yield from self.item.check(item, f"{path}[{index}]")

    def __str__(self) -> str:
        return f"array of {self.size or '1 or more'} ({self.item})"


@dataclass(frozen=True, slots=True)
class Either:
    """One shape or the other."""

    one: Shape
    other: Shape

    def check(self, value: Value, path: str) -> Iterator[Mismatch]:
        """Yield the defects of a value."""
        if all(any(shape.check(value, path)) for shape in (self.one, self.other)):
            yield Mismatch(path, str(self), describe(value))

    def __str__(self) -> str:
        return f"{self.one} or {self.other}"


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a map: its key, its name, and whether it is required."""

    key: int
    name: str
    shape: Shape
    is_required: bool = False


@dataclass(frozen=True, slots=True)
class Map:
    """A map with known members; others are allowed."""

    members: tuple[Member, ...]

    def check(self, value: Value, path: str) -> Iterator[Mismatch]:
        """Yield the defects of a value."""
        if not isinstance(value, dict):
            yield Mismatch(path, str(self), describe(value))
            return
        for member in self.members:
            if member.key in value:
                yield from member.shape.check(value[member.key], f"{path}.{member.name}")
            elif member.is_required:
                yield Mismatch(f"{path}.{member.name}", str(member.shape), "absent")

    def __str__(self) -> str:
        return "map"
