"""A network card against a driver with random headers, frames, buffers and control commands."""

import os
import random
import socket
from contextlib import closing
from pathlib import Path
from struct import pack
from typing import Final

import pytest

from pyvmm.devices.ioloop import IoLoop
from pyvmm.devices.net_tap import TapBackend
from pyvmm.devices.virtio.net import GUEST_OFFLOADS, MAX_FRAME, NetFeature, VirtioNet
from pyvmm.devices.virtio.net_control import MAX_ADDRESSES
from tests.devices.driver import RAM_BASE, RAM_SIZE, Driver
from tests.devices.hosts import Wire
from tests.devices.peer import TIMEOUT
from tests.devices.test_net_tap import needs_tun, set_up

MAC: Final = bytes.fromhex("021515151515")
TAP: Final = f"pvf{os.getpid()}"
FEW, MANY = 3000, 1_000_000
counts = pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
_CLASSES: Final = (0, 0, 1, 1, 2, 3, 4, 5, 6, 255)


def number(rng: random.Random, size: int) -> bytes:
    """Return a number of some bytes; absurd ones are likely."""
    limit = (1 << 8 * size) - 1
    value = rng.choice((0, 1, 2, 14, 54, 1448, limit >> 1, limit, rng.getrandbits(8 * size)))
    return min(value, limit).to_bytes(size, "little")


def header(rng: random.Random) -> bytes:
    """Return a virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, ..."""
    kind = bytes((rng.choice((0, 1, 2, 4, 7, 255)), rng.choice((0, 1, 3, 4, 5, 0x81, 0x84, 255))))
    return kind + b"".join(number(rng, 2) for _ in range(5))


def frame(rng: random.Random) -> bytes:
    """Return a frame that may be a TCP segment, and may be none."""
    size = rng.choice((0, 13, 14, 33, 34, 54, 60, 1514, 9000, MAX_FRAME, MAX_FRAME + 1))
    kind = rng.choice((b"\x08\0\x45", b"\x86\xdd\x60", b"\x81\0\0\1\x08\0\x45", b"\x88\xb5"))
    body = (b"\xff" * 6 + MAC + kind).ljust(23, b"\0") + rng.choice((b"\6", b"\x11"))
    return body.ljust(size, b"\x55")[:size]


def command(rng: random.Random) -> bytes:
    """Return a control command, often one that exists."""
    kind = bytes((rng.choice(_CLASSES), rng.choice((0, 1, 2, 5, 255))))
    match rng.randrange(4):
        case 0:
            count = rng.choice((0, 1, 3, MAX_ADDRESSES, MAX_ADDRESSES + 1))
            return kind + pack("<I", count) + rng.randbytes(6 * count) + number(rng, 4)
        case 1:
            return kind + number(rng, 8)
        case 2:
            return kind[: rng.randrange(3)]
        case _:
            return kind + rng.randbytes(rng.choice((0, 1, 2, 3, 6, 7, 8, 100)))


class Restarted:
    """A driver whose requests use the same memory again."""

    def __init__(self, net: VirtioNet) -> None:
        self.driver = Driver(net)
        self.restart()
        self._free = self.driver.ram._free

    def restart(self) -> None:
        """Start the driver with all its memory free."""
        self.driver.ram.bytes[:] = bytes(RAM_SIZE)
        self.driver.ram._free = 0x1000
        self.driver.start()

    def reuse(self) -> None:
        """Use the memory of requests again, which are complete."""
        self.driver.ram._free = self._free


