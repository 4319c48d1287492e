"""The split virtqueue, through the transport and a device that echoes."""

from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.devices.buffers import fill, split
from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.queue import VirtQueue
from tests.devices.driver import (
    INDIRECT,
    NEXT,
    NO_RING_FEATURES,
    RAM_BASE,
    RAM_SIZE,
    WRITE,
    Driver,
    Ring,
)

ADDR = RAM_BASE + RAM_SIZE // 2


class Echo(VirtioDevice):
    """Copies what it reads to what it writes."""

    device_id = 63
    queue_sizes: tuple[int, ...] = (256,)

    def __init__(self) -> None:
        self.num_chains = 0

    def notify(self, queue: VirtQueue) -> None:
        """Copy each chain."""
        for chain in queue.available():
            self.num_chains += 1
            queue.push_used(chain, chain.write(chain.read(1 << 16)))


@pytest.fixture
def driver() -> Driver:
    """Return a live echo device with both ring features."""
    return Driver(Echo()).start()


@pytest.mark.parametrize("indirect", [False, True])
def test_queue_walks_chains_of_either_kind(driver: Driver, indirect: bool) -> None:
    """The driver chooses the layout of buffers; indices wrap at the queue size."""
    ring = driver.rings[0]
    for turn in range(20):
        request = ring.add([b"ab", b"cde"], [1, 3, 5], indirect=indirect)
        driver.kick()
        assert request.answer() == b"abcde" + bytes(4)
        assert ring.used_entries() == [(request.head, 5)], turn
    assert not driver.is_broken


def test_queue_publishes_all_of_one_activity_with_one_interrupt(driver: Driver) -> None:
    """Several requests with one notification cause one interrupt, acknowledged once."""
    requests = [driver.rings[0].add([b"x"], [1]) for _ in range(5)]
    driver.kick()
    assert [head for head, _ in driver.rings[0].used_entries()] == [r.head for r in requests]
    assert (driver.irq.is_high(), driver.irq.rises) == (True, 1)
    assert driver.acknowledge() == 1
    assert not driver.irq.is_high()


def test_queue_interrupts_only_past_used_event(driver: Driver) -> None:
    """With EVENT_IDX, no interrupt occurs until used.idx passes the driver's index."""
    driver.set_used_event(0, 2)
    for expected in (0, 0, 1, 1):
        driver.rings[0].add([b"x"], [1])
        driver.kick()
        assert driver.irq.rises == expected


def test_queue_asks_for_the_next_notification_when_it_runs_dry(driver: Driver) -> None:
    """With EVENT_IDX, avail_event follows the last buffer, so an idle device gets a kick."""
    for expected in (1, 2, 3):
        driver.rings[0].add([b"x"], [1])
        driver.kick()
        assert driver.avail_event(0) == expected


def test_queue_obeys_no_interrupt_without_event_idx() -> None:
    """Without EVENT_IDX the flag in the avail ring decides."""
    driver = Driver(Echo(), refuse=NO_RING_FEATURES).start()
    ring = driver.rings[0]
    driver.ram.write(ring.avail, pack("<H", 1))
    ring.add([b"x"], [1])
    driver.kick()
    assert (driver.irq.rises, len(ring.used_entries())) == (0, 1)
    driver.ram.write(ring.avail, pack("<H", 0))
    ring.add([b"x"], [1])
    driver.kick()
    assert driver.irq.rises == 1


def loop(ring: Ring) -> None:
    """Chain a descriptor to itself."""
    ring.put_desc(0, ADDR, 16, NEXT, 0)


def leave_table(ring: Ring) -> None:
    """Chain past the end of the table."""
    ring.put_desc(0, ADDR, 16, NEXT, ring.size)


def read_after_write(ring: Ring) -> None:
    """Put a readable buffer behind a writable one."""
    ring.put_desc(0, ADDR, 16, NEXT | WRITE, 1)
    ring.put_desc(1, ADDR, 16)


def outside_ram(ring: Ring) -> None:
    """Make a buffer that ends outside RAM."""
    ring.put_desc(0, RAM_BASE + RAM_SIZE - 4, 8)


def indirect_with_next(ring: Ring) -> None:
    """Combine INDIRECT and NEXT."""
    ring.put_desc(0, ADDR, 16, INDIRECT | NEXT, 1)


def nested_indirect(ring: Ring) -> None:
    """Make an indirect table that refers to another."""
    ring.ram.write(ADDR, pack("<QIHH", ADDR, 16, INDIRECT, 0))
    ring.put_desc(0, ADDR, 16, INDIRECT)


def empty_indirect(ring: Ring) -> None:
    """Make an indirect table shorter than one entry."""
    ring.put_desc(0, ADDR, 15, INDIRECT)


