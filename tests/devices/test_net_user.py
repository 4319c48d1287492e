"""The network backends of user mode against the real thing: passt and libslirp."""

import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from struct import unpack_from

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.devices import libslirp
from pyvmm.devices.ioloop import IoLoop
from pyvmm.devices.net_passt import _forward as passt_forward
from pyvmm.devices.net_passt import open_passt
from pyvmm.devices.net_slirp import open_slirp
from pyvmm.devices.net_stream import StreamBackend, start_program
from pyvmm.devices.net_user import PortForward
from tests.devices.peer import (
    ARP,
    ICMPV6,
    IPV4,
    IPV6,
    TCP,
    TIMEOUT,
    UDP,
    Guest,
    Port,
    free_port,
    router_solicitation,
)

needs_passt = pytest.mark.skipif(shutil.which("passt") is None, reason="passt is not installed")
needs_slirp = pytest.mark.skipif(not libslirp.is_installed(), reason="libslirp is not installed")
Open = Callable[[Sequence[PortForward]], StreamBackend]


@pytest.fixture(
    params=[pytest.param("passt", marks=needs_passt), pytest.param("slirp", marks=needs_slirp)]
)
def user(request: pytest.FixtureRequest, loop: IoLoop) -> Open:
    """Return what opens a backend of user mode: a guest cannot tell which one it is."""
    return partial(open_passt if request.param == "passt" else open_slirp, loop)


class _Handler(BaseHTTPRequestHandler):
    content = b""

    def do_GET(self) -> None:
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        pass


def test_user_mode_carries_dhcp_arp_and_a_file_from_the_hosts_loopback(user: Open) -> None:
    """The gateway's address is the host's loopback; a file of many packets arrives whole."""
    _Handler.content = os.urandom(300_000)
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server,
        closing(user([])) as backend,
    ):
        thread = threading.Thread(target=partial(server.serve_forever, 0.05), daemon=True)
        thread.start()
        guest = Guest(backend)
        guest.configure()
        got = guest.fetch(server.server_address[1], b"GET /file\r\n\r\n")
        server.shutdown()
        thread.join()
    assert got == _Handler.content


def test_user_mode_forwards_a_port_of_the_host(user: Open) -> None:
    """A connection to the host's port becomes a SYN to the guest's port."""
    host_port = free_port()
    forward = PortForward.parse(f"tcp:{host_port}-:80")
    with closing(user([forward])) as backend, closing(socket.socket()) as client:
        guest = Guest(backend)
        guest.configure()
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", host_port))
        segment = guest.wait(IPV4, TCP)
        assert unpack_from("!H", segment, 22) == (80,)
        assert segment[33] & 0x12 == 0x02
        with pytest.raises(UserError, match=f"{host_port}"):
            user([forward])


@pytest.mark.parametrize(("protocol", "number"), [("tcp", TCP), ("udp", UDP)])
def test_user_mode_forwards_a_port_of_ipv6(user: Open, protocol: str, number: int) -> None:
    """What arrives at the IPv6 loopback reaches the guest's port over IPv6."""
    if not has_ipv6_loopback():
        pytest.skip("this host has no IPv6")
    host_port = free_port()
    with closing(user([PortForward.parse(f"{protocol}:[::1]:{host_port}-:80")])) as backend:
        guest = Guest(backend)
        guest.configure()
        assert backend.send([memoryview(router_solicitation())])
        assert guest.wait(IPV6, ICMPV6)[40] == 134
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        with closing(socket.socket(socket.AF_INET6, kind)) as client:
            client.setblocking(False)
            client.connect_ex(("::1", host_port))
            if protocol == "udp":
                client.send(b"hello")
            assert unpack_from("!H", guest.wait(IPV6, number), 42) == (80,)


def has_ipv6_loopback() -> bool:
    """Check whether this host has the address ::1."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_user_mode_keeps_frames_until_the_guest_has_buffers(user: Open) -> None:
    """Frames that the guest refused are delivered after resume, none lost and none twice."""
    with closing(user([])) as backend:
        guest = Guest(backend)
        guest.configure()
        guest.port.room = 0
        for _ in range(3):
            guest.ask_for_router()
        assert guest.port.is_full.wait(TIMEOUT)
        guest.port.room = 100
        backend.resume()
        for _ in range(3):
            assert guest.wait(ARP)[14:18] == guest.router
        assert guest.port.room == 97


def test_passt_that_ends_unplugs_the_cable(loop: IoLoop, tmp_path: Path) -> None:
    """The guest's link goes down; frames that it sends are dropped."""
    command = tmp_path / "passt"
    command.write_text("#!/bin/sh\nexit 0\n")
    command.chmod(0o755)
    with closing(open_passt(loop, command=str(command))) as backend:
        port = Port()
        backend.start(port)
        assert port.is_unplugged.wait(TIMEOUT)
        assert backend.send([memoryview(bytes(60))])


def test_passt_says_in_one_line_why_it_does_not_start(loop: IoLoop, tmp_path: Path) -> None:
    """It is not installed, or does not start: the error has its message."""
    with pytest.raises(UserError, match="install the package passt"):
        open_passt(loop, command=str(tmp_path / "none"))
    command = tmp_path / "passt"
    command.write_text(
        "#!/bin/sh\nfor line in 'Failed to send' 'Port 80: in use' 'No port'; do\n"
        'echo "$line" >&2\ndone\nexit 1\n'
    )
    command.chmod(0o755)
    with pytest.raises(UserError, match=r"^passt: Port 80: in use; No port$"):
        open_passt(loop, command=str(command))


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("tcp:8080-:80", ["--tcp-ports", "127.0.0.1/8080:80"]),
        ("tcp::8080-:80", ["--tcp-ports", "127.0.0.1/8080:80"]),
        ("udp:0.0.0.0:53-:5353", ["--udp-ports", "0.0.0.0/53:5353"]),
        ("tcp:[::1]:80-:8080", ["--tcp-ports", "::1/80:8080"]),
    ],
)
def test_port_forward_is_read_in_either_form(text: str, arguments: list[str]) -> None:
    """The address is optional; the default is loopback."""
    assert passt_forward(PortForward.parse(text)) == arguments


@pytest.mark.parametrize(
    "text",
    ["", "tcp", "tcp:80", "sctp:1-:2", "tcp:0-:1", "tcp:1-:65536", "tcp:" + "9" * 5000 + "-:80"],
)
def test_port_forward_refuses_anything_else(text: str) -> None:
    """One line with an example."""
    with pytest.raises(UserError, match="give a forward such as tcp:8080-:80"):
        PortForward.parse(text)


@pytest.mark.parametrize("address", ["localhost", "127.1", "1.2.3.400", "é", "[::g]", "[1.2.3.4]"])
def test_port_forward_refuses_what_is_no_address(address: str) -> None:
    """It is rejected before a program is started."""
    with pytest.raises(UserError, match=r"is not an IPv[46] address"):
        PortForward.parse(f"tcp:{address}:8080-:80")


def test_program_can_send_a_burst(tmp_path: Path) -> None:
    """Passt drops what its socket does not take at once: a window of several long frames fits."""
    script = tmp_path / "program"
    script.write_text(
        "import socket, sys\n"
        "stream = socket.socket(fileno=int(sys.argv[2]))\n"
        "stream.setblocking(False)\n"
        "sys.exit(stream.send(bytes(300_000)) != 300_000)\n"
    )
    start_program("program", sys.executable, str(script)).close()
