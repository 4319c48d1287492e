"""The log of events: order, stamps, batches, readers of any speed."""

import time
from itertools import count

import msgspec
import pytest

from pyvmm.arch.events import GranuleTransition, RmiCall, Smc, WorldSwitch
from pyvmm.arch.pas import Pas
from pyvmm.vm.control import event_log
from pyvmm.vm.control.api import StampedEvent
from pyvmm.vm.control.event_log import Batch, EventLog

RMI = RmiCall("RMI_RTT_CREATE", ("rd",), ((1 << 64) - 1,), (0,))


def never() -> bool:
    """Return that a reader does not leave."""
    return False


def granule(number: int) -> GranuleTransition:
    """Return an event with a number."""
    return GranuleTransition(number, "DELEGATED", "DATA")


def batches(log: EventLog) -> list[Batch]:
    """Return all batches that a closed log still has."""
    found, number = list[Batch](), 0
    while (batch := log.read(number, never)) is not None:
        found.append(batch)
        number = batch.number + 1
    return found


def decoded(batch: Batch) -> list[StampedEvent]:
    """Return the events of a batch."""
    return msgspec.json.decode(batch.events, type=list[StampedEvent])


def test_events_are_kept_with_time_and_pe() -> None:
    """Of world switches and SMCs only the time and the PE are left."""
    ticks = count()
    log = EventLog(clock=lambda: next(ticks) / 1e6)
    log.start()
    log.listen(granule(1))
    log.listen(WorldSwitch(3, Pas.NS, Pas.REALM))
    log.listen(Smc(3, Pas.NS, (0,), (0,)))
    log.listen(RMI)
    log.close()
    events = [event for batch in batches(log) for event in decoded(batch)]
    assert [(each.time, each.pe, each.took, each.kind) for each in events] == [
        (1, -1, 0, "GranuleTransition"),
        (4, 3, 2, "RmiCall"),
    ]
    assert msgspec.json.decode(events[1].event, type=RmiCall) == RMI
    assert batches(log)[-1].inside == [3]


def test_a_pe_that_is_in_the_realm_world_is_told_without_an_event() -> None:
    """A reader learns at once that a PE has entered, and that it has left."""
    log = EventLog()
    log.start()
    log.listen(WorldSwitch(0, Pas.NS, Pas.REALM))
    entered = log.read(0, never)
    log.listen(WorldSwitch(0, Pas.REALM, Pas.NS))
    left = log.read(1, never)
    log.close()
    assert entered is not None
    assert left is not None
    assert (entered.inside, left.inside) == ([0], [])
    assert (entered.first, entered.events, left.first) == (0, b"[]", 0)


def test_large_numbers_of_events_are_divided() -> None:
    """No message is longer than the protocol allows, and no event is missing."""
    log = EventLog()
    for number in range(20_000):
        log.listen(granule(number))
    log.start()
    log.close()
    found = batches(log)
    assert len(found) > 1
    assert all(len(batch.events) < 300 << 10 for batch in found)
    numbers = [
        msgspec.json.decode(each.event, type=GranuleTransition).pa
        for batch in found
        for each in decoded(batch)
    ]
    assert numbers == [*range(20_000)]
    assert [batch.first for batch in found[1:]] == [
        batch.first + len(decoded(batch)) for batch in found[:-1]
    ]


def test_events_that_find_no_room_leave_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest never waits; the numbers show the loss."""
    monkeypatch.setattr(event_log, "_MAX_WAITING", 10)
    log = EventLog()
    for number in range(25):
        log.listen(granule(number))
    log.start()
    first = log.read(0, never)
    log.listen(granule(25))
    second = log.read(1, never)
    log.close()
    assert first is not None
    assert second is not None
    assert (first.first, len(decoded(first)), second.first) == (0, 10, 25)


def test_a_slow_reader_misses_what_was_dropped() -> None:
    """Only the last batches are kept."""
    log = EventLog(size=1000)
    log.start()
    for number in range(50):
        log.listen(granule(number))
        assert log.read(number, never) is not None
    log.close()
    found = batches(log)
    assert found[0].first > 0
    assert found[-1].first + len(decoded(found[-1])) == 50
    assert sum(len(batch.events) for batch in found) <= 1000


def test_a_reader_leaves() -> None:
    """`wake` makes it ask whether to; a log that is closed without a thread ends readers, too."""
    log = EventLog()
    assert log.read(0, lambda: True) is None
    log.close()
    assert log.read(0, never) is None


def test_taking_an_event_is_cheap() -> None:
    """A few microseconds at most, in the thread of a vCPU."""
    log = EventLog()
    log.listen(WorldSwitch(0, Pas.NS, Pas.REALM))
    started = time.thread_time()
    for _ in range(10_000):
        log.listen(RMI)
    assert time.thread_time() - started < 0.1
