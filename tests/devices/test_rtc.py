"""The clocks."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.ioloop import Callback, IoLoop
from pyvmm.devices.mc146818 import Mc146818
from pyvmm.devices.pl031 import Pl031

NOW = 1_709_211_845  # Thursday 29 February 2024, 13:04:05 UTC
WORD = 0xFFFF_FFFF
DR, MR, LR, CR, IMSC, RIS, MIS, ICR = range(0, 0x20, 4)
SECONDS, MINUTES, HOURS, DAY, MONTH, YEAR, REG_A, REG_B, REG_D, CENTURY = (
    0, 2, 4, 7, 8, 9, 0x0A, 0x0B, 0x0D, 0x32,
)  # fmt: skip

accesses = st.lists(
    st.tuples(
        st.sampled_from([0, 1, *range(0, 0x24, 4), 0xFE0, 0xFFC]) | st.integers(0, 0xFFF),
        st.sampled_from([1, 2, 4, 8]),
        st.none() | st.sampled_from([NOW, NOW + 1, NOW + 3]) | st.integers(0, (1 << 64) - 1),
        st.floats(-10, 1e10),
    )
)


class Host:
    """The host's side of a clock, controlled by the test: the time, one timer, one line."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now
        self.line = False
        self.edges: list[bool] = []
        self.timer: tuple[Callback, float] | None = None

    def clock(self) -> float:
        """Return the time."""
        return self.now

    def set_timer(self, callback: Callback, seconds: float | None) -> None:
        """Record the timer."""
        assert seconds is None or seconds > 0
        self.timer = None if seconds is None else (callback, self.now + seconds)

    def irq(self, level: bool) -> None:
        """Record the line's new level."""
        assert level is not self.line
        self.line = level
        self.edges.append(level)

    def advance(self, seconds: float) -> None:
        """Let time pass, and call the timer if it expires."""
        end = self.now + seconds
        while self.timer is not None and self.timer[1] <= end:
            callback, self.now = self.timer
            self.timer = None
            callback()
        self.now = end


@pytest.fixture
def host() -> Host:
    """Start in the middle of a second."""
    return Host(NOW + 0.5)


@pytest.fixture
def pl031(host: Host) -> Pl031:
    """Return a clock of that host."""
    return Pl031(host.irq, host.set_timer, host.clock)


def read(rtc: Mc146818, register: int) -> int:
    """Read through index and data port."""
    rtc.write(0, 1, register)
    return rtc.read(1, 1)


def write(rtc: Mc146818, register: int, value: int) -> None:
    """Write through index and data port."""
    rtc.write(0, 1, register)
    rtc.write(1, 1, value)


def test_mc146818_tells_the_time_in_bcd() -> None:
    """Reset mode: BCD, 24 hours; the week starts on Sunday; the century at 0x32."""
    rtc = Mc146818(lambda: NOW)
    values = [read(rtc, register) for register in (0, 2, 4, 6, 7, 8, 9, 0x32)]
    assert values == [0x05, 0x04, 0x13, 5, 0x29, 0x02, 0x24, 0x20]


@pytest.mark.parametrize(
    ("hour", "mode", "expected"),
    [(0, 0x00, 0x12), (11, 0x00, 0x11), (12, 0x00, 0x92), (13, 0x04, 0x81), (23, 0x02, 0x23),
     (23, 0x06, 23)],
)  # fmt: skip
def test_mc146818_follows_register_b(hour: int, mode: int, expected: int) -> None:
    """DM chooses binary, 24/12 the hours: noon is 12 PM, midnight 12 AM; both ways."""
    rtc = Mc146818(lambda: 1_709_164_800 + 3600 * hour)
    write(rtc, REG_B, mode)
    assert read(rtc, HOURS) == expected
    rtc = Mc146818(lambda: NOW)
    write(rtc, REG_B, mode)
    write(rtc, HOURS, expected)
    write(rtc, REG_B, 0x06)
    assert read(rtc, HOURS) == hour


def test_mc146818_announces_an_update() -> None:
    """UIP is set in the last 244 us of a second, unless SET stops the updates."""
    rtc = Mc146818(lambda: NOW + 0.9999)
    assert read(rtc, REG_A) == 0xA6
    write(rtc, REG_B, 0x82)
    assert read(rtc, REG_A) == 0x26
    rtc = Mc146818(lambda: NOW)
    assert (read(rtc, REG_A), read(rtc, REG_D)) == (0x26, 0x80)


