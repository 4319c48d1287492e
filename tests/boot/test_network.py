"""Debian's network: in user mode with each program, and through a tap interface."""

import ctypes
import hashlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyvmm.devices import libslirp
from pyvmm.vm.images.debian import Image
from tests.boot.command import Running, call, copy_disk, guest_options, pyvmm
from tests.boot.server import served_files
from tests.boot.shell import PATIENCE, Shell
from tests.devices.peer import free_port, is_listening, wait_until_free
from tests.waiting import wait_until

pytestmark = pytest.mark.boot

MIB = 1 << 20
GREETING = "hello from the host"
CLONE_NEWNET = 0x4000_0000
HOST, GUEST = "10.77.0.1", "10.77.0.2"
LARGEST_FRAME = 1514  # without segmentation offloads
#: Feature bits: GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6.  The guest's TCP decides how long a
#: segment becomes.
SEGMENTATION = (7, 8, 11, 12)
#: The ping sockets of passt, which runs as nobody.
PING_GROUPS = Path("/proc/sys/net/ipv4/ping_group_range")
needs_tshark = pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed")
sizes = pytest.mark.parametrize("size", [3 * MIB, pytest.param(100 * MIB, marks=pytest.mark.slow)])


def content_of(seed: int, size: int = 3 * MIB) -> bytes:
    """Return the content of a file."""
    return hashlib.shake_128(str(seed).encode()).digest(size)


def assert_well_formed(capture: Path) -> None:
    """Check with tshark that a capture has frames, and that none of them is malformed."""
    # TCP's payload is data: tshark would guess the protocol of random bytes.
    fields = ["-d", "tcp.port==1-65535,data", "-T", "fields", "-e", "frame.protocols"]
    shown = call("tshark", "-r", capture, *fields)
    assert shown.code == 0, shown.errors
    assert shown.output.count("\n") > 10
    malformed = call("tshark", "-r", capture, "-Y", "_ws.malformed", *fields)
    assert (malformed.code, malformed.output) == (0, "")


# --- user mode ------------------------------------------------------------------------------------


class User:
    """A guest in user mode; ports of the host are forwarded to it."""

    def __init__(self, running: Running, backend: str, ports: list[int], capture: Path) -> None:
        self.running = running
        self.backend = backend
        self.port, self.udp_port, self.ipv6_port = ports
        self.capture = capture
        self.shell = running.shell


@pytest.fixture(
    scope="module", params=[("passt", "vm"), ("slirp", "vm"), ("passt", "realm")], ids="-".join
)
def user(
    request: pytest.FixtureRequest, debian: Image, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[User]:
    """Boot one guest per program for all tests, and a realm."""
    backend, kind = request.param
    is_there = {"passt": shutil.which("passt"), "slirp": libslirp.is_installed()}
    if not is_there[backend]:
        pytest.skip(f"{backend} is not installed")
    directory = tmp_path_factory.mktemp("disk")
    ports = [free_port() for _ in range(3)]
    capture = directory / "pcap"
    network = (
        f"mode=user,backend={backend},pcap={capture},hostfwd=tcp:{ports[0]}-:8000,"
        f"hostfwd=udp:{ports[1]}-:8001,hostfwd=tcp:[::1]:{ports[2]}-:8002"
    )
    options = ["--realm"] if kind == "realm" else []
    disk = copy_disk(debian, directory)
    with Running("run", *options, *guest_options(debian, disk), "-n", network) as running:
        running.shell.log_in()
        yield User(running, backend, ports, capture)


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


@sizes
def test_file_arrives_whole_from_the_hosts_loopback(user: User, seed: int, size: int) -> None:
    """The gateway's address is the host's loopback interface."""
    content = content_of(seed, size)
    with served_files({"file": content}) as port:
        answer = user.shell.run(f"curl -sS http://192.168.33.1:{port}/file | sha256sum")
    assert answer.output.split()[0] == hashlib.sha256(content).hexdigest()


def test_router_answers_a_ping(user: User) -> None:
    """The host's kernel decides whether passt may ask it."""
    first, last = map(int, PING_GROUPS.read_text().split())
    if user.backend == "passt" and first > last:
        pytest.skip("this host permits no ping sockets")
    assert "3 received" in user.shell.run("ping -c 3 192.168.33.1").output


def answer_once(shell: Shell, port: int) -> None:
    """Let the guest accept one connection and exchange a line with it."""
    command = f"(echo hello from the guest | nc -l -p {port} >/tmp/got) &"
    assert shell.run(command).status == 0
    assert shell.run(f"until ss -tln | grep -q :{port}; do sleep 0.1; done").status == 0


def exchange_lines(shell: Shell, address: str, port: int) -> None:
    """Connect to a port of the host, and exchange a line with the guest."""
    with socket.create_connection((address, port), timeout=60) as client:
        client.sendall(f"{GREETING}\n".encode())
        assert client.makefile().readline() == "hello from the guest\n"
    assert shell.run("wait; cat /tmp/got").output == GREETING


def test_forwarded_port_reaches_the_guest(user: User) -> None:
    """A connection to the host's port reaches the guest's."""
    answer_once(user.shell, 8000)
    exchange_lines(user.shell, "127.0.0.1", user.port)


def test_forwarded_port_of_ipv6_reaches_the_guest(user: User) -> None:
    """A connection to the IPv6 loopback arrives over IPv6, once the guest may use its address."""
    assert user.shell.run("while ip -6 addr | grep -q tentative; do sleep 0.1; done").status == 0
    answer_once(user.shell, 8002)
    exchange_lines(user.shell, "::1", user.ipv6_port)


def test_forwarded_datagram_reaches_the_guest(user: User) -> None:
    """Its kernel counts a datagram to a port where nobody listens."""
    count = "grep '^Udp: [0-9]' /proc/net/snmp | cut -d' ' -f3"
    before = int(user.shell.run(count).output)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"a datagram", ("127.0.0.1", user.udp_port))
    wait = f'while [ "$({count})" = {before} ]; do sleep 0.1; done'
    assert user.shell.run(wait).status == 0


