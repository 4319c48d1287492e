"""Stage 2 and granule protection: what a guest cannot reach, and what EL2 is told of it."""

from __future__ import annotations

import struct

import pytest

from pyvmm.arch.exits import ExitReason
from pyvmm.arch.pas import Pas
from tests.core.system import (
    AF,
    BASE,
    CODE,
    DATA,
    EC_DATA_ABORT,
    EC_HVC,
    EC_INSTRUCTION_ABORT,
    HCR_VM,
    S2_NORMAL,
    S2_READ,
    S2_WRITE,
    SCTLR_RES1,
    SIZE,
    STAGE2_TABLES,
    TABLES,
    TCR_HA,
    USER,
    Bench,
    ec,
)

MMIO = 0x0900_0000
TRANSLATION, ACCESS_FLAG, PERMISSION = 0x04, 0x08, 0x0C
GPF_WALK, GPF = 0x24, 0x28
ISV, SSE, SF, AR, S1PTW, WNR = 1 << 24, 1 << 21, 1 << 15, 1 << 14, 1 << 7, 1 << 6
NS_BIT = 1 << 55
HCR_FWB = 1 << 46

GPI_NS, GPI_REALM, GPI_ANY = 9, 11, 15
GPCCR = 1 << 16 | 2  # enabled, 4 KiB granules, 1 GiB level 0 entries, 40 bits


@pytest.fixture
def bench() -> Bench:
    """Return a bench with stage 2 on and stage 1 off."""
    bench = Bench()
    bench.stage2_on()
    return bench


def iss(bench: Bench, text: str) -> int:
    """Run one instruction that goes to MMIO (address in x1) and return its syndrome."""
    bench.state.x[1] = MMIO
    exit_ = bench.run(text)
    assert (exit_.reason, ec(exit_), bench.state.pc) == (ExitReason.SYNC, EC_DATA_ABORT, CODE)
    assert (exit_.far, exit_.hpfar) == (MMIO, MMIO >> 8)
    return exit_.esr & 0x1FF_FFFF


SAS = {"b": 0 << 22, "h": 1 << 22, "w": 2 << 22, "x": 3 << 22}


@pytest.mark.parametrize(
    ("text", "syndrome"),
    [
        ("ldrb w3, [x1]", ISV | SAS["b"] | 3 << 16),
        ("ldrh w3, [x1]", ISV | SAS["h"] | 3 << 16),
        ("ldr w30, [x1]", ISV | SAS["w"] | 30 << 16),
        ("ldr x3, [x1]", ISV | SAS["x"] | 3 << 16 | SF),
        ("ldrsb w3, [x1]", ISV | SAS["b"] | SSE | 3 << 16),
        ("ldrsb x3, [x1]", ISV | SAS["b"] | SSE | 3 << 16 | SF),
        ("ldrsh x3, [x1]", ISV | SAS["h"] | SSE | 3 << 16 | SF),
        ("ldrsw x3, [x1]", ISV | SAS["w"] | SSE | 3 << 16 | SF),
        ("ldur w3, [x1, #0]", ISV | SAS["w"] | 3 << 16),
        ("ldtr w3, [x1]", ISV | SAS["w"] | 3 << 16),
        ("ldr w3, [x1, xzr]", ISV | SAS["w"] | 3 << 16),
        ("ldar w3, [x1]", ISV | SAS["w"] | 3 << 16 | AR),
        (".long 0xb8bfc023", ISV | SAS["w"] | 3 << 16 | AR),  # ldapr w3, [x1]
        ("strb wzr, [x1]", ISV | SAS["b"] | 31 << 16 | WNR),
        ("str w3, [x1]", ISV | SAS["w"] | 3 << 16 | WNR),
        ("str x3, [x1]", ISV | SAS["x"] | 3 << 16 | SF | WNR),
        ("stlr w3, [x1]", ISV | SAS["w"] | 3 << 16 | AR | WNR),
        ("ldr w3, [x1], #4", 0),
        ("str w3, [x1, #0]!", WNR),
        ("ldp w3, w4, [x1]", 0),
        ("ldr q3, [x1]", 0),
        ("str d3, [x1]", WNR),
        ("ldxr w3, [x1]", 0),
    ],
)
def test_a_data_abort_says_what_to_emulate(bench: Bench, text: str, syndrome: int) -> None:
    """ISV, SAS, SSE, SRT, SF, AR and WnR of loads and stores that miss stage 2."""
    assert iss(bench, text) == syndrome | TRANSLATION + 1


