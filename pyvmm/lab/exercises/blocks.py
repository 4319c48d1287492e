"""Lesson 10: basic blocks."""

from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Final, cast

from pyvmm.core import decode
from pyvmm.lab import code
from pyvmm.lab.exercise import Case, case, exercise, wanted
from pyvmm.lab.exercises import exit_loop, list_registers, serial

_WORD: Final = 4
#: One of each instruction that ends a block; the targets are addresses.
BRANCHES: Final = """
    d503201f  nop
    14000002  b #0xc
    94000002  bl #0x10
    54000040  b.eq #0x14
    b4000040  cbz x0, #0x18
    b5000040  cbnz x0, #0x1c
    36080040  tbz w0, #1, #0x20
    b7080040  tbnz x0, #33, #0x24
    d61f0000  br x0
    d63f0000  blr x0
    d65f03c0  ret
    d69f03e0  eret
    d4000001  svc #0
    d4000002  hvc #0
    d4000003  smc #0
    d4200000  brk #0
    d503201f  nop
"""
#: The rows of the decode tables that end a block, up to the first underscore.
_ENDS: Final = frozenset(
    {"B", "BL", "BCOND", "CBZ", "TBZ", "BR", "BLR", "RET", "ERET", "SVC", "HVC", "SMC", "BRK"}
)

TEMPLATE: Final = '''
def blocks(words):
    """Return the blocks as a list of (index of the first instruction, number of instructions)."""
    return [(0, len(words))]
'''

Blocks = Callable[[list[int]], list[tuple[int, int]]]


@exercise(10, TEMPLATE)
def blocks(module: ModuleType) -> Iterator[Case]:
    """Cut A64 code into blocks, as a translator does.

    Define blocks(words) for a list of instructions.  A block ends with an instruction after which
    the PE may continue elsewhere, or at the end of the list:

      B, BL                  bits [30:26] are 0b00101
      B.cond                 bits [31:24] are 0x54, bit 4 is 0
      CBZ, CBNZ              bits [30:25] are 0b011010
      TBZ, TBNZ              bits [30:25] are 0b011011
      BR, BLR, RET, ERET     bits [31:25] are 0b1101011
      SVC, HVC, SMC, BRK     bits [31:24] are 0xD4

    Return (index of the first instruction, number of instructions) of each block, in order.
    """
    cut = cast("Blocks", wanted(module, "blocks"))
    for what, listing in (
        ("the program of exercise serial", serial.PROGRAM),
        ("the program of exercise exit-loop", exit_loop.PROGRAM),
        ("the program of exercise list-registers", list_registers.PROGRAM),
        ("one of each branch", BRANCHES),
        ("the lab's realm", code.SERVICE),
        ("no code", ""),
    ):
        data = code.words(listing)
        words = [int.from_bytes(data[n : n + _WORD], "little") for n in range(0, len(data), _WORD)]
        yield case(what, list(_blocks(words)), partial(cut, list(words)))


def _blocks(words: list[int]) -> Iterator[tuple[int, int]]:
    """Cut where the machine's decoder finds a branch."""
    first = 0
    for n, word in enumerate(words, 1):
        if decode(word).partition("_")[0] in _ENDS or n == len(words):
            yield first, n - first
            first = n