@counts
def test_card_survives_any_command(seed: int, count: int) -> None:
    """Each is answered, what the card remembers is bounded, and the card still carries frames."""
    rng = random.Random(seed)
    offloads = NetFeature.CSUM | GUEST_OFFLOADS
    wire = Wire(offloads=offloads, has_headers=True, num_queues=2)
    net = VirtioNet(wire, MAC)
    restarted = Restarted(net)
    driver = restarted.driver
    for done in range(count):
        if done % 12 == 0:  # the receive queue may be full
            restarted.restart()
        request = driver.rings[4].add([command(rng)], [rng.choice((1, 1, 1, 3))])
        driver.kick(4)
        ((_, written),) = driver.rings[4].used_entries()
        assert (written, request.answer()[0] in {0, 1}) == (1, True)
        for table in (net.filter.unicast, net.filter.multicast):
            assert table is None or len(table) <= MAX_ADDRESSES
        assert not wire.used_offloads & ~GUEST_OFFLOADS
        assert (1 <= net.num_pairs <= 2, len(net.mac), net.mac[0] & 1) == (True, 6, 0)
        driver.rings[0].add([], [100])
        assert net.receive([bytes(12) + net.mac + bytes(54)], rng.randrange(2)) in {0, 1}
    assert not driver.is_broken


@counts
def test_card_survives_any_frame(seed: int, count: int) -> None:
    """Only frames that Ethernet can have reach the backend; each buffer comes back."""
    rng = random.Random(seed)
    wire = Wire(offloads=NetFeature.CSUM, has_headers=True)
    restarted = Restarted(VirtioNet(wire, MAC))
    driver = restarted.driver
    for _ in range(count):
        restarted.reuse()
        data = header(rng)[: rng.choice((12, 12, 12, 11, 0))] + frame(rng)
        cut = rng.randrange(len(data) + 1)
        driver.rings[1].add([data[:cut], data[cut:]], [], indirect=rng.random() < 0.5)
        driver.kick(1)
        assert len(driver.rings[1].used_entries()) == 1
        assert all(26 <= len(sent) <= 12 + MAX_FRAME for sent in wire.sent)
        wire.sent.clear()
    assert not driver.is_broken


@counts
def test_card_survives_any_receive_buffer(seed: int, count: int) -> None:
    """A frame is delivered whole or not at all, or the device needs a reset."""
    rng = random.Random(seed)
    net = VirtioNet(Wire(), MAC)
    restarted = Restarted(net)
    driver = restarted.driver
    for _ in range(count // 4):
        restarted.restart()
        ring = driver.rings[0]
        for index in range(rng.randrange(1, ring.size + 1)):
            addr = rng.choice((RAM_BASE + 0x8000, RAM_BASE + RAM_SIZE - 8, rng.getrandbits(64)))
            size = rng.choice((0, 1, 11, 12, 13, 100, 2048, 0xFFFF_FFFF))
            flags = rng.choice((2, 2, 2, 3, 0, 4))
            ring.put_desc(index, addr, size, flags, rng.randrange(ring.size + 1))
            ring.offer(index)
        sizes = [rng.choice((14, 60, 1514, MAX_FRAME)) for _ in range(3)]
        assert 0 <= net.receive([bytes(size) for size in sizes]) <= 3


@needs_tun
@counts
def test_tap_survives_any_header(seed: int, count: int, loop: IoLoop) -> None:
    """Any header goes to a real interface: it takes the frame or drops it, and works on."""
    rng = random.Random(seed)
    valid = (b"\xff" * 6 + MAC + b"\x88\xb6").ljust(60, b"\0")
    with closing(TapBackend(loop, TAP)) as backend:
        Path(f"/proc/sys/net/ipv6/conf/{TAP}/disable_ipv6").write_text("1")
        set_up(TAP)
        restarted = Restarted(VirtioNet(backend, MAC))
        driver = restarted.driver
        for _ in range(count // 3):
            restarted.reuse()
            driver.rings[1].add([header(rng) + frame(rng)], [])
            driver.kick(1)
            assert len(driver.rings[1].used_entries()) == 1
        assert not driver.is_broken
        with closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x88B6)) as host:
            host.bind((TAP, 0x88B6))
            host.settimeout(TIMEOUT)
            driver.start().rings[1].add([bytes(12) + valid], [])
            driver.kick(1)
            assert host.recv(2000) == valid