def test_nothing_happens_before_the_exit(bench: Bench) -> None:
    """Registers are as before the aborted instruction, so that it can be emulated."""
    bench.state.x[3] = 77
    iss(bench, "ldr x3, [x1]")
    assert (bench.state.x[1], bench.state.x[3]) == (MMIO, 77)


def test_an_aborted_access_can_be_repeated_after_mapping(bench: Bench) -> None:
    """A mapping made after the fault is used at once."""
    page = BASE + SIZE
    bench.state.x[1] = page
    bench.run("ldr x3, [x1]\n hvc #0")
    bench.memory.write_u64(DATA, 5)
    bench.map_stage2(page, DATA)
    exit_ = bench.run()
    assert (ec(exit_), bench.state.x[3]) == (EC_HVC, 5)


@pytest.mark.parametrize(
    ("attributes", "text", "fsc"),
    [
        (S2_READ | S2_WRITE | S2_NORMAL, "ldr x0, [x1]", ACCESS_FLAG + 3),
        (AF | S2_WRITE | S2_NORMAL, "ldr x0, [x1]", PERMISSION + 3),
        (AF | S2_READ | S2_NORMAL, "str x0, [x1]", PERMISSION + 3),
        (AF | S2_READ | S2_NORMAL, "ldr x0, [x1]\n str x0, [x1]", PERMISSION + 3),
    ],
)
def test_stage2_attributes_are_honoured(bench: Bench, attributes: int, text: str, fsc: int) -> None:
    """Access flag and S2AP, also when a permitted access came first."""
    page = BASE + SIZE
    bench.map_stage2(page, DATA, attributes)
    bench.state.x[1] = page
    exit_ = bench.run(text + "\n hvc #0")
    assert (ec(exit_), exit_.esr & 0x3F, exit_.hpfar) == (EC_DATA_ABORT, fsc, page >> 8)


@pytest.mark.parametrize(
    ("xn", "el1", "el0"), [(0, True, True), (1, False, True), (2, False, False), (3, True, False)]
)
def test_stage2_execute_never(bench: Bench, xn: int, el1: bool, el0: bool) -> None:
    """XN[1:0] for EL1 and EL0."""
    page = BASE + SIZE
    bench.map_stage2(page, DATA, AF | S2_READ | S2_NORMAL | xn << 53)
    for pstate, allowed in ((0x3C5, el1), (0, el0)):
        bench.state.pstate = pstate
        bench.state.sctlr_el1 = SCTLR_RES1
        assert bench.translate(page, 2)[0] == (0 if allowed else PERMISSION + 3)


def test_a_fetch_that_misses_is_an_instruction_abort(bench: Bench) -> None:
    """EC 0x20 with FAR and HPFAR; pc is where it wanted to go."""
    bench.state.x[1] = MMIO
    exit_ = bench.run("br x1")
    assert (ec(exit_), exit_.esr & 0x3F) == (EC_INSTRUCTION_ABORT, TRANSLATION + 1)
    assert (exit_.far, exit_.hpfar, bench.state.pc) == (MMIO, MMIO >> 8, MMIO)


def test_a_stage1_table_that_misses_is_named_by_hpfar(bench: Bench) -> None:
    """S1PTW: FAR is the access, HPFAR the table."""
    bench.mmu_on()
    bench.map(0x4000_0000, DATA)
    bench.write_words(TABLES + 8, MMIO | 3)  # level 0 entry of the next 512 GiB
    bench.state.x[1] = 1 << 39
    exit_ = bench.run("ldr x0, [x1]")
    assert (ec(exit_), exit_.esr & 0x1FF_FFFF) == (EC_DATA_ABORT, S1PTW | TRANSLATION + 1)
    assert (exit_.far, exit_.hpfar) == (1 << 39, MMIO >> 8)


def test_a_descriptor_update_needs_write_permission(bench: Bench) -> None:
    """A hardware access flag in a read-only table: permission fault, S1PTW, WnR."""
    bench.mmu_on()
    entry = bench.map(0x4000_0000, DATA, 0)
    bench.state.tcr_el1 |= TCR_HA
    bench.map_stage2(BASE + SIZE, TABLES & ~0x1F_FFFF)  # a level 3 table, to take over the block
    block = STAGE2_TABLES + 0x2000 + 8 * ((entry >> 21) & 511)
    bench.write_words(block, (entry & ~0x1F_FFFF) | AF | S2_READ | S2_NORMAL | 1)
    bench.state.x[1] = 0x4000_0000
    exit_ = bench.run("ldr x0, [x1]")
    assert (exit_.esr & 0x1FF_FFFF, exit_.hpfar) == (
        S1PTW | WNR | PERMISSION + 2,
        (entry & ~0xFFF) >> 8,
    )


