"""A realm's program that makes given calls and prints the results.

A call that is INCOMPLETE without having done anything is made again.
"""

from collections.abc import Sequence

from pyvmm.arch.rsi import RsiStatus
from pyvmm.vm import memory_map
from pyvmm.vm.memory_map import RAM_BASE
from tests.core.program import assemble

#: A protected page for answers, which the host has to provide.
PAGE = RAM_BASE + 0x10_0000
#: Not a call: print x2 words from address x1 on.
DUMP = 0
NUM_ARGUMENTS = 11
NUM_RESULTS = 9

#: Kept throughout: x19 the next call's registers, x20 the UART.
_SOURCE = f"""
    adr     x19, calls
    movz    x20, #{memory_map.UART_BASE >> 16}, lsl #16
    orr     x20, x20, #0x100000000      // the unprotected half of a 33-bit IPA space
next:
    ldr     x0, [x19]
    cmn     x0, #1
    b.eq    end
    ldp     x0, x1, [x19]
    ldp     x2, x3, [x19, #16]
    ldp     x4, x5, [x19, #32]
    ldp     x6, x7, [x19, #48]
    ldp     x8, x9, [x19, #64]
    ldr     x10, [x19, #80]
    add     x19, x19, #{8 * NUM_ARGUMENTS}
    cbz     x0, show
    smc     #0
    cmp     x0, #{RsiStatus.INCOMPLETE}
    ccmp    x1, #0, #0, eq
    sub     x11, x19, #{8 * NUM_ARGUMENTS}
    csel    x19, x11, x19, eq           // INCOMPLETE, and nothing done: the same once more
    b.eq    next
    adr     x11, results
    stp     x0, x1, [x11]
    stp     x2, x3, [x11, #16]
    stp     x4, x5, [x11, #32]
    stp     x6, x7, [x11, #48]
    str     x8, [x11, #64]
    mov     x1, x11
    mov     x2, #{NUM_RESULTS}
show:
    ldr     x3, [x1], #8
    mov     x4, #64
digit:
    sub     x4, x4, #4
    lsr     x5, x3, x4
    and     w5, w5, #15
    add     w5, w5, #48
    cmp     w5, #58
    b.lo    put
    add     w5, w5, #39
put:
    strb    w5, [x20]
    cbnz    x4, digit
    mov     w5, #32
    strb    w5, [x20]
    subs    x2, x2, #1
    b.ne    show
    mov     w5, #10
    strb    w5, [x20]
    b       next
end:
    movz    x0, #0x8400, lsl #16        // PSCI SYSTEM_OFF
    movk    x0, #0x0008
    smc     #0
    .balign 128
results:
    .space  128
calls:
"""


def rsi_guest(*calls: Sequence[int]) -> bytes:
    """Return the program, for RAM + 0x80000; a call is its registers from x0 on."""
    code = assemble("\n".join(line.split("//")[0] for line in _SOURCE.splitlines()))
    registers = [(*call, *(0,) * (NUM_ARGUMENTS - len(call))) for call in calls]
    words = [*(word for each in registers for word in each), (1 << 64) - 1]
    return code + b"".join(word.to_bytes(8, "little") for word in words)


def answers(output: str) -> list[list[int]]:
    """Return the printed results, one call per line: x0 to x8, or dumped memory."""
    return [[int(word, 16) for word in line.split()] for line in output.splitlines()]