def loop_in_indirect(ring: Ring) -> None:
    """Close a loop inside an indirect table."""
    ring.ram.write(ADDR, pack("<QIHH", ADDR, 16, NEXT, 0) * 4)
    ring.put_desc(0, ADDR, 64, INDIRECT)


def too_many(ring: Ring) -> None:
    """Claim more available buffers than the ring has."""
    ring.put_desc(0, ADDR, 16)
    ring.ram.write(ring.avail + 2, pack("<H", ring.size + 1))


@pytest.mark.parametrize(
    "spoil",
    [loop, leave_table, read_after_write, outside_ram, indirect_with_next, nested_indirect,
     empty_indirect, loop_in_indirect, too_many],
)  # fmt: skip
def test_queue_breaks_and_moves_nothing_when_the_driver_breaks_a_rule(
    driver: Driver, spoil: object
) -> None:
    """The device asks for a reset with a configuration interrupt, and is silent until then."""
    assert callable(spoil)
    ring = driver.rings[0]
    ring.offer(0)
    spoil(ring)
    before = bytes(driver.ram.bytes)
    driver.kick()
    assert bytes(driver.ram.bytes) == before
    assert (driver.is_broken, driver.acknowledge()) == (True, 2)
    driver.kick()
    assert ring.used_entries() == []
    driver.start()
    request = driver.rings[0].add([b"again"], [5])
    driver.kick()
    assert request.answer() == b"again"


def test_queue_completes_what_came_before_a_bad_chain(driver: Driver) -> None:
    """Served requests stay served."""
    ring = driver.rings[0]
    request = ring.add([b"x"], [1])
    ring.put_desc(9, RAM_BASE - 1, 1)
    ring.offer(9)
    driver.kick()
    assert ring.used_entries() == [(request.head, 1)]
    assert (driver.is_broken, driver.acknowledge()) == (True, 3)


def test_queue_refuses_indirect_that_was_not_negotiated() -> None:
    """The driver may use only negotiated features."""
    driver = Driver(Echo(), refuse=NO_RING_FEATURES).start()
    driver.rings[0].add([b"x"], [1], indirect=True)
    driver.kick()
    assert driver.is_broken


def test_queue_moves_no_byte_when_any_page_is_protected(driver: Driver) -> None:
    """One refused granule anywhere in a chain stops the whole chain."""
    request = driver.rings[0].add([b"secret"], [6, 6])
    page = driver.ram.alloc(4096, 4096)
    driver.ram.refused.add(page >> 12)
    driver.rings[0].put_desc(2, page, 6, WRITE)
    before = bytes(driver.ram.bytes)
    driver.kick()
    assert driver.is_broken
    assert bytes(driver.ram.bytes) == before
    assert not any(driver.ram.read(*request.targets[0]))


descriptors = st.tuples(
    st.one_of(st.integers(0, (1 << 64) - 1), st.integers(RAM_BASE - 64, RAM_BASE + 4096)),
    st.one_of(st.integers(0, 256), st.integers(0, (1 << 32) - 1)),
    st.integers(0, 7),
    st.integers(0, 8),
)


@settings(max_examples=120)
@given(
    table=st.lists(descriptors, min_size=8, max_size=8),
    inner=st.lists(descriptors, max_size=6),
    heads=st.lists(st.integers(0, 8), max_size=8),
    avail_idx=st.integers(0, 0xFFFF),
)
def test_queue_is_total_over_any_content(
    table: list[tuple[int, int, int, int]],
    inner: list[tuple[int, int, int, int]],
    heads: list[int],
    avail_idx: int,
) -> None:
    """With any contents of the rings, a notification returns: served, or with a needed reset."""
    driver = Driver(Echo(), ring_size=8).start()
    ring = driver.rings[0]
    driver.ram.write(RAM_BASE, b"".join(pack("<QIHH", *desc) for desc in inner))
    for index, desc in enumerate(table):
        ring.put_desc(index, *desc)
    for head in heads:
        ring.offer(head)
    driver.kick()
    driver.ram.write(ring.avail + 2, pack("<H", avail_idx))
    driver.kick()
    driver.start()
    assert (driver.is_broken, driver.irq.is_high()) == (False, False)
    request = driver.rings[0].add([b"alive"], [5])
    driver.kick()
    assert request.answer() == b"alive"


@given(sizes=st.lists(st.integers(0, 5)), cut=st.integers(0, 30), data=st.binary(max_size=30))
def test_split_and_fill_agree_with_flat_bytes(sizes: list[int], cut: int, data: bytes) -> None:
    """Scattered buffers behave as their concatenation."""
    buffers = [memoryview(bytearray(size)) for size in sizes]
    room = sum(sizes)
    assert fill(buffers, data) == min(room, len(data))
    flat = (data + bytes(room))[:room]
    head, tail = split(buffers, cut)
    assert (b"".join(head), b"".join(tail)) == (flat[:cut], flat[cut:])
