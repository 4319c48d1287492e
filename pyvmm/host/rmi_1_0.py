"""A realm's life by the commands of RMI 1.0: one granule each, in series.

Spec: DEN0137 1.0, "Realm Management Interface".
"""

from typing import ClassVar, Final

from pyvmm.arch.machine import PhysicalMemory
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import (
    DataFlags,
    HashAlgorithm,
    RealmParams,
    RecParams,
    RmiFeatureRegister0,
    RmiFid,
)
from pyvmm.arch.rmi_revisions import VERSION_1_0
from pyvmm.arch.stage2 import S2_DESCRIPTOR
from pyvmm.host.allocator import Allocator
from pyvmm.host.machine import Firmware
from pyvmm.host.rmi import Rmi, RmiFailed

#: The host's choice for shared memory: Normal write-back, read-write.
SHARED_ATTRIBUTES: Final = int(S2_DESCRIPTOR.of(MEMATTR=6, S2AP=3))

# Used for every page, as plain numbers: an enumeration's member costs a look-up.
_DELEGATE: Final = RmiFid.RMI_GRANULE_DELEGATE
_UNDELEGATE: Final = RmiFid.RMI_GRANULE_UNDELEGATE
_DATA_CREATE: Final = RmiFid.RMI_DATA_CREATE
_DATA_CREATE_UNKNOWN: Final = RmiFid.RMI_DATA_CREATE_UNKNOWN
_DATA_DESTROY: Final = RmiFid.RMI_DATA_DESTROY
_MEASURED: Final = int(DataFlags.MEASURE_CONTENT)


class Rmi10(Rmi):
    """The RMM, by RMI 1.0."""

    __slots__ = ("_aux", "_vmid")

    hashes: ClassVar = {"sha256": HashAlgorithm.SHA_256, "sha512": HashAlgorithm.SHA_512}

    def __init__(
        self, firmware: Firmware, memory: PhysicalMemory, allocator: Allocator, vmid: int
    ) -> None:
        super().__init__(firmware, memory, allocator)
        self._vmid = vmid
        self._aux: dict[int, list[int]] = {}  # auxiliary granules by REC

    def begin(self) -> tuple[int, int]:
        """Choose the revision; return the width of the widest IPA space, and the PMU counters."""
        self.call(0, RmiFid.RMI_VERSION, VERSION_1_0)
        raw, *_ = self.call(0, RmiFid.RMI_FEATURES, 0)
        features = RmiFeatureRegister0(raw)
        return features.S2SZ, features.PMU_NUM_CTRS

    def delegate(self, pe: int, pa: int, count: int = 1) -> None:
        """Delegate granules in a row to the Realm world, all of them or none."""
        try:
            self.call_series(pe, _DELEGATE, (pa,), (GRANULE_SIZE,), count)
        except RmiFailed as failure:
            self.undelegate(pe, pa, failure.done)
            raise

    def undelegate(self, pe: int, pa: int, count: int = 1) -> None:
        """Take granules in a row back; they read as zeros."""
        self.call_series(pe, _UNDELEGATE, (pa,), (GRANULE_SIZE,), count)

    def create_realm(self, rd: int, params: RealmParams) -> None:
        """Create a realm, by default with the VMID of this host."""
        params.vmid = params.vmid or self._vmid
        self.call_with_page(bytes(params), RmiFid.RMI_REALM_CREATE, rd)

    def create_rec(self, rd: int, rec: int, params: RecParams) -> None:
        """Create a REC and its auxiliary granules."""
        num_aux, *_ = self.call(0, RmiFid.RMI_REC_AUX_COUNT, rd)
        aux = self._aux[rec] = []
        try:
            for _ in range(num_aux):
                aux.append(self._allocator.allocate())
                self.delegate(0, aux[-1])
            params.num_aux = num_aux
            params.aux = (*aux, *[0] * (len(params.aux) - num_aux))
            self.call_with_page(bytes(params), RmiFid.RMI_REC_CREATE, rd, rec)
        except RmiFailed:
            self._free_aux(rec)
            raise

    def destroy_rec(self, rec: int) -> None:
        """Destroy a REC, and take its auxiliary granules back."""
        self.call(0, RmiFid.RMI_REC_DESTROY, rec)
        self._free_aux(rec)

    def _free_aux(self, rec: int) -> None:
        for pa in self._aux.pop(rec):
            self.undelegate(0, pa)
            self._allocator.free(pa)

    def end_realm(self, rd: int) -> None:
        """Do nothing: RMI 1.0 destroys a realm in any state."""

    def fill(self, rd: int, ipa: int, data: int, source: int, count: int) -> None:
        """Make delegated granules in a row private pages with measured contents."""
        args = (rd, data, ipa, source, _MEASURED)
        steps = (0, GRANULE_SIZE, GRANULE_SIZE, GRANULE_SIZE, 0)
        self.call_series(0, _DATA_CREATE, args, steps, count)

    def back(self, pe: int, rd: int, ipa: int, data: int, count: int) -> None:
        """Make delegated granules in a row private pages."""
        steps = (0, GRANULE_SIZE, GRANULE_SIZE)
        self.call_series(pe, _DATA_CREATE_UNKNOWN, (rd, data, ipa), steps, count)

    def take(self, pe: int, rd: int, ipa: int, count: int) -> None:
        """Remove private pages in a row; their granules stay delegated."""
        self.call_series(pe, _DATA_DESTROY, (rd, ipa), (0, GRANULE_SIZE), count)

    def share(self, pe: int, rd: int, ipa: int, pa: int, level: int) -> None:
        """Map memory of the host at an unprotected IPA."""
        descriptor = pa | SHARED_ATTRIBUTES
        self.call(pe, RmiFid.RMI_RTT_MAP_UNPROTECTED, rd, ipa, level, descriptor)

    def unshare(self, pe: int, rd: int, ipa: int, level: int) -> None:
        """Unmap it."""
        self.call(pe, RmiFid.RMI_RTT_UNMAP_UNPROTECTED, rd, ipa, level)

    def complete_psci(self, pe: int, calling: int, target: int, status: int) -> None:
        """Answer a PSCI call on another REC."""
        self.call(pe, RmiFid.RMI_PSCI_COMPLETE, calling, target, status)
