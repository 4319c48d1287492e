"""Granules: the use of each 4 KB of memory.

Every granule of DRAM has one state.  All moves start or end at DELEGATED::

    UNDELEGATED <-> DELEGATED <-> RD, REC, REC_AUX, DATA, RTT, METADATA

``GranuleTable.move`` makes no other moves.

The GPT assigns exactly the granules whose state is not UNDELEGATED to the Realm PAS, because only
this RMM asks EL3 to move a granule, and it records the state with each move.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from pyvmm.arch.events import EventStream, GranuleTransition
from pyvmm.arch.pas import GRANULE_OFFSET, GRANULE_SHIFT, GRANULE_SIZE
from pyvmm.arch.rmi import RmiStatus
from rmm.errors import RmiError


class GranuleState(IntEnum):
    """The use of a granule.  Spec: DEN0137 1.0, RmmGranuleState."""

    #: Not in the Realm PAS, usually the host's; its content may change at any time.
    UNDELEGATED = 0
    #: In the Realm PAS and unused; all bytes are zero, so the next owner learns nothing.
    DELEGATED = 1
    #: Names a realm: ``Rmm.realms`` has it.  The content is unused.
    RD = 2
    #: Names a REC: ``Rmm.recs`` has it.  The content is unused.
    REC = 3
    #: Lent to a REC; in RMI 2.0 also to an operation or a realm.  The content is unused.
    REC_AUX = 4
    #: Memory of one realm; exactly one ASSIGNED entry of its RTTs points to it.
    DATA = 5
    #: A translation table of one realm, in its ``RttTree``; walked by the PEs.
    RTT = 6
    #: Not memory: a gap between two banks.
    NOT_DRAM = 7
    #: Lent to a realm for its metadata, which ``Realm.metadata`` holds.  The content is unused.
    METADATA = 8


UNDELEGATED: Final = int(GranuleState.UNDELEGATED)
DELEGATED: Final = int(GranuleState.DELEGATED)
RD: Final = int(GranuleState.RD)
REC: Final = int(GranuleState.REC)
REC_AUX: Final = int(GranuleState.REC_AUX)
DATA: Final = int(GranuleState.DATA)
RTT: Final = int(GranuleState.RTT)
METADATA: Final = int(GranuleState.METADATA)

#: The states to which each state may move: the diagram above.
_NEXT_STATES: Final = tuple(
    frozenset(
        {
            GranuleState.NOT_DRAM: (),
            GranuleState.DELEGATED: (UNDELEGATED, RD, REC, REC_AUX, DATA, RTT, METADATA),
        }.get(state, (DELEGATED,))
    )
    for state in GranuleState
)


class IllegalMove(Exception):
    """A bug in the RMM: a granule was about to change to a state that cannot follow its own."""


class GranuleTable:
    """The state of every granule, one byte each.

    Concurrency: the caller holds the RMM's lock.
    """

    __slots__ = ("_events", "base", "end", "states")

    def __init__(self, banks: Sequence[tuple[int, int]], events: EventStream) -> None:
        """Make all granules of ``banks`` (base and size, ascending, not empty) UNDELEGATED."""
        self.base, self.end = banks[0][0], sum(banks[-1])
        self.states = bytearray([GranuleState.NOT_DRAM]) * ((self.end - self.base) >> GRANULE_SHIFT)
        for base, size in banks:
            first, count = (base - self.base) >> GRANULE_SHIFT, size >> GRANULE_SHIFT
            self.states[first : first + count] = bytes([UNDELEGATED]) * count
        self._events = events

    def state(self, pa: int) -> GranuleState:
        """Return the state of the granule at ``pa``; NOT_DRAM outside the banks."""
        if not self.base <= pa < self.end:
            return GranuleState.NOT_DRAM
        return GranuleState(self.states[(pa - self.base) >> GRANULE_SHIFT])

    def require(self, pa: int, state: int) -> None:
        """Check that ``pa`` is a granule's address and the granule is in ``state``.

        Raises: RmiError(ERROR_INPUT) otherwise.
        """
        if (
            pa & GRANULE_OFFSET
            or not self.base <= pa < self.end
            or self.states[(pa - self.base) >> GRANULE_SHIFT] != state
        ):
            raise RmiError(RmiStatus.ERROR_INPUT)

    def count(self, pa: int, state: int, limit: int) -> int:
        """Return how many granules in a row are in ``state``, at most ``limit``.

        They begin at ``pa``; none do if that is not a granule's address.
        """
        if pa & GRANULE_OFFSET or not self.base <= pa < self.end:
            return 0
        first = (pa - self.base) >> GRANULE_SHIFT
        states = self.states[first : first + limit]
        return len(states) - len(states.lstrip(bytes((state,))))

    @property
    def is_unused(self) -> bool:
        """Whether all memory is UNDELEGATED."""
        return not self.states.translate(None, bytes((UNDELEGATED, GranuleState.NOT_DRAM)))

    def has_dram(self, base: int, top: int) -> bool:
        """Return whether any memory of a range is DRAM."""
        is_dram, end = self.stretch(base, top)
        return is_dram or (end < top and self.has_dram(end, top))

    def stretch(self, base: int, top: int) -> tuple[bool, int]:
        """Return whether a range of granules begins with DRAM, and how far it does or does not."""
        if not self.base <= base < self.end:
            return False, min(top, self.base) if base < self.base else top
        states = self.states[
            (base - self.base) >> GRANULE_SHIFT : (top - self.base) >> GRANULE_SHIFT
        ]
        gap = bytes((GranuleState.NOT_DRAM,))
        if states[0] != GranuleState.NOT_DRAM:
            count = (states + gap).index(gap)
        else:
            count = len(states) - len(states.lstrip(gap))
        return states[0] != GranuleState.NOT_DRAM, base + (count << GRANULE_SHIFT)

    def move(self, pa: int, state: int) -> None:
        """Change the state of the granule at ``pa``, which the caller has checked.

        Raises: IllegalMove, without a change, if no move leads from its state to ``state``.
        """
        index = (pa - self.base) >> GRANULE_SHIFT
        old = self.states[index]
        if state not in _NEXT_STATES[old]:
            raise IllegalMove(pa, old, state)
        if self._events.listener is not None:
            self._events.listener(_transition(pa, old, state))
        self.states[index] = state

    def move_row(self, pa: int, state: int, count: int) -> None:
        """Move ``count`` (at least 1) granules in a row, which are in one state, like ``move``.

        Raises: IllegalMove, without a change, also if their states differ.
        """
        index = (pa - self.base) >> GRANULE_SHIFT
        old = self.states[index]
        if state not in _NEXT_STATES[old] or self.count(pa, old, count) < count:
            raise IllegalMove(pa, old, state)
        if self._events.listener is not None:
            for each in range(pa, pa + (count << GRANULE_SHIFT), GRANULE_SIZE):
                self._events.listener(_transition(each, old, state))
        self.states[index : index + count] = bytes((state,)) * count


def _transition(pa: int, old: int, new: int) -> GranuleTransition:
    return GranuleTransition(pa, GranuleState(old).name, GranuleState(new).name)
