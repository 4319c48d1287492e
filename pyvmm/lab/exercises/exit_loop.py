"""Lesson 3: the loop around a PE."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Final, cast

from pyvmm.arch.machine import Pe, PeContext
from pyvmm.lab.bare import Bare, Device, Log
from pyvmm.lab.exercise import Case, case, exercise, wanted

#: Accesses of each kind; X0 is the device, X1 a value.  Then SYSTEM_OFF.
PROGRAM: Final = """
    b9000001  str w1, [x0]
    39401002  ldrb w2, [x0, #4]
    39801003  ldrsb x3, [x0, #4]
    39c01004  ldrsb w4, [x0, #4]
    79801005  ldrsh x5, [x0, #8]
    f9400406  ldr x6, [x0, #8]
    f900081f  str xzr, [x0, #16]
    79003006  strh w6, [x0, #24]
    b940041f  ldr wzr, [x0, #4]
    528ea609  mov w9, #30000
loop:
    71000529  subs w9, w9, #1
    54ffffe1  b.ne loop
    52800100  mov w0, #8
    72b08000  movk w0, #0x8400, lsl #16
    d4000002  hvc #0
"""
#: What a device without any surprise holds.
CONTENT: Final = 0x1234_5678_9ABC_DEF0
_ACCESSES: Final = [
    ("store", 0, 4, 0x89AB_CDEF), ("load", 4, 1, 0xF0), ("load", 4, 1, 0xF0), ("load", 4, 1, 0xF0),
    ("load", 8, 2, 0xDEF0), ("load", 8, 8, CONTENT), ("store", 16, 8, 0), ("store", 24, 2, 0xDEF0),
    ("load", 4, 4, 0x9ABC_DEF0),
]  # fmt: skip
#: X2 to X6 at the end.
_REGISTERS: Final = [0xF0, 0xFFFF_FFFF_FFFF_FFF0, 0xFFFF_FFF0, 0xFFFF_FFFF_FFFF_DEF0, CONTENT]
#: An access that no syndrome describes, and what a VMM can do about it: nothing.
PAIR: Final = """
    a9400c02  ldp x2, x3, [x0]
    52800100  mov w0, #8
    72b08000  movk w0, #0x8400, lsl #16
    d4000002  hvc #0
"""

TEMPLATE: Final = '''
SYNC, BUDGET = 0, 2  # values of leave.reason
DEVICE = 0x0900_0000


def run(pe, context, device):
    """Run the guest until it ends; return "off" or "stopped"."""
    while True:
        leave = pe.run(context, 10_000)
        return "stopped"
'''

Run = Callable[[Pe, PeContext, Device], str]


@exercise(3, TEMPLATE)
def exit_loop(module: ModuleType) -> Iterator[Case]:
    """Write the loop that runs a guest and performs its device accesses.

    Define run(pe, context, device).  `pe.run(context, budget)` runs the guest until an exit and
    returns it: `reason` is SYNC for an exception to EL2, with the syndrome in `esr`, `far` and
    `hpfar`, or BUDGET when the number of instructions is used up: run again.

    A data abort from the guest (EC, esr[31:26], is 0x24) whose syndrome is valid (ISV, bit 24) is
    an access to a device.  The address is (hpfar & 0xFF_FFFF_FFF0) << 8 | far & 0xFFF; pass its
    offset from DEVICE on.  The access has 1 << esr[23:22] bytes; bit 6 (WnR) is 1 for a store; the
    register is esr[20:16], where 31 is the zero register.  A load extends its sign if bit 21 (SSE)
    is 1: to 64 bits if bit 15 (SF) is 1, otherwise to 32; the rest of the register is zero.  Use
    device.read(offset, size) and device.write(offset, size, value).  Afterwards context.pc must
    move on by 4.

    HVC (EC 0x16) with the low word of X0 = 0x84000008 is PSCI's SYSTEM_OFF: return "off".
    Anything else: return "stopped".  Registers are context.x[0] to context.x[30].
    """
    run = cast("Run", wanted(module, "run"))
    guest, device = Bare(PROGRAM), Log(lambda _offset: CONTENT)
    guest.context.x[1] = 0x0123_4567_89AB_CDEF
    x = guest.context.x
    yield case("a guest that ends", "off", lambda: run(guest.pe, guest.context, device))
    yield case("its accesses", _ACCESSES, lambda: device.accesses)
    yield case("its registers", _REGISTERS, lambda: [x[n] for n in range(2, 7)])
    pair = Bare(PAIR)
    yield case(
        "an access without a syndrome", "stopped", lambda: run(pair.pe, pair.context, device)
    )
