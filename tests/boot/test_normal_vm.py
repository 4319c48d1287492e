"""Debian in a normal VM: two CPUs, a disk, a network."""

import hashlib
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.vm.image import Image
from tests.boot.atomics import atomics_program
from tests.boot.command import Running, guest_options, is_clean, pyvmm, read_from
from tests.boot.server import served_files
from tests.boot.shell import Answer, Shell

pytestmark = pytest.mark.boot

MIB = 1 << 20
NUM_CPUS = 2
#: What the process may hold beside the guest's memory.
OVERHEAD = 150 * MIB
GREETING = "hello from the host"

needs_passt = pytest.mark.skipif(shutil.which("passt") is None, reason="passt is not installed")


@pytest.fixture(scope="module")
def port() -> int:
    """Return a port of the host that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        assert isinstance(number, int)
        return number


@pytest.fixture(scope="module")
def guest(debian: Image, disk: Path, port: int) -> Iterator[Running]:
    """Boot, once for all tests here."""
    options = ["-m", "512M", "-c", str(NUM_CPUS)]
    if shutil.which("passt"):
        options += ["-n", f"mode=user,hostfwd=tcp:{port}-:8000"]
    with Running("run", *guest_options(debian, disk), *options) as running:
        running.shell.log_in()
        yield running


@pytest.fixture
def shell(guest: Running) -> Shell:
    """Return the shell."""
    return guest.shell


def test_it_is_an_arm64_debian(shell: Shell) -> None:
    """Kernel and userland are what was asked for."""
    answer = shell.run("uname -sm; . /etc/os-release; echo $ID")
    assert answer == Answer(0, "Linux aarch64\ndebian")


def test_all_cpus_are_up(shell: Shell) -> None:
    """PSCI CPU_ON brought the second one."""
    assert shell.run("nproc").output == str(NUM_CPUS)
    cpus = shell.run("cat /sys/devices/system/cpu/online").output
    assert cpus == f"0-{NUM_CPUS - 1}"


def test_kernel_complains_about_nothing(shell: Shell) -> None:
    """No warning with a trace, no stall, no unhandled access."""
    log = shell.run("dmesg --color=never").output
    for bad in ("WARNING:", "BUG:", "rcu_sched", "stall", "Unhandled", "Oops", "undefined instr"):
        assert bad not in log, log


def test_threads_lose_no_update(shell: Shell) -> None:
    """LSE atomics, exclusives and a spinlock each count right under four threads."""
    shell.store("atomics", atomics_program())
    assert shell.run("./atomics") == Answer(0, "")


@needs_passt
def test_network_comes_up_by_dhcp(shell: Shell) -> None:
    """An address, a gateway and the host's name servers."""
    assert "inet " in shell.run("ip -4 -color=never addr show eth0").output
    assert "default via" in shell.run("ip -color=never route").output
    assert "nameserver" in shell.run("cat /etc/resolv.conf").output


@needs_passt
def test_names_are_asked_of_the_hosts_server(shell: Shell) -> None:
    """The answer is the host's own: that a name under .invalid does not exist."""
    try:
        socket.getaddrinfo("host.invalid", 80)
    except socket.gaierror as error:
        if error.errno != socket.EAI_NONAME:
            pytest.skip("this host cannot resolve names either")
    assert "NXDOMAIN" in shell.run("nslookup host.invalid").output


@needs_passt
def test_file_arrives_whole_from_the_hosts_loopback(shell: Shell, seed: int) -> None:
    """Three megabytes through DHCP's gateway, as passt maps it."""
    content = hashlib.shake_128(str(seed).encode()).digest(3 * MIB)
    gateway = shell.run("ip -color=never route | awk '/default/{print $3}'").output
    with served_files({"file": content}) as port:
        answer = shell.run(f"curl -sS http://{gateway}:{port}/file | sha256sum")
    assert answer.output.split()[0] == hashlib.sha256(content).hexdigest()


@needs_passt
def test_forwarded_port_reaches_the_guest(shell: Shell, port: int) -> None:
    """hostfwd: a connection to the host's port is one to the guest's."""
    assert shell.run("(echo hello from the guest | nc -l -p 8000 >/tmp/got) &").status == 0
    assert shell.run("until ss -tln | grep -q :8000; do sleep 0.1; done").status == 0
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(f"{GREETING}\n".encode())
        assert client.makefile().readline() == "hello from the guest\n"
    assert shell.run("wait; cat /tmp/got").output == GREETING


def test_memory_is_the_guests_and_little_more(guest: Running) -> None:
    """The peak of the process is bounded by what the guest touched."""
    assert guest.shell.run("tar -cf /tmp/usr.tar /usr/bin && rm /tmp/usr.tar").status == 0
    touched = touched_guest_memory(guest.pid)
    peak = field_of(Path(f"/proc/{guest.pid}/status").read_text(), "VmHWM")
    assert touched > 64 * MIB
    assert peak <= touched + OVERHEAD, f"{peak // MIB} MiB, {touched // MIB} of them the guest's"


def touched_guest_memory(pid: int) -> int:
    """Return the bytes of the memory files that are there."""
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


def test_what_is_written_is_on_the_disk(guest: Running, disk: Path, port: int) -> None:
    """Last, for it powers off: code 0, a clean file system, and the file is in the image."""
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
    with pytest.raises(ConnectionRefusedError):  # passt went with it
        socket.create_connection(("127.0.0.1", port))


def test_script_on_standard_input(debian: Image) -> None:
    """The README's way to use it in scripts: nothing of what is typed early gets lost."""
    ended = pyvmm("run", *guest_options(debian, None), typed="echo $((6 * 7))\npoweroff -f\n")
    assert ended.code == 0, ended.errors
    assert "\r\n42\r\n" in ended.output
    assert not ended.errors
