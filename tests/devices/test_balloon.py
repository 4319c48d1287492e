"""The memory balloon: pages lent, pages taken back, statistics."""

import threading
from itertools import pairwise
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.dma import DmaFault
from pyvmm.devices.virtio.balloon import (
    MAX_LIST,
    BalloonFeature,
    Tag,
    VirtioBalloon,
    parse_statistics,
    runs,
)
from pyvmm.devices.virtio.mmio import Register
from tests.devices.driver import RAM_BASE, WRITE, Driver, Request

INFLATE, DEFLATE, STATISTICS, REPORTS = range(4)
PAGE = 4096
END = 1000 * PAGE  # of the guest's memory


class Rig:
    """A balloon, its driver, and the released ranges."""

    def __init__(self, refuse: int = 0, end: int = END) -> None:
        self.released: list[tuple[int, int]] = []
        self.balloon = VirtioBalloon(self.release)
        self.driver = Driver(self.balloon, refuse=refuse).start()
        self._end = end

    def release(self, addr: int, size: int) -> None:
        """Record the range; DmaFault if it is not memory."""
        if addr + size > self._end:
            raise DmaFault(addr, size)
        self.released.append((addr, size))

    def send(self, queue: int, *pages: int) -> None:
        """Send a list of pages."""
        self.driver.rings[queue].add([pack(f"<{len(pages)}I", *pages)], [])
        self.driver.kick(queue)

    def say(self, **statistics: int) -> Request:
        """Offer a buffer with statistics."""
        tags = ((Tag[name.upper()], value) for name, value in statistics.items())
        data = b"".join(pack("<HQ", tag, value) for tag, value in tags)
        request = self.driver.rings[STATISTICS].add([data], [])
        self.driver.kick(STATISTICS)
        return request


@pytest.fixture
def rig() -> Rig:
    """Return a live balloon."""
    return Rig()


def test_a_driver_is_there_from_its_queues_to_its_reset(rig: Rig) -> None:
    """Without a driver there are no answers."""
    assert not VirtioBalloon(rig.release).has_driver
    assert rig.balloon.has_driver
    rig.driver.write(Register.STATUS, 0)
    assert not rig.balloon.has_driver


def test_a_new_size_is_told_and_answered(rig: Rig) -> None:
    """An interrupt announces the size in pages of 4 KiB; the driver writes what it has lent."""
    rig.balloon.resize(10 * PAGE + 1)
    assert rig.driver.acknowledge() == 2
    assert (rig.driver.config(0, 4), rig.driver.config(4, 4)) == (10, 0)
    rig.driver.write_config(4, 4, 7)
    rig.driver.write_config(0, 4, 99)
    rig.driver.write_config(4, 1, 99)
    assert (rig.balloon.target, rig.balloon.actual) == (10 * PAGE, 7 * PAGE)
    assert rig.driver.config(0, 4) == 10


def test_pages_that_are_lent_are_released_together(rig: Rig) -> None:
    """Adjacent pages are released at once, in any order; pages taken back need no action."""
    rig.send(INFLATE, 5, 4, 9, 6)
    assert rig.released == [(4 * PAGE, 3 * PAGE), (9 * PAGE, PAGE)]
    rig.send(DEFLATE, 5, 4)
    assert len(rig.released) == 2
    counters = {"inflated_bytes": 4 * PAGE, "deflated_bytes": 2 * PAGE, "reported_bytes": 0}
    assert rig.balloon.counters == counters
    assert len(rig.driver.rings[INFLATE].used_entries()) == 1


def test_what_is_no_memory_breaks_the_device(rig: Rig) -> None:
    """A driver that lends pages outside memory needs a reset."""
    rig.send(INFLATE, 0xFFFF_FFFF)
    assert rig.driver.is_broken
    assert rig.released == []


def test_free_pages_are_released_if_they_are_whole() -> None:
    """A report names buffers; parts of a page at their ends are kept."""
    rig = Rig(end=RAM_BASE + 256 * PAGE)
    ranges = [(2 * PAGE, 4 * PAGE), (20 * PAGE + 1, 3 * PAGE), (30 * PAGE + 8, PAGE), (0, 0)]
    rig.driver.rings[REPORTS].offer_table([(RAM_BASE + at, size, WRITE) for at, size in ranges])
    rig.driver.kick(REPORTS)
    assert rig.released == [(RAM_BASE + 2 * PAGE, 4 * PAGE), (RAM_BASE + 21 * PAGE, 2 * PAGE)]
    assert rig.balloon.counters["reported_bytes"] == 6 * PAGE
    assert [size for _, size in rig.driver.rings[REPORTS].used_entries()] == [0]


