"""The network backends against the real thing: passt, and a tap interface of this host."""

import os
import shutil
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from struct import pack, unpack_from

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.devices.ioloop import IoLoop
from pyvmm.devices.net_passt import PasstBackend, PortForward
from pyvmm.devices.net_tap import TapBackend

MAC = bytes.fromhex("021515151515")
BROADCAST = b"\xff" * 6
TIMEOUT = 5

needs_passt = pytest.mark.skipif(shutil.which("passt") is None, reason="passt is not installed")
needs_tun = pytest.mark.skipif(
    not os.access("/dev/net/tun", os.W_OK) or os.geteuid() != 0,
    reason="creating a tap interface needs root and /dev/net/tun",
)


class Port:
    """The device's side of a backend: a queue of frames, with room for as many as told."""

    def __init__(self) -> None:
        self.frames: Queue[bytes] = Queue()
        self.room = 1 << 30
        self.is_full = threading.Event()
        self.is_unplugged = threading.Event()

    def receive(self, frames: Sequence[bytes | memoryview]) -> int:
        """Take as many as there is room for."""
        taken = min(self.room, len(frames))
        self.room -= taken
        for frame in frames[:taken]:
            self.frames.put(bytes(frame))
        if taken < len(frames):
            self.is_full.set()
        return taken

    def sendable(self) -> None:
        """Nothing waits here."""

    def set_link(self, *, is_up: bool) -> None:
        """Note an unplugged cable."""
        if not is_up:
            self.is_unplugged.set()


@pytest.fixture
def loop() -> Iterator[IoLoop]:
    """Return a running event loop."""
    loop = IoLoop()
    loop.start()
    yield loop
    loop.stop()


def checksum(data: bytes) -> int:
    """Return the Internet checksum."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(unpack_from(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ipv4(protocol: int, source: bytes, target: bytes, payload: bytes) -> bytes:
    """Return an IPv4 packet."""
    size = 20 + len(payload)
    head = pack("!BBHHHBBH4s4s", 0x45, 0, size, 0, 0, 64, protocol, 0, source, target)
    return head[:10] + pack("!H", checksum(head)) + head[12:] + payload


class Guest:
    """A hand-made network stack: ARP, DHCP and one TCP connection, over a backend."""

    def __init__(self, backend: PasstBackend) -> None:
        self.backend, self.port = backend, Port()
        self.router_mac = BROADCAST
        self.address = self.router = bytes(4)
        backend.start(self.port)

    def send(self, kind: int, payload: bytes, target: bytes = BROADCAST) -> None:
        """Send one frame, cut in two as a chain may be."""
        frame = target + MAC + pack("!H", kind) + payload
        assert self.backend.send([memoryview(frame)[:14], memoryview(frame)[14:]])

    def wait(self, kind: int, protocol: int = 0) -> bytes:
        """Return the payload of the next frame of this kind."""
        while True:
            frame = self.port.frames.get(timeout=TIMEOUT)
            if unpack_from("!H", frame, 12)[0] == kind and (not protocol or frame[23] == protocol):
                return frame[14:]

    def dhcp(self, message: int, options: bytes = b"") -> dict[int, bytes]:
        """Send one DHCP message and return the options of the answer, the address as 0."""
        boot = pack("!BBBBIHH16x16s192xI", 1, 1, 6, 0, 0x1234, 0, 0x8000, MAC, 0x63825363)
        boot += bytes((53, 1, message)) + options + b"\xff"
        udp = pack("!HHHH", 68, 67, 8 + len(boot), 0) + boot
        self.send(0x0800, ipv4(17, bytes(4), b"\xff" * 4, udp))
        answer = self.wait(0x0800, 17)[28:]
        found, where = {0: answer[16:20]}, 240
        while answer[where] != 255:
            code, size = answer[where], answer[where + 1]
            found[code] = answer[where + 2 : where + 2 + size]
            where += 2 + size
        return found

    def configure(self) -> None:
        """Get an address and a router by DHCP, and the router's MAC by ARP."""
        offer = self.dhcp(1)
        assert offer[53] == b"\x02"
        wanted = bytes((50, 4)) + offer[0]
        answer = self.dhcp(3, wanted)
        assert answer[53] == b"\x05"
        self.address, self.router = answer[0], answer[3]
        ask = pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, MAC, self.address, bytes(6), self.router)
        self.send(0x0806, ask)
        arp = self.wait(0x0806)
        assert arp[14:18] == self.router
        self.router_mac = arp[8:14]

    def tcp(self, seq: int, ack: int, flags: int, port: int, data: bytes = b"") -> None:
        """Send one segment to a port of the router."""
        head = pack("!HHIIBBHHH", 1025, port, seq, ack, 0x50, flags, 0xFFFF, 0, 0)
        pseudo = self.address + self.router + pack("!HH", 6, len(head) + len(data))
        head = head[:16] + pack("!H", checksum(pseudo + head + data)) + head[18:]
        self.send(0x0800, ipv4(6, self.address, self.router, head + data), self.router_mac)

    def fetch(self, port: int, request: bytes) -> bytes:
        """Send a request over TCP and return everything until the other end closes."""
        self.tcp(1000, 0, 0x02, port)
        (theirs,) = unpack_from("!I", self.wait(0x0800, 6), 24)
        ack, got = theirs + 1, b""
        self.tcp(1001, ack, 0x10, port)
        self.tcp(1001, ack, 0x18, port, request)
        while True:
            packet = self.wait(0x0800, 6)
            (size,) = unpack_from("!H", packet, 2)
            seq, _, offset, flags = unpack_from("!IIBB", packet, 24)
            data = packet[20 + (offset >> 4) * 4 : size]
            if seq != ack & 0xFFFFFFFF:
                continue  # sent again before our acknowledgement came
            got += data
            ack += len(data) + (flags & 1)
            self.tcp(1001 + len(request), ack, 0x10, port)
            if flags & 1:
                return got


