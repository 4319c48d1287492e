"""A realm's life by the commands of RMI 2.0: ranges, and operations that need memory.

Spec: DEN0137 2.0-bet3, "Realm Management Interface".
"""

from array import array
from typing import ClassVar, Final

from pyvmm.arch.pas import GRANULE_SHIFT, GRANULE_SIZE
from pyvmm.arch.rmi import (
    DataFlags,
    HashAlgorithm,
    RealmParams,
    RecParams,
    RmiFid,
    RmiStatus,
    unpack_status,
)
from pyvmm.arch.rmi2 import (
    CAN_CANCEL,
    MAX_BLOCKS,
    OP_MEMORY_SHIFT,
    AddressRange,
    AddressType,
    DonateRequest,
    Features0,
    MapFlags,
    OpMemory,
    RealmParams2,
    Rmi2Fid,
    RmmConfig,
    RmmState,
)
from pyvmm.arch.rmi_revisions import VERSION_2_0
from pyvmm.arch.stage2 import PAGE_LEVEL, level_size
from pyvmm.host.rmi import AnyFid, Rmi, RmiFailed

_DELEGATE: Final = Rmi2Fid.RMI_GRANULE_RANGE_DELEGATE
_UNDELEGATE: Final = Rmi2Fid.RMI_GRANULE_RANGE_UNDELEGATE
_MEASURED: Final = int(DataFlags.MEASURE_CONTENT)
_MEMORY_MASK: Final = 0b11
_LIST_ENTRIES: Final = GRANULE_SIZE // 8
_SINGLE: Final = int(MapFlags.of(ADDRESS_TYPE=AddressType.SINGLE))
#: The host's choice for shared memory: Normal write-back, read-write.
_SHARED: Final = int(MapFlags.of(ADDRESS_TYPE=AddressType.SINGLE, MEMATTR=6, READ=1, WRITE=1))
#: Members of RmiRealmParams that the builder fills in.
_PARAMS: Final = (
    "flags", "s2sz", "num_bps", "num_wps", "pmu_num_ctrs", "hash_algo", "rpv", "rtt_base",
    "rtt_level_start", "rtt_num_start",
)  # fmt: skip