def test_mc146818_goes_on_from_the_time_that_is_set() -> None:
    """With SET, the time stands still until all of it is written, as by a driver."""
    host = Host(NOW + 0.25)
    rtc = Mc146818(host.clock)
    write(rtc, REG_B, 0x82)
    host.now += 10
    assert read(rtc, SECONDS) == 0x05
    date = {DAY: 0x31, MONTH: 0x12, YEAR: 0x99, CENTURY: 0x19, HOURS: 0x23, MINUTES: 0x59}
    for register, value in (date | {SECONDS: 0x58}).items():
        write(rtc, register, value)
    write(rtc, REG_B, 0x02)
    host.now += 2
    assert [read(rtc, register) for register in date] == [0x01, 0x01, 0x00, 0x20, 0, 0]
    write(rtc, MINUTES, 0x30)
    assert [read(rtc, register) for register in (HOURS, MINUTES, SECONDS)] == [0, 0x30, 0]


def test_mc146818_keeps_what_it_does_not_use() -> None:
    """The alarm and the rest of the memory can be written; A, C and D cannot."""
    rtc = Mc146818(lambda: NOW)
    for register in (1, 3, 5, REG_A, 0x0C, REG_D, 0x0E, 0x7F):
        write(rtc, register, 0x5A)
    values = [read(rtc, register) for register in (1, 3, 5, REG_A, 0x0C, REG_D, 0x0E, 0x7F)]
    assert values == [0x5A, 0x5A, 0x5A, 0x26, 0, 0x80, 0x5A, 0x5A]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*range(16), CENTURY]),
            st.integers(0, 255) | st.none(),
            st.floats(-1e10, 1e10),
        )
    )
)
def test_mc146818_takes_any_date(steps: list[tuple[int, int | None, float]]) -> None:
    """No date and no host time make the guest's access raise."""
    host = Host()
    rtc = Mc146818(host.clock)
    for register, value, host.now in steps:
        if value is not None:
            write(rtc, register, value)
        assert 0 <= read(rtc, register) <= 0xFF


def test_pl031_is_found_and_tells_the_time(pl031: Pl031) -> None:
    """Linux's bus reads peripheral id and cell id; revision 1 is what the tests of KVM expect."""
    ids = bytes(pl031.read(0xFE0 + 4 * index, 4) for index in range(8))
    assert ids == bytes.fromhex("31101400 0df005b1")
    assert (pl031.read(DR, 4), pl031.read(CR, 4)) == (NOW, 1)
    assert (pl031.read(DR, 1), pl031.read(DR + 2, 2)) == (NOW & 0xFF, NOW >> 16)


def test_pl031_goes_on_from_the_time_that_is_set(host: Host, pl031: Pl031) -> None:
    """The load register sets the count, which ticks with the host's second and wraps."""
    pl031.write(LR, 4, WORD)
    assert (pl031.read(DR, 4), pl031.read(LR, 4)) == (WORD, WORD)
    host.advance(0.5)
    assert (pl031.read(DR, 4), pl031.read(LR, 4)) == (0, WORD)


@pytest.mark.parametrize("offset", [DR, CR, RIS, MIS, 0x20, 0xFDC, *range(0xFE0, 0x1000, 4)])
def test_pl031_ignores_writes_of_what_is_read_only(pl031: Pl031, offset: int) -> None:
    """This holds for every access size."""
    before = [pl031.read(offset, size) for size in (1, 2, 4)]
    for size in (1, 2, 4):
        pl031.write(offset, size, 0xDEAD_BEEF)
    assert [pl031.read(offset, size) for size in (1, 2, 4)] == before


def test_pl031_rings_when_the_match_is_reached(host: Host, pl031: Pl031) -> None:
    """It is raised exactly then, once, without an access; any write to ICR clears it."""
    pl031.write(IMSC, 4, 1)
    pl031.write(MR, 4, NOW + 2)
    host.advance(1.4)
    assert (host.line, pl031.read(RIS, 4), pl031.read(MIS, 4)) == (False, 0, 0)
    host.advance(0.1)
    assert (host.line, pl031.read(RIS, 4), pl031.read(MIS, 4)) == (True, 1, 1)
    assert host.timer is None
    pl031.write(ICR, 4, 1 << 31)
    assert (host.line, pl031.read(RIS, 4), pl031.read(MIS, 4)) == (False, 0, 0)
    host.advance(1e6)
    assert host.edges == [True, False]


