"""RMI_REC_*: the life cycle of a REC, and the entry into the realm."""

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import (
    MAX_REC_AUX,
    REC_MPIDR_MASK,
    RecCreateFlags,
    RecParams,
    RmiFid,
    RmiStatus,
    rec_index,
)
from rmm import run
from rmm.commands import rmi_command
from rmm.errors import RmiError
from rmm.granule import DELEGATED, REC, REC_AUX
from rmm.realm import Limits, Realm, RealmState
from rmm.rec import Rec, make_context
from rmm.rmm import Rmm


@rmi_command(RmiFid.RMI_REC_AUX_COUNT)
def rec_aux_count(rmm: Rmm, rd: int) -> tuple[int, ...]:
    """Return how many auxiliary granules each REC of a realm needs.

    Spec: DEN0137 1.0, RMI_REC_AUX_COUNT.
    Raises: RmiError(ERROR_INPUT) if the realm does not exist.
    """
    rmm.realm(rd)
    return (rmm.limits.rec_aux_count,)


@rmi_command(RmiFid.RMI_REC_CREATE)
def rec_create(rmm: Rmm, rd: int, rec: int, params_ptr: int) -> None:
    """Create a REC of a new realm; a runnable one is measured.

    Spec: DEN0137 1.0, RMI_REC_CREATE.
    Raises: RmiError(ERROR_INPUT) if a granule is aliased or not DELEGATED; then (ERROR_REALM)
    if the realm is not NEW or full; then (ERROR_INPUT) if the MPIDR is not the next one or the
    number of auxiliary granules is wrong.
    """
    params = RecParams(rmm.read_ns(params_ptr, GRANULE_SIZE))
    if params.num_aux > MAX_REC_AUX:
        raise RmiError(RmiStatus.ERROR_INPUT)
    rmm.granules.require(rec, DELEGATED)
    aux = params.aux[: params.num_aux]
    for pa in aux:
        rmm.granules.require(pa, DELEGATED)
    realm = rmm.realm(rd)
    if len({rec, *aux}) != 1 + len(aux):
        raise RmiError(RmiStatus.ERROR_INPUT)
    check_room(rmm.limits, realm)
    if params.mpidr & ~REC_MPIDR_MASK or rec_index(params.mpidr) != realm.num_recs:
        raise RmiError(RmiStatus.ERROR_INPUT)
    if params.num_aux != rmm.limits.rec_aux_count:
        raise RmiError(RmiStatus.ERROR_INPUT)
    add_rec(rmm, realm, rec, realm.num_recs, params)
    for pa in aux:
        rmm.granules.move(pa, REC_AUX)
    measure_rec(realm, params)


def check_room(limits: Limits, realm: Realm) -> None:
    """Check that a realm is new and may have one REC more; RmiError(ERROR_REALM) if not."""
    if realm.state is not RealmState.NEW:
        raise RmiError(RmiStatus.ERROR_REALM)
    if realm.num_live_recs >= (1 << limits.max_recs_order) - 1:
        raise RmiError(RmiStatus.ERROR_REALM)


def add_rec(rmm: Rmm, realm: Realm, rec: int, index: int, params: RecParams) -> Rec:
    """Create a REC, which the caller has checked."""
    created = Rec(rec, realm, index, params)
    created.context = make_context(rmm.machine, rmm.limits, created, params)
    if realm.is_debuggable:
        created.debug = rmm.machine.new_debug()
        rmm.machine.lend_debug(created.context, created.debug)
    rmm.recs[rec] = created
    realm.recs[index] = rec
    realm.num_recs += 1
    realm.num_live_recs += 1
    rmm.granules.move(rec, REC)
    return created


def measure_rec(realm: Realm, params: RecParams) -> None:
    """Extend the RIM with the initial state of a REC, if it is runnable."""
    if params.flags & RecCreateFlags.RUNNABLE:
        realm.measurements.extend_rec(params)


@rmi_command(RmiFid.RMI_REC_DESTROY)
def rec_destroy(rmm: Rmm, rec: int) -> None:
    """Destroy a REC.

    Spec: DEN0137 1.0, RMI_REC_DESTROY.
    Raises: RmiError(ERROR_INPUT) if the REC does not exist; (ERROR_REC) if it runs.
    """
    destroyed = remove_rec(rmm, rec)
    for pa in (rec, *destroyed.aux):
        rmm.release(pa)


def remove_rec(rmm: Rmm, pa: int) -> Rec:
    """Remove a REC, but keep its granules; RmiError(ERROR_REC) if it runs."""
    removed = rmm.rec(pa)
    if removed.running:
        raise RmiError(RmiStatus.ERROR_REC)
    removed.realm.num_live_recs -= 1
    del removed.realm.recs[removed.index]
    del rmm.recs[pa]
    return removed


@rmi_command(RmiFid.RMI_REC_ENTER)
def rec_enter(rmm: Rmm, pe: int, rec: int, run_ptr: int) -> None:
    """Run a REC on the calling PE until the host has to handle an exit.

    Spec: DEN0137 1.0, RMI_REC_ENTER.
    Raises: RmiError(ERROR_INPUT) if ``run_ptr`` is not the host's or ``rec`` is not a REC;
    (ERROR_REC) if it runs; (ERROR_REALM, 0 or 1) if the realm is NEW or SYSTEM_OFF; (ERROR_REC)
    if it is not runnable, waits for RMI_PSCI_COMPLETE, or the entry's parameters are not valid.
    """
    run.enter(rmm, pe, rec, run_ptr)
