"""Tables of stage 1, one at a time: each entry is there once; what is no table is refused."""

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.arch.pictures import Stage1Picture
from pyvmm.observe.memory import Dram
from pyvmm.observe.stage1 import stage1_picture
from tests.core.system import AF, BASE, CODE, DATA, PAGE, SIZE, TABLES, Bench

HIGH = 0xFFFF << 48
ROW = 5


@pytest.fixture(scope="module")
def bench() -> Bench:
    """Return a machine with a row of pages in the upper half, and a block."""
    bench = Bench()
    bench.mmu_on()
    for n in range(ROW):
        bench.map(HIGH | DATA + n * PAGE, DATA + n * PAGE)
    bench.map(HIGH | 0x20_0000, DATA, AF, leaf_level=2)
    return bench


def table(bench: Bench, va: int, level: int | None = None) -> Stage1Picture:
    """Return the picture of a table; its entries are there once each."""
    picture = stage1_picture(Dram(bench.machine), bench.state, 0, va, level)
    index = 0
    for run in picture.runs:
        assert run.index == index
        index += run.count
    assert index == 512
    return picture


def test_from_the_first_table_to_the_pages(bench: Bench) -> None:
    """Each table entry leads to the next table, as a person unfolds them."""
    picture = table(bench, (1 << 64) - 1)
    assert (picture.register, picture.level, picture.ipa) == ("TTBR1_EL1", 0, hex(TABLES))
    assert (picture.va, picture.pa) == (hex(HIGH), hex(TABLES))
    for level in range(1, 4):
        tables = [run for run in picture.runs if run.kind == "table"]
        starts = [int(run.va, 16) for run in tables]
        entry = tables[max(n for n, start in enumerate(starts) if start <= HIGH | DATA)]
        picture = table(bench, int(entry.va, 16), level)
        assert (picture.level, picture.ipa) == (level, entry.output)
        assert int(picture.va, 16) == int(entry.va, 16)
    (row,) = [run for run in picture.runs if run.kind == "page"]
    assert (row.va, row.output) == (hex(HIGH | DATA), hex(DATA))
    assert (row.count, row.size, row.fields["AF"]) == (ROW, ROW * PAGE, "1")


def test_a_block_is_an_entry(bench: Bench) -> None:
    """At level 2; it leads to no table."""
    picture = table(bench, HIGH, 2)
    (block,) = [run for run in picture.runs if run.kind == "block"]
    assert (block.va, block.output, block.size) == (hex(HIGH | 0x20_0000), hex(DATA), 0x20_0000)
    with pytest.raises(UserError, match="has no table of level 3 on PE 0"):
        table(bench, HIGH | 0x20_0000, 3)


@pytest.mark.parametrize("va", [1 << 50, 1 << 63])
def test_an_address_in_no_half(bench: Bench, va: int) -> None:
    """One line says so."""
    with pytest.raises(UserError, match="is in no half of the address space"):
        table(bench, va)


@pytest.mark.parametrize("level", [-1, 4, 99])
def test_a_level_that_does_not_exist(bench: Bench, level: int) -> None:
    """As one without a table."""
    with pytest.raises(UserError, match="has no table of level"):
        table(bench, CODE, level)


def test_a_table_that_is_not_in_memory_has_no_entries(bench: Bench) -> None:
    """A guest may point anywhere."""
    other = bench.machine.copy_context(bench.state)
    other.ttbr0_el1 = BASE + SIZE
    picture = stage1_picture(Dram(bench.machine), other, 0, 0, None)
    assert picture.runs == []
