"""Stateful operations of RMI 2.0: commands that need memory, or return some, step by step.

An operation belongs to a granule, which no other command accepts meanwhile, and its handle is the
address of that granule.  All that an operation holds is in the state REC_AUX.  Creating an object
goes through these steps::

    begin --> DONATE --enough--> CONTINUE --> the object exists
                 |                   |
              cancelled       cancelled, failed
                 v                   v
              RECLAIM --all returned--> CONTINUE --> nothing has changed

and destroying one through the second line only.  Each step is one command, on any PE.
Spec: DEN0137 2.0, RMI_OP_*; ADR 14, ADR 18.
"""

from collections.abc import Sequence
from typing import NoReturn, Protocol

from pyvmm.arch.rmi import RmiStatus
from pyvmm.arch.rmi2 import DonateRequest, OpMemory
from rmm.errors import Incomplete, RmiError
from rmm.granule import DELEGATED, REC_AUX, GranuleTable


class Store(Protocol):
    """The part of the RMM's state that operations change."""

    granules: GranuleTable
    operations: dict[int, "Operation"]

    def release(self, pa: int) -> None:
        """Scrub a granule that is no longer used, and make it DELEGATED."""


def require_delegated(store: Store, pa: int) -> None:
    """Check that a granule is DELEGATED.

    Raises: RmiError(BLOCKED) if an operation belongs to it; (ERROR_INPUT) otherwise.
    """
    if pa in store.operations:
        raise RmiError(RmiStatus.BLOCKED)
    store.granules.require(pa, DELEGATED)


class Operation:
    """An operation in progress.

    Concurrency: the caller holds the RMM's lock.
    """

    __slots__ = ("_store", "can_cancel", "donated", "expects", "missing", "outcome", "owner")

    def __init__(
        self, store: Store, owner: int, *, missing: int = 0, returned: Sequence[int] = ()
    ) -> None:
        """Need ``missing`` granules to create an object, or return those of a destroyed one."""
        self._store = store
        self.owner = owner
        self.missing = missing
        self.donated = list(returned)
        self.can_cancel = missing > 0
        self.expects = OpMemory.DONATE if missing else OpMemory.RECLAIM
        self.outcome: RmiError | None = None  # why it failed

    def begin(self, *reserved: int) -> NoReturn:
        """Take the granules that the object is or was made of; tell the host what is expected."""
        for pa in (self.owner, *reserved):
            self._store.granules.move(pa, REC_AUX)
        self._store.operations[self.owner] = self
        raise self._incomplete(self.owner)

    def _incomplete(self, first_output: int) -> Incomplete:
        return Incomplete(self.expects, first_output, self.request, can_cancel=self.can_cancel)

    @property
    def request(self) -> int:
        """The memory that is still needed."""
        return int(DonateRequest.of(COUNT=self.missing))

    def require(self, expected: OpMemory) -> None:
        """Check that the host does what is expected; otherwise RmiError(ERROR_INPUT)."""
        if self.expects is not expected:
            raise RmiError(RmiStatus.ERROR_INPUT)

    def donate(self, granules: Sequence[int]) -> NoReturn:
        """Take granules, which the caller has checked: DELEGATED, different, not too many."""
        for pa in granules:
            self._store.granules.move(pa, REC_AUX)
        self.donated += granules
        self.missing -= len(granules)
        if not self.missing:
            self.expects = OpMemory.NONE
        raise self._incomplete(len(granules))

    def give_back(self, count: int, num_ranges: int) -> NoReturn:
        """Return the first ``count`` granules, which the host was told of in some ranges."""
        for pa in self.donated[:count]:
            self._store.release(pa)
        del self.donated[:count]
        if not self.donated:
            self.expects = OpMemory.NONE
        raise self._incomplete(num_ranges)

    def proceed(self) -> None:
        """Finish: create the object, or release what would have become of it.

        Raises: Incomplete, if this failed and memory must be returned; RmiError if it failed.
        """
        if self.outcome is None and self.can_cancel:
            try:
                self.create()
            except RmiError as failure:
                self.fail(failure)
        if self.expects is OpMemory.RECLAIM:
            raise self._incomplete(0)
        del self._store.operations[self.owner]
        if self.outcome is not None:
            self.abandon()
            raise self.outcome
        if not self.can_cancel:
            self._store.granules.move(self.owner, DELEGATED)

    def cancel(self) -> NoReturn:
        """Give up; RmiError(ERROR_INPUT) if that is too late."""
        if not self.can_cancel:
            raise RmiError(RmiStatus.ERROR_INPUT)
        self.fail(RmiError(RmiStatus.ERROR_INPUT))
        raise self._incomplete(0)

    def fail(self, failure: RmiError) -> None:
        """Return the memory, then fail."""
        self.outcome, self.can_cancel, self.missing = failure, False, 0
        self.expects = OpMemory.RECLAIM if self.donated else OpMemory.NONE

    def create(self) -> None:
        """Create the object; RmiError, without a change, if that is no longer possible."""

    def abandon(self) -> None:
        """Release the reserved granules, whose content is still that of DELEGATED ones."""
        self._store.granules.move(self.owner, DELEGATED)