def test_network_goes_with_the_guest(user: User) -> None:
    """After power-off, nothing listens on the host's port."""
    assert is_listening(user.port)
    user.shell.type("poweroff -f\n")
    assert user.running.wait() == os.EX_OK
    wait_until_free(user.port)


@needs_tshark
def test_capture_is_well_formed(user: User) -> None:
    """All frames of all tests before."""
    assert_well_formed(user.capture)


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
            "ip tuntap add tap0 mode tap multi_queue",
            f"ip addr add {HOST}/24 dev tap0",
            "ip link set tap0 up",
        ):
            done = thread.submit(call, *command.split()).result()
            assert done.code == 0, done.errors
        yield lambda function: thread.submit(function).result(PATIENCE)


@needs_tshark
@pytest.mark.parametrize("kind", ["vm", "realm"])
def test_tap_carries_a_file_both_ways(
    debian: Image,
    apart: Callable[[Callable[[], None]], None],
    seed: int,
    tmp_path: Path,
    kind: str,
) -> None:
    """Unchanged, between the guest and the host's end of the interface, in long segments."""
    content = content_of(seed)
    capture = tmp_path / "pcap"

    def exchange() -> None:
        options = [*guest_options(debian, None), *(["--realm"] if kind == "realm" else [])]
        network = f"mode=tap,tapif=tap0,pcap={capture}"
        with Running("run", "-c", "2", *options, "-n", network) as guest:
            guest.shell.log_in()
            num_queues = guest.shell.run("ls /sys/class/net/eth0/queues | wc -l").output
            assert num_queues == ("2" if kind == "realm" else "4")
            features = guest.shell.run("cat /sys/class/net/eth0/device/features").output
            assert [features[each] for each in SEGMENTATION] == ["1"] * len(SEGMENTATION)
            fetch_and_give_back(guest.shell, content)
            assert guest.shell.run(f"ping -c 3 {HOST}").status == 0

    apart(exchange)
    assert_well_formed(capture)
    assert longest_frame(capture, sent_by=HOST) > LARGEST_FRAME


def longest_frame(capture: Path, sent_by: str) -> int:
    """Return the length of the longest frame in a capture from an address."""
    chosen = ["-Y", f"ip.src == {sent_by}", "-T", "fields", "-e", "frame.len"]
    shown = call("tshark", "-r", capture, *chosen)
    return max(map(int, shown.output.split()))


def fetch_and_give_back(shell: Shell, content: bytes) -> None:
    """Send a file to a guest at the other end of tap0, and get it back."""
    assert shell.run(f"ip addr add {GUEST}/24 dev eth0; ip link set eth0 up").status == 0
    with served_files({"file": content}, HOST) as port:
        assert shell.run(f"wget -q -O /file http://{HOST}:{port}/file").status == 0
    assert shell.run("(nc -l -p 8000 </file) &").status == 0
    assert shell.run("until netstat -tln | grep -q :8000; do sleep 0.1; done").status == 0
    with socket.create_connection((GUEST, 8000), timeout=PATIENCE) as client:
        assert client.makefile("rb").read(len(content)) == content


# --- between guests -------------------------------------------------------------------------------


@needs_tshark
def test_two_guests_reach_each_other(debian: Image, tmp_path: Path, seed: int) -> None:
    """A realm and a VM, through a socket; an unplugged card reaches nobody."""
    lan, capture = tmp_path / "lan", tmp_path / "pcap"
    options = guest_options(debian, None)
    here = f"mode=socket,listen={lan},pcap={capture}"
    there = f"mode=socket,connect={lan},mac=02:00:00:00:00:02"
    with Running("run", "--realm", *options, "-n", here) as first:
        wait_until(lan.exists, PATIENCE)
        with Running("run", *options, "-n", there) as second:
            for number, guest in enumerate((first, second), 1):
                guest.shell.log_in()
                address = f"ip addr add 10.78.0.{number}/24 dev eth0; ip link set eth0 up"
                assert guest.shell.run(address).status == 0
            assert first.shell.run("ping -c 3 10.78.0.2").status == 0
            carry_between(first.shell, second.shell, seed)
            name = f"guest-{second.pid}"
            assert "link down" in pyvmm("network", name, "--unplug", "net0").output
            assert second.shell.run("sleep 1; cat /sys/class/net/eth0/carrier").output == "0"
            assert first.shell.run("ping -c 2 -W 1 10.78.0.2").status != 0
            assert "link up" in pyvmm("network", name, "--plug", "net0").output
            assert first.shell.run("ping -c 3 10.78.0.2").status == 0
    assert_well_formed(capture)


def carry_between(here: Shell, there: Shell, seed: int) -> None:
    """Send some random bytes from one guest to the other, and compare their checksums."""
    make = f"(echo {seed}; dd if=/dev/urandom bs=64k count=16 2>/dev/null) >/file"
    assert there.run(f"{make}; (nc -l -p 8000 </file) &").status == 0
    assert there.run("until netstat -tln | grep -q :8000; do sleep 0.1; done").status == 0
    # Without an end of its input, nc reads until the other side ends.
    assert here.run("mkfifo /open; nc 10.78.0.2 8000 <>/open >/file").status == 0
    assert here.run("sha256sum </file") == there.run("sha256sum </file")
