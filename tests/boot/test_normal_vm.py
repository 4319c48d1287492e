"""Debian in a normal VM: two CPUs and a disk."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.vm.images.debian import Image
from tests.boot.atomics import atomics_program
from tests.boot.command import Running, guest_options, is_clean, pyvmm, read_from
from tests.boot.shell import Answer, Shell

pytestmark = pytest.mark.boot

MIB = 1 << 20
NUM_CPUS = 2
#: What the process may hold beside the guest's memory.
OVERHEAD = 240 * MIB  # mostly decoded and translated code; QEMU needs about as much


@pytest.fixture(scope="module")
def guest(debian: Image, disk: Path) -> Iterator[Running]:
    """Boot one guest for all tests."""
    options = ["-m", "512M", "-c", str(NUM_CPUS)]
    with Running("run", *guest_options(debian, disk), *options) as running:
        running.shell.log_in()
        yield running


@pytest.fixture
def shell(guest: Running) -> Shell:
    """Return the shell."""
    return guest.shell


def test_it_is_an_arm64_debian(shell: Shell) -> None:
    """Kernel and userland are Debian's for arm64."""
    answer = shell.run("uname -sm; . /etc/os-release; echo $ID")
    assert answer == Answer(0, "Linux aarch64\ndebian")


def test_all_cpus_are_up(shell: Shell) -> None:
    """PSCI CPU_ON started the second one."""
    assert shell.run("nproc").output == str(NUM_CPUS)
    cpus = shell.run("cat /sys/devices/system/cpu/online").output
    assert cpus == f"0-{NUM_CPUS - 1}"


def test_stolen_time_is_read(shell: Shell) -> None:
    """The kernel finds it and counts time that the host takes as `steal`."""
    assert "using stolen time PV" in shell.run("dmesg | grep arm-pv").output


def test_linux_uses_what_the_cpus_have(shell: Shell) -> None:
    """Pointer authentication and branch targets, also in Debian's programs."""
    words = shell.run("grep -m 1 Features /proc/cpuinfo").output.split()
    assert {"paca", "pacg", "bti"} <= set(words)


@pytest.mark.parametrize("kind", [(), ("--realm",)], ids=["VM", "realm"])
def test_linux_does_without_what_the_cpus_lack(debian: Image, kind: tuple[str, ...]) -> None:
    """With --cpu-features; all other features stay."""
    options = (*guest_options(debian, None), *kind, "--cpu-features", "-pauth,-bti")
    with Running("run", *options) as running:
        running.shell.log_in()
        words = running.shell.run("grep -m 1 Features /proc/cpuinfo").output.split()
    assert not {"paca", "pacg", "bti"} & set(words)
    assert {"atomics", "flagm", "rng"} <= set(words)


def test_kernel_complains_about_nothing(shell: Shell) -> None:
    """No warning with a backtrace, no stall, no unhandled access."""
    log = shell.run("dmesg --color=never").output
    for bad in ("WARNING:", "BUG:", "rcu_sched", "stall", "Unhandled", "Oops", "undefined instr"):
        assert bad not in log, log


def test_threads_lose_no_update(shell: Shell) -> None:
    """LSE atomics, exclusives and a spinlock count correctly with four threads."""
    shell.store("atomics", atomics_program())
    assert shell.run("./atomics") == Answer(0, "")


def test_memory_is_the_guests_and_little_more(guest: Running) -> None:
    """The peak of the process is limited to what the guest touched, plus a little."""
    assert guest.shell.run("tar -cf /tmp/usr.tar /usr/bin && rm /tmp/usr.tar").status == 0
    touched = touched_guest_memory(guest.pid)
    peak = field_of(Path(f"/proc/{guest.pid}/status").read_text(), "VmHWM")
    assert touched > 64 * MIB
    assert peak <= touched + OVERHEAD, f"{peak // MIB} MiB, {touched // MIB} of them the guest's"


def touched_guest_memory(pid: int) -> int:
    """Return the allocated bytes of all memory files."""
    total, is_memory = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if line[0] in "0123456789abcdef":
            is_memory = "memfd:" in line
        elif is_memory and line.startswith("Rss:"):
            total += field_of(line, "Rss")
    return total


def field_of(text: str, name: str) -> int:
    """Return a field in bytes of a file in /proc."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) << 10


def test_what_is_written_is_on_the_disk(guest: Running, disk: Path) -> None:
    """After power-off (last test): code 0, a clean file system, and the file in the image."""
    read = guest.shell.run("cat /etc/hostname")
    assert read.output == read_from(disk, "/etc/hostname").strip() == "debian"
    answer = guest.shell.run("seq 100000 | sha256sum >/root/sum && seq 100000 >/root/numbers")
    assert answer.status == 0
    guest.shell.type("poweroff -f\n")
    assert guest.wait() == os.EX_OK
    assert is_clean(disk)
    numbers = read_from(disk, "/root/numbers")
    assert numbers == "".join(f"{n}\n" for n in range(1, 100_001))
    assert read_from(disk, "/root/sum").split()[0] == hashlib.sha256(numbers.encode()).hexdigest()


def test_script_on_standard_input(debian: Image) -> None:
    """As in the README: input that is typed early is not lost."""
    ended = pyvmm("run", *guest_options(debian, None), typed="echo $((6 * 7))\npoweroff -f\n")
    assert ended.code == 0, ended.errors
    assert "\r\n42\r\n" in ended.output
    assert not ended.errors
