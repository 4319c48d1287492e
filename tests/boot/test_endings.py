"""How guests end, and how pyvmm reports it: exit codes, messages, the terminal."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.images.debian import Image
from tests.boot.command import PYVMM, Running, copy_disk, guest_options, pyvmm
from tests.boot.shell import PATIENCE, Shell
from tests.core.program import assemble
from tests.vm.elf_file import vmlinux

#: A flat kernel: wfi for a while, then b .
IDLE = 0xD503207F.to_bytes(4, "little") * 16 + 0x14000000.to_bytes(4, "little")
#: One whose exception handler faults, as of a kernel that is linked for other addresses.
STORM = """
    adr     x0, vectors
    msr     vbar_el1, x0
    mov     x2, #0x40000000
    str     x1, [x2], #8
    .balign 2048
vectors:
    .zero   0x200
    str     x1, [x2], #8
"""
#: One that meets an undefined instruction, and has set up no exception vectors.
CRASH = 0xD503201F.to_bytes(4, "little") * 16 + bytes(4)


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Open a pseudo-terminal; return our end and the command's."""
    ends = pty.openpty()
    resize(ends[0], 40, 100)
    yield ends
    for end in ends:
        os.close(end)


def resize(terminal: int, rows: int, columns: int) -> None:
    """Change the size of a terminal, which its programs are told."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@pytest.mark.boot
def test_reboot_is_an_ordinary_end(small: Running) -> None:
    """Code 0: pyvmm does not boot it again."""
    small.shell.type("reboot -f\n")
    assert small.wait() == ExitCode.OK


@pytest.mark.boot
@pytest.mark.parametrize("kind", [(), ("--realm",)], ids=["normal", "realm"])
def test_reboot_restarts_if_that_is_asked_for(
    debian: Image, tmp_path: Path, kind: tuple[str, ...]
) -> None:
    """The same payload boots again, with its disk; a realm has the same measurement."""
    options = guest_options(debian, copy_disk(debian, tmp_path))
    name = f"reboot-{os.getpid()}"
    command = ("run", *kind, "--name", name, "-c", "2", "--on-reboot", "restart", *options)
    boots, rims = set(), set()
    with Running(*command) as guest:
        for number in range(2):
            guest.shell.log_in()
            boots.add(guest.shell.run("cat /proc/sys/kernel/random/boot_id; nproc").output)
            count = guest.shell.run("echo >>/root/boots; wc -l </root/boots").output
            assert count == f"{number + 1}"
            listed = json.loads(pyvmm("list", "--json").output)
            (status,) = (each for each in listed if each["name"] == name)
            assert (status["state"], status["reboots"]) == ("running", number)
            rims.add(status["rim"])
            guest.shell.type("poweroff\n" if number else "reboot\n")
        assert guest.wait() == ExitCode.OK
    assert len(boots) == 2
    assert len(rims) == 1


@pytest.mark.boot
def test_panic_has_its_code(small: Running) -> None:
    """The command ends although the guest stays halted."""
    assert (
        small.shell.run("echo 'It said: ---[ end Kernel panic - not syncing: joke ]---'").status
        == 0
    )
    small.shell.type("echo c >/proc/sysrq-trigger\n")
    assert small.wait() == ExitCode.PANIC


@pytest.mark.boot
def test_virtio_console_on_a_terminal(debian: Image, terminal: tuple[int, int]) -> None:
    """It boots to a prompt, knows the window's size, and Ctrl-A x restores the terminal."""
    ours, theirs = terminal
    before = termios.tcgetattr(theirs)
    options = map(str, guest_options(debian, None))
    with subprocess.Popen(
        ["setsid", "-c", PYVMM, "run", "--console", "virtio", *options],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
    ) as process:
        shell = Shell(ours, ours)
        shell.log_in()
        assert termios.tcgetattr(theirs) != before
        assert shell.run("cat /sys/class/tty/console/active").output == "hvc0"
        assert shell.run("stty size").output == "40 100"
        resize(ours, 50, 120)
        assert shell.run("until [ \"$(stty size)\" = '50 120' ]; do :; done").status == 0
        shell.type(b"\x01x")
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == ExitCode.QUIT
    assert termios.tcgetattr(theirs) == before
    assert b"Ctrl-A x" in errors


def test_terminal_gets_one_ctrl_a_for_two(terminal: tuple[int, int], tmp_path: Path) -> None:
    """Ctrl-A Ctrl-A types one Ctrl-A, and a signal ends as Ctrl-A x does."""
    ours, theirs = terminal
    before = termios.tcgetattr(theirs)
    kernel = tmp_path / "idle"
    kernel.write_bytes(IDLE)
    with subprocess.Popen(
        [PYVMM, "run", kernel], stdin=theirs, stdout=theirs, stderr=subprocess.PIPE
    ) as process:
        Shell(ours, ours).type(b"\x01\x01")
        assert process.poll() is None
        process.terminate()
        process.communicate(timeout=PATIENCE)
    assert process.returncode in {ExitCode.QUIT, -15}  # -15: before it was ready
    assert termios.tcgetattr(theirs) == before


@pytest.mark.parametrize(
    ("kind", "cause"),
    [((), "it never used a device"), (("--realm",), "it asked its host only for memory")],
)
def test_timeout_has_its_code(tmp_path: Path, kind: tuple[str, ...], cause: str) -> None:
    """A guest that sleeps forever is stopped, with a line and a diagnosis."""
    kernel = tmp_path / "idle"
    kernel.write_bytes(IDLE)
    ended = pyvmm("run", *kind, "--timeout", "0.5", kernel)
    assert ended.code == ExitCode.TIMEOUT
    line, paragraph = ended.errors.splitlines()
    assert line == "pyvmm: stopped after 0.5 s"
    assert paragraph.startswith("pyvmm: the guest's console showed nothing. vCPU 0 was on")
    assert ("in EL1" in paragraph) != bool(kind)
    assert f"Likely cause: {cause}" in paragraph


