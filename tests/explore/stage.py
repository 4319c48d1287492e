"""A server of records that tests write."""

import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import uvicorn

from pyvmm.arch.events import Event, GptChange, GranuleTransition, MmioAccess
from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.pictures import GptPicture, Region, Use
from pyvmm.explore.hub import Hub
from pyvmm.explore.watcher import Watcher
from pyvmm.explore.web import configuration
from pyvmm.vm.control.api import StampedEvent, State, Status
from pyvmm.vm.control.directory import Directory
from tests.explore.conftest import Address

BASE = 0x4000_0000
GRANULES = 1 << 17
SIZE = GRANULES * GRANULE_SIZE
STATUS = Status(
    name="staged", state=State.RUNNING, pid=1, kind="realm", num_cpus=1, ram_size=0, created=0
)
PICTURE = GptPicture(
    table="0x0",
    gpccr="0x0",
    dram_base=hex(BASE),
    dram_size=SIZE,
    regions=[Region(hex(BASE), SIZE, "NS", "block")],
    granules={"NS": GRANULES},
    uses=[Use(hex(BASE), SIZE, "UNDELEGATED")],
    states={"UNDELEGATED": GRANULES},
    differences=[],
    num_differences=0,
)


class Stage(Hub):
    """One instance, whose events a test makes up."""

    def __init__(self, place: Path) -> None:
        super().__init__(Directory(place), ())
        self.watcher = Watcher(self._place, "staged")
        self.watcher.status = STATUS
        self.watcher.record.take(PICTURE)
        self._next = 0

    def statuses(self) -> list[Status]:
        """Return the instance."""
        return [STATUS]

    def watch(self, name: str) -> Watcher:
        """Return the instance's watcher."""
        del name
        return self.watcher

    def emit(self, *events: Event) -> None:
        """Add events, a microsecond after the other."""
        stamped = [
            StampedEvent(
                self._next + n, 0, 0, type(event).__name__, msgspec.Raw(msgspec.json.encode(event))
            )
            for n, event in enumerate(events)
        ]
        self.watcher.record.add(self._next, [0], stamped)
        self._next += len(events)

    def lose(self, count: int) -> None:
        """Pretend that events were lost on the way from the instance."""
        self._next += count


def delegations(first: int, count: int) -> list[Event]:
    """Return the events of delegating and of using granules in a row, three for each."""
    events: list[Event] = []
    for index in range(first, first + count):
        pa = BASE + index % GRANULES * GRANULE_SIZE
        events.append(GptChange(pa, GRANULE_SIZE, Pas.NS, Pas.REALM))
        events.append(GranuleTransition(pa, "UNDELEGATED", "DELEGATED"))
        events.append(GranuleTransition(pa, "DELEGATED", "DATA"))
    return events


def accesses(count: int) -> list[Event]:
    """Return events that change no granule."""
    return [MmioAccess("uart0", 0x100_0000, 1, is_write=True, value=n & 0xFF) for n in range(count)]


@contextmanager
def staged(hub: Hub) -> Iterator[Address]:
    """Serve a hub in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        token = secrets.token_urlsafe(16)
        server = uvicorn.Server(configuration(hub, listener.getsockname()[1], token))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield Address(f"http://127.0.0.1:{listener.getsockname()[1]}/{token}/")
        finally:
            server.should_exit = True
            thread.join()
