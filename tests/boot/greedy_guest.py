"""A guest that repeatedly requests far more of its disk than is useful.

A flat binary like the built-in guest.  A request's buffers are the same piece of memory many times
over, in an indirect table; the queue has as many requests as it holds, each time it is notified.
After each time the guest prints the status of the last, one digit.
"""

from struct import pack

from pyvmm.vm import memory_map
from tests.core.program import assemble

ENTRY = memory_map.RAM_BASE + 0x8_0000
QUEUE_SIZE = 256
IN = 0
NEXT, WRITE, INDIRECT = 1, 2, 4
#: The rings, the request and its table, then the piece of memory; a realm shares all of it.
RINGS = memory_map.RAM_BASE + (16 << 20)
AVAIL, USED, HEADER, STATUS, TABLE = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000  # offsets
PIECE = RINGS + 0x1_0000
PIECE_SIZE = 8 << 20
END = PIECE + PIECE_SIZE

_VERSION_1, _ACCESS_PLATFORM = 1, 2  # of the upper 32 feature bits
_INDIRECT_DESC = 1 << 28

#: Kept throughout: x19 the device, x20 the UART, x21 the rings as the guest reaches them.
_SOURCE = f"""
    movz    x19, #{memory_map.VIRTIO_BASE >> 16}, lsl #16
    movz    x20, #{memory_map.UART_BASE >> 16}, lsl #16
    movz    x21, #{RINGS >> 16}, lsl #16
    mov     w22, #{_VERSION_1}
    adr     x9, is_realm
    ldr     w9, [x9]
    cbz     w9, start
    movz    x0, #0xC400, lsl #16        // RSI_REALM_CONFIG, into what is shared later
    movk    x0, #0x0196
    mov     x1, x21
    smc     #0
    ldr     x1, [x21]
    sub     x1, x1, #1
    mov     x10, #1
    lsl     x10, x10, x1                // the unprotected half
    mov     x1, x21
share:
    movz    x0, #0xC400, lsl #16        // RSI_IPA_STATE_SET: EMPTY, as far as the host goes
    movk    x0, #0x0197
    movz    x2, #{END >> 16}, lsl #16
    mov     x3, #0
    mov     x4, #0
    smc     #0
    movz    x2, #{END >> 16}, lsl #16
    cmp     x1, x2
    b.lo    share
    orr     x19, x19, x10
    orr     x20, x20, x10
    orr     x21, x21, x10
    mov     w22, #{_VERSION_1 | _ACCESS_PLATFORM}
start:
    adr     x1, descriptors             // the one descriptor, then the table
    ldp     x2, x3, [x1], #16
    stp     x2, x3, [x21]
    add     x4, x21, #{TABLE}
    ldp     x2, x3, [x1], #16
    stp     x2, x3, [x4], #16
    ldp     x2, x3, [x1], #16
    adr     x5, count
    ldr     w5, [x5]
    mov     x6, #1
next:
    add     x6, x6, #1
    movk    x3, #0, lsl #48
    orr     x7, x3, x6, lsl #48
    stp     x2, x7, [x4], #16
    sub     w5, w5, #1
    cbnz    w5, next
    ldp     x2, x3, [x1]
    stp     x2, x3, [x4]

    str     wzr, [x19, #0x70]           // Status: reset, acknowledge, driver
    mov     w0, #3
    str     w0, [x19, #0x70]
    mov     w0, #1
    str     w0, [x19, #0x24]            // DriverFeatures
    str     w22, [x19, #0x20]
    str     wzr, [x19, #0x24]
    movz    w0, #{_INDIRECT_DESC >> 16}, lsl #16
    str     w0, [x19, #0x20]
    mov     w0, #11
    str     w0, [x19, #0x70]            // features OK
    str     wzr, [x19, #0x30]           // queue 0
    mov     w0, #{QUEUE_SIZE}
    str     w0, [x19, #0x38]
    movz    w0, #{RINGS >> 16}, lsl #16
    str     w0, [x19, #0x80]
    str     wzr, [x19, #0x84]
    add     w1, w0, #{AVAIL}
    str     w1, [x19, #0x90]
    str     wzr, [x19, #0x94]
    add     w1, w0, #{USED}
    str     w1, [x19, #0xA0]
    str     wzr, [x19, #0xA4]
    mov     w0, #1
    str     w0, [x19, #0x44]
    mov     w0, #15
    str     w0, [x19, #0x70]            // go
    mov     w1, #0
    mov     w3, #0x3a                   // ":" before the first
    strb    w3, [x20]
again:
    adr     x2, num_requests
    ldr     w2, [x2]
    add     w1, w1, w2
    add     x2, x21, #{AVAIL}
    strh    w1, [x2, #2]
    dsb     sy
    str     wzr, [x19, #0x50]           // notify
    dsb     sy
    add     x2, x21, #{STATUS}
    ldrb    w3, [x2]
    add     w3, w3, #0x30
    strb    w3, [x20]
    b       again
    .balign 16
is_realm:
    .word   0
count:
    .word   0
num_requests:
    .word   0
    .balign 16
descriptors:
"""


def greedy_guest(count: int, num_requests: int, *, is_realm: bool) -> bytes:
    """Return the program.

    Args:
        count: how often each request names the piece of memory.
        num_requests: that it has done at once.
        is_realm: whether it has to share its memory with the device first.
    """
    code = assemble("\n".join(line.split("//")[0] for line in _SOURCE.splitlines()))
    table = (
        (RINGS + TABLE, 16 * (count + 2), INDIRECT, 0),
        (RINGS + HEADER, 16, NEXT, 1),
        (PIECE, PIECE_SIZE, NEXT | WRITE, 0),
        (RINGS + STATUS, 1, WRITE, 0),
    )
    words = pack("<III4x", is_realm, count, num_requests)
    return code[: -len(words)] + words + b"".join(pack("<QIHH", *entry) for entry in table)
