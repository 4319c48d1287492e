"""Stage 1 of the EL1&0 regime: walks, permissions, updates, and what the TLB may remember."""

from __future__ import annotations

import pytest

from tests.core.system import (
    AF,
    BASE,
    CODE,
    DATA,
    DBM,
    DEVICE,
    NG,
    PXN,
    READ_ONLY,
    SCTLR_ON,
    TABLES,
    TCR_48,
    TCR_HA,
    TCR_HD,
    USER,
    UXN,
    Bench,
    guest_ec,
    guest_fsc,
    vector,
)

READ, WRITE, FETCH = 0, 1, 2
VA = 0x4000_0000
EL0 = 0
PAN = 1 << 22
EL1H = 0x3C5
SCTLR_WXN = 1 << 19
SYNC_SAME_EL = 0x200
SYNC_LOWER_EL = 0x400
ADDRESS_SIZE, TRANSLATION, ACCESS_FLAG, PERMISSION, ALIGNMENT, EXTERNAL = (
    0x00,
    0x04,
    0x08,
    0x0C,
    0x21,
    0x10,
)


@pytest.fixture
def bench() -> Bench:
    """Return a bench with stage 1 on."""
    bench = Bench()
    bench.mmu_on()
    return bench


def test_a_page_is_where_the_tables_say(bench: Bench) -> None:
    """A four-level walk yields the page and keeps the offset."""
    bench.map(VA, DATA)
    assert bench.translate(VA + 0x123) == (0, DATA + 0x123)


@pytest.mark.parametrize(("level", "shift"), [(1, 30), (2, 21)])
def test_a_block_maps_all_of_its_size(bench: Bench, level: int, shift: int) -> None:
    """Blocks of 1 GiB and 2 MiB are translated to their last byte."""
    bench.map(1 << 39, BASE, leaf_level=level)
    last = (1 << shift) - 1
    assert bench.translate((1 << 39) + last) == (0, BASE + last)


@pytest.mark.parametrize("high", [False, True])
def test_both_halves_are_translated_by_their_own_register(bench: Bench, high: bool) -> None:
    """Bit 55 chooses TTBR0_EL1 or TTBR1_EL1."""
    bench.map(VA, DATA)
    setattr(bench.state, "ttbr0_el1" if high else "ttbr1_el1", 0)
    assert bench.translate(VA | (0xFFFF << 48 if high else 0)) == (0, DATA)


@pytest.mark.parametrize(
    ("va", "tcr", "fsc"),
    [
        (VA, TCR_48, TRANSLATION + 1),
        (1 << 48, TCR_48, TRANSLATION),
        (1 << 47 | 1 << 63, TCR_48, TRANSLATION),
        (BASE, TCR_48 | 1 << 7, TRANSLATION),
        (BASE | 0x5A << 56, TCR_48, TRANSLATION),
        (BASE, TCR_48 & ~(7 << 32), 0),
    ],
)
def test_input_addresses_are_checked(bench: Bench, va: int, tcr: int, fsc: int) -> None:
    """Unmapped, out of range, disabled by EPD0 and tagged without TBI: level of the fault."""
    bench.state.tcr_el1 = tcr
    assert bench.translate(va)[0] == fsc


def test_top_byte_is_ignored_when_told(bench: Bench) -> None:
    """TCR_EL1.TBI0 takes the tag off the address."""
    bench.state.tcr_el1 = TCR_48 | 1 << 37
    assert bench.translate(CODE | 0x5A << 56) == (0, CODE)


def test_output_address_beyond_ips_is_an_address_size_fault(bench: Bench) -> None:
    """IPS of 32 bits refuses a page above 4 GiB at its level."""
    bench.map(VA, 1 << 32)
    bench.state.tcr_el1 = TCR_48 & ~(7 << 32)
    assert bench.translate(VA)[0] == ADDRESS_SIZE + 3


def test_a_table_outside_memory_is_an_external_abort_on_the_walk(bench: Bench) -> None:
    """A level 0 table that is nowhere: synchronous external abort with the level."""
    bench.state.ttbr0_el1 = 1 << 40
    assert bench.translate(VA)[0] == 0x14


U, K = 0, EL1H
KP = EL1H | PAN