class Rmi20(Rmi):
    """The RMM, by RMI 2.0."""

    __slots__ = ()

    hashes: ClassVar = {
        "sha256": HashAlgorithm.SHA_256,
        "sha384": HashAlgorithm.SHA_384,
        "sha512": HashAlgorithm.SHA_512,
    }

    def begin(self) -> tuple[int, int]:
        """Choose the revision, and activate the RMM; return the IPA width and the PMU counters."""
        self.call(0, RmiFid.RMI_VERSION, VERSION_2_0)
        state, *_ = self.call(0, Rmi2Fid.RMI_RMM_STATE_GET)
        if state == RmmState.INIT:
            self.call_with_page(bytes(RmmConfig()), Rmi2Fid.RMI_RMM_CONFIG_SET)
            self.execute(Rmi2Fid.RMI_RMM_ACTIVATE)
        raw, *_ = self.call(0, RmiFid.RMI_FEATURES, 0)
        features = Features0(raw)
        return features.S2SZ, features.PMU_NUM_CTRS

    # --- ranges -----------------------------------------------------------------------------

    def _over_range(self, pe: int, call: tuple[int, ...], at: int) -> None:
        """Issue a range command until it is done; its base and top are x ``at`` and after.

        RmiFailed says how many pages were done before.
        """
        fid, *args = call
        first, top = call[at], call[at + 1]
        base = first
        while base < top:
            args[at - 1] = base
            x0, reached, *_ = (*self.smc(pe, (fid, *args)), 0)
            if x0 or reached <= base:
                done = base - first >> GRANULE_SHIFT
                raise RmiFailed(Rmi2Fid(fid), tuple(args), x0, done)
            base = reached

    def delegate(self, pe: int, pa: int, count: int = 1) -> None:
        """Delegate granules in a row to the Realm world, all of them or none."""
        try:
            self._over_range(pe, (_DELEGATE, pa, pa + (count << GRANULE_SHIFT)), 1)
        except RmiFailed as failure:
            if failure.done:
                self.undelegate(pe, pa, failure.done)
            raise

    def undelegate(self, pe: int, pa: int, count: int = 1) -> None:
        """Take granules in a row back; they read as zeros."""
        self._over_range(pe, (_UNDELEGATE, pa, pa + (count << GRANULE_SHIFT)), 1)

    def fill(self, rd: int, ipa: int, data: int, source: int, count: int) -> None:
        """Make delegated granules in a row private pages with measured contents."""
        args = (rd, data, ipa, source, _MEASURED)
        steps = (0, GRANULE_SIZE, GRANULE_SIZE, GRANULE_SIZE, 0)
        self.call_series(0, Rmi2Fid.RMI_RTT_DATA_MAP_INIT, args, steps, count)

    def back(self, pe: int, rd: int, ipa: int, data: int, count: int) -> None:
        """Make delegated granules in a row private pages."""
        self._map(pe, Rmi2Fid.RMI_RTT_DATA_MAP, (rd, ipa), _SINGLE, data, count)

    def _map(
        self, pe: int, fid: Rmi2Fid, where: tuple[int, int], flags: int, pa: int, count: int
    ) -> None:
        rd, ipa = where
        done = 0
        while done < count:
            part = min(count - done, MAX_BLOCKS)
            base, first = ipa + (done << GRANULE_SHIFT), pa + (done << GRANULE_SHIFT)
            args = (rd, base, base + (part << GRANULE_SHIFT), flags, _range_of(first, part))
            x0, reached, *_ = (*self.smc(pe, (fid, *args)), 0)
            if x0 or reached <= base:
                raise RmiFailed(fid, args, x0, done)
            done = reached - ipa >> GRANULE_SHIFT

    def take(self, pe: int, rd: int, ipa: int, count: int) -> None:
        """Remove private pages in a row; their granules stay delegated."""
        top = ipa + (count << GRANULE_SHIFT)
        self._over_range(pe, (Rmi2Fid.RMI_RTT_DATA_UNMAP, rd, ipa, top, 0, 0), 2)

    def share(self, pe: int, rd: int, ipa: int, pa: int, level: int) -> None:
        """Map memory of the host at an unprotected IPA."""
        top = ipa + level_size(level)
        block = AddressRange.of(SIZE=PAGE_LEVEL - level, COUNT=1, ADDRESS=pa >> GRANULE_SHIFT)
        args = (rd, ipa, top, _SHARED, int(block))
        reached, *_ = self.call(pe, Rmi2Fid.RMI_RTT_UNPROT_MAP, *args)
        if reached != top:  # pragma: no cover  a block is one entry
            raise RmiFailed(Rmi2Fid.RMI_RTT_UNPROT_MAP, args, 0)

    def unshare(self, pe: int, rd: int, ipa: int, level: int) -> None:
        """Unmap it."""
        call = (Rmi2Fid.RMI_RTT_UNPROT_UNMAP, rd, ipa, ipa + level_size(level), 0, 0)
        self._over_range(pe, call, 2)

    # --- realms and RECs --------------------------------------------------------------------

    def create_realm(self, rd: int, params: RealmParams) -> None:
        """Create a realm; the RMM chooses its VMID."""
        wanted = RealmParams2.of(**{name: getattr(params, name) for name in _PARAMS})
        self.call_with_page(bytes(wanted), RmiFid.RMI_REALM_CREATE, rd)

    def create_rec(self, rd: int, rec: int, params: RecParams) -> None:
        """Create a REC: the RMM says how much memory it needs."""
        self.call_with_page(bytes(params), RmiFid.RMI_REC_CREATE, rd, rec)

    def destroy_rec(self, rec: int) -> None:
        """Destroy a REC."""
        self.execute(RmiFid.RMI_REC_DESTROY, rec)

    def end_realm(self, rd: int) -> None:
        """Terminate a realm."""
        self.execute(Rmi2Fid.RMI_REALM_TERMINATE, rd)

    def complete_psci(self, pe: int, calling: int, target: int, status: int) -> None:
        """Answer a PSCI call; the RMM knows the target."""
        del target
        self.call(pe, RmiFid.RMI_PSCI_COMPLETE, calling, status)

    # --- operations -------------------------------------------------------------------------

    def execute(self, fid: AnyFid, *args: int) -> None:
        """Call, and do what the operation expects until it ends.

        Raises:
            RmiFailed: it failed.
            MemoryError: there was no memory for it; then it has been cancelled.
        """
        x0, handle, request, *_ = (*self.smc(0, (fid, *args)), 0, 0)
        shortage: MemoryError | None = None
        while unpack_status(x0)[0] == RmiStatus.INCOMPLETE:
            expected = x0 >> OP_MEMORY_SHIFT & _MEMORY_MASK
            if expected == OpMemory.DONATE:
                try:
                    answer = self._donate(handle, DonateRequest(request))
                except MemoryError as error:
                    if not x0 & CAN_CANCEL:
                        raise
                    shortage = error
                    answer = self.smc(0, (Rmi2Fid.RMI_OP_CANCEL, handle))
            elif expected == OpMemory.RECLAIM:
                answer = self._reclaim(handle)
            else:
                answer = self.smc(0, (Rmi2Fid.RMI_OP_CONTINUE, handle, 0))
            x0, _, request, *_ = (*answer, 0, 0)
        if shortage is not None:
            raise shortage
        if x0:
            raise RmiFailed(fid, args, x0)

    def _donate(self, handle: int, request: DonateRequest) -> tuple[int, ...]:
        """Lend the granules that an operation needs, or a part of them."""
        size = level_size(PAGE_LEVEL - request.SIZE)
        count = min(request.COUNT, MAX_BLOCKS)
        if request.CONTIGUOUS or size != GRANULE_SIZE:
            raise MemoryError("the RMM asked for a block of memory")
        granules: list[int] = []
        buffer = self._allocator.allocate()
        try:
            for _ in range(min(count, _LIST_ENTRIES)):
                pa = self._allocator.allocate()
                granules.append(pa)
                if not request.STATE:
                    self.delegate(0, pa)
            ranges = [_range_of(pa, 1) for pa in granules]
            self._ns.write(buffer, array("Q", ranges).tobytes())
            args = (Rmi2Fid.RMI_OP_MEM_DONATE, handle, buffer, len(ranges), 0)
            answer = (*self.smc(0, args), 0, 0)
            taken = answer[1]
        except MemoryError:
            self._free(granules)
            raise
        finally:
            self._allocator.free(buffer)
        self._free(granules[taken:])
        return answer

    def _reclaim(self, handle: int) -> tuple[int, ...]:
        """Take memory back from an operation."""
        buffer = self._allocator.allocate()
        args = (Rmi2Fid.RMI_OP_MEM_RECLAIM, handle, buffer, _LIST_ENTRIES)
        answer = (*self.smc(0, args), 0, 0)
        words = memoryview(self._ns.read(buffer, 8 * answer[1])).cast("Q")
        self._allocator.free(buffer)
        for word in words:
            each = AddressRange(word)
            first = each.ADDRESS << GRANULE_SHIFT
            self._free([first + (n << GRANULE_SHIFT) for n in range(each.COUNT)])
        return answer

    def _free(self, granules: list[int]) -> None:
        for pa in granules:
            self.undelegate(0, pa)
            self._allocator.free(pa)


def _range_of(pa: int, count: int) -> int:
    """Return the descriptor of granules in a row."""
    return pa | count << AddressRange.COUNT.low
