"""The entropy device: requests of any size, and the rate."""

import pytest

from pyvmm.devices.ioloop import Callback
from pyvmm.devices.virtio.mmio import Register
from pyvmm.devices.virtio.rng import MAX_BURST, MIN_COST, RATE, VirtioRng
from tests.devices.driver import RAM_BASE, WRITE, Driver, Ram


class Rig:
    """A device, its driver, and the host's time and timer."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timer: tuple[Callback, float] | None = None
        device = VirtioRng(self.set_timer, lambda size: b"r" * size, lambda: self.now)
        self.driver = Driver(device, Ram(1 << 24)).start()

    def set_timer(self, callback: Callback, seconds: float | None) -> None:
        """Record the timer."""
        assert seconds is None or seconds > 0
        self.timer = None if seconds is None else (callback, self.now + seconds)

    def request(self, size: int) -> None:
        """Ask for some bytes."""
        self.driver.rings[0].add([], [size])
        self.driver.kick()

    def answers(self) -> list[int]:
        """Return the sizes of the answers since the last call."""
        return [size for _, size in self.driver.rings[0].used_entries()]

    def expire(self) -> float:
        """Let the timer expire; return how long it took."""
        assert self.timer is not None
        before = self.now
        callback, self.now = self.timer
        self.timer = None
        callback()
        return self.now - before


@pytest.fixture
def rig() -> Rig:
    """Return a device that has not been used yet."""
    return Rig()


def test_a_request_is_answered_at_once(rig: Rig) -> None:
    """Up to the burst, in one request or in many."""
    for _ in range(16):
        rig.request(MAX_BURST // 16)
    assert rig.answers() == [MAX_BURST // 16] * 16
    assert rig.timer is None
    assert rig.driver.device.counters == {"bytes": MAX_BURST, "delays": 0}


def test_a_request_beyond_the_burst_waits(rig: Rig) -> None:
    """As long as the rate takes, in order; other requests wait behind it."""
    for size in (MAX_BURST, MAX_BURST // 2, MAX_BURST // 4):
        rig.request(size)
    assert rig.answers() == [MAX_BURST]
    assert rig.expire() == pytest.approx(MAX_BURST / 2 / RATE)
    assert rig.answers() == [MAX_BURST // 2]
    assert rig.expire() == pytest.approx(MAX_BURST / 4 / RATE)
    assert (rig.answers(), rig.timer) == ([MAX_BURST // 4], None)


def test_the_rate_holds_whatever_is_asked_for(rig: Rig) -> None:
    """A driver that always asks gets so many bytes per second."""
    start, total = rig.now, 0
    while rig.now < start + 3:
        rig.request(5000)
        while rig.timer is not None:
            rig.expire()
        total += sum(rig.answers())
    assert total == pytest.approx(3 * RATE + MAX_BURST, rel=0.02)


def test_a_chain_gets_no_more_than_a_burst(rig: Rig) -> None:
    """Its buffers may overlap, and exceed memory."""
    rig.driver.rings[0].offer_table([(RAM_BASE + (1 << 20), 1 << 20, WRITE)] * 100)
    rig.driver.kick()
    assert rig.answers() == [MAX_BURST]


def test_a_reset_forgets_what_waits(rig: Rig) -> None:
    """But not what was used up: resets do not raise the rate."""
    rig.request(MAX_BURST)
    rig.request(MAX_BURST)
    rig.driver.write(Register.STATUS, 0)
    assert rig.timer is None
    rig.driver.start()
    rig.request(8)
    assert rig.answers() == []
    rig.expire()
    assert rig.answers() == [8]


def test_a_request_of_nothing_is_answered(rig: Rig) -> None:
    """It counts as a small one: no driver keeps the host busy with requests of nothing."""
    rig.request(MAX_BURST)
    rig.driver.rings[0].add([b"x"], [])
    rig.driver.kick()
    assert rig.answers() == [MAX_BURST]
    assert rig.expire() == pytest.approx(MIN_COST / RATE)
    assert rig.answers() == [0]