@pytest.mark.parametrize(
    ("pstate", "attributes", "allowed"),
    [
        (K, 0, "rwx"),
        (K, READ_ONLY, "rx"),
        (K, USER, "rw"),  # EL0 can write it: EL1 never executes it
        (K, USER | READ_ONLY, "rx"),
        (K, PXN, "rw"),
        (KP, USER | READ_ONLY, "x"),
        (KP, USER | READ_ONLY | PXN, ""),
        (KP, 0, "rwx"),
        (U, 0, "x"),  # AP says nothing about execution at EL0
        (U, UXN, ""),
        (U, USER, "rwx"),
        (U, USER | READ_ONLY, "rx"),
        (U, USER | UXN, "rw"),
    ],
)
def test_permissions(bench: Bench, pstate: int, attributes: int, allowed: str) -> None:
    """The direct permission table of stage 1 with PSTATE.PAN."""
    bench.map(VA, DATA, AF | attributes)
    bench.state.pstate = pstate
    faults = [bench.translate(VA, access)[0] for access in (READ, WRITE, FETCH)]
    assert faults == [0 if letter in allowed else PERMISSION + 3 for letter in "rwx"]


@pytest.mark.parametrize(("pstate", "attributes"), [(K, 0), (U, USER)])
def test_writable_memory_is_not_executable_with_wxn(
    bench: Bench, pstate: int, attributes: int
) -> None:
    """SCTLR_EL1.WXN."""
    bench.map(VA, DATA, AF | attributes)
    bench.state.pstate = pstate
    bench.state.sctlr_el1 = SCTLR_ON | SCTLR_WXN
    assert bench.translate(VA, FETCH)[0] == PERMISSION + 3


@pytest.mark.parametrize(
    ("limit", "pstate", "allowed"),
    [(1 << 61, U, ""), (1 << 62, K, "rx"), (1 << 60, U, "rw"), (1 << 59, K, "rw")],
)
def test_table_descriptors_limit_what_is_below(
    bench: Bench, limit: int, pstate: int, allowed: str
) -> None:
    """APTable, UXNTable and PXNTable."""
    bench.map(VA, DATA, AF | (USER if pstate == U else 0))
    bench.write_words(TABLES, bench.memory.read_u64(TABLES) | limit)
    if limit == 1 << 61:
        bench.map(VA, DATA, AF | USER | UXN)
    bench.state.pstate = pstate
    faults = [bench.translate(VA, access)[0] for access in (READ, WRITE, FETCH)]
    assert [fault == 0 for fault in faults] == [letter in allowed for letter in "rwx"]


def test_access_flag_faults_without_hardware_update(bench: Bench) -> None:
    """AF = 0 and TCR_EL1.HA = 0."""
    bench.map(VA, DATA, 0)
    assert bench.translate(VA)[0] == ACCESS_FLAG + 3


def test_access_flag_is_set_by_hardware(bench: Bench) -> None:
    """TCR_EL1.HA: the first access sets AF and nothing else."""
    entry = bench.map(VA, DATA, 0)
    bench.state.tcr_el1 |= TCR_HA
    assert bench.translate(VA) == (0, DATA)
    assert bench.memory.read_u64(entry) == DATA | AF | 3


def test_dirty_state_is_set_by_a_store_only(bench: Bench) -> None:
    """TCR_EL1.HD and DBM: a load leaves AP[2], the store clears it, through the TLB too."""
    entry = bench.map(VA, DATA, AF | READ_ONLY | DBM)
    bench.state.tcr_el1 |= TCR_HA | TCR_HD
    bench.state.x[1] = VA
    bench.run("ldr x0, [x1]\n hvc #0")
    assert bench.memory.read_u64(entry) == DATA | AF | READ_ONLY | DBM | 3
    bench.run("ldr x0, [x1]\n str x1, [x1]\n hvc #0")
    assert bench.memory.read_u64(entry) == DATA | AF | DBM | 3
    assert bench.memory.read_u64(DATA) == VA


def test_a_fault_reaches_el1_with_its_syndrome(bench: Bench) -> None:
    """A store to a read-only page: vector, ESR_EL1, FAR_EL1, ELR_EL1."""
    bench.map(VA, DATA, AF | READ_ONLY)
    bench.state.x[1] = VA
    exit_ = bench.run("nop\n str x0, [x1, #8]\n hvc #99")
    assert vector(exit_) == SYNC_SAME_EL
    assert (guest_ec(bench.state), guest_fsc(bench.state)) == (0x25, PERMISSION + 3)
    assert bench.state.esr_el1 >> 6 & 1  # WnR
    assert (bench.state.far_el1, bench.state.elr_el1) == (VA + 8, CODE + 4)


