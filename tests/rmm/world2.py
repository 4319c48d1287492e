"""The worlds of the RMM's tests, with a host that speaks RMI 2.0."""

from array import array
from collections.abc import Sequence

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import EXIT_OFFSET, RecEnter, RecExit, RecParams, RmiFid
from pyvmm.arch.rmi2 import RealmParams2, Rmi2Fid, RmmConfig
from pyvmm.arch.rmi_revisions import VERSION_2_0
from rmm.rmi2 import ALL_REVISIONS
from tests.rmm.core_world import CoreWorld
from tests.rmm.world import Host, Step, World

SUCCESS, INPUT, REALM, REC, RTT = range(5)
BUSY, GLOBAL, TRACKING, INCOMPLETE, BLOCKED = 10, 11, 12, 13, 14
DONATE, RECLAIM, CAN_CANCEL = 1 << 8, 2 << 8, 1 << 10
NONE, SINGLE, LIST = range(3)
DONATION = 2  # granules, of a realm or REC


def desc(pa: int, count: int = 1, size: int = 0, state: int = 0) -> int:
    """Return an RmiAddrRangeDesc."""
    return pa | count << 2 | size | state << 62


class Host2(Host):
    """A host that speaks RMI 2.0."""

    # --- operations -----------------------------------------------------------------------

    def list(self, *descriptors: int) -> int:
        """Allocate a list."""
        return self.ns_granule(array("Q", descriptors).tobytes())

    def operate(self, fid: int, *args: int) -> tuple[int, ...]:
        """Issue a command and continue it to its end, as a good host; returns x0..x4."""
        results = self.call(fid, *args)
        handle, buffer = results[1], self.ns_granule()
        while results[0] & 0xFF == INCOMPLETE:
            memory = results[0] >> 8 & 0b11
            if memory == 1:
                pas = [self.delegated() for _ in range(results[2] >> 2)]
                self.ns.write(buffer, array("Q", map(desc, pas)).tobytes())
                results = self.call(Rmi2Fid.RMI_OP_MEM_DONATE, handle, buffer, len(pas))
            elif memory == 2:
                results = self.call(Rmi2Fid.RMI_OP_MEM_RECLAIM, handle, buffer, 512)
            else:
                results = self.call(Rmi2Fid.RMI_OP_CONTINUE, handle, 0)
        return results

    def must_operate(self, fid: int, *args: int) -> None:
        """Issue a command that must succeed in the end."""
        results = self.operate(fid, *args)
        assert results[0] == 0, f"{fid!r}: {results}"

    # --- granules and realms ----------------------------------------------------------------

    def start(self) -> None:
        """Configure and activate the RMM."""
        self.do(RmiFid.RMI_VERSION, VERSION_2_0)
        self.do(Rmi2Fid.RMI_RMM_CONFIG_SET, self.ns_granule(RmmConfig().data))
        self.do(Rmi2Fid.RMI_RMM_ACTIVATE)

    def delegated(self, count: int = 1, *, align: int = GRANULE_SIZE) -> int:
        """Allocate and delegate ``count`` granules in a row; returns the first."""
        first = self.ns_granule(align=align)
        self._next = first + count * GRANULE_SIZE
        assert self.do(Rmi2Fid.RMI_GRANULE_RANGE_DELEGATE, first, self._next)[0] == self._next
        return first

    def params2(self, **changes: int | bytes) -> RealmParams2:
        """Make parameters of a 33-bit realm with one start table at level 1."""
        params = RealmParams2.of(s2sz=33, num_bps=1, num_wps=1, rtt_level_start=1)
        params.rtt_num_start = 1
        self.change(params, changes)
        return params

    def realm(self, *, depth: int = 3, **changes: int | bytes) -> int:
        """Create a realm with tables down to ``depth`` for IPA 0 and the first unprotected IPA."""
        params = self.params2(**changes)
        rd = self.delegated()
        self.must_operate(RmiFid.RMI_REALM_CREATE, rd, self.ns_granule(params.data))
        for base in (0, 1 << params.s2sz - 1):
            self.tables(rd, base, range(params.rtt_level_start + 1, depth + 1))
        return rd

    def rec(self, rd: int, **changes: int | tuple[int, ...]) -> int:
        """Create a REC."""
        rec = self.delegated()
        params = RecParams.of(**{"flags": 1, "pc": 0x1000, **changes})
        self.must_operate(RmiFid.RMI_REC_CREATE, rd, rec, self.ns_granule(params.data))
        return rec

    def page(self, rd: int, ipa: int) -> int:
        """Give a NEW realm a page of RAM; returns its PA."""
        pa = self.delegated()
        self.do(Rmi2Fid.RMI_RTT_DATA_MAP_INIT, rd, pa, ipa, self.ns_granule(), 0)
        return pa

    def destroy(self, rd: int, recs: Sequence[int] = ()) -> None:
        """Terminate and destroy a realm whose tables are empty."""
        self.do(Rmi2Fid.RMI_REALM_TERMINATE, rd)
        for rec in recs:
            self.must_operate(RmiFid.RMI_REC_DESTROY, rec)
        self.must_operate(RmiFid.RMI_REALM_DESTROY, rd)

    def enter(self, rec: int, *steps: Step, pe: int = 0, enter: RecEnter | None = None) -> RecExit:
        """Enter a REC that does ``steps``; returns what the host gets to see in its memory."""
        run = self.ns_granule((enter or RecEnter()).data)
        self._next = run  # the next one may have it
        self.pes[pe].steps += steps
        assert self.call(RmiFid.RMI_REC_ENTER, rec, run, pe=pe)[0] == 0
        return RecExit(self.ns.read(run + EXIT_OFFSET, RecExit.size))


class World2(Host2, World):
    """The fake machine and its host."""

    def __init__(self, *, is_active: bool = True) -> None:
        """Boot the RMM on a fresh machine, and activate it."""
        World.__init__(self, revisions=ALL_REVISIONS)
        if is_active:
            self.start()

    def snapshot(self) -> tuple[object, ...]:
        """The state that a failed command must not change."""
        rmm = self.rmm
        operations = [
            (handle, op.expects, op.missing, tuple(op.donated), op.outcome)
            for handle, op in rmm.operations.items()
        ]
        state = (rmm.revision, rmm.is_active, rmm.tracking_size)
        return (*super().snapshot(), operations, state, repr([pe.interface for pe in self.pes]))


class CoreWorld2(Host2, CoreWorld):
    """The real machine and its host."""

    def __init__(self) -> None:
        """Boot the firmware, and activate the RMM."""
        CoreWorld.__init__(self, revisions=ALL_REVISIONS)
        self.start()
