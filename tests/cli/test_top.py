"""pyvmm top on a terminal: a table that is too wide, and how to quit."""

import re
import termios
from pathlib import Path

import pytest

from pyvmm.cli.common.screen import COLUMNS, layout
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


@pytest.mark.parametrize("width", [200, 120, 100, 80, 60, 40, 20])
def test_no_number_is_cut(width: int) -> None:
    """A column that does not fit is omitted; only names are cut."""
    header, row = layout([ROW], width)
    assert max(len(header), len(row)) <= width
    name, *cells = row.split()
    assert ROW[0].startswith(name.rstrip("~"))
    expected = dict(zip(COLUMNS, ROW, strict=True))
    for column, cell in zip(header.split()[1:], cells, strict=True):
        whole = expected[column]
        assert cell == whole or (column == "BY-REASON" and whole.startswith(f"{cell},"))


def test_eighty_columns_have_every_number() -> None:
    """The usual width of a terminal is enough."""
    header, row = layout([ROW], 80)
    assert set(COLUMNS) - set(header.split()) <= {"BY-REASON"}
    assert len(row) <= 80
    assert layout([ROW], 200)[1].split() == list(ROW)


def test_an_empty_table_is_its_headings() -> None:
    """For any width."""
    (header,) = layout([], 80)
    assert header.split() == list(COLUMNS)


def test_q_leaves_it(tmp_path: Path) -> None:
    """At once, whatever the delay; the terminal is restored."""
    create("r1", *VM, kernel(tmp_path, CHATTER))
    assert result(verb("start", "r1")) == DONE
    with at_terminal("top", "-d", "0.2") as (shell, process):
        match = shell.expect(re.compile(rb"pyvmm top: 1 instance  .*r1 +running", re.DOTALL))
        assert b"instances" not in match[0]
        assert b"\xe2\x80\xa6" not in match[0]
        mode = termios.tcgetattr(shell._in_fd)
        shell.type("q")
        assert process.wait(PATIENCE) == ExitCode.OK
        assert termios.tcgetattr(shell._in_fd)[3] & termios.ICANON
        assert not mode[3] & termios.ICANON
    with at_terminal("top", "-d", "1000") as (shell, process):
        shell.expect(re.compile(rb"\x1b\[\?1049h|"))
        shell.type("xq")
        assert process.wait(PATIENCE) == ExitCode.OK
