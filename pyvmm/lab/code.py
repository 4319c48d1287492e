"""The code that runs in the lab: words of A64, each beside its assembly.

A test assembles the text and compares.  The realm is a small service: it asks its device (an
unprotected IPA, so its host) for a request, performs it and stores the answer to the device.
"""

from enum import IntEnum
from typing import Final

_WORD: Final = 4

#: IPAs of the realm's pages, and of what its host provides.
CODE: Final = 0x8000_0000
SECRET: Final = 0x8000_1000  # the realm's secret: two random numbers
BUFFER: Final = 0x8000_2000  # its token
DEVICE_TREE: Final = 0x8000_3000
SHARED: Final = 0x1_8000_0000
DEVICE: Final = 0x1_8010_0000
STOP_OFFSET: Final = 0xFF0  # of SHARED: a word that ends SPIN and PEEK
BEAT_OFFSET: Final = 0xFE8  # of SHARED: a word that SPIN and PEEK clear again and again
RECORD_OFFSET: Final = 0x800  # of SHARED: a number and its tag
VECTOR_OFFSET: Final = 0xA00  # of CODE: synchronous exceptions of EL1


class Request(IntEnum):
    """What the service does."""

    NOTHING = 0
    CHECK = 1  # answer 1 if the secret's page is what the realm wrote
    SPIN = 2  # check until the host ends it; answer how often it was something else
    PEEK = 3  # publish the secret's page until the host ends it: a realm that helps the attacker
    TOKEN = 4  # ask the RMM for a token with the challenge in SHARED; publish it, answer its size
    TIME = 5  # answer CNTVCT_EL0
    TALK = 6  # store to the device as often as the low three bits of the secret say
    WANT_RAM = 7  # RSI_IPA_STATE_SET of the secret's page; answer the response of the host
    SEAL = 8  # write the next number and its tag to SHARED, as to a disk
    UNSEAL = 9  # answer the number in SHARED, 0 if its tag is wrong
    OFF = 10  # PSCI SYSTEM_OFF
    READ_32 = 11  # answer what a 32-bit load from the device returns


def words(listing: str) -> bytes:
    """Return the code of a listing: a word and its assembly in each line; labels end in a colon."""
    lines = (line.split() for line in listing.strip().splitlines())
    codes = (int(line[0], 16) for line in lines if not line[0].endswith(":"))
    return b"".join(code.to_bytes(_WORD, "little") for code in codes)


