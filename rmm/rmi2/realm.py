"""RMI_REALM_* of RMI 2.0: realms are created and destroyed by operations, and terminated first."""

from typing import Final

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import HashAlgorithm, RealmFlags, RealmParams, RmiFid, RmiStatus
from pyvmm.arch.rmi2 import RealmFlags2, RealmParams2, Rmi2Fid
from pyvmm.arch.rmi_revisions import VERSION_2_0
from rmm.commands import rmi_command
from rmm.errors import RmiError
from rmm.granule import DELEGATED
from rmm.operation import Operation, require_delegated
from rmm.realm import RealmState
from rmm.rmi.realm import (
    add_realm,
    is_supported,
    remove_realm,
    require_granules,
    start_tables,
)
from rmm.rmm import Rmm

_HASHES: Final = frozenset(HashAlgorithm)
_PRIVATE: Final = 1
_MAX_POLICY: Final = 1
#: Members that must be zero: what they describe does not exist here.
_ABSENT: Final = (
    "sve_vl", "num_aux_planes", "ats_plane", "flags1", "max_num_vdevs",
)  # fmt: skip
#: Members of 64 bits that have the value of a byte.
_BYTES: Final = ("s2sz", "num_bps", "num_wps", "pmu_num_ctrs", "hash_algo")
#: Members that have the same meaning in both revisions.
_SHARED: Final = (
    *_BYTES, "rpv", "rtt_base", "rtt_level_start", "rtt_num_start",
)  # fmt: skip
_KNOWN_FLAGS: Final = (
    RealmFlags2.PMU.mask | RealmFlags2.LFA_POLICY.mask | RealmFlags2.MEC_POLICY.mask
)


class RealmCreation(Operation):
    """A realm that is being created: all but the memory is checked and reserved."""

    __slots__ = ("_rmm", "params")

    def __init__(self, rmm: Rmm, rd: int, params: RealmParams) -> None:
        super().__init__(rmm, rd, missing=rmm.limits.realm_donation)
        self._rmm = rmm
        self.params = params

    def create(self) -> None:
        """Create the realm."""
        self.abandon()
        realm = add_realm(self._rmm, self.owner, self.params, VERSION_2_0)
        realm.donated = self.donated

    def abandon(self) -> None:
        """Release RD and start tables."""
        for pa in (self.owner, *start_tables(self.params)):
            self._rmm.granules.move(pa, DELEGATED)


@rmi_command(RmiFid.RMI_REALM_CREATE)
def realm_create(rmm: Rmm, rd: int, params_ptr: int) -> None:
    """Create a realm in state NEW, with empty tables, by an operation that needs memory.

    Its RIM is zero, and the RMM chooses the VMID.
    Spec: DEN0137 2.0, RMI_REALM_CREATE.
    Raises: RmiError(ERROR_INPUT) if a parameter is not supported or the shape of the start tables
    is not legal; then (ERROR_GLOBAL) if there is no VMID or, for a private one, no MECID; then
    (ERROR_INPUT) if a granule is aliased or not DELEGATED, (BLOCKED) if an operation has it.
    """
    wanted = RealmParams2(rmm.read_ns(params_ptr, GRANULE_SIZE))
    params = _supported(rmm, wanted)
    if RealmFlags2(wanted.flags).MEC_POLICY == _PRIVATE:
        raise RmiError(RmiStatus.ERROR_GLOBAL)
    params.vmid = _free_vmid(rmm)
    for pa in (rd, *start_tables(params)):
        require_delegated(rmm, pa)
    require_granules(rmm, rd, params)
    RealmCreation(rmm, rd, params).begin(*start_tables(params))


def _supported(rmm: Rmm, wanted: RealmParams2) -> RealmParams:
    """Return the parameters in the layout of RMI 1.0; RmiError(ERROR_INPUT) if not supported."""
    flags = RealmFlags2(wanted.flags)
    if (
        int(flags) & ~_KNOWN_FLAGS
        or flags.LFA_POLICY > _MAX_POLICY
        or flags.MEC_POLICY > _MAX_POLICY
        or any(getattr(wanted, name) for name in _ABSENT)
        or any(getattr(wanted, name) >> 8 for name in _BYTES)
        or (wanted.pmu_num_ctrs and not flags.PMU)
        or wanted.rtt_num_start >> 32
    ):
        raise RmiError(RmiStatus.ERROR_INPUT)
    params = RealmParams.of(**{name: getattr(wanted, name) for name in _SHARED})
    params.flags = RealmFlags.PMU if flags.PMU else 0
    if not is_supported(rmm.limits, params, _HASHES):
        raise RmiError(RmiStatus.ERROR_INPUT)
    return params


def _free_vmid(rmm: Rmm) -> int:
    """Return the lowest VMID that is free; RmiError(ERROR_GLOBAL) if there is none."""
    used = {realm.vmid for realm in rmm.realms.values()}
    for operation in rmm.operations.values():
        if isinstance(operation, RealmCreation):
            used.add(operation.params.vmid)
    for vmid in range(1, 1 << rmm.limits.vmid_bits):
        if vmid not in used:
            return vmid
    raise RmiError(RmiStatus.ERROR_GLOBAL)


@rmi_command(Rmi2Fid.RMI_REALM_TERMINATE)
def realm_terminate(rmm: Rmm, rd: int) -> None:
    """End a realm: none of its RECs can be entered any more.

    Spec: DEN0137 2.0, RMI_REALM_TERMINATE.
    Raises: RmiError(ERROR_INPUT) if the realm does not exist, (BLOCKED) if an operation has it;
    (ERROR_REALM) if one of its RECs runs.
    """
    realm = rmm.realm(rd)
    if any(rmm.recs[pa].running for pa in realm.recs.values()):
        raise RmiError(RmiStatus.ERROR_REALM)
    realm.state = RealmState.ZOMBIE


@rmi_command(RmiFid.RMI_REALM_DESTROY)
def realm_destroy(rmm: Rmm, rd: int) -> None:
    """Destroy a terminated realm that no longer owns anything, by an operation that returns memory.

    Spec: DEN0137 2.0, RMI_REALM_DESTROY.
    Raises: RmiError(ERROR_INPUT) if the realm does not exist, (BLOCKED) if an operation has it;
    (ERROR_REALM) if it is not terminated, or has a REC or a live start table.
    """
    realm = rmm.realm(rd)
    is_terminated = realm.state is RealmState.ZOMBIE
    if not is_terminated or realm.num_live_recs or realm.rtt.is_live:
        raise RmiError(RmiStatus.ERROR_REALM)
    remove_realm(rmm, realm)
    rmm.release(rd)
    Operation(rmm, rd, returned=realm.donated).begin()