@pytest.mark.parametrize("after", ["tlbi_ipa", "tlbi_vmid"])
def test_no_access_through_an_unmapped_ipa(bench: Bench, after: str) -> None:
    """Unmap and invalidate between two runs: the TLBs of the PE forget."""
    page = BASE + SIZE
    entry = bench.map_stage2(page, DATA)
    bench.state.x[1] = page
    bench.load("ldr x0, [x1]\n hvc #0\n ldr x0, [x1]\n hvc #1")
    assert ec(bench.run()) == EC_HVC
    bench.memory.write_u64(entry, 0)
    if after == "tlbi_ipa":
        bench.machine.tlbi_ipa(1, page, 0x1000)
    else:
        bench.machine.tlbi_vmid(1)
    assert ec(bench.run()) == EC_DATA_ABORT


@pytest.mark.parametrize(("level", "shift"), [(1, 30), (2, 21), (3, 12)])
def test_stage2_blocks(bench: Bench, level: int, shift: int) -> None:
    """A leaf at each level maps all of its size."""
    ipa = 4 << 30
    bench.map_stage2(ipa, BASE & ~((1 << shift) - 1), leaf_level=level)
    offset = (1 << shift) - 8
    assert bench.translate(ipa + offset) == (0, BASE + offset)


def test_an_ipa_outside_the_input_size_is_a_translation_fault(bench: Bench) -> None:
    """Beyond 40 bits: level 0."""
    bench.state.x[1] = 1 << 41
    exit_ = bench.run("ldr x0, [x1]")
    assert (exit_.esr & 0x3F, exit_.hpfar) == (TRANSLATION, 1 << 33)


@pytest.mark.parametrize("vtcr", [24 | 0 << 6, 48 | 2 << 6, 24 | 3 << 6])
def test_an_inconsistent_start_level_is_a_translation_fault(bench: Bench, vtcr: int) -> None:
    """SL0 that does not suit T0SZ."""
    bench.state.vtcr_el2 = vtcr | 5 << 16
    assert bench.run("nop").esr & 0x3F == TRANSLATION


def test_forced_write_back_makes_device_memory_of_stage1_normal() -> None:
    """HCR_EL2.FWB with MemAttr 0b110: an unaligned access with the MMU off works."""
    bench = Bench()
    bench.stage2_on(identity=False)
    bench.state.hcr_el2 |= HCR_FWB
    for page in range(BASE, BASE + SIZE, 0x20_0000):
        bench.map_stage2(page, page, AF | S2_READ | S2_WRITE | 6 << 2, leaf_level=2)
    bench.write_words(DATA, 0x1122_3344_5566_7788)
    bench.state.x[1] = DATA + 1
    assert ec(bench.run("ldr w0, [x1]\n hvc #0")) == EC_HVC
    assert bench.state.x[0] == 0x4455_6677


# --- realms and granule protection --------------------------------------------------------------


def realm_bench() -> Bench:
    """Return a bench in the Realm security state, stage 2 on."""
    bench = Bench(Pas.REALM)
    bench.stage2_on()
    return bench


def test_a_realm_reads_non_secure_memory_through_ns_mappings() -> None:
    """Stage-2 NS = 1 selects the Non-secure PAS, NS = 0 the Realm one."""
    bench = realm_bench()
    bench.machine.memory(Pas.NS).write_u64(DATA, 1)
    bench.memory.write_u64(DATA, 2)
    bench.map_stage2(BASE + SIZE, DATA, AF | S2_READ | S2_NORMAL | NS_BIT)
    bench.state.x[1], bench.state.x[2] = BASE + SIZE, DATA
    bench.run("ldr x3, [x1]\n ldr x4, [x2]\n hvc #0")
    assert (bench.state.x[3], bench.state.x[4]) == (1, 2)


def test_a_realm_never_fetches_from_non_secure_memory() -> None:
    """An instruction abort to EL2: permission fault at stage 2."""
    bench = realm_bench()
    bench.map_stage2(BASE + SIZE, DATA, AF | S2_READ | S2_NORMAL | NS_BIT)
    bench.state.pc = BASE + SIZE
    exit_ = bench.run()
    assert (ec(exit_), exit_.esr & 0x3F) == (EC_INSTRUCTION_ABORT, PERMISSION + 3)