class _Handler(BaseHTTPRequestHandler):
    content = b""

    def do_GET(self) -> None:
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        pass


@needs_passt
def test_passt_carries_dhcp_arp_and_a_file_from_the_hosts_loopback(loop: IoLoop) -> None:
    """The gateway's address is the host's loopback; a file of many packets arrives whole."""
    _Handler.content = os.urandom(300_000)
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server,
        closing(PasstBackend(loop)) as backend,
    ):
        thread = threading.Thread(target=partial(server.serve_forever, 0.05), daemon=True)
        thread.start()
        guest = Guest(backend)
        guest.configure()
        got = guest.fetch(server.server_address[1], b"GET /file\r\n\r\n")
        server.shutdown()
        thread.join()
    assert got == _Handler.content


@needs_passt
def test_passt_forwards_a_port_of_the_host(loop: IoLoop) -> None:
    """A connection to the host's port becomes a SYN to the guest's port."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        host_port = probe.getsockname()[1]
    forward = PortForward.parse(f"tcp:{host_port}-:80")
    with closing(PasstBackend(loop, [forward])) as backend, closing(socket.socket()) as client:
        guest = Guest(backend)
        guest.configure()
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", host_port))
        segment = guest.wait(0x0800, 6)
        assert unpack_from("!H", segment, 22) == (80,)
        assert segment[33] & 0x12 == 0x02
        with pytest.raises(UserError, match=f"{host_port}"):
            PasstBackend(loop, [forward])


@needs_passt
def test_passt_keeps_frames_until_the_guest_has_buffers(loop: IoLoop) -> None:
    """What was not taken comes again after resume, nothing lost and nothing twice."""
    with closing(PasstBackend(loop)) as backend:
        guest = Guest(backend)
        guest.configure()
        guest.port.room = 0
        ask = pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, MAC, guest.address, bytes(6), guest.router)
        for _ in range(3):
            guest.send(0x0806, ask)
        assert guest.port.is_full.wait(TIMEOUT)
        guest.port.room = 100
        backend.resume()
        for _ in range(3):
            assert guest.wait(0x0806)[14:18] == guest.router
        assert guest.port.room == 97


def test_passt_that_ends_unplugs_the_cable(loop: IoLoop, tmp_path: Path) -> None:
    """The guest sees its link go down; sending goes on into nothing."""
    command = tmp_path / "passt"
    command.write_text("#!/bin/sh\nexit 0\n")
    command.chmod(0o755)
    with closing(PasstBackend(loop, command=str(command))) as backend:
        port = Port()
        backend.start(port)
        assert port.is_unplugged.wait(TIMEOUT)
        assert backend.send([memoryview(bytes(60))])


def test_passt_says_in_one_line_why_it_does_not_start(loop: IoLoop, tmp_path: Path) -> None:
    """Not installed, or refused: the reason in its own words."""
    with pytest.raises(UserError, match="install the package passt"):
        PasstBackend(loop, command=str(tmp_path / "none"))
    command = tmp_path / "passt"
    command.write_text("#!/bin/sh\necho Failed to send >&2; echo 'No interface' >&2; exit 1\n")
    command.chmod(0o755)
    with pytest.raises(UserError, match=r"^passt: No interface$"):
        PasstBackend(loop, command=str(command))


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("tcp:8080-:80", ["--tcp-ports", "127.0.0.1/8080:80"]),
        ("tcp::8080-:80", ["--tcp-ports", "127.0.0.1/8080:80"]),
        ("udp:0.0.0.0:53-:5353", ["--udp-ports", "0.0.0.0/53:5353"]),
    ],
)
def test_port_forward_is_read_in_either_form(text: str, arguments: list[str]) -> None:
    """With or without an address; loopback if there is none."""
    assert PortForward.parse(text).argument() == arguments


@pytest.mark.parametrize("text", ["", "tcp", "tcp:80", "sctp:1-:2", "tcp:0-:1", "tcp:1-:65536"])
def test_port_forward_refuses_anything_else(text: str) -> None:
    """One line with an example."""
    with pytest.raises(UserError, match="expected tcp:8080-:80"):
        PortForward.parse(text)


@needs_tun
def test_tap_carries_frames_both_ways(loop: IoLoop) -> None:
    """What the guest sends the interface receives, and the other way round."""
    name = f"pvt{os.getpid()}"
    frame = BROADCAST + MAC + b"\x88\xb5" + b"to host".ljust(50)
    back = MAC + MAC + b"\x88\xb5" + b"to guest".ljust(50)
    with closing(TapBackend(loop, name)) as backend:
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        set_up(name)
        with closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x88B5)) as host:
            host.bind((name, 0x88B5))
            host.settimeout(TIMEOUT)
            port = Port()
            port.room = 0
            backend.start(port)
            assert backend.send([memoryview(frame)[:14], memoryview(frame)[14:]])
            assert host.recv(2000) == frame
            host.send(back)
            assert port.is_full.wait(TIMEOUT)
            port.room = 10
            backend.resume()
            assert port.frames.get(timeout=TIMEOUT) == back
        assert backend.mtu == 1500


def set_up(name: str) -> None:
    """Bring an interface up (SIOCSIFFLAGS, IFF_UP)."""
    import fcntl  # noqa: PLC0415 only where a tap can be made

    with closing(socket.socket()) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, pack("16sH22x", name.encode(), 1))


@pytest.mark.parametrize("name", ["", "a-name-that-is-too-long"])
def test_tap_refuses_a_name_that_no_interface_can_have(loop: IoLoop, name: str) -> None:
    """One line, before anything is opened."""
    with pytest.raises(UserError, match="1 to 15 bytes"):
        TapBackend(loop, name)