def test_pl031_keeps_a_masked_alarm_until_it_is_unmasked(host: Host, pl031: Pl031) -> None:
    """A masked alarm needs no timer, and shows only in the raw status."""
    pl031.write(MR, 4, NOW + 1)
    assert host.timer is None
    host.advance(5)
    assert (pl031.read(RIS, 4), pl031.read(MIS, 4), host.line) == (1, 0, False)
    pl031.write(IMSC, 4, 1)
    assert (pl031.read(MIS, 4), host.line) == (1, True)
    pl031.write(IMSC, 4, 0)
    assert (pl031.read(RIS, 4), pl031.read(MIS, 4), host.line) == (1, 0, False)


def test_pl031_forgets_the_alarm_that_another_replaces(host: Host, pl031: Pl031) -> None:
    """The match register holds one time; masking stops the timer."""
    pl031.write(IMSC, 4, 1)
    pl031.write(MR, 4, NOW + 2)
    pl031.write(MR, 4, NOW + 4)
    host.advance(3)
    assert not host.line
    pl031.write(IMSC, 4, 0)
    assert host.timer is None
    pl031.write(IMSC, 4, 1)
    host.advance(0.5)
    assert host.line


@pytest.mark.parametrize("register", [MR, LR])
def test_pl031_rings_at_once_when_the_match_is_now(host: Host, pl031: Pl031, register: int) -> None:
    """The order of setting time and match does not matter."""
    pl031.write(IMSC, 4, 1)
    pl031.write(MR, 4, NOW if register == MR else NOW + 100)
    pl031.write(LR, 4, NOW if register == MR else NOW + 100)
    assert host.line


def test_pl031_alarm_follows_the_time_that_is_set(host: Host, pl031: Pl031) -> None:
    """Set past the match, the alarm does not come; set back before it, it does."""
    pl031.write(IMSC, 4, 1)
    pl031.write(MR, 4, NOW + 10)
    pl031.write(LR, 4, NOW + 20)
    host.advance(100)
    assert not host.line
    pl031.write(LR, 4, NOW + 8)
    host.advance(1.4)
    assert not host.line
    host.advance(0.6)
    assert host.line


def test_pl031_notices_that_the_hosts_clock_was_set(host: Host, pl031: Pl031) -> None:
    """An alarm that is due because of that is raised within a minute."""
    pl031.write(IMSC, 4, 1)
    pl031.write(MR, 4, NOW + 3600)
    assert host.timer is not None
    callback, due = host.timer
    host.now += 4000
    host.timer = callback, due + 4000
    host.advance(60)
    assert host.line


@given(accesses)
def test_pl031_takes_any_access(steps: list[tuple[int, int, int | None, float]]) -> None:
    """Nothing raises, and the line matches the registers."""
    host = Host()
    rtc = Pl031(host.irq, host.set_timer, host.clock)
    for offset, size, value, host.now in steps:
        if value is None:
            assert 0 <= rtc.read(offset, size) < 1 << 8 * size
        else:
            rtc.write(offset, size, value)
        assert (rtc.read(RIS, 4) & rtc.read(IMSC, 4), host.line) == (rtc.read(MIS, 4),) * 2


def test_pl031_rings_by_the_hosts_clock(loop: IoLoop) -> None:
    """This uses the real event loop and the real time."""
    rung = threading.Event()
    rtc = Pl031(lambda _: rung.set(), loop.set_timer)
    rtc.write(IMSC, 4, 1)
    rtc.write(MR, 4, rtc.read(DR, 4) + 2)
    assert not rung.is_set()
    assert rung.wait(30)
    assert rtc.read(MIS, 4) == 1


def test_pl031_is_every_vcpus_at_once(loop: IoLoop) -> None:
    """After threads program and clear it, the line matches the registers."""
    levels = [False]
    rtc = Pl031(levels.append, loop.set_timer)
    end = time.monotonic() + 0.2

    def use(seed: int) -> None:
        for step in count(seed):
            rtc.write((MR, IMSC, ICR, LR)[step % 4], 4, NOW + step % 3)
            if time.monotonic() > end:
                return

    num_vcpus = os.cpu_count() or 2
    with ThreadPoolExecutor(num_vcpus) as pool:
        list(pool.map(use, range(num_vcpus)))  # raises what a thread raised
    assert levels[-1] == bool(rtc.read(MIS, 4))
    assert all(a is not b for a, b in pairwise(levels))
