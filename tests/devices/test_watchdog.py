"""The generic watchdog: refreshes, its two stages, and any driver."""

import random
from collections.abc import Callable

import pytest

from pyvmm.arch.timer import SystemCounter
from pyvmm.devices.ioloop import Callback
from pyvmm.devices.watchdog import FRAME_SIZE, Watchdog

WCS, WOR, WOR_HIGH, WCV, WCV_HIGH, W_IIDR = 0x000, 0x008, 0x00C, 0x010, 0x014, 0xFCC
WRR = FRAME_SIZE
EN, WS0, WS1 = 1, 2, 4
FREQUENCY = 1000
START = 5000
REGISTERS = (WCS, WOR, WOR_HIGH, WCV, WCV_HIGH, W_IIDR, WRR, FRAME_SIZE + W_IIDR)


class Rig:
    """A watchdog, its host's time in ticks, one timer and one line."""

    def __init__(self) -> None:
        self.now = START
        self.line = False
        self.is_halting = False
        self.num_expiries = 0
        self.timer: tuple[Callback, float] | None = None
        self.watchdog = Watchdog(
            self.irq,
            self.expire,
            self.set_timer,
            SystemCounter(lambda: self.now, FREQUENCY),
            lambda: self.is_halting,
        )

    def irq(self, level: bool) -> None:
        """Record the new level."""
        assert level is not self.line
        self.line = level

    def expire(self) -> None:
        """Count."""
        self.num_expiries += 1

    def set_timer(self, callback: Callback, seconds: float | None) -> None:
        """Record the timer."""
        assert seconds is None or 0 < seconds <= 3600
        self.timer = None if seconds is None else (callback, self.now + seconds * FREQUENCY)

    def advance(self, ticks: int) -> None:
        """Let time pass, and call the timer when it expires."""
        end = self.now + ticks
        while self.timer is not None and self.timer[1] <= end:
            callback, when = self.timer
            self.timer, self.now = None, round(when)
            callback()
        self.now = end

    def write(self, offset: int, value: int, size: int = 4) -> None:
        """Write a register."""
        self.watchdog.write(offset, size, value)

    def read(self, offset: int, size: int = 4) -> int:
        """Read a register."""
        return self.watchdog.read(offset, size)


@pytest.fixture
def rig() -> Rig:
    """Return a watchdog that is enabled, with 100 ticks for each stage."""
    made = Rig()
    made.write(WOR, 100)
    made.write(WCS, EN)
    return made


def test_it_is_off_until_it_is_enabled() -> None:
    """A kernel without a driver never notices it."""
    rig = Rig()
    rig.write(WOR, 100)
    rig.advance(1000)
    assert (rig.read(WCS), rig.line, rig.num_expiries, rig.timer) == (0, False, 0, None)


def test_it_tells_its_revision_in_both_frames(rig: Rig) -> None:
    """Revision 1: its offset has 48 bits."""
    assert rig.read(W_IIDR) >> 16 == rig.read(FRAME_SIZE + W_IIDR) >> 16 == 1


def test_it_interrupts_and_then_ends_the_guest(rig: Rig) -> None:
    """One stage after the other, each at the first tick after the compare value; then once."""
    assert rig.read(WCV, 8) == START + 100
    rig.advance(100)
    assert (rig.read(WCS), rig.line) == (EN, False)
    rig.advance(1)
    assert (rig.read(WCS), rig.line, rig.num_expiries) == (EN | WS0, True, 0)
    rig.advance(100)
    assert rig.num_expiries == 0
    rig.advance(1)
    assert (rig.read(WCS), rig.num_expiries, rig.timer) == (EN | WS0 | WS1, 1, None)
    rig.advance(1000)
    assert rig.num_expiries == 1


@pytest.mark.parametrize(
    "refresh",
    [
        lambda rig: rig.write(WRR, 0),
        lambda rig: rig.write(WCS, EN),
        lambda rig: rig.write(WOR, 100),
        lambda rig: rig.write(WOR_HIGH, 0),
    ],
)
def test_a_refresh_begins_again(rig: Rig, refresh: Callable[[Rig], None]) -> None:
    """In either stage, by any of the registers."""
    for ticks in (90, 101, 150):
        rig.advance(ticks)
        refresh(rig)
        assert (rig.read(WCS), rig.line, rig.num_expiries) == (EN, False, 0)
        assert rig.read(WCV, 8) == rig.now + 100


def test_disabling_stops_it(rig: Rig) -> None:
    """Also after the interrupt."""
    rig.advance(101)
    rig.write(WCS, 0)
    rig.advance(1000)
    assert (rig.read(WCS), rig.line, rig.num_expiries, rig.timer) == (0, False, 0, None)


def test_an_offset_has_48_bits(rig: Rig) -> None:
    """In one access or in two; time is limited by the timer, not by the register."""
    rig.write(WOR, 0xFFFF_1234_5678_9ABC, 8)
    assert rig.read(WOR, 8) == 0x1234_5678_9ABC
    assert (rig.read(WOR_HIGH), rig.read(WOR_HIGH, 1)) == (0x1234, 0x34)
    assert rig.read(WCV, 8) == START + 0x1234_5678_9ABC
    rig.advance(10_000_000)
    assert (rig.read(WCS), rig.timer is None) == (EN, False)


def test_the_compare_value_can_be_set(rig: Rig) -> None:
    """It is no refresh."""
    rig.advance(101)
    rig.write(WCV, START + 500, 8)
    rig.advance(300)
    assert (rig.read(WCS), rig.num_expiries) == (EN | WS0, 0)
    rig.advance(200)
    assert rig.num_expiries == 1


def test_a_guest_that_must_stand_still_is_not_ended(rig: Rig) -> None:
    """It gets a whole stage afterwards, at least what was left of one."""
    for ticks in (0, 101):
        rig.advance(ticks)
        before = rig.read(WCS)
        rig.is_halting = True
        rig.advance(10_000)
        rig.is_halting = False
        assert (rig.read(WCS), rig.num_expiries) == (before, 0)
    rig.advance(102)
    assert rig.num_expiries == 1


def test_parts_of_registers_are_not_written(rig: Rig) -> None:
    """As the architecture allows: its registers have 32 bits."""
    rig.write(WCS, 0, 1)
    rig.write(WCS, 0, 2)
    rig.write(WCS + 2, 0)
    assert rig.read(WCS) == EN


@pytest.mark.parametrize(
    "num_cases", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)], ids=str
)
def test_any_driver(num_cases: int, seed: int) -> None:
    """Whatever it writes and when: values fit, and it expires once for each time it is enabled."""
    rng, rig = random.Random(seed), Rig()
    most = 0
    for _ in range(num_cases):
        offset = rng.choice(REGISTERS) if rng.random() < 0.8 else rng.randrange(2 * FRAME_SIZE)
        size = rng.choice((1, 2, 4, 4, 8))
        if rng.random() < 0.5:
            value = rng.choice((0, 1, rng.randrange(200), rng.getrandbits(64)))
            rig.write(offset, value, size)
            most += 1
        else:
            assert 0 <= rig.read(offset, size) < 1 << 8 * size
        rig.is_halting = rng.random() < 0.1
        rig.advance(rng.choice((0, 1, rng.randrange(150))))
        assert rig.num_expiries <= most
        status = rig.read(WCS)
        assert rig.line == bool(status & WS0)