def test_a_report_of_no_memory_breaks_the_device() -> None:
    """Nothing is released."""
    rig = Rig(end=RAM_BASE + 256 * PAGE)
    rig.driver.rings[REPORTS].offer_table([(1 << 40, PAGE, WRITE)])
    rig.driver.kick(REPORTS)
    assert (rig.released, rig.driver.is_broken) == ([], True)


def test_a_driver_that_knows_no_reports_loses_nothing() -> None:
    """It cannot know that the queue exists; its buffers come back."""
    rig = Rig(refuse=BalloonFeature.REPORTING, end=RAM_BASE + 256 * PAGE)
    rig.driver.rings[REPORTS].offer_table([(RAM_BASE, PAGE, WRITE)])
    rig.driver.kick(REPORTS)
    assert rig.released == []
    assert len(rig.driver.rings[REPORTS].used_entries()) == 1


def test_statistics_are_asked_for(rig: Rig) -> None:
    """Returning the driver's buffer is the request; its next buffer is the answer."""
    first = rig.say(free_memory=1)
    assert rig.driver.rings[STATISTICS].used_entries() == []
    answers: list[dict[str, int]] = []
    asking = threading.Thread(target=lambda: answers.append(rig.balloon.ask(10)))
    asking.start()
    used: list[tuple[int, int]] = []
    while not used:
        used = rig.driver.rings[STATISTICS].used_entries()
    assert used == [(first.head, 0)]
    rig.say(free_memory=2, oom_kills=3)
    asking.join(10)
    assert answers == [{"free_memory": 2, "oom_kills": 3}]


def test_who_does_not_answer_is_known_by_its_last_words(rig: Rig) -> None:
    """Without an answer, the last statistics are returned, or none."""
    assert rig.balloon.ask(0.01) == {}
    rig.say(total_memory=5)
    assert rig.balloon.ask(0.01) == {"total_memory": 5}


def test_a_driver_with_two_buffers_gets_one_back(rig: Rig) -> None:
    """No buffer is lost."""
    rig.say(free_memory=1)
    rig.say(free_memory=2)
    assert len(rig.driver.rings[STATISTICS].used_entries()) == 1


def test_reset_forgets_the_driver(rig: Rig) -> None:
    """Its buffers and its report are discarded; the target stays for the next driver."""
    rig.balloon.resize(3 * PAGE)
    rig.driver.write_config(4, 4, 3)
    rig.say(free_memory=1)
    rig.driver.start()
    assert (rig.balloon.target, rig.balloon.actual) == (3 * PAGE, 0)
    rig.balloon.ask(0)
    assert rig.driver.rings[STATISTICS].used_entries() == []


@given(st.lists(st.integers(0, 50)))
def test_runs_are_the_pages_and_no_other(pages: list[int]) -> None:
    """Each page occurs once, in as few runs as possible."""
    found = list(runs(pack(f"<{len(pages)}I", *pages)))
    covered = [page for first, count in found for page in range(first, first + count)]
    assert covered == sorted(set(pages))
    assert all(a + n < b for (a, n), (b, _) in pairwise(found))


@given(st.binary(max_size=400))
def test_any_bytes_are_statistics(data: bytes) -> None:
    """Statistics with a name are kept."""
    assert set(parse_statistics(data)) <= {tag.name.lower() for tag in Tag}


@given(st.integers(0, 3), st.binary(max_size=200))
def test_any_buffer_is_taken(queue: int, data: bytes) -> None:
    """After truncated lists, wild pages or empty buffers the device works or needs a reset."""
    rig = Rig()
    rig.driver.rings[queue].add([data or b"\0"], [])
    rig.driver.kick(queue)
    assert rig.driver.is_broken or queue == STATISTICS or rig.driver.rings[queue].used_entries()


def test_a_list_is_read_no_further_than_its_limit(rig: Rig) -> None:
    """Overlapping buffers may be larger than memory."""
    size = 3 * MAX_LIST // 4
    rig.driver.rings[INFLATE].add([bytes(size), bytes(size)], [])
    rig.driver.kick(INFLATE)
    assert rig.balloon.counters["inflated_bytes"] == MAX_LIST // 4 * PAGE
