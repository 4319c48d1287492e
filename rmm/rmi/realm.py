"""RMI_REALM_*: the life cycle of a realm."""

from collections.abc import Collection

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import HashAlgorithm, RealmFlags, RealmParams, RmiFid, RmiStatus
from pyvmm.arch.rmi_revisions import VERSION_1_0
from pyvmm.arch.stage2 import num_start_tables
from rmm.commands import rmi_command
from rmm.errors import RmiError
from rmm.granule import DELEGATED, RD, RTT
from rmm.realm import Limits, Realm, RealmState
from rmm.rmm import Rmm
from rmm.rtt import Rtt, RttTree
from rmm.sealing import matches_realm

_MIN_S2SZ = 32
_PA_RANGE_44_BITS = 4  # required for a start level of 0
_UNSUPPORTED_FLAGS = RealmFlags.LPA2 | RealmFlags.SVE
_HASHES = frozenset({HashAlgorithm.SHA_256, HashAlgorithm.SHA_512})


@rmi_command(RmiFid.RMI_REALM_CREATE)
def realm_create(rmm: Rmm, rd: int, params_ptr: int) -> None:
    """Create a realm in state NEW, with empty tables, and measure its parameters.

    Spec: DEN0137 1.0, RMI_REALM_CREATE.
    Raises: RmiError(ERROR_INPUT) if a parameter is not supported, the shape of the start tables
    is not legal, the VMID is taken, or a granule is aliased or not DELEGATED.
    """
    params = RealmParams(rmm.read_ns(params_ptr, GRANULE_SIZE))
    if params.vmid >> rmm.limits.vmid_bits or not is_supported(rmm.limits, params, _HASHES):
        raise RmiError(RmiStatus.ERROR_INPUT)
    require_granules(rmm, rd, params)
    if any(realm.vmid == params.vmid for realm in rmm.realms.values()):
        raise RmiError(RmiStatus.ERROR_INPUT)
    add_realm(rmm, rd, params, VERSION_1_0)


def start_tables(params: RealmParams) -> range:
    """Return the granules of the start tables."""
    base = params.rtt_base
    return range(base, base + params.rtt_num_start * GRANULE_SIZE, GRANULE_SIZE)


def require_granules(rmm: Rmm, rd: int, params: RealmParams) -> None:
    """Check that a realm's granules are DELEGATED and different; RmiError(ERROR_INPUT) if not."""
    rmm.granules.require(rd, DELEGATED)
    for pa in start_tables(params):
        rmm.granules.require(pa, DELEGATED)
    if rd in start_tables(params):
        raise RmiError(RmiStatus.ERROR_INPUT)


def add_realm(rmm: Rmm, rd: int, params: RealmParams, revision: int) -> Realm:
    """Create a realm, which the caller has checked."""
    start_pas = start_tables(params)
    rtt = RttTree(
        rmm.machine,
        rmm.events,
        rd=rd,
        vmid=params.vmid,
        ipa_bits=params.s2sz,
        start_level=params.rtt_level_start,
        start=[Rtt(pa, rmm.memory) for pa in start_pas],
    )
    realm = rmm.realms[rd] = Realm(rd, params, rtt, rmm.events, revision, rmm.entropy)
    rmm.granules.move(rd, RD)
    for pa in start_pas:
        rmm.granules.move(pa, RTT)
    return realm


def is_supported(limits: Limits, params: RealmParams, hashes: Collection[int]) -> bool:
    """Return whether the RMM supports the parameters and the shape of the start tables is legal."""
    return (
        _MIN_S2SZ <= params.s2sz <= limits.s2sz
        and not params.flags & _UNSUPPORTED_FLAGS
        and 0 < params.num_bps <= limits.num_bps
        and 0 < params.num_wps <= limits.num_wps
        and (not params.flags & RealmFlags.PMU or 0 < params.pmu_num_ctrs <= limits.num_counters)
        and params.hash_algo in hashes
        and _is_legal_geometry(limits, params)
    )


def _is_legal_geometry(limits: Limits, params: RealmParams) -> bool:
    start_level, num_start = params.rtt_level_start, params.rtt_num_start
    return (
        num_start != 0
        and num_start == num_start_tables(params.s2sz, start_level)
        and not params.rtt_base % (num_start * GRANULE_SIZE)  # required by VTTBR_EL2
        and (start_level > 0 or limits.pa_range >= _PA_RANGE_44_BITS)
    )


@rmi_command(RmiFid.RMI_REALM_ACTIVATE)
def realm_activate(rmm: Rmm, rd: int) -> None:
    """End the construction of a realm: its RIM is final, its RECs may run.

    Spec: DEN0137 1.0, RMI_REALM_ACTIVATE.
    Raises: RmiError(ERROR_INPUT) if the realm does not exist; (ERROR_REALM) if it is not NEW, or
    does not match its metadata.
    """
    realm = rmm.realm(rd)
    if realm.state is not RealmState.NEW:
        raise RmiError(RmiStatus.ERROR_REALM)
    if realm.metadata is not None and not matches_realm(realm.metadata, realm):
        raise RmiError(RmiStatus.ERROR_REALM)
    realm.state = RealmState.ACTIVE


@rmi_command(RmiFid.RMI_REALM_DESTROY)
def realm_destroy(rmm: Rmm, rd: int) -> None:
    """Destroy a realm that no longer owns anything.

    Spec: DEN0137 1.0, RMI_REALM_DESTROY.
    Raises: RmiError(ERROR_INPUT) if the realm does not exist; (ERROR_REALM) if it has a REC or a
    live start table.
    """
    realm = rmm.realm(rd)
    if realm.num_live_recs or realm.rtt.is_live:
        raise RmiError(RmiStatus.ERROR_REALM)
    remove_realm(rmm, realm)
    rmm.release(rd)


def remove_realm(rmm: Rmm, realm: Realm) -> None:
    """Release all that a realm owns, except its RD."""
    rmm.machine.tlbi_vmid(realm.vmid)
    for table in realm.rtt.start:
        rmm.release(table.pa)
    if realm.metadata is not None:
        rmm.release(realm.metadata_pa)
    del rmm.realms[realm.rd]
