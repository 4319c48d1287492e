"""The block device's requests under way: their order, their number, and their end at a reset."""

from collections.abc import Callable
from struct import pack
from threading import Event, Thread

import pytest

from pyvmm.arch.errors import RepeatAccess
from pyvmm.devices.virtio.blk import MAX_OUTSTANDING, BlkFeature, VirtioBlk
from pyvmm.devices.virtio.mmio import Register
from pyvmm.devices.virtio.state import Status
from pyvmm.devices.workers import Workers
from tests.devices.driver import RAM_BASE, Driver, Ram, Request
from tests.devices.hosts import Later, MemoryDisk
from tests.devices.pci_driver import PciDriver
from tests.waiting import PATIENCE, wait_until

IN, OUT, FLUSH, DISCARD = 0, 1, 4, 11
OK, IOERR = 0, 1


class Rig:
    """A live disk whose requests wait."""

    def __init__(self, *, ring_size: int = 16, is_over: Callable[[], bool] = lambda: False) -> None:
        self.disk = MemoryDisk()
        self.later = Later()
        self.device = VirtioBlk(self.disk, self.later, is_over=is_over)
        self.driver = Driver(self.device, Ram(1 << 22), ring_size=ring_size).start()
        (self.ring,) = self.driver.rings

    def offer(self, kind: int, sector: int = 0, data: bytes = b"", into: int = 0) -> Request:
        """Offer a request."""
        out = [pack("<IIQ", kind, 0, sector), data] if data else [pack("<IIQ", kind, 0, sector)]
        request = self.ring.add(out, [into, 1] if into else [1], indirect=True)
        self.driver.kick()
        return request

    def answered(self) -> list[int]:
        """Return the heads of the requests answered since the last call."""
        return [head for head, _ in self.ring.used_entries()]

    def all_transfers_ended(self) -> bool:
        """Return whether the device has ended each of its transfers, once."""
        ram = self.driver.ram
        return sorted(ram.ended) == list(range(1, ram.num_transfers + 1))


@pytest.fixture
def rig() -> Rig:
    """Return a live disk."""
    return Rig()


def test_requests_are_answered_as_they_are_done(rig: Rig) -> None:
    """The notification returns at once; each answer interrupts the driver."""
    first, second = rig.offer(IN, 1, into=512), rig.offer(OUT, 2, b"x" * 512)
    assert (rig.answered(), rig.disk.log, rig.driver.irq.rises) == ([], [], 0)
    rig.later.do(1)
    assert (rig.answered(), rig.driver.acknowledge()) == ([second.head], 1)
    rig.driver.set_used_event(0, 1)
    rig.later.do()
    assert (rig.answered(), rig.driver.acknowledge()) == ([first.head], 1)
    assert first.answer() == b"\x01" * 512 + b"\0"
    assert rig.all_transfers_ended()


def test_data_at_hand_is_read_at_once(rig: Rig) -> None:
    """A short read that needs no waiting does not go through another thread."""
    rig.disk.is_at_hand = True
    request = rig.offer(IN, 3, into=512)
    assert (rig.answered(), rig.later.work) == ([request.head], [])
    assert request.answer() == b"\x03" * 512 + b"\0"
    rig.offer(OUT, 3, b"x" * 512)
    assert (rig.answered(), len(rig.later.work)) == ([], 1)


@pytest.mark.parametrize("kind", [OUT, DISCARD])
def test_a_flush_waits_for_the_changes_before_it(rig: Rig, kind: int) -> None:
    """Not for reads, nor for what is requested later; several flushes wait at a time."""
    data = b"x" * 512 if kind == OUT else pack("<QII", 0, 8, 0)
    rig.offer(IN, 0, into=512)
    before = [rig.offer(kind, 0, data), rig.offer(kind, 0, data)]
    flushes = [rig.offer(FLUSH), rig.offer(FLUSH)]
    after = rig.offer(kind, 0, data)
    assert len(rig.later.work) == 4  # a read and three changes
    rig.later.do(2)  # the younger of the two before
    rig.later.do(2)  # the one after
    assert (rig.answered(), len(rig.later.work)) == ([before[1].head, after.head], 2)
    rig.later.do(1)
    assert (rig.answered(), len(rig.later.work)) == ([before[0].head], 3)
    rig.later.do(1)
    rig.later.do(1)
    assert rig.answered() == [flush.head for flush in flushes]
    assert [what for what, *_ in rig.disk.log][-2:] == ["flush", "flush"]


def test_a_flush_without_changes_begins_at_once(rig: Rig) -> None:
    """It waits for no read."""
    rig.offer(IN, 0, into=512)
    flush = rig.offer(FLUSH)
    rig.later.do(1)
    assert rig.answered() == [flush.head]


def test_a_failed_change_lets_the_flush_begin(rig: Rig) -> None:
    """The driver knows of the failure from the change's own answer."""
    change, flush = rig.offer(OUT, 0, b"x" * 512), rig.offer(FLUSH)
    rig.disk.is_failing = True
    rig.later.do()
    rig.disk.is_failing = False
    rig.later.do()
    assert (change.answer(), flush.answer()) == (bytes([IOERR]), bytes([OK]))


