"""Declarations of registers and memory structures: the project's only metaprogramming.

A register is an ``int`` whose bit fields have names and types:

>>> class Colour(OpenEnum):
...     OTHER = -1
...     RED = 0
...     BLUE = 2
>>> class PAINT(Register):
...     COLOUR = Field(5, 4, Colour)
...     GLOSS = Field(3, 3, bool)
...     DEPTH = Field(2, 0, int)
>>> paint = PAINT(0x2D)
>>> paint.COLOUR, paint.GLOSS, paint.DEPTH
(<Colour.BLUE: 2>, True, 5)
>>> print(paint.replace(COLOUR=1, DEPTH=0))    # a reserved encoding never raises
PAINT(COLOUR=OTHER, GLOSS=True, DEPTH=0x0)
>>> PAINT.DEPTH.mask, PAINT.COLOUR.encode(Colour.BLUE)
(7, 32)

A structure in memory is a ``Layout``: a buffer with members at the specified offsets.

>>> class Point(Layout, size=16):
...     x = U32(0x0)
...     y = U64(0x8)
>>> point = Point.of(x=1, y=2)
>>> point.y = 0x102
>>> bytes(point).hex()
'01000000000000000201000000000000'
>>> Point.packer().pack(1, 0x102) == bytes(point)
True
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from enum import Enum, IntEnum
from struct import Struct
from typing import ClassVar, Final, Generic, Self, TypeAlias, TypeVar, overload

T = TypeVar("T", bound=int)
V = TypeVar("V")

MASK32: Final = (1 << 32) - 1
MASK64: Final = (1 << 64) - 1


def replace_bytes(register: int, offset: int, size: int, value: int) -> int:
    """Return a register of 64 bits after a write of ``size`` bytes at a byte offset in it.

    >>> hex(replace_bytes(0x1111_2222_3333_4444, 4, 2, 0xABCD))
    '0x1111abcd33334444'
    """
    mask = (1 << 8 * size) - 1 << 8 * offset & MASK64
    return register & ~mask | value << 8 * offset & mask


class OpenEnum(IntEnum):
    """An enumeration for a field with reserved encodings, which read as the first member."""

    @classmethod
    def _missing_(cls, value: object) -> Self:  # noqa: ARG003 - any other value is reserved
        return next(iter(cls))


class Field(Generic[T]):
    """Bits ``high`` to ``low`` of a register, read as a ``kind``.

    Raises:
        TypeError: ``kind`` is an enumeration that raises for some encoding.
    """

    __slots__ = ("kind", "low", "mask", "name", "width")

    def __init__(self, high: int, low: int, kind: Callable[[int], T]) -> None:
        self.low = low
        self.width = high - low + 1
        self.mask = ((1 << self.width) - 1) << low
        self.kind = kind
        self.name = ""
        if isinstance(kind, type) and issubclass(kind, Enum) and not issubclass(kind, OpenEnum):
            for value in range(1 << self.width):
                kind(value)

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, register: None, owner: type) -> Self: ...
    @overload
    def __get__(self, register: int, owner: type) -> T: ...
    def __get__(self, register: int | None, owner: type) -> Self | T:
        return self if register is None else self.decode(register)

    def decode(self, raw: int) -> T:
        """Read the field from the raw register value."""
        return self.kind((raw & self.mask) >> self.low)

    def encode(self, value: int) -> int:
        """Shift ``value`` to the field's bits; ValueError if it does not fit."""
        if not 0 <= value < 1 << self.width:
            raise ValueError(f"{self.name}: {value:#x} does not fit in {self.width} bits")
        return value << self.low


class Register(int):
    """An immutable register value; subclasses declare its fields."""

    __slots__ = ()

    @classmethod
    def fields(cls) -> "list[Field[int]]":
        """Return the fields in the order of their declaration."""
        return [field for field in vars(cls).values() if isinstance(field, Field)]

    @classmethod
    def of(cls, **values: int) -> Self:
        """Build a value from named fields, all others zero."""
        return cls(0).replace(**values)

    def replace(self, **values: int) -> Self:
        """Return this value with some fields changed; ValueError if a value does not fit."""
        raw = int(self)
        for name, value in values.items():
            field = getattr(type(self), name)
            raw = raw & ~field.mask | field.encode(value)
        return type(self)(raw)

    def __str__(self) -> str:
        shown = (f"{field.name}={_show(field.decode(self))}" for field in self.fields())
        return f"{type(self).__name__}({', '.join(shown)})"

    __repr__ = __str__


def _show(value: int) -> str:
    if isinstance(value, Enum):
        return value.name
    return str(value) if isinstance(value, bool) else f"{value:#x}"


