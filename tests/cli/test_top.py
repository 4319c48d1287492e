"""pyvmm top on a terminal: a table that is too wide, the order of its rows, and how to quit."""

import asyncio
import re
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from textual.widgets import DataTable, Static

from pyvmm.cli.common.activity import COLUMNS, Reading, sort
from pyvmm.cli.common.screen import Screen, layout
from pyvmm.vm.control.api import MemoryStatistics, State, Statistics, Status
from pyvmm.vm.control.rates import Rates
from pyvmm.vm.exit_code import ExitCode
from tests.boot.shell import PATIENCE
from tests.cli.inside import verb
from tests.cli.instance import DONE, VM, at_terminal, create, result
from tests.cli.kernels import CHATTER, kernel

pytestmark = pytest.mark.usefixtures("runtime")

ROW = (
    *("a-name-of-some-length", "shut-off", "realm", "16", "1234.5", "123.4k"),
    *("mmio:123.4k,sysreg:12.3k,irq:999", "512M", "9.9G", "999K", "100K"),
)


def reading(name: str, mips: float, resident: int = 0) -> Reading:
    """Return a reading of a running instance."""
    status = Status(
        name=name, state=State.RUNNING, pid=1, kind="vm", num_cpus=1, ram_size=1, created=0.0
    )
    memory = {pas: MemoryStatistics(1, resident) for pas in ("ns", "realm")}
    rates = Rates(mips * 1e6, {"mmio": mips}, 0, 0)
    return Reading(status, Statistics(0.0, [], memory, {}), rates)


READINGS = [
    reading("r10", 3),
    reading("r9", 20, 4096),
    Reading(
        Status(name="r1", state=State.DEAD, pid=1, kind="vm", num_cpus=1, ram_size=1, created=0)
    ),
]


@pytest.mark.parametrize("width", [200, 120, 100, 80, 60, 40, 20])
def test_no_number_is_cut(width: int) -> None:
    """A column that does not fit is omitted; only names are cut."""
    header, row = layout([ROW], width)
    assert all(len(" ".join(line.values())) <= width for line in (header, row))
    assert ROW[0].startswith(row["NAME"].strip().rstrip("~"))
    expected = dict(zip(COLUMNS, ROW, strict=True))
    for column, cell in row.items():
        text, whole = cell.strip(), expected[column]
        is_whole = text == whole or (column == "BY-REASON" and whole.startswith(f"{text},"))
        assert is_whole or column == "NAME"


def test_eighty_columns_have_every_number() -> None:
    """The usual width of a terminal is enough, with what the table itself needs."""
    header, _ = layout([ROW], 80 - 3)
    assert set(COLUMNS) - set(header) <= {"BY-REASON", "KIND"}
    assert [cell.strip() for cell in layout([ROW], 200)[1].values()] == list(ROW)


def test_an_empty_table_is_its_headings() -> None:
    """For any width."""
    (header,) = layout([], 80)
    assert [*header] == list(COLUMNS)


@pytest.mark.parametrize(
    ("column", "order"),
    [
        ("NAME", ["r1", "r9", "r10"]),
        ("MIPS", ["r9", "r10", "r1"]),
        ("NS", ["r9", "r10", "r1"]),
        ("STATE", ["r1", "r9", "r10"]),
    ],
)
def test_rows_are_sorted(column: str, order: list[str]) -> None:
    """Names as a reader counts, numbers from the top; what has no number is last."""
    assert [each.status.name for each in sort(READINGS, column)] == order
    for each in COLUMNS:
        assert len(sort(READINGS, each, is_reversed=True)) == len(READINGS)


def test_keys_sort_and_quit() -> None:
    """Also a click on a heading; the cells of a narrow screen fit."""

    def read(wants_to_quit: Callable[[float], bool]) -> Iterator[list[Reading]]:
        while not wants_to_quit(0.5):
            yield READINGS

    async def use() -> None:
        screen = Screen(read, "NAME")

        def names() -> list[str]:
            table = screen.query_one(DataTable)
            return [str(table.get_row_at(at)[0]).strip() for at in range(table.row_count)]

        async with screen.run_test(size=(80, 24)) as pilot:
            while not names():
                await pilot.pause(0.02)
            assert names() == ["r1", "r9", "r10"]
            await pilot.press("r")
            assert names() == ["r10", "r9", "r1"]
            for _ in range(COLUMNS.index("MIPS")):
                await pilot.press("s")
            assert names() == ["r9", "r10", "r1"]
            assert "by MIPS" in str(screen.query_one("#title", Static).render())
            await pilot.click(DataTable, offset=(1, 0))
            assert names() == ["r1", "r9", "r10"]
            assert screen.query_one(DataTable).virtual_size.width <= 80
            await pilot.press("q")
        assert screen.return_code == 0

    asyncio.run(asyncio.wait_for(use(), PATIENCE))


def test_q_leaves_it(tmp_path: Path) -> None:
    """At once, whatever the delay; the terminal is restored."""
    create("r1", *VM, kernel(tmp_path, CHATTER))
    assert result(verb("start", "r1")) == DONE
    with at_terminal("top", "-d", "1000") as (shell, process):
        shell.expect(re.compile(rb"\x1b\[\?1049h.*0 instances", re.DOTALL))
        mode = termios.tcgetattr(shell._in_fd)
        shell.type("xq")
        assert process.wait(PATIENCE) == ExitCode.OK
        assert termios.tcgetattr(shell._in_fd)[3] & termios.ICANON
        assert not mode[3] & termios.ICANON
    with at_terminal("top", "-d", "0.2", "-n", "3") as (shell, process):
        shell.expect(re.compile(rb"1 instance, .*r1", re.DOTALL))
        assert process.wait(PATIENCE) == ExitCode.OK
