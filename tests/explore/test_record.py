"""The record of an instance, and browsers that read it slowly."""

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from pyvmm.arch.events import GptChange, GranuleTransition, HesCall
from pyvmm.arch.pas import Pas
from pyvmm.arch.pictures import Use
from pyvmm.explore import session
from pyvmm.explore.record import GPIS, STATES, Map, Record
from pyvmm.vm.control.api import StampedEvent
from tests.explore.conftest import browsing
from tests.explore.stage import BASE, GRANULES, PICTURE, Stage, accesses, delegations, staged


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Return an instance whose events a test makes up."""
    return Stage(tmp_path / "place")


def code(gpi: str, state: str) -> int:
    """Return the code of a granule."""
    return GPIS.index(gpi) + len(GPIS) * STATES.index(state)


def runs(record: Record) -> list[tuple[int, int]]:
    """Return the map as runs."""
    found = record.map()
    assert found is not None
    return found.runs


def test_events_change_the_map(stage: Stage) -> None:
    """The last state of each granule counts; what is outside DRAM is ignored."""
    assert runs(stage.watcher.record) == [(GRANULES, code("NS", "UNDELEGATED"))]
    stage.emit(*delegations(5, 3), GptChange(0, 4096, Pas.NS, Pas.ROOT))
    stage.emit(GranuleTransition(BASE + (6 << 12), "DATA", "RTT"))
    stage.emit(GptChange(BASE + (9 << 12), 2 << 12, Pas.NS, Pas.SECURE))
    assert runs(stage.watcher.record) == [
        (5, code("NS", "UNDELEGATED")),
        (1, code("REALM", "DATA")),
        (1, code("REALM", "RTT")),
        (1, code("REALM", "DATA")),
        (1, code("NS", "UNDELEGATED")),
        (2, code("SECURE", "UNDELEGATED")),
        (GRANULES - 11, code("NS", "UNDELEGATED")),
    ]


def test_a_text_from_outside_stays_one_line(stage: Stage) -> None:
    """Nothing in an event can add a line, or a control character."""
    stage.emit(HesCall("evil\nRMI_REC_CREATE\x1b", "\u2028"))
    (chunk,) = stage.watcher.record.chunks(0, 10)
    assert chunk.lines == "HES evil\\nRMI_REC_CREATE\\x1b -> \\u2028\n"


def test_events_of_a_newer_instance(stage: Stage) -> None:
    """They are shown by name; a state without a number is none."""
    record = stage.watcher.record
    unknown = StampedEvent(0, 0, 0, "PlaneSwitch", msgspec.Raw(b"{}"))
    assert record.add(0, [], [unknown])
    assert record.chunks(0, 10)[0].lines == "PlaneSwitch\n"
    record.take(replace(PICTURE, uses=[Use(hex(BASE), 4096, "PLANE")]))
    assert runs(record)[0] == (GRANULES, code("NS", ""))


def test_old_events_are_dropped(stage: Stage) -> None:
    """The record has a limit; the map does not forget."""
    stage.watcher.record = Record(max_events=100)
    stage.watcher.record.take(PICTURE)
    for n in range(20):
        stage.emit(*delegations(n, 10))
    first, end = stage.watcher.record.bounds
    assert end == 600
    assert end - 130 <= first <= end - 70
    assert runs(stage.watcher.record)[0] == (29, code("REALM", "DATA"))
    assert stage.watcher.record.chunks(0, 1000)[0].first == first


def test_lost_events_are_counted(stage: Stage) -> None:
    """A gap between numbers shows them; a message has no gap inside."""
    stage.emit(*accesses(3))
    stage.lose(7)
    stage.emit(*accesses(2))
    record = stage.watcher.record
    assert record.num_lost == 7
    assert [chunk.first for chunk in record.chunks(0, 100)] == [0]
    assert [chunk.first for chunk in record.chunks(3, 100)] == [10]


def test_a_browser_gets_everything_in_order(stage: Stage) -> None:
    """History first, then what is new, without a gap."""
    stage.emit(*accesses(50_000))
    with staged(stage) as address, browsing(address) as browser:
        browser.send(type="watch", name="staged")
        hello = browser.receive("hello")
        assert (hello["first"], hello["next"]) == (0, 50_000)
        expected = 0
        while expected < 60_000:
            message = browser.receive("events")
            assert message["first"] == expected
            lines = str(message["lines"]).count("\n")
            times = message["times"]
            assert isinstance(times, list)
            assert len(times) == lines
            if expected < 50_000 <= expected + lines:
                stage.emit(*accesses(10_000))
            expected += lines


def test_a_browser_that_does_not_read_misses_events(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs the server nothing, is told how many, and gets a new map."""
    monkeypatch.setattr(session, "_MAX_BEHIND", 2000)
    with staged(stage) as address, browsing(address) as slow, browsing(address) as quick:
        for browser in (slow, quick):
            browser.send(type="watch", name="staged")
            browser.receive("map")
        for n in range(40):  # 40 MB: more than the buffers between the two have room for
            stage.emit(*delegations(n * 10, 10), *[HesCall("x" * 1000, "")] * 1000)
            while int(str(quick.receive("events")["first"])) < 1030 * n:
                pass
        end, known, latest = stage.watcher.record.bounds[1], 0, dict[str, object]()
        while known < end:
            message = slow.receive()
            if message["type"] == "map":
                latest, known = message, int(str(message["next"]))
            elif message["type"] == "events" and latest:
                assert message["first"] == known  # nothing is missing after a map
                assert isinstance(message["times"], list)
                known += len(message["times"])
        assert int(str(latest["skipped"])) > 5_000
        shown = msgspec.convert(latest["map"], Map)
        data = code("REALM", "DATA")
        assert sum(count for count, each in shown.runs if each == data) == shown.at // 1030 * 10
