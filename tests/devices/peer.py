"""The guest's end of a network backend: a port, and a network stack made by hand."""

import socket
import threading
from collections.abc import Iterable
from ipaddress import IPv6Address
from queue import Queue
from struct import pack, unpack_from

from pyvmm.devices.net_user import GUEST, HOST
from pyvmm.devices.virtio.net import NetBackend, NetFeature
from tests.waiting import wait_until

MAC = bytes.fromhex("021515151515")
BROADCAST = b"\xff" * 6
TIMEOUT = 5
IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
LINK_LOCAL, ALL_ROUTERS = IPv6Address("fe80::15:15ff:fe15:1515"), IPv6Address("ff02::2")


def free_port() -> int:
    """Return a port of the host that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def is_listening(port: int) -> bool:
    """Check whether a port of the host accepts connections."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_until_free(port: int) -> None:
    """Wait until a program that is not our child has released a port."""
    wait_until(lambda: not is_listening(port), TIMEOUT)


class Port:
    """The device's side of a backend: a queue of frames with a limit."""

    def __init__(self) -> None:
        self.frames: Queue[bytes] = Queue()
        self.queues: set[int] = set()  # that frames came from
        self.room = 1 << 30
        self.is_full = threading.Event()
        self.is_sendable = threading.Event()
        self.is_unplugged = threading.Event()

    def receive(self, frames: Iterable[bytes | memoryview], queue: int = 0) -> int:
        """Take as many frames as fit."""
        taken = 0
        for frame in frames:
            if not self.room:
                self.is_full.set()
                break
            self.room -= 1
            taken += 1
            self.frames.put(bytes(frame))
            self.queues.add(queue)
        return taken

    def sendable(self) -> None:
        """Record that the backend accepts frames again."""
        self.is_sendable.set()

    def set_link(self, *, is_up: bool) -> None:
        """Note an unplugged cable."""
        if not is_up:
            self.is_unplugged.set()


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


def router_solicitation() -> bytes:
    """Return the frame with which a guest that has an IPv6 address asks for routers."""
    ask = pack("!BBH4x", 133, 0, 0)
    pseudo = LINK_LOCAL.packed + ALL_ROUTERS.packed + pack("!II", len(ask), ICMPV6)
    ask = ask[:2] + pack("!H", checksum(pseudo + ask)) + ask[4:]
    head = pack("!IHBB", 6 << 28, len(ask), ICMPV6, 255) + LINK_LOCAL.packed + ALL_ROUTERS.packed
    return b"\x33\x33\0\0\0\2" + MAC + pack("!H", IPV6) + head + ask


class Guest:
    """A hand-made network stack: ARP, DHCP and one TCP connection, over a backend."""

    def __init__(self, backend: NetBackend) -> None:
        self.backend, self.port = backend, Port()
        self.router_mac = BROADCAST
        self.address = self.router = bytes(4)
        backend.start(self.port)

    def send(self, kind: int, payload: bytes, target: bytes = BROADCAST) -> None:
        """Send one frame in two parts, like a chain."""
        frame = target + MAC + pack("!H", kind) + payload
        assert self.backend.send([memoryview(frame)[:14], memoryview(frame)[14:]])

    def wait(self, kind: int, protocol: int = 0) -> bytes:
        """Return the payload of the next frame of this kind."""
        while True:
            frame = self.port.frames.get(timeout=TIMEOUT)
            place = 20 if kind == IPV6 else 23
            if unpack_from("!H", frame, 12)[0] == kind and protocol in {0, frame[place]}:
                return frame[14:]

    def dhcp(self, message: int, options: bytes = b"") -> dict[int, bytes]:
        """Send one DHCP message and return the options of the answer, the address as 0."""
        boot = pack("!BBBBIHH16x16s192xI", 1, 1, 6, 0, 0x1234, 0, 0x8000, MAC, 0x63825363)
        boot += bytes((53, 1, message)) + options + b"\xff"
        udp = pack("!HHHH", 68, 67, 8 + len(boot), 0) + boot
        self.send(IPV4, ipv4(UDP, bytes(4), b"\xff" * 4, udp))
        answer = self.wait(IPV4, UDP)[28:]
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
        assert (self.address, self.router) == (GUEST.packed, HOST.packed)
        assert answer[1] == b"\xff\xff\xff\0"
        assert 6 in answer  # name servers
        self.ask_for_router()
        arp = self.wait(ARP)
        assert arp[14:18] == self.router
        self.router_mac = arp[8:14]

    def question_for_router(self) -> bytes:
        """Return the frame of an ARP request for the router, which is answered."""
        fields = (1, IPV4, 6, 4, 1, MAC, self.address, bytes(6), self.router)
        return BROADCAST + MAC + pack("!H", ARP) + pack("!HHBBH6s4s6s4s", *fields)

    def ask_for_router(self) -> None:
        """Send an ARP request for the router."""
        assert self.backend.send([memoryview(self.question_for_router())])

    def tcp(self, seq: int, ack: int, flags: int, port: int, data: bytes = b"") -> None:
        """Send one segment to a port of the router."""
        head = pack("!HHIIBBHHH", 1025, port, seq, ack, 0x50, flags, 0xFFFF, 0, 0)
        pseudo = self.address + self.router + pack("!HH", 6, len(head) + len(data))
        right = checksum(pseudo + head + data)
        if self.backend.offloads & NetFeature.CSUM:
            right ^= 0xFFFF  # it is not looked at
        head = head[:16] + pack("!H", right) + head[18:]
        self.send(IPV4, ipv4(TCP, self.address, self.router, head + data), self.router_mac)

    def fetch(self, port: int, request: bytes) -> bytes:
        """Send a request over TCP and return everything until the other end closes."""
        self.tcp(1000, 0, 0x02, port)
        (theirs,) = unpack_from("!I", self.wait(IPV4, TCP), 24)
        ack, got = theirs + 1, b""
        self.tcp(1001, ack, 0x10, port)
        self.tcp(1001, ack, 0x18, port, request)
        while True:
            packet = self.wait(IPV4, TCP)
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
