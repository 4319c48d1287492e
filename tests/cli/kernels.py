"""Kernels of a few instructions, for a normal VM or a realm to run as flat binaries."""

from pathlib import Path

from tests.core.program import assemble

#: Waits for ever.
IDLE = "next: wfi\n b next"
#: Answers each byte on the serial port with the same; 0x04 (Ctrl-D) powers a normal VM off.
#: It asks only now and then whether there is one: each question is an exit to the host.
ECHO = """
    movz x1, #0x100, lsl #16
next:
    movz x4, #4096
pause:
    sub x4, x4, #1
    cbnz x4, pause
    ldrb w2, [x1, #5]
    tbz w2, #0, next
    ldrb w3, [x1]
    cmp w3, #4
    b.eq off
    strb w3, [x1]
    b next
off:
    movz x0, #0x8400, lsl #16
    movk x0, #8
    hvc #0
"""
#: The same, for the serial port of the machine `virt`.
ECHO_VIRT = """
    movz x1, #0x900, lsl #16
next:
    ldr w2, [x1, #0x18]
    tbnz w2, #4, next
    ldr w3, [x1]
    cmp w3, #4
    b.eq off
    str w3, [x1]
    b next
off:
    movz x0, #0x8400, lsl #16
    movk x0, #8
    hvc #0
"""
#: Says one line after the other, without end.
CHATTER = """
    movz x1, #0x100, lsl #16
    movz w2, #0x61
    movz w3, #0x0a
next:
    strb w2, [x1]
    strb w3, [x1]
    b next
"""
#: Has a driver for a power button in the first slot, which powers a normal VM off.
BUTTON = """
    movz x1, #0x300, lsl #16
    movz w2, #1
    str w2, [x1, #0x24]
    str w2, [x1, #0x20]
    movz w3, #0xf
    str w3, [x1, #0x70]
    str w2, [x1, #0x44]
next:
    ldr w3, [x1, #0x60]
    cbz w3, next
    movz x0, #0x8400, lsl #16
    movk x0, #8
    hvc #0
"""
#: Has such a driver, but does not react.
DEAF_BUTTON = """
    movz x1, #0x300, lsl #16
    movz w2, #1
    str w2, [x1, #0x44]
next:
    wfi
    b next
"""
#: Maps the gigabyte at 0x80000000, where it runs, with a table at 0x80200000; then it counts.
MAPPED = """
    movz x0, #0x8020, lsl #16
    movz x1, #0x8000, lsl #16
    movk x1, #0x401
    str x1, [x0, #16]
    msr ttbr0_el1, x0
    movz x2, #25
    movk x2, #0x80, lsl #16
    movk x2, #2, lsl #32
    msr tcr_el1, x2
    movz x3, #0xff
    msr mair_el1, x3
    mrs x4, sctlr_el1
    orr x4, x4, #1
    isb
    msr sctlr_el1, x4
    isb
next:
    add x5, x5, #1
    b next
"""


def kernel(directory: Path, text: str) -> Path:
    """Write a kernel's file."""
    path = directory / "kernel"
    path.write_bytes(assemble(text))
    return path