SERVICE: Final = """
start:
    d2b00213  movz x19, #0x8010, lsl #16
    f2c00033  movk x19, #1, lsl #32
    d2b00016  movz x22, #0x8000, lsl #16
    f2820016  movk x22, #0x1000
    d2b00017  movz x23, #0x8000, lsl #16
    f2840017  movk x23, #0x2000
    d2b00018  movz x24, #0x8000, lsl #16
    f2c00038  movk x24, #1, lsl #32
    d2b00005  movz x5, #0x8000, lsl #16
    f2810005  movk x5, #0x800
    d518c005  msr vbar_el1, x5
    d53b2414  mrs x20, s3_3_c2_c4_0
    d53b2415  mrs x21, s3_3_c2_c4_0
    a90056d4  stp x20, x21, [x22]
next:
    f9400261  ldr x1, [x19]
    92400c21  and x1, x1, #15
    10000062  adr x2, requests
    8b010842  add x2, x2, x1, lsl #2
    d61f0040  br x2
requests:
    17fffffb  b next
    14000011  b check
    14000015  b spin
    1400001d  b peek
    14000025  b token
    1400003b  b time
    1400003c  b talk
    14000040  b ripas
    14000047  b seal
    1400004e  b unseal
    14000055  b off
    14000057  b read32
    17ffffef  b next
    17ffffee  b next
    17ffffed  b next
    17ffffec  b next
report:
    f9000262  str x2, [x19]
    17ffffea  b next
check:
    a94012c3  ldp x3, x4, [x22]
    eb14007f  cmp x3, x20
    fa550080  ccmp x4, x21, #0, eq
    9a9f17e2  cset x2, eq
    17fffffa  b report
spin:
    d2800002  mov x2, #0
watch:
    a94012c3  ldp x3, x4, [x22]
    eb14007f  cmp x3, x20
    fa550080  ccmp x4, x21, #0, eq
    9a820442  cinc x2, x2, ne
    f907f71f  str xzr, [x24, #0xfe8]
    f947fb05  ldr x5, [x24, #0xff0]
    b4ffff45  cbz x5, watch
    17fffff1  b report
peek:
    f94002c3  ldr x3, [x22]
    f9000303  str x3, [x24]
    f94006c3  ldr x3, [x22, #8]
    f9000703  str x3, [x24, #8]
    f907f71f  str xzr, [x24, #0xfe8]
    f947fb05  ldr x5, [x24, #0xff0]
    b4ffff45  cbz x5, peek
    d2800002  mov x2, #0
    17ffffe8  b report
token:
    a9400b01  ldp x1, x2, [x24]
    a9411303  ldp x3, x4, [x24, #16]
    a9421b05  ldp x5, x6, [x24, #32]
    a9432307  ldp x7, x8, [x24, #48]
    d2b88000  movz x0, #0xc400, lsl #16
    f2803280  movk x0, #0x194
    d4000003  smc #0
again:
    d2b88000  movz x0, #0xc400, lsl #16
    f28032a0  movk x0, #0x195
    aa1703e1  mov x1, x23
    d2800002  mov x2, #0
    d2820003  mov x3, #0x1000
    d4000003  smc #0
    f1000c1f  cmp x0, #3
    54ffff20  b.eq again
    aa0103e2  mov x2, x1
    d2800003  mov x3, #0
copy:
    f8636ae4  ldr x4, [x23, x3]
    f8236b04  str x4, [x24, x3]
    91002063  add x3, x3, #8
    eb02007f  cmp x3, x2
    54ffff83  b.lo copy
    17ffffd1  b report
time:
    d53be042  mrs x2, cntvct_el0
    17ffffcf  b report
talk:
    92400a83  and x3, x20, #7
words:
    b4fff703  cbz x3, next
    f900027f  str xzr, [x19]
    d1000463  sub x3, x3, #1
    17fffffd  b words
ripas:
    d2b88000  movz x0, #0xc400, lsl #16
    f28032e0  movk x0, #0x197
    aa1603e1  mov x1, x22
    914006c2  add x2, x22, #0x1000
    d2800023  mov x3, #1
    d2800004  mov x4, #0
    d4000003  smc #0
    17ffffc2  b report
seal:
    9100077b  add x27, x27, #1
    ca140363  eor x3, x27, x20
    b24002a4  orr x4, x21, #1
    9b047c63  mul x3, x3, x4
    f904031b  str x27, [x24, #0x800]
    f9040703  str x3, [x24, #0x808]
    aa1b03e2  mov x2, x27
    17ffffba  b report
unseal:
    f9440302  ldr x2, [x24, #0x800]
    f9440705  ldr x5, [x24, #0x808]
    ca140043  eor x3, x2, x20
    b24002a4  orr x4, x21, #1
    9b047c63  mul x3, x3, x4
    eb05007f  cmp x3, x5
    9a9f0042  csel x2, x2, xzr, eq
    17ffffb2  b report
off:
    d2b08000  movz x0, #0x8400, lsl #16
    f2800100  movk x0, #8
    d4000003  smc #0
read32:
    b9400262  ldr w2, [x19]
    17ffffad  b report
"""
#: An exception becomes the answer: its syndrome.
VECTOR: Final = """
    d5385202  mrs x2, esr_el1
    d2b00009  movz x9, #0x8000, lsl #16
    f2801189  movk x9, #0x8c
    d5184029  msr elr_el1, x9
    d69f03e0  eret
"""
#: The host's own code at a PE: one access to X1, then nothing.
LOAD: Final = """
    f9400020  ldr x0, [x1]
halt:
    14000000  b halt
"""
STORE: Final = """
    f9000022  str x2, [x1]
halt:
    14000000  b halt
"""


#: Where the service keeps its secret, and what variants of it do instead.
KEEP: Final = "    a90056d4  stp x20, x21, [x22]\n"
GIVE_AWAY: Final = "    a9005714  stp x20, x21, [x24]\n"
HAVE_NONE: Final = "    d503201f  nop\n"


def service(first: str = KEEP) -> bytes:
    """Return the service's page of code; ``first`` is what it does with its secret."""
    code = words(SERVICE.replace(KEEP, first))
    return code.ljust(VECTOR_OFFSET, b"\0") + words(VECTOR)
