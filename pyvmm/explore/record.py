"""The record of one instance: its events as text, and a map of its granules.

A granule's code is ``gpi + len(GPIS) * state``, indexes into the two lists below.  The map is that
of a picture, brought up to date by the events after it; because events tell the old state, too, a
reader can go back from there to any event of the record.
"""

import re
from collections import deque
from collections.abc import Sequence
from itertools import islice
from threading import Lock
from typing import Final, NamedTuple

import msgspec

from pyvmm.arch import events as declared
from pyvmm.arch.events import Event, GptChange, GranuleTransition
from pyvmm.arch.gpt import Gpi, gpi_of
from pyvmm.arch.pas import GRANULE_SHIFT
from pyvmm.arch.pictures import GptPicture, Region, Use
from pyvmm.arch.text import printable
from pyvmm.vm.control.api import StampedEvent

GPIS: Final = tuple(each.name for each in Gpi)
#: By the RMM's numbers; the first means that the RMM does not manage the granule.
STATES: Final = (
    "", "UNDELEGATED", "DELEGATED", "RD", "REC", "REC_AUX", "DATA", "RTT", "NOT_DRAM", "METADATA",
)  # fmt: skip
#: Events that a record keeps; the oldest are dropped.
MAX_EVENTS: Final = 1 << 20

_NUM_GPIS: Final = len(GPIS)
_RUN: Final = re.compile(rb"(.)\1*", re.DOTALL)
_DECODERS: Final[dict[str, msgspec.json.Decoder[Event]]] = {
    each.__name__: msgspec.json.Decoder(each)
    for kind in declared.KINDS.values()
    for each in kind.events
}


def _decode(stamped: StampedEvent) -> Event | str:
    """Return an event; the name of one that only a newer instance knows."""
    decoder = _DECODERS.get(stamped.kind)
    return decoder.decode(stamped.event) if decoder is not None else stamped.kind


def _state(name: str) -> int:
    """Return the index of a state, 0 for one that only a newer instance knows."""
    return STATES.index(name) if name in STATES else 0


class Chunk(NamedTuple):
    """Events in a row: numbered from ``first`` on."""

    first: int
    times: list[int]  # µs
    pes: list[int]
    tooks: list[int]  # µs
    lines: str  # their texts, each with a newline
    inside: list[int]  # PEs that were in the realm world afterwards

    @property
    def end(self) -> int:
        """The number of the event after the last one."""
        return self.first + len(self.times)


class Map(msgspec.Struct, frozen=True):
    """The granules of DRAM at one time."""

    at: int  # the number of the first event that is not in it
    base: str
    granules: int
    runs: list[tuple[int, int]]  # number of granules, code


class Record:
    """What is known of one instance; any thread may read it."""

    def __init__(self, max_events: int = MAX_EVENTS) -> None:
        self._max_events = max_events
        self._lock = Lock()
        self._chunks: deque[Chunk] = deque()
        self._count = 0
        self._end = 0
        self._codes = bytearray()
        self._base = 0
        self.num_lost = 0  # events that did not arrive
        self.num_maps = 0  # pictures taken; a new one means that events were lost before it

    @property
    def bounds(self) -> tuple[int, int]:
        """The numbers of the first event kept and after the last one."""
        with self._lock:
            return (self._chunks[0].first if self._chunks else self._end), self._end

    def add(self, first: int, inside: list[int], stamped: Sequence[StampedEvent]) -> bool:
        """Add events; return False if some before them were lost, so that the map is stale."""
        events = [_decode(each) for each in stamped]
        chunk = Chunk(
            first,
            [each.time for each in stamped],
            [each.pe for each in stamped],
            [each.took for each in stamped],
            "".join([f"{printable(str(event))}\n" for event in events]),
            inside,
        )
        with self._lock:
            lost, self._end = first - self._end, chunk.end
            self.num_lost += lost
            self._chunks.append(chunk)
            self._count += len(stamped)
            while self._count > self._max_events and len(self._chunks) > 1:
                self._count -= len(self._chunks.popleft().times)
            if self._codes:
                for event in events:
                    self._apply(event)
        return not lost

    def _apply(self, event: Event | str) -> None:
        if isinstance(event, GptChange):
            first = event.pa - self._base >> GRANULE_SHIFT
            for index in range(first, first + (event.size >> GRANULE_SHIFT)):
                self._set(index, gpi=GPIS.index(gpi_of(event.new).name))
        elif isinstance(event, GranuleTransition):
            self._set(event.pa - self._base >> GRANULE_SHIFT, state=_state(event.new))

    def _set(self, index: int, *, gpi: int | None = None, state: int | None = None) -> None:
        if 0 <= index < len(self._codes):
            old_state, old_gpi = divmod(self._codes[index], _NUM_GPIS)
            new_gpi = old_gpi if gpi is None else gpi
            self._codes[index] = new_gpi + _NUM_GPIS * (old_state if state is None else state)

    def take(self, picture: GptPicture) -> None:
        """Take the map of a picture."""
        base = int(picture.dram_base, 16)
        codes = bytearray(picture.dram_size >> GRANULE_SHIFT)

        def cells(each: Region | Use) -> tuple[int, int]:
            first = int(each.base, 16) - base >> GRANULE_SHIFT
            return first, first + (each.size >> GRANULE_SHIFT)

        for region in picture.regions:
            first, end = cells(region)
            codes[first:end] = bytes([GPIS.index(region.gpi)]) * (end - first)
        for use in picture.uses:
            first, end = cells(use)
            shift = _NUM_GPIS * _state(use.state)
            to_code = bytes((code + shift) % 256 for code in range(256))
            codes[first:end] = codes[first:end].translate(to_code)
        with self._lock:
            self._base, self._codes = base, codes
            self.num_maps += 1

    def map(self) -> Map | None:
        """Return the granules as they are after the last event; None before the first picture."""
        with self._lock:
            codes, at, base = bytes(self._codes), self._end, self._base
        if not codes:
            return None
        runs = [(len(run[0]), run[0][0]) for run in _RUN.finditer(codes)]
        return Map(at, hex(base), len(codes), runs)

    def chunks(self, start: int, max_events: int) -> list[Chunk]:
        """Return chunks from an event on, until they have so many events, or some were lost."""
        found, count = list[Chunk](), 0
        with self._lock:
            index = len(self._chunks)
            while index and self._chunks[index - 1].end > start:
                index -= 1
            for chunk in islice(self._chunks, index, None):
                if count >= max_events or (found and found[-1].end != chunk.first):
                    break
                found.append(chunk)
                count += len(chunk.times)
        return found