def test_an_access_across_pages_does_nothing_when_the_second_faults(bench: Bench) -> None:
    """Neither page is written and FAR_EL1 names the second."""
    bench.map(VA, DATA)
    bench.write_words(DATA + 0xFF8, 0x1122_3344_5566_7788)
    bench.state.x[1] = VA + 0xFFC
    bench.run("str x1, [x1]\n hvc #99")
    assert bench.state.far_el1 == VA + 0x1000
    assert bench.memory.read_u64(DATA + 0xFF8) == 0x1122_3344_5566_7788


def test_an_access_across_pages_reaches_both(bench: Bench) -> None:
    """Two pages that are apart in physical memory."""
    bench.map(VA, DATA + 0x2000)
    bench.map(VA + 0x1000, DATA)
    bench.state.x[0], bench.state.x[1] = 0x1122_3344_5566_7788, VA + 0xFFC
    bench.run("str x0, [x1]\n ldr x2, [x1]\n hvc #0")
    assert bench.state.x[2] == 0x1122_3344_5566_7788
    assert bench.memory.read_u64(DATA) == 0x1122_3344


@pytest.mark.parametrize("first", ["nop", "ldr x0, [x2]"])
def test_device_memory_faults_on_unaligned_accesses(bench: Bench, first: str) -> None:
    """Whether or not the page was used before."""
    bench.map(VA, DATA, AF | DEVICE)
    bench.state.x[1], bench.state.x[2] = VA + 1, VA
    bench.run(f"{first}\n ldr x0, [x1]\n hvc #99")
    assert (guest_fsc(bench.state), bench.state.far_el1) == (ALIGNMENT, VA + 1)


def test_strict_alignment_holds_for_normal_memory(bench: Bench) -> None:
    """SCTLR_EL1.A."""
    bench.map(VA, DATA)
    bench.state.sctlr_el1 = SCTLR_ON | 2
    bench.state.x[1] = VA + 2
    bench.run("ldrh w0, [x1]\n ldr w0, [x1]\n hvc #99")
    assert (guest_fsc(bench.state), bench.state.elr_el1) == (ALIGNMENT, CODE + 4)


def test_memory_outside_dram_is_an_external_abort(bench: Bench) -> None:
    """A mapping to nowhere."""
    bench.map(VA, 0x1000)
    bench.state.x[1] = VA
    bench.run("ldr x0, [x1]\n hvc #99")
    assert guest_fsc(bench.state) == EXTERNAL


def test_an_el0_fetch_fault_comes_from_a_lower_level(bench: Bench) -> None:
    """EL0 jumps to a UXN page."""
    bench.map(VA, DATA, AF | USER | UXN)
    bench.state.pstate = EL0
    bench.state.pc = VA
    exit_ = bench.run()
    assert vector(exit_) == SYNC_LOWER_EL
    assert (guest_ec(bench.state), guest_fsc(bench.state), bench.state.far_el1) == (
        0x20,
        PERMISSION + 3,
        VA,
    )


def test_unprivileged_loads_use_el0_permissions(bench: Bench) -> None:
    """LDTR at EL1 of a page that only EL1 may read, after EL1 read it."""
    bench.map(VA, DATA)
    bench.state.x[1] = VA
    bench.run("ldr x0, [x1]\n ldtr x0, [x1]\n hvc #99")
    assert (guest_fsc(bench.state), bench.state.elr_el1) == (PERMISSION + 3, CODE + 4)


TLBI = {
    "va": "lsr x4, x1, #12\n tlbi vae1, x4",
    "va_all_asids": "lsr x4, x1, #12\n tlbi vaae1is, x4",
    "last_level": "lsr x4, x1, #12\n tlbi vale1is, x4",
    "asid": "tlbi aside1is, xzr",
    "all": "tlbi vmalle1",
    "range": "lsr x4, x1, #12\n mov x5, #0x400000000000\n orr x4, x4, x5\n sys #0, c8, c2, #1, x4",
}


@pytest.mark.parametrize("tlbi", TLBI.values(), ids=TLBI.keys())
@pytest.mark.parametrize("level", [2, 3])
def test_an_invalidated_translation_is_not_used(bench: Bench, tlbi: str, level: int) -> None:
    """Unmap, TLBI, access: each kind of invalidation takes pages and pieces of blocks away."""
    entry = bench.map(VA, DATA, AF | NG, leaf_level=level)
    bench.map(TABLES, TABLES)
    for page in range(TABLES, TABLES + 0x8000, 0x1000):
        bench.map(page, page)
    bench.state.x[1], bench.state.x[2] = VA, entry
    unmap = f"ldr x0, [x1, #8]\n str xzr, [x2]\n dsb sy\n {tlbi}\n dsb sy\n isb\n"
    exit_ = bench.run(unmap + "ldr x0, [x1, #16]\n hvc #99")
    assert vector(exit_) == SYNC_SAME_EL
    assert (guest_fsc(bench.state), bench.state.far_el1) == (TRANSLATION + level, VA + 16)


