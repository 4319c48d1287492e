"""Breakpoints and watchpoints of the protocol."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from pyvmm.arch.bits import MASK64
from pyvmm.host.debug import Access, Stop, Watch
from pyvmm.vm.gdb.arguments import BadCommandError, numbers

SOFTWARE, HARDWARE = 0, 1  # breakpoints; we treat them alike
#: Types of watchpoints: the accesses that they watch, and their names in a stop reply.
WATCHES: Final = {
    2: (Access.WRITE, b"watch"),
    3: (Access.READ, b"rwatch"),
    4: (Access.READ | Access.WRITE, b"awatch"),
}


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """A breakpoint or watchpoint; ``kind`` is a watchpoint's size in bytes."""

    type: int
    address: int
    kind: int

    @classmethod
    def parse(cls, arguments: bytes) -> "Point":
        """Parse type, address and kind; ignore conditions, which GDB evaluates itself."""
        point = cls(*numbers(arguments.partition(b";")[0], 3))
        if point.type not in {SOFTWARE, HARDWARE, *WATCHES} or (point.is_watch and not point.kind):
            raise BadCommandError
        return point

    @property
    def is_watch(self) -> bool:
        """Whether it is a watchpoint."""
        return self.type in WATCHES


def breakpoints_of(points: Collection[Point]) -> list[int]:
    """Return the addresses of the breakpoints."""
    return sorted({point.address for point in points if not point.is_watch})


def watches_of(points: Collection[Point]) -> list[Watch]:
    """Return the watchpoints."""
    return [
        Watch(point.address, point.kind, WATCHES[point.type][0])
        for point in sorted(points)
        if point.is_watch
    ]


def breakpoint_name(points: Collection[Point], pc: int) -> bytes:
    """Return the reason in the reply for a stop at a breakpoint."""
    is_software = any(point.type == SOFTWARE and point.address == pc for point in points)
    return b"swbreak" if is_software else b"hwbreak"


def watch_name(points: Collection[Point], stop: Stop) -> bytes:
    """Return the reason in the reply for a stop at a watchpoint: the type that was hit."""
    access = Access.WRITE if stop.is_write else Access.READ
    for point in sorted(points):
        wanted, name = WATCHES.get(point.type, (Access(0), b""))
        if wanted & access and (stop.address - point.address) & MASK64 < point.kind:
            return name
    return WATCHES[4][1]
