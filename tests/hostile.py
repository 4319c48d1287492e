"""A hostile guest: an image of random code, random tables and random values.

A small driver goes through the chunks of code one after another.  Before each it takes registers,
stage 1 and the exception level from random values; every exception comes back to it, unless the
chunk has broken that too, and then the guest hangs, as a guest may.
"""

import random
import struct
from functools import cache
from typing import Final

from pyvmm.arch.gic import GICR_SIZE
from pyvmm.arch.its import GITS_TRANSLATER, ItsCommand
from pyvmm.arch.psci import PsciFid
from pyvmm.arch.rsi import RsiFid
from pyvmm.arch.smccc import SmcccFid
from pyvmm.arch.sysregs import SYSREGS
from pyvmm.core.generate import Row, encodings, load_rows
from pyvmm.devices.pci.host import SLOT_SIZE
from pyvmm.host.guest import GuestConfig, Segment
from pyvmm.vm import memory_map
from tests.core.program import assemble, branch
from tests.core.words import random_words

PAGE: Final = 0x1000
RAM_BASE: Final = memory_map.RAM_BASE
RAM_SIZE: Final = 4 << 20
ALIAS: Final = 1 << 32  # the unprotected half of a realm with this RAM
DRIVER: Final = RAM_BASE
VECTORS: Final = RAM_BASE + 0x1000
VALUES: Final = RAM_BASE + 0x2000
CODE: Final = RAM_BASE + 0x4000
TABLES: Final = RAM_BASE + 0xC000
DATA: Final = RAM_BASE + 0x20_0000
CURSOR: Final = DATA  # the number of the chunk
RINGS: Final = DATA + PAGE  # descriptors, available, used
COMMANDS: Final = DATA + 0x1_0000  # of the ITS; its tables follow
ITS: Final = memory_map.MemoryMap(RAM_SIZE, 2).its_base
DOORBELL: Final = ITS + GITS_TRANSLATER
NUM_TABLES: Final = 4  # a level; each is a root of its own
CHUNK_SIZE: Final = 256
NUM_CHUNKS: Final = (TABLES - CODE) // CHUNK_SIZE
NUM_VALUES: Final = 2 * PAGE // 256  # sets of 32
MASK64: Final = (1 << 64) - 1

WFI_WFE: Final = {0xD503_207F, 0xD503_205F}
HVC, SMC, SVC, BRK, ERET = 0xD400_0002, 0xD400_0003, 0xD400_0001, 0xD420_0000, 0xD69F_03E0
SYSTEM: Final = 0xD500_0000  # MSR, MRS, SYS, hints: op0 and below at bit 5

#: Back at EL1 with the MMU off; then the next set of values, a stage 1 and a chunk.
DRIVER_TEXT: Final = f"""
    ldr x0, ={0x30D0_0980:#x}
    msr sctlr_el1, x0
    isb
    adr x0, {VECTORS - DRIVER:#x}
    msr vbar_el1, x0
    ldr x29, ={CURSOR:#x}
    ldr x28, [x29]
    add x28, x28, #1
    str x28, [x29]
    adr x30, {VALUES - DRIVER:#x}
    and x27, x28, #{NUM_VALUES - 1}
    add x30, x30, x27, lsl #8
    ldr x26, ={CODE:#x}
    and x27, x28, #{NUM_CHUNKS - 1}
    add x26, x26, x27, lsl #8
    msr elr_el1, x26
    mov x25, #0x3c5
    tst x28, #1
    b.eq el1
    mov x25, #0
el1:
    msr spsr_el1, x25
    mov x24, #0x300000
    msr cpacr_el1, x24
    ldr x23, ={TABLES:#x}
    and x22, x28, #{NUM_TABLES - 1}
    add x23, x23, x22, lsl #12
    msr ttbr0_el1, x23
    msr ttbr1_el1, x23
    ldr x22, ={16 | 16 << 16 | 2 << 30 | 5 << 32:#x}
    msr tcr_el1, x22
    tst x28, #2
    b.eq go
    tlbi vmalle1
    isb
    ldr x22, ={0x30D0_0981:#x}
    msr sctlr_el1, x22
    isb
go:
    msr sp_el0, x29
""" + "\n".join(
    [f"    ldp x{n}, x{n + 1}, [x30, #{8 * n}]" for n in range(0, 30, 2)]
    + ["    ldr x30, [x30, #240]", "    eret"]
)


