"""RMI_REALM_*: the life cycle of a realm."""

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import HashAlgorithm, RealmFlags, RealmParams, RmiFid, RmiStatus
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
_UNSUPPORTED_FLAGS = RealmFlags.LPA2 | RealmFlags.SVE | RealmFlags.PMU


@rmi_command(RmiFid.RMI_REALM_CREATE)
def realm_create(rmm: Rmm, rd: int, params_ptr: int) -> None:
    """Create a realm in state NEW, with empty tables, and measure its parameters.

    Spec: DEN0137 1.0, RMI_REALM_CREATE.
    Raises: RmiError(ERROR_INPUT) if a parameter is not supported, the shape of the start tables
    is not legal, the VMID is taken, or a granule is aliased or not DELEGATED.
    """
    params = RealmParams(rmm.read_ns(params_ptr, GRANULE_SIZE))
    if not (_is_supported(rmm.limits, params) and _is_legal_geometry(rmm.limits, params)):
        raise RmiError(RmiStatus.ERROR_INPUT)
    base = params.rtt_base
    start_pas = range(base, base + params.rtt_num_start * GRANULE_SIZE, GRANULE_SIZE)
    rmm.granules.require(rd, DELEGATED)
    for pa in start_pas:
        rmm.granules.require(pa, DELEGATED)
    if rd in start_pas or any(realm.vmid == params.vmid for realm in rmm.realms.values()):
        raise RmiError(RmiStatus.ERROR_INPUT)
    rtt = RttTree(
        rmm.machine,
        rmm.events,
        rd=rd,
        vmid=params.vmid,
        ipa_bits=params.s2sz,
        start_level=params.rtt_level_start,
        start=[Rtt(pa, rmm.memory) for pa in start_pas],
    )
    rmm.realms[rd] = Realm(rd, params, rtt, rmm.events)
    rmm.granules.move(rd, RD)
    for pa in start_pas:
        rmm.granules.move(pa, RTT)


def _is_supported(limits: Limits, params: RealmParams) -> bool:
    return (
        _MIN_S2SZ <= params.s2sz <= limits.s2sz
        and not params.flags & _UNSUPPORTED_FLAGS
        and 0 < params.num_bps <= limits.num_bps
        and 0 < params.num_wps <= limits.num_wps
        and params.hash_algo in (HashAlgorithm.SHA_256, HashAlgorithm.SHA_512)
        and not params.vmid >> limits.vmid_bits
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
    rmm.machine.tlbi_vmid(realm.vmid)
    for table in realm.rtt.start:
        rmm.release(table.pa)
    if realm.metadata is not None:
        rmm.release(realm.metadata_pa)
    del rmm.realms[rd]
    rmm.release(rd)
