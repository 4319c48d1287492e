"""A static arm64 Linux program that counts a loop of its own with perf_event_open()."""

from collections.abc import Sequence
from struct import pack

from tests.boot.static_program import static_program

ROUNDS = 1 << 20
LOOP_SIZE = 4  # instructions: a load, a store, two others, of which one is a branch
AROUND = 100  # more than there are other instructions while the counter is on
_TYPE_RAW, _ATTR_SIZE = 4, 64
_USER_ONLY = 1 | 1 << 5 | 1 << 6  # disabled at first; without the kernel and a hypervisor

#: x19: the next struct perf_event_attr; x20: how many are left; x21: data; x22: the counter's file.
_SOURCE = f"""
    adr     x19, attributes
    mov     x20, #{{count}}
    sub     sp, sp, #16
next:
    mov     x0, x19
    mov     x1, #0
    mov     x2, #-1
    mov     x3, #-1
    mov     x4, #0
    mov     x8, #241                // perf_event_open
    svc     #0
    tbnz    x0, #63, failed
    mov     x22, x0
    mov     x1, #0x2400             // PERF_EVENT_IOC_ENABLE
    mov     x2, #0
    mov     x8, #29                 // ioctl
    svc     #0
    mov     x9, #{ROUNDS >> 16}
    lsl     x9, x9, #16
round:
    ldr     x10, [sp]
    str     x10, [sp, #8]
    subs    x9, x9, #1
    b.ne    round
    mov     x0, x22
    mov     x1, #0x2401             // PERF_EVENT_IOC_DISABLE
    mov     x8, #29
    svc     #0
    mov     x0, x22
    mov     x1, sp
    mov     x2, #8
    mov     x8, #63                 // read
    svc     #0
    mov     x0, #1
    mov     x1, sp
    mov     x2, #8
    mov     x8, #64                 // write
    svc     #0
    add     x19, x19, #{_ATTR_SIZE}
    subs    x20, x20, #1
    b.ne    next
failed:
    neg     x0, x0
    cmp     x20, #0
    csel    x0, x0, xzr, ne
    mov     x8, #93                 // exit
    svc     #0
    .balign 8
attributes:
"""


def counters_program(events: Sequence[int], period: int = 0) -> bytes:
    """Return an ELF file that writes how often each event occurred in user mode, 8 bytes each.

    The kernel takes a sample, of nothing, after ``period`` events, unless it is 0.
    """
    attributes = b"".join(
        pack("<IIQQQQQ", _TYPE_RAW, _ATTR_SIZE, event, period, 0, 0, _USER_ONLY)
        .ljust(_ATTR_SIZE)
        .replace(b" ", b"\0")
        for event in events
    )
    return static_program(_SOURCE.format(count=len(events)), attributes)
