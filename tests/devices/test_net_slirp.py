"""The network backend of libslirp, where it differs from passt."""

import random
import threading
from contextlib import closing
from pathlib import Path
from struct import pack

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.devices import libslirp
from pyvmm.devices.ioloop import IoLoop
from pyvmm.devices.net_slirp import open_slirp
from pyvmm.devices.net_user import MTU, PortForward
from pyvmm.devices.slirp import is_fragment
from tests.devices.peer import (
    ARP,
    ICMP,
    IPV4,
    MAC,
    TCP,
    TIMEOUT,
    UDP,
    Guest,
    checksum,
    free_port,
    ipv4,
    is_listening,
    wait_until_free,
)

needs_slirp = pytest.mark.skipif(not libslirp.is_installed(), reason="libslirp is not installed")


@needs_slirp
def test_guest_that_takes_nothing_can_send_a_bounded_number(loop: IoLoop) -> None:
    """Without room for answers, the host keeps only what its buffers hold."""
    with closing(open_slirp(loop)) as backend:
        guest = Guest(backend)
        guest.configure()
        guest.port.room = 0
        question = [memoryview(guest.question_for_router())]
        assert any(not backend.send(question) for _ in range(100_000))
        guest.port.room = 1 << 30
        backend.resume()
        assert guest.port.is_sendable.wait(TIMEOUT)
        assert backend.send(question)


@needs_slirp
def test_hostile_guest_harms_nobody(loop: IoLoop, seed: int) -> None:
    """After any frame, the next valid one is answered."""
    rng = random.Random(seed)
    with closing(open_slirp(loop)) as backend:
        guest = Guest(backend)
        guest.configure()
        payloads = {
            TCP: pack("!HHIIBBHHH", 1025, free_port(), 1, 0, 0x50, 2, 0xFFFF, 0, 0),
            UDP: pack("!HHHH", 53, 53, 40, 0) + bytes(32),
            ICMP: b"\x08" + bytes(39),
        }
        for _ in range(2000):
            protocol = rng.choice(list(payloads))
            packet = ipv4(protocol, guest.address, guest.router, payloads[protocol])
            send_patiently(guest, spoilt(rng, packet))
        while not guest.port.frames.empty():
            guest.port.frames.get()
        guest.ask_for_router()
        assert guest.wait(ARP)[14:18] == guest.router


def spoilt(rng: random.Random, packet: bytes) -> bytes:
    """Return an IPv4 packet with something wrong, and often a right checksum all the same."""
    data = bytearray(packet)
    for _ in range(rng.randrange(1, 5)):
        match rng.randrange(4):
            case 0:
                data[rng.randrange(len(data))] = rng.getrandbits(8)
            case 1:
                data[6:8] = pack("!H", rng.getrandbits(16))  # a fragment
            case 2:
                data[2:4] = pack("!H", rng.getrandbits(16))  # the length
            case _:
                data += bytes(rng.choice((1, 100, 1500, 60_000)))
    if rng.random() < 0.8:
        data[0], data[10:12] = 0x45, b"\0\0"
        data[10:12] = pack("!H", checksum(bytes(data[:20])))
    return bytes(data[: MTU if rng.random() < 0.9 else rng.randrange(20, 60)])


def send_patiently(guest: Guest, packet: bytes) -> None:
    """Send a packet; wait for the network if necessary."""
    frame = [memoryview(guest.router_mac + MAC + pack("!H", IPV4) + packet)]
    guest.port.is_sendable.clear()
    while not guest.backend.send(frame):
        assert guest.port.is_sendable.wait(TIMEOUT)
        guest.port.is_sendable.clear()


@needs_slirp
def test_network_leaves_nothing_behind(loop: IoLoop) -> None:
    """Nothing remains in this process or outside; later frames are dropped."""
    before = holdings()
    port = free_port()
    backend = open_slirp(loop, [PortForward.parse(f"tcp:{port}-:80")])
    Guest(backend).configure()
    assert is_listening(port)
    backend.close()
    backend.close()
    assert backend.send([memoryview(bytes(60))])
    backend.resume()
    assert holdings() == before
    wait_until_free(port)


def holdings() -> tuple[int, int]:
    """Count file descriptors and threads."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir()), threading.active_count()


def test_missing_library_is_refused_in_one_line(
    loop: IoLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the package to install."""
    monkeypatch.setattr(libslirp, "_LIBRARY", "libslirp.so.none")
    with pytest.raises(UserError, match="install the package libslirp0"):
        open_slirp(loop)


@pytest.mark.parametrize(
    ("kind", "flags", "expected"),
    [
        (IPV4, 0, False),
        (IPV4, 0x4000, False),  # don't fragment
        (IPV4, 0x2000, True),
        (IPV4, 0x8000, True),
        (IPV4, 0x0001, True),
        (IPV4, 0x1FFF, True),
        (ARP, 0xFFFF, False),
    ],
)
def test_fragments_are_known(kind: int, flags: int, *, expected: bool) -> None:
    """All bits except one count; a frame shorter than a header is not a fragment."""
    packet = ipv4(UDP, bytes(4), bytes(4), b"")
    frame = bytes(12) + pack("!H", kind) + packet[:6] + pack("!H", flags) + packet[8:]
    assert is_fragment(frame) is expected
    assert not is_fragment(frame[:20])
