"""Each device against a driver with random rings, tables, requests and lengths."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from struct import pack
from typing import Final

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from pyvmm.devices.dma import DmaFault
from pyvmm.devices.fuse_server import FuseServer
from pyvmm.devices.p9_server import P9Server
from pyvmm.devices.shared_directory import SharedDirectory
from pyvmm.devices.virtio.balloon import VirtioBalloon
from pyvmm.devices.virtio.blk import VirtioBlk
from pyvmm.devices.virtio.console import VirtioConsole
from pyvmm.devices.virtio.fs import VirtioFs
from pyvmm.devices.virtio.input import PRESS, VirtioPowerButton
from pyvmm.devices.virtio.net import VirtioNet
from pyvmm.devices.virtio.p9 import VirtioP9
from pyvmm.devices.virtio.port import Port, VirtioPorts
from pyvmm.devices.virtio.rng import VirtioRng
from pyvmm.devices.virtio.vsock import VirtioVsock
from tests.devices.driver import INDIRECT, NEXT, RAM_BASE, RAM_SIZE, WRITE, Driver, Ram
from tests.devices.hosts import (
    Inline,
    Later,
    Listener,
    MemoryDisk,
    Resetter,
    VastDisk,
    Wire,
    no_timer,
)
from tests.sequences import pool, sequences

RING_SIZE: Final = 8
CONTENT_SIZE: Final = 128  # at the start of RAM, where most buffers and indirect tables are
FRAME: Final = bytes(range(60))


@dataclass(frozen=True)
class Subject:
    """A device, its host's actions, and a request that a working device completes."""

    driver: Driver
    act: Callable[[], object]
    is_sane: Callable[[], bool]
    request: tuple[int, list[bytes], list[int]]  # queue, readable, writable


def blk() -> Subject:
    """A disk."""
    disk = MemoryDisk()
    return Subject(
        Driver(VirtioBlk(disk, Inline()), ring_size=RING_SIZE),
        lambda: None,
        lambda: len(disk.bytes) == disk.size,
        (0, [pack("<IIQ", 0, 0, 1)], [512, 1]),
    )


def slow_blk() -> Subject:
    """A disk whose requests are served later, the youngest first."""
    disk, later = MemoryDisk(), Later()

    def act() -> None:
        while later.work:
            later.do(-1)

    return Subject(
        Driver(VirtioBlk(disk, later), ring_size=RING_SIZE),
        act,
        lambda: len(disk.bytes) == disk.size,
        (0, [pack("<IIQ", 0, 0, 1)], [512, 1]),
    )


def net() -> Subject:
    """A network card whose peer sends and stops listening now and then."""
    wire = Wire()
    card = VirtioNet(wire, bytes(6))

    def act() -> None:
        card.receive([FRAME, FRAME * 9])
        wire.is_busy = not wire.is_busy
        card.sendable()

    return Subject(
        Driver(card, ring_size=RING_SIZE),
        act,
        lambda: all(14 <= len(frame) < 1 << 17 for frame in wire.sent),
        (1, [bytes(12) + FRAME], []),
    )


def console() -> Subject:
    """A console with input and resizes."""
    port = VirtioConsole(lambda _: None)

    def act() -> None:
        port.receive(b"typed")
        port.resize(80, 25)

    driver = Driver(port, ring_size=RING_SIZE)
    return Subject(driver, act, lambda: port.backlog < 64, (1, [b"shown"], []))


def rng() -> Subject:
    """A source of entropy."""
    driver = Driver(VirtioRng(no_timer), ring_size=RING_SIZE)
    return Subject(driver, lambda: None, lambda: True, (0, [], [16]))


def port() -> Subject:
    """Two ports to programs; one of them is full now and then."""
    users = [Listener(), Listener()]
    ports = [Port(f"org.example.{number}", user) for number, user in enumerate(users)]

    def act() -> None:
        for each in ports:
            each.send(b"sent")
        users[1].is_full = not users[1].is_full
        ports[1].resume()

    driver = Driver(VirtioPorts(ports), ring_size=RING_SIZE)
    return Subject(
        driver, act, lambda: all(each.backlog < 64 for each in ports), (1, [b"written"], [])
    )