def test_a_realm_has_no_translation_table_in_non_secure_memory() -> None:
    """A stage-1 walk through an NS mapping is a permission fault of stage 2 with S1PTW."""
    bench = realm_bench()
    bench.mmu_on()
    bench.map_stage2(BASE + SIZE, DATA, AF | S2_READ | S2_NORMAL | NS_BIT)
    bench.write_words(TABLES + 8, (BASE + SIZE) | 3)
    bench.state.x[1] = 1 << 39
    exit_ = bench.run("ldr x0, [x1]")
    assert exit_.esr & 0x1FF_FFFF == S1PTW | PERMISSION + 3


class Gpt:
    """A GPT in Root memory: the gigabyte of DRAM by granule, all else accessible to everyone."""

    L0 = BASE + 0x180_0000
    L1 = BASE + 0x181_0000

    def __init__(self, bench: Bench, gpi: int = GPI_ANY) -> None:
        self.machine = bench.machine
        self.root = bench.machine.memory(Pas.ROOT)
        for index in range(1024):
            self.root.write_u64(self.L0 + 8 * index, 1 | GPI_ANY << 4)
        self.root.write_u64(self.L0 + 8 * (BASE >> 30), self.L1 | 3)
        for granule in range(0, SIZE >> 12, 16):
            self.root.write_u64(self.L1 + granule // 2, gpi * 0x1111_1111_1111_1111)
        self.machine.set_gpt(self.L0, GPCCR)

    def set(self, pa: int, gpi: int) -> None:
        """Give a granule away, as the Monitor does."""
        granule = (pa - BASE) >> 12
        entry = self.L1 + (granule >> 4) * 8
        shift = granule % 16 * 4
        value = self.root.read_u64(entry) & ~(15 << shift) | gpi << shift
        self.root.write_u64(entry, value)
        self.machine.tlbi_pa(pa, 0x1000)


def test_a_granule_that_was_given_away_faults_at_once(bench: Bench) -> None:
    """Mapped, in the TLB, then delegated: the next access is a granule protection fault to EL2."""
    gpt = Gpt(bench)
    bench.mmu_on()
    bench.map(0x4000_0000, DATA, AF | USER)
    bench.state.x[1] = 0x4000_0000
    bench.load("ldr x0, [x1]\n hvc #0\n ldr x0, [x1]\n hvc #1")
    assert ec(bench.run()) == EC_HVC
    gpt.set(DATA, GPI_REALM)
    exit_ = bench.run()
    assert (ec(exit_), exit_.esr & 0x3F, exit_.hpfar) == (EC_DATA_ABORT, GPF, DATA >> 8)
    gpt.set(DATA, GPI_NS)
    assert ec(bench.run()) == EC_HVC


def test_a_table_in_another_pas_is_a_protection_fault_on_the_walk(bench: Bench) -> None:
    """The level is that of the walk: stage 1 tables here."""
    gpt = Gpt(bench)
    bench.mmu_on()
    gpt.set(TABLES, GPI_REALM)
    exit_ = bench.run("nop")
    assert (ec(exit_), exit_.esr & 0x3F) == (EC_INSTRUCTION_ABORT, GPF_WALK + 0)
    assert exit_.esr & S1PTW


def test_a_stage2_table_in_another_pas_is_a_protection_fault_on_the_walk(bench: Bench) -> None:
    """Level 1 is where stage 2 starts here."""
    gpt = Gpt(bench)
    gpt.set(STAGE2_TABLES, GPI_REALM)
    exit_ = bench.run("nop")
    assert exit_.esr & 0x3F == GPF_WALK + 1


@pytest.mark.parametrize(("contiguous", "size"), [(1, 2 << 20), (2, 32 << 20)])
def test_contiguous_gpt_descriptors(contiguous: int, size: int) -> None:
    """One descriptor value for every 64 KiB of the run."""
    bench = Bench()
    gpt = Gpt(bench)
    run = min(size, SIZE)
    table = bench.machine.buffer(Pas.ROOT)[gpt.L1 - BASE :]
    table[: run >> 13] = struct.pack("<Q", 1 | GPI_REALM << 4 | contiguous << 8) * (run >> 16)
    gpt.machine.tlbi_pa(BASE, SIZE)
    assert bench.translate(BASE)[0] == GPF
    assert bench.translate(BASE + run - 0x1000)[0] == GPF


def test_stage1_alone_is_under_granule_protection() -> None:
    """With stage 2 off too."""
    bench = Bench()
    gpt = Gpt(bench)
    gpt.set(DATA, GPI_REALM)
    bench.state.x[1] = DATA
    exit_ = bench.run("ldr x0, [x1]")
    assert (ec(exit_), exit_.esr & 0x3F) == (EC_DATA_ABORT, GPF)
    assert not bench.state.hcr_el2 & HCR_VM