def test_address_spaces_are_told_apart_by_asid(bench: Bench) -> None:
    """Two ASIDs, two tables, the same VA; going back and forth needs no invalidation."""
    bench.map(VA, DATA, AF | NG)
    other = DATA + 0x10_0000
    for page, descriptor in (
        (0, bench.memory.read_u64(TABLES) & ~0xFFFF_FFFF_F000 | other + 0x1000),
        (0x1000, bench.memory.read_u64((bench.memory.read_u64(TABLES) & 0xFFFF_FFFF_F000) + 16)),
        (0x2000, 0),
    ):
        bench.write_words(other + page + (16 if page == 0x1000 else 0), descriptor)
    bench.write_words(other + 0x1000 + 8, (other + 0x2000) | 3)
    bench.write_words(other + 0x2000, (other + 0x3000) | 3)
    bench.write_words(other + 0x3000, (DATA + 0x1000) | AF | NG | 3)
    bench.write_words(DATA, 1)
    bench.write_words(DATA + 0x1000, 2)
    bench.state.x[1] = VA
    bench.state.x[2], bench.state.x[3] = TABLES | 1 << 48, other | 2 << 48
    switch = "msr ttbr0_el1, {}\n isb\n ldr {}, [x1]\n"
    bench.run(
        "".join(
            switch.format(ttbr, f"x{n}")
            for n, ttbr in ((10, "x2"), (11, "x3"), (12, "x2"), (13, "x3"))
        )
        + "hvc #0"
    )
    assert [bench.state.x[n] for n in range(10, 14)] == [1, 2, 1, 2]


def test_code_written_through_another_mapping_is_seen_after_its_maintenance(bench: Bench) -> None:
    """Store, DC CVAU, IC IVAU, ISB."""
    bench.map(VA, DATA)
    bench.memory.write(DATA, bytes.fromhex("200080d2c0035fd6"))  # mov x0, #1; ret
    bench.state.x[1], bench.state.x[2] = VA, 0xD2800040  # mov x0, #2
    bench.run(
        "blr x1\n mov x10, x0\n str w2, [x1]\n dc cvau, x1\n dsb ish\n ic ivau, x1\n"
        "dsb ish\n isb\n blr x1\n hvc #0"
    )
    assert (bench.state.x[10], bench.state.x[0]) == (1, 2)


AT = {"r": "at s1e1r, x1", "w": "at s1e1w, x1", "user": "at s1e0r, x1"}


@pytest.mark.parametrize(
    ("at", "par"),
    [
        (AT["r"], DATA | 0xFF << 56 | 1 << 11),
        (AT["w"], 1 | (PERMISSION + 3) << 1 | 1 << 11),
        (AT["user"], 0x801 | 0xF << 1),
    ],
)
def test_address_translation_instructions_fill_par(bench: Bench, at: str, par: int) -> None:
    """Success gives address and attributes, a fault its status code."""
    bench.map(VA, DATA, AF | READ_ONLY)
    bench.state.x[1] = VA
    bench.run(f"{at}\n isb\n mrs x0, par_el1\n hvc #0")
    assert bench.state.x[0] == par


@pytest.mark.parametrize(("tg", "granule"), [(1, 16), (2, 14)])
def test_other_granules_walk(tg: int, granule: int) -> None:
    """64 KiB and 16 KiB granules, 48-bit VA, one page."""
    bench = Bench()
    stride = granule - 3
    shifts = {16: (42, 29, 16), 14: (47, 36, 25, 14)}[granule]
    table, va = DATA, 0x1234_5678_0000
    for level, shift in enumerate(shifts):
        last = level == len(shifts) - 1
        index = va >> shift & (1 << stride) - 1
        target = DATA + 0x8_0000 if last else table + (1 << granule)
        bench.write_words(table + 8 * index, target | 3 | (AF if last else 0))
        table = target
    bench.state.ttbr0_el1 = DATA
    bench.state.tcr_el1 = 16 | {1: 1 << 14, 2: 2 << 14}[tg] | 5 << 32
    bench.state.sctlr_el1 = SCTLR_ON
    assert bench.translate(va + 0x1FF8) == (0, DATA + 0x8_0000 + 0x1FF8)