def balloon() -> Subject:
    """A balloon with resizes; only memory can be lent."""

    def release(addr: int, size: int) -> None:
        if addr + size > RAM_BASE + (1 << 30):
            raise DmaFault(addr, size)

    device = VirtioBalloon(release)
    driver = Driver(device, ring_size=RING_SIZE)
    return Subject(driver, lambda: device.resize(4096), lambda: True, (0, [bytes(8)], []))


def button() -> Subject:
    """A power button that is pressed now and then."""
    device = VirtioPowerButton()
    return Subject(
        Driver(device, ring_size=RING_SIZE),
        device.press,
        lambda: len(device._waiting) <= len(PRESS),
        (1, [bytes(8)], []),
    )


def p9() -> Subject:
    """A shared directory."""
    server = P9Server(SharedDirectory(Path(__file__).parent, is_read_only=True))
    driver = Driver(VirtioP9("share", server, Inline()), ring_size=RING_SIZE)
    hello = pack("<IBHIH8s", 21, 100, 0, 8192, 8, b"9P2000.L")
    return Subject(driver, lambda: None, lambda: True, (0, [hello], [64]))


def fs() -> Subject:
    """A file system."""
    server = FuseServer(SharedDirectory(Path(__file__).parent, is_read_only=True))
    driver = Driver(VirtioFs("share", server, Inline()), ring_size=RING_SIZE)
    hello = pack("<IIQQIIII", 56, 26, 1, 0, 0, 0, 0, 0) + pack("<IIII", 7, 45, 0, 0)
    return Subject(driver, lambda: None, lambda: True, (1, [hello], [80]))


def vsock() -> Subject:
    """A socket device whose host resets every connection."""
    host = Resetter()
    device = VirtioVsock(3, host)
    driver = Driver(device, ring_size=RING_SIZE)
    return Subject(driver, device.deliver, lambda: len(host.resets) <= 8, (1, [bytes(44)], []))


Descriptor = tuple[int, int, int, int]  # address, size, flags, next
RingContent = tuple[list[Descriptor], list[int], int | None]

