"""The walks that an observer sees, against the machine's own walker, on random tables."""

import pytest

from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.observe.access import try_accesses
from pyvmm.observe.memory import Dram
from pyvmm.observe.walk import walk_va
from tests.core.system import (
    AF,
    BASE,
    DATA,
    DBM,
    HCR_VM,
    READ_ONLY,
    STAGE2_TABLES,
    TCR_48,
    TCR_HA,
    TCR_HD,
    USER,
    Bench,
)
from tests.core.test_walk import Tables

VA = 0x1234_5000


@pytest.mark.parametrize("pas", [Pas.NS, Pas.REALM])
def test_walks_agree_with_the_machine(seed: int, pas: Pas) -> None:
    """Where the machine finds an address, so does the observer; where it finds none, a fault."""
    found = 0
    for turn in range(12):
        tables = Tables(seed + turn, pas)
        state, pe = tables.bench.state, tables.bench.machine.pe(0)
        dram = Dram(tables.bench.machine)
        state.hcr_el2 |= HCR_VM if turn % 3 else 0
        if turn % 3 == 2:
            tables.identity(STAGE2_TABLES)
        for _ in range(200):
            va = tables.va()
            fault, pa, result_pas, _ = pe.translate(state, va)
            walk = walk_va(dram, state, va)
            if not fault:
                assert (walk.pa, walk.pas) == (pa, result_pas), hex(va)
                found += 1
            elif walk.pa is None:
                assert all(step.kind != "page" for step in walk.steps[-1:] if step.stage == 2)
    assert found


def test_a_walk_shows_each_entry_with_its_fields() -> None:
    """Four levels of stage 1, the last one a page, by their addresses."""
    bench = Bench()
    bench.mmu_on()
    entry = bench.map(VA, DATA, AF | USER | READ_ONLY)
    walk = walk_va(Dram(bench.machine), bench.state, VA + 0x123)
    assert [(step.level, step.kind) for step in walk.steps] == [
        (0, "table"), (1, "table"), (2, "table"), (3, "page"),
    ]  # fmt: skip
    leaf = walk.steps[-1]
    assert (leaf.address, leaf.output) == (hex(entry), hex(DATA))
    assert (leaf.fields["AP1"], leaf.fields["AP2"], leaf.fields["AF"]) == ("1", "1", "1")
    assert (walk.ipa, walk.pa, walk.pas) == (DATA + 0x123, DATA + 0x123, Pas.NS)


def test_accesses_are_as_the_machine_would_make_them() -> None:
    """A read-only page of EL0: the fault of a write as ESR_EL1 shows it."""
    bench = Bench()
    bench.mmu_on()
    bench.map(VA, DATA, AF | USER | READ_ONLY)
    results = try_accesses(bench.machine, 0, bench.state, VA, 0, [])
    assert [each.is_allowed for each in results] == [True, False, True]
    write = results[1]
    assert (write.fault, write.taken_to) == ("permission fault at level 3", "EL1")
    assert write.esr == hex(0x24 << 26 | 1 << 25 | 1 << 6 | 0xF)


@pytest.mark.parametrize("is_updated", [False, True])
def test_looking_updates_no_descriptor(is_updated: bool) -> None:
    """Access flag and dirty state stay; the result says what the hardware would do with them."""
    bench = Bench()
    bench.mmu_on(TCR_48 | (TCR_HA | TCR_HD if is_updated else 0))
    old = bench.map(VA, DATA, READ_ONLY | DBM)
    clean = bench.map(VA + GRANULE_SIZE, DATA, AF | READ_ONLY | DBM)
    before = [bench.memory.read_u64(entry) for entry in (old, clean)]
    dram = Dram(bench.machine)
    for va, access in ((VA, 0), (VA + GRANULE_SIZE, 1)):
        steps = walk_va(dram, bench.state, va).steps
        results = try_accesses(bench.machine, 0, bench.state, va, 1, steps)
        assert results[access].is_allowed == is_updated
    assert [bench.memory.read_u64(entry) for entry in (old, clean)] == before


def test_walks_outside_memory_end() -> None:
    """Tables and addresses that are nowhere give no result and no exception."""
    bench = Bench()
    dram = Dram(bench.machine)
    for ttbr in (0, BASE - GRANULE_SIZE, (1 << 48) - GRANULE_SIZE):
        bench.mmu_on()
        bench.state.ttbr0_el1 = ttbr
        walk = walk_va(dram, bench.state, VA)
        assert (walk.steps, walk.pa) == ([], None)
    bench.mmu_on()
    assert walk_va(dram, bench.state, 0x00F0_0000_0000_0000).ipa is None
