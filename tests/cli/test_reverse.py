"""`pyvmm replay --gdb`: GDB runs a replay forwards and backwards."""

from pathlib import Path

import pytest

from pyvmm.vm.exit_code import ExitCode
from tests.boot.command import Running, pyvmm
from tests.boot.gdb import GDB, Gdb
from tests.boot.shell import PATIENCE
from tests.cli.kernels import kernel
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.usefixtures("runtime"),
    pytest.mark.skipif(GDB is None, reason="gdb-multiarch is not installed"),
]

#: Writes 0, 1, 2 ... to a variable, one every few thousand instructions, then powers off.
WRITER = """
    adr x1, variable
    movz x2, #0
next:
    movz x3, #0x4000
wait:
    sub x3, x3, #1
    cbnz x3, wait
write:
    str x2, [x1]
    add x2, x2, #1
    cmp x2, #50
    b.ne next
    movz x0, #0x8400, lsl #16
    movk x0, #8
    {call}
    .balign 8
variable:
    .quad 0
"""
BASE = 0x8008_0000
VM, REALM = "hvc #0", "smc #0"
WRITE, VARIABLE = BASE + 0x14, BASE + 0x30


@pytest.mark.parametrize(
    ("kind", "call"), [([], VM), (["--realm", "--no-hes"], REALM)], ids=["vm", "realm"]
)
def test_the_last_write_of_a_variable_is_found(tmp_path: Path, kind: list[str], call: str) -> None:
    """From the end back to it, across world switches, and on to the one before."""
    file, stub = tmp_path / "record", tmp_path / "gdb"
    program = kernel(tmp_path, WRITER.format(call=call))
    ended = pyvmm("run", *kind, "-k", program, "--record", file)
    assert ended.code == ExitCode.OK, ended.errors
    with Running("replay", str(file), "--gdb", str(stub)):
        wait_until(stub.exists, PATIENCE)
        with Gdb(str(stub)) as gdb:
            assert gdb.value("$x2") == 0
            gdb.go()  # to the end
            gdb.do(f"-break-watch *(long*){VARIABLE:#x}")
            for count in (49, 48):
                stop = gdb.go("-exec-continue --reverse")
                assert stop["reason"] == "watchpoint-trigger"
                assert (gdb.value("$pc"), gdb.value("$x2")) == (WRITE, count)
            gdb.do("-break-delete")
            gdb.do(f"-break-insert *{WRITE:#x}")
            gdb.go("-exec-continue --reverse")
            assert (gdb.value("$pc"), gdb.value("$x2")) == (WRITE, 47)
            gdb.go("-exec-step-instruction --reverse")
            assert (gdb.value("$pc"), gdb.value("$x3")) == (WRITE - 4, 0)
            gdb.go("-exec-step-instruction")
            assert gdb.value("$pc") == WRITE
            gdb.do("-break-delete")
            gdb.go("-exec-continue --reverse")  # to the start
            assert gdb.value("$pc") == BASE
