"""Debugging Debian's kernel with GDB and pyvmm debug: functions, steps, variables, two CPUs.

In a normal VM, and in a realm that allows it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.images.debian import Image
from tests.boot.command import Running, guest_options, pyvmm
from tests.boot.gdb import GDB, Gdb
from tests.boot.shell import Answer, Shell
from tests.vm.gdb.client import Client, Stopped

pytestmark = pytest.mark.boot
needs_gdb = pytest.mark.skipif(GDB is None, reason="gdb-multiarch is not installed")

#: A system call that nothing makes by itself, and a variable that nothing else writes.
FUNCTION, VARIABLE = "__arm64_sys_sync", "panic_on_warn"
SET_VARIABLE = "echo 1 >/proc/sys/kernel/panic_on_warn"
PC, X30 = 32, 30
NAME = "looked-into"
KINDS: Final[dict[str, tuple[str, ...]]] = {
    "normal VM": (),
    "realm": ("--realm", "--realm-debug", "--no-hes"),
}
EL_MASK = 0xC


class Kernel:
    """A guest at its shell, with a stub, and the addresses of two kernel symbols."""

    def __init__(self, guest: Running, stub: Path, kind: str) -> None:
        self.kind = kind
        self.shell = guest.shell
        self.stub = stub
        self.shell.log_in()
        assert self.shell.run("echo 0 >/proc/sys/kernel/kptr_restrict").status == 0
        self.function, self.variable = self.addresses(FUNCTION, VARIABLE)

    def addresses(self, *symbols: str) -> list[int]:
        """Return the addresses of symbols, which change with each boot; the list is long."""
        answer = self.shell.run(f"grep -E ' ({'|'.join(symbols)})$' /proc/kallsyms")
        rows = (line.split() for line in answer.output.splitlines())
        found = {name: int(address, 16) for address, _, name in rows}
        return [found[symbol] for symbol in symbols]

    def begin(self, command: str) -> None:
        """Type a command that will hit a breakpoint."""
        self.shell.type(f"{command}; echo '<'$?'>'\n")

    def is_through(self) -> bool:
        """Wait until that command has succeeded."""
        return self.shell.expect(re.compile(rb"<(\d+)>"))[1] == b"0"


@pytest.fixture(scope="module", params=KINDS)
def kernel(
    debian: Image, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Kernel]:
    """Boot one guest of each kind for all tests."""
    stub = tmp_path_factory.mktemp("gdb") / "stub"
    kind = str(request.param)
    options = ("-c", "2", "--gdb", stub, "--name", NAME)
    with Running("run", *guest_options(debian, None), *options, *KINDS[kind]) as guest:
        yield Kernel(guest, stub, kind)


@pytest.mark.parametrize("cpu", [0, 1])
def test_a_function_of_the_kernel(kernel: Kernel, cpu: int) -> None:
    """On the CPU that calls it: a breakpoint, steps, and the return to the caller."""
    with Client(kernel.stub) as client:
        client.ask(f"Z1,{kernel.function:x},4")
        client.send("vCont;c")
        kernel.begin(f"taskset {1 << cpu} sync")
        stop = client.wait()
        assert stop == Stopped(5, cpu + 1, {})
        assert client.register(PC) == kernel.function
        assert client.register(33, 4) & EL_MASK == 4
        caller = client.register(X30)
        client.ask(f"z1,{kernel.function:x},4")
        client.go(f"vCont;s:{cpu + 1}")
        assert client.register(PC) == kernel.function + 4
        client.ask(f"Z1,{caller:x},4")
        assert client.go().thread == cpu + 1
        assert (client.register(PC), client.register(0)) == (caller, 0)
        client.ask("D")
    assert kernel.is_through()


def test_a_variable_of_the_kernel(kernel: Kernel) -> None:
    """The writer stops before its store; one step later the value is there."""
    with Client(kernel.stub) as client:
        client.ask(f"Z2,{kernel.variable:x},4")
        client.send("vCont;c")
        kernel.begin(SET_VARIABLE)
        stop = client.wait()
        assert stop.reasons == {"watch": f"{kernel.variable:x}"}
        assert client.ask(f"m{kernel.variable:x},4") == "00000000"
        client.ask(f"z2,{kernel.variable:x},4")
        client.go(f"vCont;s:{stop.thread}")
        assert client.ask(f"m{kernel.variable:x},4") == "01000000"
        assert client.ask(f"M{kernel.variable:x},4:00000000") == "OK"
        client.ask("D")
    assert kernel.is_through()
    assert kernel.shell.run("cat /proc/sys/kernel/panic_on_warn") == Answer(0, "0")


def test_a_thousand_steps_through_the_kernel(kernel: Kernel) -> None:
    """Through exclusives and exceptions, the call still returns correctly."""
    with Client(kernel.stub) as client:
        client.no_acks()
        client.ask(f"Z1,{kernel.function:x},4")
        client.send("vCont;c")
        kernel.begin("sync")
        stop = client.wait()
        client.ask(f"z1,{kernel.function:x},4")
        places = set()
        for _ in range(1000):
            assert client.go(f"vCont;s:{stop.thread}") == Stopped(5, stop.thread, {})
            places.add(client.register(PC))
        assert len(places) > 100
        client.ask("D")
    assert kernel.is_through()


@pytest.mark.parametrize("kernel", ["normal VM"], indirect=True)
def test_a_guest_that_was_stopped_for_long_does_not_complain(kernel: Kernel) -> None:
    """Its time stops too: no stall, no lockup."""
    shell: Shell = kernel.shell
    uptime = float(shell.run("cut -d' ' -f1 /proc/uptime").output)
    with Client(kernel.stub) as client:
        assert client.ask("?").startswith("T05")
        client.socket.settimeout(3)
        with pytest.raises(TimeoutError):
            client.receive()
    assert float(shell.run("cut -d' ' -f1 /proc/uptime").output) < uptime + 2.5
    assert shell.run("dmesg | grep -ciE 'stall|lockup|clocksource.*unstable'").output == "0"


@needs_gdb
def test_gdb_breaks_steps_and_watches(kernel: Kernel) -> None:
    """The real debugger, from connecting to detaching."""
    with Gdb(str(kernel.stub)) as gdb:
        threads = gdb.do("-thread-info")
        assert "CPU 0, on" in threads
        assert "CPU 1, on" in threads
        gdb.do(f"-break-insert *{kernel.function:#x}")
        gdb.do("-exec-continue")
        kernel.begin("taskset 2 sync")
        stop = gdb.stopped()
        assert (stop["reason"], stop["thread-id"]) == ("breakpoint-hit", "2")
        assert gdb.value("$pc") == kernel.function
        assert gdb.value("($cpsr>>2)&3") == 1
        assert gdb.value("$VBAR_EL1&0x7ff") == 0
        gdb.go("-exec-step-instruction")
        assert gdb.value("$pc") == kernel.function + 4
        gdb.do("-break-delete 1")
        gdb.do(f"-break-insert -t *{gdb.value('$x30'):#x}")
        assert gdb.go()["reason"] == "breakpoint-hit"
        assert gdb.value("$x0") == 0
        gdb.do(f"-break-watch *(int*){kernel.variable:#x}")
        gdb.do("-exec-continue")
        assert kernel.is_through()
        kernel.begin(SET_VARIABLE)
        stop = gdb.stopped()
        assert (stop["reason"], stop["old"], stop["new"]) == ("watchpoint-trigger", "0", "1")
        gdb.do(f"-gdb-set variable *(int*){kernel.variable:#x}=0")
        assert kernel.kind in gdb.do("monitor info")
        gdb.do("-target-detach")
    assert kernel.is_through()
    assert kernel.shell.run("cat /proc/sys/kernel/panic_on_warn") == Answer(0, "0")


@needs_gdb
def test_gdb_interrupts_and_hangs_up(kernel: Kernel) -> None:
    """Ctrl-C stops the guest; when GDB is killed, the guest resumes."""
    with Gdb(str(kernel.stub)) as gdb:
        gdb.do(f"-break-insert *{kernel.function:#x}")
        gdb.do("-exec-continue")
        assert kernel.shell.run("echo on").output == "on"
        assert gdb.interrupt()["signal-name"] == "SIGINT"
    assert kernel.shell.run("sync; echo on").output == "on"


def test_debug_shows_where_an_idle_kernel_is(kernel: Kernel) -> None:
    """At EL1, behind WFI, with a stack; the guest continues."""
    assert kernel.shell.run("sleep 1").status == 0
    shown = pyvmm("debug", NAME)
    assert (shown.code, shown.errors) == (0, "")
    assert re.search(r"^CPU 1: on, EL1h ", shown.output, re.MULTILINE)
    assert len(re.findall(r"^  > ffff.*", shown.output, re.MULTILINE)) == 2
    assert "  wfi\n  > " in shown.output
    assert kernel.shell.run("echo on").output == "on"


def test_sysrq_is_heard(kernel: Kernel) -> None:
    """The kernel responds on its console."""
    assert pyvmm("debug", NAME, "--sysrq", "h").code == 0
    kernel.shell.expect(re.compile(rb"sysrq: HELP.*\n"))
    assert kernel.shell.run("echo on").output == "on"


def test_an_nmi_makes_the_kernel_say_where_it_is(debian: Image) -> None:
    """It panics with a backtrace, and pyvmm returns that exit code."""
    with Running("run", *guest_options(debian, None), "--name", "shot") as guest:
        guest.shell.log_in()
        assert pyvmm("debug", "shot", "--nmi", "0").code == 0
        said = guest.shell.read_all()
        assert "Kernel panic - not syncing: Asynchronous SError Interrupt" in said
        assert guest.wait() == ExitCode.PANIC