def test_the_number_of_outstanding_requests_is_bounded() -> None:
    """A driver that offers the same buffers again and again waits for answers."""
    rig = Rig(ring_size=128)
    header, data, status = (rig.driver.ram.alloc(size) for size in (16, 512, 1))
    rig.driver.ram.write(header, pack("<IIQ", IN, 0, 1))
    rig.ring.offer_table([(header, 16, 0), (data, 512, 2), (status, 1, 2)])
    rig.driver.kick()
    for _ in range(3):
        for _ in range(126):
            rig.ring.offer(0)
        rig.driver.kick()
    assert len(rig.later.work) == MAX_OUTSTANDING
    for _ in range(1 + 3 * 126):
        rig.later.do()
    assert rig.device.counters["reads"] == 1 + 3 * 126
    assert (rig.later.work, rig.driver.is_broken) == ([], False)


def test_a_reset_forgets_what_is_not_done(rig: Rig) -> None:
    """Nothing is transferred or answered after it, and the device works again."""
    ram = rig.driver.ram
    requests = [rig.offer(IN, 1, into=512), rig.offer(OUT, 2, b"x" * 512), rig.offer(FLUSH)]
    rig.driver.write(Register.STATUS, 0)
    ram.write(RAM_BASE, bytes(len(ram.bytes)))
    rig.driver.start()
    while rig.later.work:
        rig.later.do()
    assert rig.disk.log == []
    assert all(not any(request.answer()) for request in requests)
    assert rig.all_transfers_ended()
    (rig.ring,) = rig.driver.rings
    again = rig.offer(IN, 1, into=512)
    rig.later.do()
    assert (rig.answered(), again.answer()[:1]) == ([again.head], b"\x01")


class SlowDisk(MemoryDisk):
    """A disk whose reads wait for the test."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun, self.may_end = Event(), Event()

    def read(self, offset: int, buffers: list[memoryview]) -> None:
        """Wait, then fill the buffers."""
        self.has_begun.set()
        assert self.may_end.wait(PATIENCE)
        super().read(offset, buffers)


def is_reset(driver: Driver) -> bool:
    """Reset the device; return whether that is complete."""
    try:
        driver.write(Register.STATUS, 0)
    except RepeatAccess:
        return False
    return True


@pytest.mark.parametrize("make", [Driver, PciDriver])
def test_a_reset_is_repeated_until_no_data_is_transferred(make: type[Driver]) -> None:
    """The driver may use its memory for something else afterwards."""
    disk, workers = SlowDisk(), Workers("test")
    driver = make(VirtioBlk(disk, workers)).start()
    request = driver.rings[0].add([pack("<IIQ", IN, 0, 1)], [512, 1])
    driver.kick()
    assert disk.has_begun.wait(PATIENCE)
    with pytest.raises(RepeatAccess):
        driver.write(Register.STATUS, 0)
    disk.may_end.set()
    wait_until(lambda: is_reset(driver))
    assert driver.read(Register.STATUS) == 0
    assert workers.close(PATIENCE)
    assert driver.rings[0].used_entries() == []
    assert request.answer()[-1:] == b"\0"
    assert sorted(driver.ram.ended) == list(range(1, driver.ram.num_transfers + 1))


def test_a_request_is_abandoned_when_the_guest_has_ended() -> None:
    """What has not begun does not begin."""
    is_over = False
    rig = Rig(is_over=lambda: is_over)
    request = rig.offer(OUT, 2, b"x" * 512)
    is_over = True
    rig.later.do()
    assert (rig.disk.log, rig.answered()) == ([], [request.head])


def test_an_answer_that_the_driver_made_impossible_breaks_the_device(rig: Rig) -> None:
    """The used ring is not accessible any more: the device asks for a reset, nothing raises."""
    rig.offer(IN, 1, into=512)
    rig.driver.ram.refused = {rig.ring.used >> 12}
    rig.later.do()
    assert rig.driver.is_broken
    assert rig.all_transfers_ended()


def test_writes_without_flush_requests_are_flushed_by_their_thread() -> None:
    """The answer means that the data is on stable storage."""
    disk, later = MemoryDisk(), Later()
    driver = Driver(VirtioBlk(disk, later), refuse=BlkFeature.FLUSH).start()
    driver.rings[0].add([pack("<IIQ", OUT, 0, 0), bytes(512)], [1])
    driver.kick()
    assert disk.log == []
    later.do()
    assert disk.log == [("write", 0, 512), ("flush", 0, 0)]


def test_requests_from_two_cpus_are_all_answered() -> None:
    """Both notify at a time while threads answer."""
    disk, workers = MemoryDisk(), Workers("test")
    driver = Driver(VirtioBlk(disk, workers), Ram(1 << 22), ring_size=256).start()
    (ring,) = driver.rings
    for _ in range(60):
        ring.add([pack("<IIQ", IN, 0, 1)], [512, 1])

    def notify() -> None:
        for _ in range(50):
            driver.kick()

    kickers = [Thread(target=notify) for _ in range(2)]
    for kicker in kickers:
        kicker.start()
    for kicker in kickers:
        kicker.join()
    wait_until(lambda: not workers._num_pending)
    assert workers.close(PATIENCE)
    assert len(ring.used_entries()) == 60
    assert driver.read(Register.STATUS) & Status.NEEDS_RESET == 0