Buffer: TypeAlias = bytes | bytearray | memoryview


class Member(ABC, Generic[V]):
    """One member of a layout: its offset and its ``struct`` format."""

    __slots__ = ("code", "name", "offset", "struct")

    def __init__(self, offset: int, code: str) -> None:
        self.offset = offset
        self.code = code
        self.struct = Struct("<" + code)
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, layout: None, owner: type) -> Self: ...
    @overload
    def __get__(self, layout: "Layout", owner: type) -> V: ...
    def __get__(self, layout: "Layout | None", owner: type) -> Self | V:
        return self if layout is None else self.load(layout.data)

    def __set__(self, layout: "Layout", value: V) -> None:
        values = value if isinstance(value, tuple) else (value,)
        self.struct.pack_into(layout.data, self.offset, *values)

    @abstractmethod
    def load(self, data: Buffer) -> V:
        """Read the member from a buffer that contains its structure."""


class _Scalar(Member[int]):
    __slots__ = ()

    def load(self, data: Buffer) -> int:
        value: int = self.struct.unpack_from(data, self.offset)[0]
        return value


class _Bytes(Member[bytes]):
    __slots__ = ()

    def load(self, data: Buffer) -> bytes:
        return bytes(data[self.offset : self.offset + self.struct.size])


class _Array(Member[tuple[int, ...]]):
    __slots__ = ()

    def load(self, data: Buffer) -> tuple[int, ...]:
        return self.struct.unpack_from(data, self.offset)


def U8(offset: int) -> Member[int]:
    """Declare an unsigned byte."""
    return _Scalar(offset, "B")


def U16(offset: int) -> Member[int]:
    """Declare an unsigned 16-bit integer; all integers are little-endian."""
    return _Scalar(offset, "H")


def U32(offset: int) -> Member[int]:
    """Declare an unsigned 32-bit integer."""
    return _Scalar(offset, "I")


def U64(offset: int) -> Member[int]:
    """Declare an unsigned 64-bit integer."""
    return _Scalar(offset, "Q")


def S32(offset: int) -> Member[int]:
    """Declare a signed 32-bit integer."""
    return _Scalar(offset, "i")


def S64(offset: int) -> Member[int]:
    """Declare a signed 64-bit integer."""
    return _Scalar(offset, "q")


def U16Array(offset: int, count: int) -> Member[tuple[int, ...]]:
    """Declare ``count`` consecutive unsigned 16-bit integers, read and written as a tuple."""
    return _Array(offset, f"{count}H")


def U64Array(offset: int, count: int) -> Member[tuple[int, ...]]:
    """Declare ``count`` consecutive unsigned 64-bit integers, read and written as a tuple."""
    return _Array(offset, f"{count}Q")


def Bytes(offset: int, size: int) -> Member[bytes]:
    """Declare ``size`` bytes."""
    return _Bytes(offset, f"{size}s")


class Layout:
    """A structure in memory: ``size`` bytes, zero outside its members."""

    __slots__ = ("data",)

    size: ClassVar[int]

    def __init_subclass__(cls, size: int) -> None:
        cls.size = size

    def __init__(self, data: Buffer = b"") -> None:
        """Copy ``data``, a whole structure; by default, all members are zero."""
        self.data = bytearray(data) if data else bytearray(self.size)

    @classmethod
    def of(cls, **values: int | bytes | tuple[int, ...]) -> Self:
        """Build a structure from named members, all others zero."""
        layout = cls()
        for name, value in values.items():
            setattr(layout, name, value)
        return layout

    @classmethod
    def members(cls) -> list["Member[int] | Member[bytes] | Member[tuple[int, ...]]"]:
        """Return the members by ascending offset."""
        found = [member for member in vars(cls).values() if isinstance(member, Member)]
        return sorted(found, key=lambda member: member.offset)

    @classmethod
    def packer(cls, only: Iterable[str] = (), *, whole: bool = True) -> Struct:
        """Make one ``Struct`` for all members by ascending offset, for a hot path.

        ``only`` selects members; ``whole`` includes the padding after the last one.
        """
        wanted = frozenset(only)
        code, end = "<", 0
        for member in cls.members():
            if wanted and member.name not in wanted:
                continue
            code += f"{member.offset - end}x{member.code}"
            end = member.offset + member.struct.size
        return Struct(code + (f"{cls.size - end}x" if whole else ""))

    def __bytes__(self) -> bytes:
        return bytes(self.data)

    def __str__(self) -> str:
        shown = (f"{member.name}={getattr(self, member.name)}" for member in self.members())
        return f"{type(self).__name__}({', '.join(shown)})"
