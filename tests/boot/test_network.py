"""Debian's network: in user mode with each program, and through a tap interface."""

import ctypes
import hashlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pyvmm.devices import libslirp
from pyvmm.vm.images.debian import Image
from pyvmm.vm.network_options import BACKENDS
from tests.boot.command import Running, call, copy_disk, guest_options
from tests.boot.server import served_files
from tests.boot.shell import PATIENCE, Shell
from tests.devices.peer import free_port, is_listening, wait_until_free

pytestmark = pytest.mark.boot

MIB = 1 << 20
GREETING = "hello from the host"
CLONE_NEWNET = 0x4000_0000
HOST, GUEST = "10.77.0.1", "10.77.0.2"


def content_of(seed: int) -> bytes:
    """Return the content of a file of three megabytes."""
    return hashlib.shake_128(str(seed).encode()).digest(3 * MIB)


# --- user mode ------------------------------------------------------------------------------------


class User:
    """A guest in user mode; ``port`` of the host is forwarded to it."""

    def __init__(self, running: Running, port: int) -> None:
        self.running = running
        self.port = port
        self.shell = running.shell


@pytest.fixture(scope="module", params=BACKENDS)
def user(
    request: pytest.FixtureRequest, debian: Image, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[User]:
    """Boot one guest per program for all tests."""
    is_there = {"passt": shutil.which("passt"), "slirp": libslirp.is_installed()}
    if not is_there[request.param]:
        pytest.skip(f"{request.param} is not installed")
    disk, port = copy_disk(debian, tmp_path_factory.mktemp("disk")), free_port()
    network = f"mode=user,backend={request.param},hostfwd=tcp:{port}-:8000"
    with Running("run", *guest_options(debian, disk), "-n", network) as running:
        running.shell.log_in()
        yield User(running, port)


def test_network_comes_up_by_dhcp(user: User) -> None:
    """The addresses of kvmtool, and a name server."""
    address = user.shell.run("ip -4 -color=never addr show eth0").output
    assert "inet 192.168.33.15/24" in address
    assert "default via 192.168.33.1" in user.shell.run("ip -color=never route").output
    assert "nameserver" in user.shell.run("cat /etc/resolv.conf").output


def test_names_are_asked_of_the_hosts_server(user: User) -> None:
    """The host's server answers that a name under .invalid does not exist."""
    try:
        socket.getaddrinfo("host.invalid", 80)
    except socket.gaierror as error:
        if error.errno != socket.EAI_NONAME:
            pytest.skip("this host cannot resolve names either")
    assert "NXDOMAIN" in user.shell.run("nslookup host.invalid").output


def test_file_arrives_whole_from_the_hosts_loopback(user: User, seed: int) -> None:
    """The gateway's address is the host's loopback interface."""
    content = content_of(seed)
    with served_files({"file": content}) as port:
        answer = user.shell.run(f"curl -sS http://192.168.33.1:{port}/file | sha256sum")
    assert answer.output.split()[0] == hashlib.sha256(content).hexdigest()


def test_forwarded_port_reaches_the_guest(user: User) -> None:
    """A connection to the host's port reaches the guest's."""
    assert user.shell.run("(echo hello from the guest | nc -l -p 8000 >/tmp/got) &").status == 0
    assert user.shell.run("until ss -tln | grep -q :8000; do sleep 0.1; done").status == 0
    with socket.create_connection(("127.0.0.1", user.port), timeout=60) as client:
        client.sendall(f"{GREETING}\n".encode())
        assert client.makefile().readline() == "hello from the guest\n"
    assert user.shell.run("wait; cat /tmp/got").output == GREETING


def test_network_goes_with_the_guest(user: User) -> None:
    """After power-off (last test), nothing listens on the host's port."""
    assert is_listening(user.port)
    user.shell.type("poweroff -f\n")
    assert user.running.wait() == os.EX_OK
    wait_until_free(user.port)


# --- tap ------------------------------------------------------------------------------------------


@pytest.fixture
def apart() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Return a function that calls another one where the only network is a tap interface, tap0.

    That is a thread in a network namespace of its own, which goes with it; what the thread starts
    and what sockets it makes are there too.
    """
    if not os.access("/dev/net/tun", os.W_OK) or shutil.which("ip") is None:
        pytest.skip("a tap interface needs /dev/net/tun and the command ip")
    libc = ctypes.CDLL(None, use_errno=True)
    with ThreadPoolExecutor(1) as thread:
        if thread.submit(libc.unshare, CLONE_NEWNET).result():
            pytest.skip("a network namespace of the test's own is not permitted")
        for command in (
            "ip tuntap add tap0 mode tap",
            f"ip addr add {HOST}/24 dev tap0",
            "ip link set tap0 up",
        ):
            done = thread.submit(call, *command.split()).result()
            assert done.code == 0, done.errors
        yield lambda function: thread.submit(function).result(PATIENCE)


def test_tap_carries_a_file_both_ways(
    debian: Image, apart: Callable[[Callable[[], None]], None], seed: int
) -> None:
    """Unchanged, between the guest and the host's end of the interface."""
    content = content_of(seed)

    def exchange() -> None:
        options = [*guest_options(debian, None), "-n", "mode=tap,tapif=tap0"]
        with Running("run", *options) as guest:
            guest.shell.log_in()
            fetch_and_give_back(guest.shell, content)

    apart(exchange)


def fetch_and_give_back(shell: Shell, content: bytes) -> None:
    """Send a file to a guest at the other end of tap0, and get it back."""
    assert shell.run(f"ip addr add {GUEST}/24 dev eth0; ip link set eth0 up").status == 0
    with served_files({"file": content}, HOST) as port:
        assert shell.run(f"wget -q -O /file http://{HOST}:{port}/file").status == 0
    assert shell.run("(nc -l -p 8000 </file) &").status == 0
    assert shell.run("until netstat -tln | grep -q :8000; do sleep 0.1; done").status == 0
    with socket.create_connection((GUEST, 8000), timeout=PATIENCE) as client:
        assert client.makefile("rb").read(len(content)) == content
