"""Lesson 8: the list registers of the GIC."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import ModuleType
from typing import Final, cast

from pyvmm.arch.gic import NUM_LRS
from pyvmm.lab.bare import Bare
from pyvmm.lab.exercise import Case, case, exercise, wanted

#: Acknowledges and ends five interrupts: their INTIDs are in X3 to X7.
PROGRAM: Final = """
    d518cce1  msr s3_0_c12_c12_7, x1
    d5184602  msr s3_0_c4_c6_0, x2
    d538cc03  mrs x3, s3_0_c12_c12_0
    d518cc23  msr s3_0_c12_c12_1, x3
    d538cc04  mrs x4, s3_0_c12_c12_0
    d518cc24  msr s3_0_c12_c12_1, x4
    d538cc05  mrs x5, s3_0_c12_c12_0
    d518cc25  msr s3_0_c12_c12_1, x5
    d538cc06  mrs x6, s3_0_c12_c12_0
    d518cc26  msr s3_0_c12_c12_1, x6
    d538cc07  mrs x7, s3_0_c12_c12_0
    d4000002  hvc #0
"""
_NONE: Final = 1023

TEMPLATE: Final = '''
def fill(pending, count):
    """Return the values of at most ``count`` list registers."""
    return []
'''

#: An INTID and its priority.
Interrupt = tuple[int, int]
Fill = Callable[[list[Interrupt], int], Sequence[int]]


@exercise(8, TEMPLATE)
def list_registers(module: ModuleType) -> Iterator[Case]:
    """Choose the interrupts that a vCPU gets next, and encode them.

    Define fill(pending, count).  `pending` is a list of (INTID, priority); a lower number is a more
    urgent priority.  Return a list with the values of at most `count` list registers for the most
    urgent ones; of two with the same priority, the lower INTID comes first.

    ICH_LR<n>_EL2: bits [63:62] are the state, 0b01 for pending; bit 60 is 1 for group 1, which
    Linux uses; bits [55:48] are the priority; bits [31:0] are the INTID.

    The values are loaded into a PE, and a guest acknowledges what it gets.
    """
    fill = cast("Fill", wanted(module, "fill"))
    for what, pending in (
        ("one interrupt", [(27, 0xA0)]),
        ("the more urgent one first", [(40, 0xA0), (50, 0x80)]),
        ("equal priorities: the lower INTID first", [(60, 0xA0), (33, 0xA0), (42, 0xA0)]),
        ("more than there are list registers", [(32 + n, 8 * (20 - n)) for n in range(12)]),
        ("none", []),
    ):
        expected = [intid for intid, _ in sorted(pending, key=lambda each: (each[1], each[0]))]
        seen = [*expected[:NUM_LRS], *[_NONE] * 5][:5]
        yield case(what, seen, partial(_acknowledged, fill, pending))


def _acknowledged(fill: Fill, pending: list[Interrupt]) -> list[int]:
    """Return what a guest reads from ICC_IAR1_EL1 with the list registers of a solution."""
    values = fill(list(pending), NUM_LRS)
    if len(values) > NUM_LRS:
        raise ValueError(f"{len(values)} values: the PE has {NUM_LRS} list registers")
    guest = Bare(PROGRAM)
    guest.context.x[1] = 1  # ICC_IGRPEN1_EL1
    guest.context.x[2] = 0xF8  # ICC_PMR_EL1
    for n, value in enumerate(values):
        guest.context.ich_lr[n] = value
    guest.run()
    return [guest.context.x[n] for n in range(3, 8)]