@pytest.mark.boot
@pytest.mark.parametrize("mem", ["64M", "144M", "192M"])
def test_too_little_memory_is_told(debian: Image, mem: str) -> None:
    """Before the start, for a realm in which Debian's kernel would die silently."""
    ended = pyvmm("run", "--realm", *guest_options(debian, None), "-m", mem, "--timeout", "0.1")
    first, *_ = ended.errors.splitlines()
    assert first.startswith(f"pyvmm: -m {mem} may be too little: Debian's kernel needs 224M")
    assert ended.code == ExitCode.TIMEOUT


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ((), b"it faults over and over, like a kernel built for another machine"),
        (("--realm", "--no-hes"), b"or one without realm support"),
    ],
    ids=["normal", "realm"],
)
def test_guest_that_gets_nowhere_is_told(
    tmp_path: Path, kind: tuple[str, ...], words: bytes
) -> None:
    """Its exception handler faults forever: one line, while it runs."""
    kernel = tmp_path / "storm"
    kernel.write_bytes(assemble(STORM))
    command = [PYVMM, "run", *kind, "--timeout", str(PATIENCE), str(kernel)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        process.terminate()
    assert said.startswith(b"pyvmm: the guest has computed for")
    assert words in said


def test_crash_has_its_code(tmp_path: Path) -> None:
    """An exception to an address without memory ends the guest, with the address."""
    kernel = tmp_path / "crash"
    kernel.write_bytes(CRASH)
    ended = pyvmm("run", "--timeout", "60", kernel)
    assert ended.code == ExitCode.CRASHED
    line, paragraph = ended.errors.splitlines()
    reason = "vCPU 0: no memory at its exception vector 0x200"
    assert line == f"pyvmm: the guest crashed: {reason}"
    assert "vCPU 0 was on at PC 0x200 in EL1; its exits: other 1;" in paragraph
    assert "after an undefined instruction (ESR 0x2000000) at 0x80080040." in paragraph


def test_realm_that_jumps_nowhere_shows_it_with_realm_debug(tmp_path: Path) -> None:
    """Without that option only its silence is known."""
    kernel = tmp_path / "crash"
    kernel.write_bytes(CRASH)
    ended = pyvmm("run", "--realm", "--realm-debug", "--timeout", "1", kernel)
    assert "vCPU 0 was on at PC 0x200 in EL1" in ended.errors
    assert "Its PC is in the exception vectors (VBAR_EL1 0x0), after an instr" in ended.errors


def test_vmlinux_names_the_code(tmp_path: Path) -> None:
    """Of a guest of `run` and of one of `create`; a damaged ELF file is rejected."""
    kernel, names = tmp_path / "idle", tmp_path / "vmlinux"
    kernel.write_bytes(IDLE)
    names.write_bytes(vmlinux(("first_code", 2, 1, 0x8008_0000)))
    ended = pyvmm("run", "--timeout", "0.5", "--vmlinux", names, kernel)
    assert re.search(r"at PC 0x800800\w\w \(first_code\+0x\w+\)", ended.errors)
    ended = pyvmm("run", "--vmlinux", kernel, kernel)
    assert ended.code == ExitCode.BAD_INPUT
    assert ended.errors == (
        f"pyvmm: --vmlinux {kernel} is a damaged ELF file: build or copy it again\n"
    )


@pytest.mark.boot
@pytest.mark.parametrize("kind", [(), ("--realm",)])
def test_panic_without_a_root_file_system_is_explained(
    debian: Image, kind: tuple[str, ...]
) -> None:
    """By the kernel's message and what the guest lacks."""
    ended = pyvmm("run", *kind, "--kernel", debian.kernel)
    assert ended.code == ExitCode.PANIC
    assert "kernel panicked: VFS: Unable to mount root fs on unknown-block(0,0). vC" in ended.errors
    assert ended.errors.endswith("neither a disk (-d) nor an initial RAM disk (-i).\n")


@pytest.mark.boot
def test_kernel_with_damaged_code_is_described(debian: Image, tmp_path: Path) -> None:
    """Its header is valid, its code is not."""
    kernel = tmp_path / "Image"
    data = debian.kernel.read_bytes()
    kernel.write_bytes(data[:0x10000] + bytes(len(data) - 0x10000))
    ended = pyvmm("run", "--kernel", kernel)
    assert ended.code == ExitCode.CRASHED
    assert "after an undefined instruction (ESR 0x2000000) at 0x8" in ended.errors


@pytest.mark.boot
def test_image_is_made_once(debian: Image, tmp_path: Path) -> None:
    """The second build fetches nothing: the tools for it are missing."""
    before = debian.kernel.stat().st_mtime_ns
    again = pyvmm(
        *("image", "build", "debian", "--output", debian.directory, "--json"),
        env={"PATH": str(tmp_path)},
    )
    assert again.code == 0, again.errors
    paths = {"kernel": debian.kernel, "initrd": debian.initrd, "rootfs": debian.rootfs}
    assert json.loads(again.output) == {kind: str(path) for kind, path in paths.items()}
    assert debian.kernel.stat().st_mtime_ns == before
