"""`pyvmm run --record` and `pyvmm replay`, with the built-in guest and small programs."""

from pathlib import Path

import pytest

from pyvmm.vm.exit_code import ExitCode
from tests.boot.command import Ended, pyvmm
from tests.cli.inside import verb
from tests.cli.instance import DONE, VM, create, result
from tests.cli.kernels import ECHO, IDLE, kernel

pytestmark = pytest.mark.usefixtures("runtime")

REALM = ["--realm"]
#: Two CPUs change one variable without any lock, and the first one says what became of it: the
#: order of their instructions decides.
RACE = """
    movz x0, #0xc400, lsl #16
    movk x0, #3
    movz x1, #1
    adr x2, second
    movz x3, #0
    hvc #0
    bl race
    adr x8, done
wait:
    ldr x7, [x8]
    cbz x7, wait
    ldr x6, [x5]
    movz x1, #0x100, lsl #16
    movz x4, #16
say:
    and x7, x6, #15
    add x7, x7, #0x61
    strb w7, [x1]
    lsr x6, x6, #4
    sub x4, x4, #1
    cbnz x4, say
    movz x0, #0x8400, lsl #16
    movk x0, #8
    hvc #0
second:
    bl race
    adr x8, done
    str x5, [x8]
stay:
    wfi
    b stay
race:
    movz x4, #12, lsl #16
    adr x5, shared
    mrs x9, mpidr_el1
change:
    ldr x6, [x5]
    add x6, x6, x6, lsl #1
    add x6, x6, x9
    str x6, [x5]
    sub x4, x4, #1
    cbnz x4, change
    ret
    .balign 8
shared:
    .quad 1
done:
    .quad 0
"""


def recorded(file: Path, *arguments: str | Path, typed: str = "") -> Ended:
    """Record a run."""
    ended = pyvmm("run", *arguments, "--record", file, typed=typed)
    assert ended.code == ExitCode.OK, ended.errors
    return ended


def check_same(file: Path, output: str, *arguments: str) -> None:
    """Replay: the same output, and nothing that differs."""
    ended = pyvmm("replay", file, *arguments)
    assert (ended.code, ended.output) == (ExitCode.OK, output), ended.errors
    assert "the same run" in ended.errors


@pytest.mark.parametrize("kind", [[], REALM, ["-c", "2"]], ids=["vm", "realm", "2 CPUs"])
def test_the_built_in_guest_replays_exactly(tmp_path: Path, kind: list[str]) -> None:
    """With either engine; a realm without the HES that answered in the recording."""
    file = tmp_path / "record"
    ended = recorded(file, *kind)
    check_same(file, ended.output)
    check_same(file, ended.output, "--engine", "interp")


def test_input_is_replayed(tmp_path: Path) -> None:
    """What was typed reaches the guest at the same instruction; nobody types in a replay."""
    file = tmp_path / "record"
    ended = recorded(file, "-k", kernel(tmp_path, ECHO), typed="abc\x04")
    assert ended.output == "abc"
    check_same(file, "abc")


def test_a_changed_kernel_is_a_line(tmp_path: Path) -> None:
    """The record names its digest."""
    file, program = tmp_path / "record", Path(kernel(tmp_path, ECHO))
    recorded(file, "-k", program, typed="\x04")
    program.write_bytes(program.read_bytes() + b"\0\0\0\1")
    ended = verb("replay", str(file))
    assert (ended.code, ended.errors.count("\n")) == (ExitCode.BAD_INPUT, 1)
    assert "kernel has changed since the recording" in ended.errors


def test_cpus_take_turns_in_the_same_order(tmp_path: Path) -> None:
    """A race has the same outcome in each replay."""
    file = tmp_path / "record"
    ended = recorded(file, "-c", "2", "-k", kernel(tmp_path, RACE))
    assert len(ended.output) == 16
    check_same(file, ended.output)
    check_same(file, ended.output, "--engine", "interp")


def test_a_stopped_guest_is_replayed_to_its_end(tmp_path: Path) -> None:
    """All CPUs wait for ever, until the time runs out."""
    file = tmp_path / "record"
    ended = pyvmm("run", "-k", kernel(tmp_path, IDLE), "--record", file, "--timeout", "0.5")
    assert ended.code == ExitCode.TIMEOUT, ended.errors
    check_same(file, "")


def test_a_pause_is_no_part_of_a_record(tmp_path: Path) -> None:
    """Not even while all CPUs wait."""
    file = tmp_path / "record"
    create("v1", *VM, kernel(tmp_path, IDLE), "--record", str(file))
    for command in ("start", "pause", "resume", "stop"):
        assert result(verb(command, "v1")) == DONE
    check_same(file, "")


def test_the_commands_of_the_documentation_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line of docs/replay.md that begins like a shell's, in order."""
    lines = Path("docs/replay.md").read_text().splitlines()
    commands = [line.split()[2:] for line in lines if line.startswith("$ pyvmm ")]
    monkeypatch.chdir(tmp_path)
    codes = [pyvmm(*command).code for command in commands]
    assert codes == [ExitCode.OK] * (len(commands) - 1) + [ExitCode.DIFFERENT]


def test_what_cannot_be_recorded_is_a_line(tmp_path: Path) -> None:
    """A disk that the guest would change, and devices with state elsewhere."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    file = str(tmp_path / "record")
    for options, line in (
        (["-d", str(disk)], f"give -d {disk},snapshot"),
        (["--9p", f"{tmp_path},tag"], "--record excludes a shared directory: omit it"),
        (["--gdb", "0"], "--record excludes --gdb: omit it"),
    ):
        ended = verb("run", *options, "--record", file)
        assert (ended.code, ended.errors.count("\n")) == (ExitCode.BAD_INPUT, 1), ended.errors
        assert line in ended.errors


def test_a_changed_disk_is_a_line(tmp_path: Path) -> None:
    """The record names its digest."""
    disk, file = tmp_path / "disk", tmp_path / "record"
    disk.write_bytes(bytes(1 << 20))
    recorded(file, "-d", f"{disk},snapshot")
    check_same(file, pyvmm("replay", file).output)
    disk.write_bytes(bytes(1 << 19) + b"x" + bytes((1 << 19) - 1))
    ended = verb("replay", str(file))
    assert (ended.code, ended.errors.count("\n")) == (ExitCode.BAD_INPUT, 1)
    assert f"disk {disk} has changed since the recording" in ended.errors


def test_the_first_event_that_differs_is_shown(tmp_path: Path) -> None:
    """Two runs of one guest, one of another, and a file that is no record."""
    one, other, third = (tmp_path / name for name in ("one", "other", "third"))
    recorded(one)
    recorded(other)
    ended = verb("diff-runs", str(one), str(other))
    assert (ended.code, ended.output) == (ExitCode.OK, "all events are the same\n")
    recorded(third, "-k", kernel(tmp_path, ECHO), typed="\x04")
    ended = verb("diff-runs", str(one), str(third))
    assert ended.code == ExitCode.DIFFERENT
    first, second = (line for line in ended.output.splitlines() if line[0] in "<>")
    assert first[0] == "<"
    assert second[0] == ">"
    assert "MmioAccess" in first
    (tmp_path / "none").write_bytes(b"x" * 100)
    ended = verb("diff-runs", str(one), str(tmp_path / "none"))
    assert (ended.code, ended.errors.count("\n")) == (ExitCode.BAD_INPUT, 1)