@cache
def rows() -> list[Row]:
    """Return the rows of the decode tables."""
    return encodings(load_rows())


def addresses() -> list[int]:
    """List where it hurts: RAM and its edges, devices, their aliases, nowhere."""
    ram = [DRIVER, VECTORS, CODE, TABLES, DATA, DATA + 0xFF8, RAM_BASE + RAM_SIZE - 4]
    ram += [RAM_BASE + RAM_SIZE, RAM_BASE - 8, DATA + 0x10_0000]
    gicr = memory_map.GICD_BASE - GICR_SIZE
    devices = [memory_map.GICD_BASE, memory_map.GICD_BASE + 0x6100, gicr, gicr + 0x1_0000]
    devices += [memory_map.uart_base(0), memory_map.RTC_BASE, memory_map.PL031_BASE]
    devices += [memory_map.virtio_base(slot) for slot in range(4)]
    near = [*ram, *devices]
    return [*near, *(each | ALIAS for each in near), 0, 1 << 33, 1 << 39, 1 << 47, MASK64 - 7]


FIDS: Final = [*map(int, RsiFid), *map(int, PsciFid), *map(int, SmcccFid), 0xC400_0150]
ENDINGS: Final = {
    *map(int, (PsciFid.SYSTEM_OFF, PsciFid.SYSTEM_RESET, PsciFid.CPU_OFF)),
    *map(int, (PsciFid.SYSTEM_RESET2_32, PsciFid.SYSTEM_RESET2_64)),
}


