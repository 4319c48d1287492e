"""Lesson 1: a serial port."""

from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Final, Protocol, cast

from pyvmm.lab.bare import Bare
from pyvmm.lab.exercise import Case, case, exercise, wanted

#: Copies its input to its output, in capital letters, until there is none.
PROGRAM: Final = """
next:
    b9401801  ldr w1, [x0, #0x18]
    372000e1  tbnz w1, #4, done
    39400002  ldrb w2, [x0]
    7101845f  cmp w2, #0x61
    54000043  b.lo store
    51008042  sub w2, w2, #0x20
store:
    39000002  strb w2, [x0]
    17fffff9  b next
done:
    52800100  mov w0, #8
    72b08000  movk w0, #0x8400, lsl #16
    d4000002  hvc #0
"""

TEMPLATE: Final = """
DATA = 0x00
FLAGS = 0x18
RECEIVE_EMPTY = 1 << 4
TRANSMIT_EMPTY = 1 << 7


class Serial:
    def __init__(self, typed: bytes) -> None:
        self.typed = typed
        self.output = bytearray()

    def read(self, offset: int, size: int) -> int:
        return RECEIVE_EMPTY

    def write(self, offset: int, size: int, value: int) -> None:
        pass
"""


class _Serial(Protocol):
    output: bytearray

    def read(self, offset: int, size: int, /) -> int: ...
    def write(self, offset: int, size: int, value: int, /) -> None: ...


@exercise(1, TEMPLATE)
def serial(module: ModuleType) -> Iterator[Case]:
    """Write a serial port for a guest that turns its input into capital letters.

    The device has two registers, a small part of Arm's PL011:

      DATA, offset 0      a load takes the next byte that was typed, 0 if there is none;
                          a store of any size appends its low byte to the output
      FLAGS, offset 0x18  bit 4 (RXFE) is 1 while no byte waits, bit 7 (TXFE) is always 1;
                          a store changes nothing

    All other offsets read as zero and ignore stores.  `output` is what the guest wrote.
    """
    make = cast("Callable[[bytes], _Serial]", wanted(module, "Serial"))
    for typed in (b"", b"a", b"realm 1", b"Hello, World" * 20):
        yield case(f"the guest reads {typed[:12]!r}", typed.upper(), partial(_run, make, typed))
    port = make(b"xy")
    yield case("FLAGS with a byte waiting", 0x80, lambda: port.read(0x18, 4))
    yield case("two bytes, then none", [0x78, 0x79, 0], lambda: [port.read(0, 1) for _ in range(3)])
    yield case("FLAGS with none waiting", 0x90, lambda: port.read(0x18, 4))
    yield case("other offsets read as zero", [0, 0], lambda: [port.read(4, 4), port.read(0xFF0, 8)])
    yield case("stores to other offsets do nothing", b"", lambda: _stores(make(b"")))
    yield case("a store of 4 bytes is one character", b"A", lambda: _wide_store(make(b"")))


def _run(make: Callable[[bytes], _Serial], typed: bytes) -> bytes:
    port = make(typed)
    Bare(PROGRAM).run_with(port)
    return bytes(port.output)


def _stores(port: _Serial) -> bytes:
    for offset in (0x18, 0x4, 0xFF0):
        port.write(offset, 4, 0x41)
    return bytes(port.output)


def _wide_store(port: _Serial) -> bytes:
    port.write(0, 4, 0x1241)
    return bytes(port.output)