slots = st.integers(0, CONTENT_SIZE // 16 - 1).map(lambda slot: RAM_BASE + 16 * slot)
addresses = st.one_of(
    slots,
    st.integers(RAM_BASE + RAM_SIZE - 64, RAM_BASE + RAM_SIZE),
    st.integers(0, (1 << 64) - 1),
)
sizes = st.one_of(st.sampled_from((0, 1, 12, 16, 32, 512)), st.integers(0, (1 << 32) - 1))
flags = st.sampled_from((0, NEXT, WRITE, NEXT | WRITE, INDIRECT, INDIRECT | WRITE, 7))
descriptors = st.tuples(addresses, sizes, flags, st.integers(0, RING_SIZE))
headers = st.tuples(
    st.sampled_from((0, 1, 1, 4, 8, 11, 13, 99)),
    st.just(0),
    st.one_of(st.integers(0, 70), addresses),
)


@st.composite
def tables(draw: st.DrawFn) -> list[Descriptor]:
    """Return a table with a chain that obeys the rules, but for what is put over it."""
    sizes = st.lists(st.sampled_from((16, 512, 512)), max_size=3)
    layout = [(16, 0), *((size, 0) for size in draw(sizes))]
    layout += [*((size, WRITE) for size in draw(sizes)), (1, WRITE)]
    table = [
        (draw(slots), size, flag | NEXT * (index != len(layout)), index)
        for index, (size, flag) in enumerate(layout, 1)
    ]
    spoilt = st.dictionaries(st.integers(0, len(table) - 1), descriptors, max_size=2)
    for index, descriptor in draw(st.one_of(st.just({}), spoilt)).items():
        table[index] = descriptor
    return table


contents = st.lists(
    st.one_of(
        headers.map(lambda fields: pack("<IIQ", *fields)),
        descriptors.map(lambda fields: pack("<QIHH", *fields)),
        st.binary(min_size=16, max_size=16),
    ),
    min_size=CONTENT_SIZE // 16,
    max_size=CONTENT_SIZE // 16,
).map(b"".join)
rings = st.tuples(
    tables(),
    st.lists(st.one_of(st.just(0), st.integers(0, RING_SIZE)), min_size=1, max_size=RING_SIZE),
    st.one_of(st.none(), st.none(), st.integers(0, 0xFFFF)),  # avail.idx, if not the true one
)


Turns = list[tuple[RingContent, RingContent]]
SUBJECTS: Final = (
    blk, slow_blk, net, console, rng, port, balloon, button, p9, fs, vsock,
)  # fmt: skip


@settings(max_examples=150)
@given(content=contents, turns=st.lists(st.tuples(rings, rings), min_size=1, max_size=4))
def test_devices_survive_any_driver(content: bytes, turns: Turns) -> None:
    """They work or need a reset, and work again; to draw rings takes longer than to serve them."""
    for make in SUBJECTS:
        note(make.__name__)
        abuse(make(), content, turns)


@pytest.mark.slow
@pytest.mark.parametrize("make", SUBJECTS)
def test_device_survives_any_driver_for_long(make: Callable[[], Subject], seed: int) -> None:
    """This is the same with a million chains per device: 160 in each sequence."""
    memory = cycle(pool(contents, seed, 2000))
    for turns in sequences(st.tuples(rings, rings), seed, count=6_250, length=20):
        abuse(make(), next(memory), turns)


def abuse(subject: Subject, content: bytes, turns: Turns) -> None:
    """Kick a device with rings of any content; afterwards it serves a request."""
    driver = subject.driver.start()
    for turn in turns:
        driver.ram.write(RAM_BASE, content)
        for index, ring in enumerate(driver.rings):
            table, heads, avail_idx = turn[index % 2]
            for number, descriptor in enumerate(table):
                ring.put_desc(number, *descriptor)
            for head in heads:
                ring.offer(head)
            if avail_idx is not None:
                driver.ram.write(ring.avail + 2, pack("<H", avail_idx))
            driver.kick(index)
        subject.act()
        assert subject.is_sane()
    driver.ram.write(RAM_BASE, bytes(RAM_SIZE))  # the device may have written where rings will be
    driver.start()
    assert not driver.is_broken
    queue, readable, writable = subject.request
    driver.rings[queue].add(readable, writable)
    driver.kick(queue)
    subject.act()  # a wire that was busy is not any more
    subject.act()
    assert len(driver.rings[queue].used_entries()) == 1


MUCH: Final = 8 << 20  # bytes, named again and again by one chain
MUCH_AT: Final = RAM_BASE + MUCH  # away from the rings
NUM_REPEATS: Final = 1000


@pytest.mark.parametrize("is_writable", [False, True])
@pytest.mark.parametrize("make", SUBJECTS)
def test_device_answers_a_chain_of_more_than_4_gib(
    make: Callable[[], Subject], is_writable: bool
) -> None:
    """A length in the used ring has 32 bits; overlapping buffers may exceed memory."""
    subject = make()
    driver = Driver(subject.driver.device, Ram(2 * MUCH), ring_size=RING_SIZE).start()
    for index, ring in enumerate(driver.rings):
        head = driver.ram.alloc(16)  # a request to read sector 0, where the device is a disk
        buffers = [(head, 16, 0), *[(MUCH_AT, MUCH, WRITE * is_writable)] * NUM_REPEATS]
        buffers.append((driver.ram.alloc(1), 1, WRITE))
        ring.offer_table(buffers)
        driver.kick(index)
        subject.act()
    assert not driver.is_broken


def test_disk_refuses_a_request_of_more_than_4_gib() -> None:
    """It gets an I/O error although the disk is large enough; the next request is served."""
    driver = Driver(VirtioBlk(VastDisk(), Inline()), Ram(2 * MUCH), ring_size=RING_SIZE).start()
    (ring,) = driver.rings
    head, status = driver.ram.alloc(16), driver.ram.alloc(1)
    for count, expected in ((NUM_REPEATS, (1, 1)), (2, (0, 2 * MUCH + 1))):
        data = [(MUCH_AT, MUCH, WRITE)] * count
        ring.offer_table([(head, 16, 0), *data, (status, 1, WRITE)])
        driver.kick()
        ((_, written),) = ring.used_entries()
        assert (driver.ram.read(status, 1)[0], written) == expected