class Generator:
    """Makes images; everything follows from the seed.

    ``alias`` is where the guest has its devices; ``device_share`` (0 to 1) says how many of the
    chunks begin with them; ``has_pci`` that its virtio devices are on PCI, with an ITS.
    """

    def __init__(
        self, seed: int, alias: int = ALIAS, device_share: float = 0.1, *, has_pci: bool = False
    ) -> None:
        self.rng = random.Random(seed)
        self._alias = alias
        self._device_share = device_share
        self._drivers = [self.virtio, self.virtio, self.gic]
        if has_pci:
            self._drivers = [self.pci, self.pci, self.its, self.lpis, self.gic]
        self._addresses = addresses()
        words = [word for row in rows() for word in random_words(self.rng, row, 16)]
        self._words = [word for word in words if word not in WFI_WFE or self.rng.randrange(20) == 0]
        self._entries = [[self.descriptor(level) for _ in range(1024)] for level in range(4)]

    def value(self) -> int:
        """Return a register's value."""
        rng = self.rng
        match rng.randrange(8):
            case 0 | 1 | 2:
                return rng.choice(self._addresses) + rng.choice((0, 0, 0, rng.randrange(PAGE)))
            case 3 | 4:
                return self.fid()
            case 5:
                return rng.randrange(8)
            case 6:
                return 1 << rng.randrange(64)
            case _:
                return rng.getrandbits(64)

    def fid(self) -> int:
        """Return a function id; seldom one that ends the guest."""
        fid = self.rng.choice(FIDS)
        return fid if fid not in ENDINGS or self.rng.randrange(40) == 0 else RsiFid.RSI_HOST_CALL

    def move(self, register: int, value: int) -> list[int]:
        """Return the words that give a register a value."""
        parts = [value >> 16 * n & 0xFFFF for n in range(4)]
        words = [0xF280_0000 | n << 21 | imm << 5 | register for n, imm in enumerate(parts) if imm]
        return [0xD280_0000 | register, *words]

    def call(self) -> list[int]:
        """Return an SMC or HVC with arguments."""
        words = self.move(0, self.fid())
        for register in range(1, self.rng.randrange(1, 5)):
            words += self.move(register, self.value() & MASK64)
        return [*words, self.rng.choice((SMC, SMC, SMC, HVC, HVC | 0x20, SVC))]

    def good_call(self) -> list[int]:
        """Return an SMC that succeeds, and most times needs the host."""
        rng = self.rng
        base = DATA + rng.randrange(1, 256) * PAGE
        args = rng.choice(
            (
                (
                    RsiFid.RSI_IPA_STATE_SET,
                    base,
                    base + rng.randrange(1, 64) * PAGE,
                    rng.randrange(2),
                ),
                (RsiFid.RSI_HOST_CALL, base),
                (PsciFid.CPU_ON_64, rng.randrange(2), DRIVER, 0),
                (PsciFid.AFFINITY_INFO_64, rng.randrange(2), 0),
            )
        )
        words = [w for register, value in enumerate(args) for w in self.move(register, value)]
        return [*words, rng.choice((SMC, SMC, HVC))]

    def access(self) -> list[int]:
        """Return a load or store somewhere: any size, sign, form."""
        rng = self.rng
        address = rng.choice(self._addresses) + rng.choice((0, 0, 4, 8, 0x10, 0x14, 0x30, 0x70))
        word = rng.choice((0x3900_0000, 0x3D00_0000, 0x2900_0000, 0x0800_7C00, 0x3800_0000))
        word |= rng.getrandbits(2) << 30 | rng.getrandbits(2) << 22
        word |= rng.getrandbits(3) << 10 | rng.randrange(32)
        return [*self.move(1, address & MASK64), word & ~(31 << 5) | 1 << 5]

    def system(self) -> list[int]:
        """Return an access to a system register that exists, or to any; a SYS instruction."""
        rng = self.rng
        if rng.randrange(4):
            encoding = rng.choice(SYSREGS).encoding
        else:
            encoding = rng.getrandbits(16) | rng.choice((0x4000, 0x8000, 0xC000))
        word = SYSTEM | (encoding & 0xFFFF) << 5 | rng.getrandbits(1) << 21 | rng.randrange(31)
        return [*self.move(word & 31, self.value() & MASK64), word]

    def virtio(self) -> list[int]:
        """Return the words that bring up a queue; its rings are odd, or anywhere."""
        rng = self.rng
        features = rng.choice((1, 1, 3))  # VERSION_1, and ACCESS_PLATFORM
        num = rng.choice((8, 8, 1, 256, rng.getrandbits(16)))
        pairs = [(0x70, 0), (0x70, 3), (0x24, 1), (0x20, features), (0x70, 11)]
        pairs += [(0x30, rng.randrange(3)), (0x38, num)]
        for n, low in enumerate((0x80, 0x90, 0xA0)):
            ring = RINGS + n * PAGE if rng.randrange(8) else self.value()
            pairs += [(low, ring & 0xFFFF_FFFF), (low + 4, ring >> 32 & 0xFFFF_FFFF)]
        pairs += [(0x44, 1), (0x70, 15), (0x50, rng.randrange(3)), (0x50, 0), (0x64, 3)]
        return self.stores(memory_map.virtio_base(rng.randrange(4)), pairs)

    def gic(self) -> list[int]:
        """Return the words that write to registers of the distributor or a redistributor."""
        rng = self.rng
        gicr = memory_map.GICD_BASE - rng.randrange(1, 3) * GICR_SIZE
        base = rng.choice((memory_map.GICD_BASE, gicr, gicr + 0x1_0000))
        starts = (0, 0x80, 0x100, 0x180, 0x200, 0x280, 0x300, 0x380, 0x400, 0xC00)
        offsets = [rng.choice(starts) + 4 * rng.randrange(16) for _ in range(12)]
        values = (0, 1, 0xFFFF_FFFF, 0x8080_8080, rng.getrandbits(32))
        return self.stores(base, [(offset, rng.choice(values)) for offset in offsets])

    def pci(self) -> list[int]:
        """Return the words that give a function its BAR, and then some of its registers values."""
        rng = self.rng
        slot = rng.randrange(4)
        bar = memory_map.PCI_MEMORY.start + slot * 0x8000
        config = memory_map.PCI_CONFIG.start + slot * SLOT_SIZE
        place = bar if rng.randrange(8) else self.value() & 0xFFFF_FFFF
        words = self.stores(config, [(0x10, place), (4, 6)])
        choice = rng.randrange(4)
        if choice == 0:  # any capability
            pairs = [(4 * rng.randrange(0x10, 0x30), self.value()) for _ in range(6)]
            return words + self.stores(config, pairs)
        if choice == 1:  # messages to the ITS; MSI-X is the last capability
            words += self.stores(bar + 0x4000, [(0, DOORBELL), (8, rng.randrange(4)), (0xC, 0)])
            return words + self.stores(config, [(4 * rng.randrange(0x20, 0x28), 0x8000_0000)])
        queues = [(0x20 + 8 * n, 8, RINGS + n * PAGE) for n in range(3)]
        words += self.accesses(
            bar,
            [
                *((0x14, 1, 3), (8, 4, 1), (0xC, 4, rng.choice((1, 1, 3))), (0x14, 1, 11)),
                *((0x16, 2, rng.randrange(3)), (0x18, 2, 8), (0x1A, 2, 0), *queues, (0x1C, 2, 1)),
                (0x14, 1, 15),
            ],
        )
        return words + self.stores(bar + 0x3000, [(4 * rng.randrange(3), 0)])

    def its(self) -> list[int]:
        """Return the words that give the ITS its tables, or others, and some commands."""
        rng = self.rng
        tables = [COMMANDS + n * PAGE if rng.randrange(8) else self.value() for n in range(3)]
        queue, devices, collections = (1 << 63 | each & (1 << 48) - PAGE for each in tables)
        accesses = [(0, 4, 0), (0x80, 8, queue), (0x100, 8, devices), (0x108, 8, collections)]
        return self.accesses(ITS, [*accesses, (0, 4, 1), (0x88, 8, 32 * rng.randrange(130))])

    def lpis(self) -> list[int]:
        """Return the words that give a redistributor its tables, or others."""
        rng = self.rng
        gicr = memory_map.GICD_BASE - rng.randrange(1, 3) * GICR_SIZE
        tables = [COMMANDS + n * PAGE if rng.randrange(8) else self.value() for n in (3, 4)]
        config, pending = (each & (1 << 52) - PAGE for each in tables)
        accesses = [(0, 4, rng.randrange(2)), (0x70, 8, config | rng.choice((13, 15, 0)))]
        accesses += [(0x78, 8, pending), (0, 4, 1)]
        again = (rng.choice((0xA0, 0xB0)), 8, rng.randrange(8190, 8200))
        return self.accesses(gicr, [*accesses, again])

    def commands(self) -> bytes:
        """Return a queue of commands for the ITS, and its tables, which it may believe."""
        rng, valid = self.rng, 1 << 63
        queue = b""
        for _ in range(PAGE // 32):
            kind = rng.choice((*ItsCommand, rng.getrandbits(8)))
            event = rng.randrange(4) | rng.choice((0, 8192, 8193, rng.getrandbits(32))) << 32
            itt = valid | COMMANDS + 6 * PAGE
            collection = rng.choice((0, valid)) | rng.randrange(3) << 16 | rng.randrange(3)
            third = rng.choice((itt, itt, collection, collection, rng.getrandbits(64)))
            words = kind | rng.randrange(4) << 35, event, third, rng.randrange(3) << 16
            queue += struct.pack("<4Q", *words)
        config = bytes(rng.choice((0, 0xA1)) for _ in range(PAGE))
        return queue + bytes(2 * PAGE) + config + rng.randbytes(PAGE)

    def stores(self, base: int, pairs: list[tuple[int, int]]) -> list[int]:
        """Return the words that write words to the registers of a device."""
        return self.accesses(base, [(offset, 4, value) for offset, value in pairs])

    def accesses(self, base: int, writes: list[tuple[int, int, int]]) -> list[int]:
        """Return the words that write to the registers of a device: offset, size, value."""
        words = self.move(1, base | self._alias)
        for offset, size, value in writes:
            store = 0x3900_0022 | (size.bit_length() - 1) << 30
            words += [*self.move(2, value & (1 << 8 * size) - 1), store | offset // size << 10]
        return words

    def rings(self) -> bytes:
        """Return a table of descriptors and an available ring that a device may believe in."""
        rng = self.rng
        descriptors = b"".join(
            struct.pack(
                "<QIHH",
                rng.choice((DATA + 0x8000, DATA + 0x8000, self.value() & MASK64)),
                rng.choice((1, 16, 16, 512, 4096, rng.getrandbits(32))),
                rng.choice((0, 1, 1, 2, 3, 4, rng.getrandbits(16))),
                rng.randrange(8),
            )
            for _ in range(256)
        )
        ring = [0, rng.randrange(1, 9), *(rng.randrange(9) for _ in range(256))]
        header = struct.pack(
            "<IIQ", rng.choice((0, 1, 4, 8, 11, 13)), 0, rng.choice((0, 1, 1 << 50))
        )
        available = struct.pack("<258H", *ring).ljust(PAGE, b"\0")
        return descriptors + available + bytes(5 * PAGE) + header

    def some(self) -> list[int]:
        """Return a few words."""
        rng = self.rng
        match rng.randrange(8):
            case 0:
                return self.call() if rng.randrange(3) else self.good_call()
            case 1:
                return self.access()
            case 2:
                return self.system()
            case 3:
                return [rng.getrandbits(32)]
            case 4:
                return [rng.choice((SVC, BRK, ERET, HVC, SMC)) | rng.getrandbits(5) << 5]
            case _:
                return [rng.choice(self._words) for _ in range(4)]

    def chunk(self, address: int) -> list[int]:
        """Return the words of one chunk: they end with the way back."""
        words: list[int] = []  # what comes first is the most likely to be executed
        if self.rng.random() < self._device_share:
            words = self.rng.choice(self._drivers)()
        elif self.rng.randrange(4) == 0:
            words = self.rng.choice((self.good_call, self.good_call, self.call))()
        end = CHUNK_SIZE // 4 - 1
        while len(words) < end:
            words += self.some()
        return [*words[:end], branch(address + 4 * end, DRIVER)]

    def descriptor(self, level: int) -> int:
        """Return a stage-1 descriptor: of nothing, of RAM, of a table, of anything."""
        rng = self.rng
        attributes = rng.getrandbits(10) << 2 | rng.getrandbits(3) << 52 | 1 << 10
        where = rng.choice(self._addresses) & 0x0000_FFFF_FFFF_F000
        match rng.randrange(8):
            case 0:
                return rng.getrandbits(64)
            case 1 | 2:
                return TABLES + rng.randrange(4 * NUM_TABLES) * PAGE | 3
            case 3 | 4:
                return where | attributes | (3 if level == 3 else 1)
            case _:
                return 0

    def tables(self) -> bytes:
        """Return the tables of each level; the code is where it is, read-only for all."""
        entries = [
            self.rng.choices(self._entries[level], k=512)
            for level in range(4)
            for _ in range(NUM_TABLES)
        ]
        for n in range(NUM_TABLES):
            entries[n][0] = TABLES + (NUM_TABLES + n) * PAGE | 3
            entries[NUM_TABLES + n][RAM_BASE >> 30] = TABLES + (2 * NUM_TABLES + n) * PAGE | 3
            entries[2 * NUM_TABLES + n][0] = RAM_BASE | 1 << 10 | 3 << 6 | 1
            entries[2 * NUM_TABLES + n][1] = DATA | 1 << 10 | 1 << 6 | 1
        return b"".join(struct.pack("<512Q", *table) for table in entries)

    def image(self) -> list[Segment]:
        """Return the payload."""
        words = [w for n in range(NUM_CHUNKS) for w in self.chunk(CODE + n * CHUNK_SIZE)]
        values = [self.value() & MASK64 for _ in range(32 * NUM_VALUES)]
        vectors = b"".join(
            struct.pack("<I", branch(VECTORS + n * 0x80, DRIVER)).ljust(0x80, b"\0")
            for n in range(16)
        )
        return [
            Segment(DRIVER, driver()),
            Segment(VECTORS, vectors),
            Segment(VALUES, struct.pack(f"<{len(values)}Q", *values)),
            Segment(CODE, struct.pack(f"<{len(words)}I", *words)),
            Segment(TABLES, self.tables()),
            Segment(RINGS, self.rings()),
            Segment(COMMANDS, self.commands()),
        ]

    def config(self, num_cpus: int = 2) -> GuestConfig:
        """Return the guest."""
        return GuestConfig(num_cpus, RAM_BASE, RAM_SIZE, self.image(), DRIVER)


@cache
def driver() -> bytes:
    """Return the driver's code."""
    return assemble(DRIVER_TEXT)
