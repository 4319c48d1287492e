"""A realm's program that points its disk to a page that it does not share.

A flat binary like the built-in guest.  It shares one page, makes a virtio queue in it, and sends
three requests, each to a device that it has just reset: read a sector into shared memory, read one
into a protected page, write one from a protected page.  After each it prints what became of it.
"""

from pyvmm.vm import memory_map
from tests.core.program import assemble

PATTERN = 0xA5A5_5A5A_C3C3_3C3C
SHARED_BUFFER = 0x400  # offsets in the shared page
AVAIL, USED, HEADER, STATUS = 0x100, 0x200, 0x300, 0x320
QUEUE_SIZE = 8
IN, OUT = 0, 1
NEXT, WRITE = 1, 2

#: Kept throughout: x19 the device, x20 the UART, x21 the shared page's alias, x22 the protected
#: page, x23 the shared page's address for the device.
_SOURCE = f"""
    adr     x0, stack
    mov     sp, x0
    adr     x22, protected
    adr     x23, shared
    movz    x0, #0xC400, lsl #16        // RSI_REALM_CONFIG; its answer is overwritten later
    movk    x0, #0x0196
    mov     x1, x23
    smc     #0
    ldr     x1, [x23]
    sub     x1, x1, #1
    mov     x2, #1
    lsl     x2, x2, x1                  // the unprotected half
    orr     x21, x23, x2
    movz    x19, #{memory_map.VIRTIO_BASE >> 16}, lsl #16
    orr     x19, x19, x2
    movz    x20, #{memory_map.UART_BASE >> 16}, lsl #16
    orr     x20, x20, x2
    movz    x0, #0xC400, lsl #16        // RSI_IPA_STATE_SET: the page is shared from now on
    movk    x0, #0x0197
    mov     x1, x23
    add     x2, x23, #4096
    mov     x3, #0                      // EMPTY
    mov     x4, #0
    smc     #0
    bl      put_hex

    bl      reset
    mov     x0, #{IN}
    add     x2, x23, #{SHARED_BUFFER}
    mov     w3, #{NEXT | WRITE}
    bl      request
    ldr     x0, [x21, #{SHARED_BUFFER}]
    bl      report

    bl      reset
    mov     x0, #{IN}
    mov     x2, x22
    mov     w3, #{NEXT | WRITE}
    bl      request
    ldr     x0, [x22]
    bl      report

    bl      reset
    mov     x0, #{OUT}
    mov     x2, x22
    mov     w3, #{NEXT}
    bl      request
    ldr     x0, [x22]
    bl      report

    movz    x0, #0x8400, lsl #16        // PSCI SYSTEM_OFF
    movk    x0, #0x0008
    smc     #0

reset:
    add     x1, x21, #{SHARED_BUFFER}
clear:
    str     xzr, [x1, #-8]!
    cmp     x1, x21
    b.ne    clear
    mov     w0, #0xFF                   // no status that a device would write
    strb    w0, [x21, #{STATUS}]
    str     wzr, [x19, #0x70]           // Status: reset, acknowledge, driver
    mov     w0, #1
    str     w0, [x19, #0x70]
    mov     w0, #3
    str     w0, [x19, #0x70]
    mov     w1, #1
    str     w1, [x19, #0x24]            // DriverFeatures: VERSION_1, ACCESS_PLATFORM
    str     w0, [x19, #0x20]
    str     wzr, [x19, #0x24]
    str     wzr, [x19, #0x20]
    mov     w0, #11
    str     w0, [x19, #0x70]            // features OK
    str     wzr, [x19, #0x30]           // queue 0
    mov     w0, #{QUEUE_SIZE}
    str     w0, [x19, #0x38]
    str     w23, [x19, #0x80]
    lsr     x1, x23, #32
    str     w1, [x19, #0x84]
    add     x0, x23, #{AVAIL}
    str     w0, [x19, #0x90]
    str     w1, [x19, #0x94]
    add     x0, x23, #{USED}
    str     w0, [x19, #0xA0]
    str     w1, [x19, #0xA4]
    mov     w0, #1
    str     w0, [x19, #0x44]            // the queue is ready, so is the driver
    mov     w0, #15
    str     w0, [x19, #0x70]
    ret

// x0: IN or OUT, x2: the address of 512 bytes, w3: their descriptor's flags. Always sector 1.
request:
    str     x0, [x21, #{HEADER}]
    mov     x4, #1
    str     x4, [x21, #{HEADER + 8}]
    add     x5, x23, #{HEADER}
    str     x5, [x21]                   // descriptor 0: the header
    mov     w5, #16
    str     w5, [x21, #8]
    mov     w5, #{NEXT}
    strh    w5, [x21, #12]
    strh    w4, [x21, #14]
    str     x2, [x21, #16]              // descriptor 1: the data
    mov     w5, #512
    str     w5, [x21, #24]
    strh    w3, [x21, #28]
    mov     w5, #2
    strh    w5, [x21, #30]
    add     x6, x23, #{STATUS}
    str     x6, [x21, #32]              // descriptor 2: the status
    str     w4, [x21, #40]
    strh    w5, [x21, #44]
    strh    w4, [x21, #{AVAIL + 2}]     // one request: descriptor 0
    dsb     sy
    str     wzr, [x19, #0x50]           // notify: when this returns, the device is done
    dsb     sy
    ret

// x0: the beginning of the data. Prints it, the request's status, and how many came back.
report:
    mov     x29, x30
    bl      put_hex
    ldrb    w0, [x21, #{STATUS}]
    bl      put_hex
    ldrh    w0, [x21, #{USED + 2}]
    bl      put_hex
    mov     w0, #10
    strb    w0, [x20]
    ret     x29

// x0: what to print, with a space.
put_hex:
    mov     x1, #64
digit:
    sub     x1, x1, #4
    lsr     x2, x0, x1
    and     w2, w2, #15
    add     w2, w2, #48
    cmp     w2, #58
    b.lo    put_digit
    add     w2, w2, #39
put_digit:
    strb    w2, [x20]
    cbnz    x1, digit
    mov     w2, #32
    strb    w2, [x20]
    ret
    .balign 4096
protected:
    .space  4096
shared:
    .space  4096
    .space  256
stack:
"""


def dma_guest() -> bytes:
    """Return the program, for RAM + 0x80000; its protected page is full of the pattern."""
    code = assemble("\n".join(line.split("//")[0] for line in _SOURCE.splitlines()))
    at = len(code) - 256 - 2 * 4096
    return code[:at] + PATTERN.to_bytes(8, "little") * 512 + code[at + 4096 :]
