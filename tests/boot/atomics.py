"""A static arm64 Linux program, assembled here: four threads that count together."""

from tests.boot.static_program import static_program

NUM_THREADS = 4
ROUNDS = 100_000

#: x20.. are the addresses of a counter each; the last two are the lock and who is done.
_SOURCE = f"""
    adr     x20, data
    add     x21, x20, #64
    add     x22, x20, #128
    add     x23, x20, #192
    add     x24, x20, #256
    mov     x19, #{NUM_THREADS - 1}
spawn:
    mov     x0, #0x0f00
    movk    x0, #5, lsl #16
    mov     x1, #0
    mov     x2, #0
    mov     x3, #0
    mov     x4, #0
    mov     x8, #220
    svc     #0
    cbz     x0, work
    sub     x19, x19, #1
    cbnz    x19, spawn
work:
    mov     x25, #{ROUNDS & 0xFFFF}
    movk    x25, #{ROUNDS >> 16}, lsl #16
    mov     x26, #1
round:
    .word   0xf83a029f              // stadd x26, [x20]
exclusive:
    ldxr    x0, [x21]
    add     x0, x0, #1
    stxr    w1, x0, [x21]
    cbnz    w1, exclusive
lock:
    mov     w0, #0
    .word   0x88e07efa              // casa w0, w26, [x23]
    cbz     w0, locked
    mov     x8, #124
    svc     #0
    b       lock
locked:
    ldr     x0, [x22]
    add     x0, x0, #1
    str     x0, [x22]
    stlr    wzr, [x23]
    subs    x25, x25, #1
    b.ne    round
    .word   0xf8fa0300              // ldaddal x26, x0, [x24]
    cbz     x19, wait
    mov     x0, #0
    mov     x8, #93
    svc     #0
wait:
    mov     x8, #124
    svc     #0
    ldar    x0, [x24]
    cmp     x0, #{NUM_THREADS}
    b.ne    wait
    mov     x25, #{NUM_THREADS * ROUNDS & 0xFFFF}
    movk    x25, #{NUM_THREADS * ROUNDS >> 16}, lsl #16
    mov     x0, #0
    ldr     x1, [x20]
    cmp     x1, x25
    b.eq    second
    orr     x0, x0, #1
second:
    ldr     x1, [x21]
    cmp     x1, x25
    b.eq    third
    orr     x0, x0, #2
third:
    ldr     x1, [x22]
    cmp     x1, x25
    b.eq    end
    orr     x0, x0, #4
end:
    mov     x8, #94
    svc     #0
    .balign 64
data:
"""


def atomics_program() -> bytes:
    """Return an ELF file; each bit of its exit status is a way of counting that failed.

    Bit 0 is the LSE atomic, bit 1 the exclusive pair, bit 2 the plain counter behind a lock.
    """
    return static_program(_SOURCE)
