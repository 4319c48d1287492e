"""What a PE has cached: every entry is what a walk finds, and code is as it was executed."""

import pytest

from pyvmm.arch.engine import DEFAULT_ENGINE, Engine
from pyvmm.arch.pas import Pas
from pyvmm.core.views import TlbFlag, TlbLevel, view_tlbs
from pyvmm.observe.caches import code_picture, tlb_picture
from pyvmm.observe.memory import Dram
from tests.core.system import AF, CODE, DATA, NG, PAGE, READ_ONLY, Bench

LEVELS = ("data", "fetches", "second level", "stage 2")
ACCESSES = {TlbFlag.READ: 0, TlbFlag.WRITE: 1, TlbFlag.EXECUTE: 2}
HOT = 100
HIGH = 0xFFFF << 48


@pytest.fixture
def bench() -> Bench:
    """Return a machine with both stages on and some pages of data, one of them read-only."""
    bench = Bench()
    bench.mmu_on()
    bench.stage2_on()
    for n in range(4):
        bench.map(HIGH | DATA + n * PAGE, DATA + n * PAGE, AF | (READ_ONLY if n == 3 else NG))
    bench.state.x[1] = HIGH | DATA
    bench.run(
        "str x1, [x1]; ldr x0, [x1, #4096]; ldr x0, [x1, #8192]; ldr x0, [x1, #12288]; hvc #1"
    )
    return bench


def test_every_entry_is_what_a_walk_finds(bench: Bench) -> None:
    """Each level of the TLBs has some, for each access that it allows."""
    entries, pending = view_tlbs(bench.machine, 0)
    assert pending == 0
    assert {each.level for each in entries} == set(TlbLevel)
    for entry in entries:
        assert entry.flags & ~TlbFlag.NOT_GLOBAL
        if entry.level == TlbLevel.STAGE2:
            assert (entry.va, entry.pas) == (entry.pa, Pas.NS)  # identity mapped
            continue
        for flag, access in ACCESSES.items():
            if flag in entry.flags:
                answer = bench.machine.pe(0).translate(bench.state, entry.va, access)
                assert answer == (0, entry.pa, entry.pas, False)
    read_only = [each for each in entries if each.va == HIGH | DATA + 3 * PAGE]
    assert read_only
    assert not any(TlbFlag.WRITE in each.flags for each in read_only)


def test_pages_in_a_row_are_one_line(bench: Bench) -> None:
    """The pages of one kind; the levels are named and counted."""
    picture = tlb_picture(bench.machine, 0)
    assert tuple(picture.entries) == LEVELS
    assert sum(run.pages for run in picture.runs) == sum(picture.entries.values())
    runs = {each.va: each for each in picture.runs if each.level == "data"}
    row, alone = runs[hex(HIGH | DATA)], runs[hex(HIGH | DATA + 3 * PAGE)]
    assert (row.pages, row.pa, row.access, row.is_global) == (3, hex(DATA), "rw", False)
    assert (alone.pages, alone.access, alone.is_global) == (1, "r", True)


def test_an_invalidation_waits_until_the_pe_runs(bench: Bench) -> None:
    """The entries are there until then, and the picture says that they are not used."""
    bench.machine.tlbi_vmid(1)
    before = tlb_picture(bench.machine, 0)
    assert before.pending == 1
    assert before.entries["data"] >= 4
    bench.run("nop; hvc #1")
    after = tlb_picture(bench.machine, 0)
    assert (after.pending, after.entries.get("data", 0)) == (0, 0)


@pytest.mark.parametrize("engine", [Engine.INTERP, DEFAULT_ENGINE])
def test_code_is_shown_as_it_was_executed(engine: Engine) -> None:
    """A loop that is hot enough is a region; what was jumped over is not there."""
    bench = Bench(engine=engine, threshold=2)
    bench.run(f"mov x0, #{HOT}; again: subs x0, x0, #1; b.ne again; b end; nop; end: hvc #1")
    picture = code_picture(bench.machine, Dram(bench.machine), 0, CODE + 8, (CODE + 8, Pas.NS))
    (page,) = picture.pages
    assert (page.pa, page.decoded) == (hex(CODE), 5)
    assert [row.text.split()[0] for row in picture.rows] == ["mov", "subs", "b.ne", "b", "hvc"]
    assert int(picture.rows[-1].address, 16) == CODE + 20
    states = [row.state for row in picture.rows]
    if engine is Engine.INTERP:
        assert (set(states), page.regions) == ({"decoded"}, 0)
    else:
        assert states[1:3] == ["region", "translated"]
        assert page.regions == states.count("region")
        assert page.translated == len(states) - states.count("decoded")


def test_a_page_without_executed_code_has_no_rows(bench: Bench) -> None:
    """Nor has one that is not mapped, or not in DRAM."""
    dram = Dram(bench.machine)
    for place in ((DATA, Pas.NS), (CODE, Pas.REALM), (0, Pas.NS), None):
        assert code_picture(bench.machine, dram, 0, 0, place).rows == []
