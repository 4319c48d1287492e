"""RMI_REC_* of RMI 2.0: RECs come and go by operations, and the host has ICH_*_EL2."""

from functools import lru_cache
from struct import Struct
from typing import Final

from pyvmm.arch.gic import ICH_HCR_EN, ICH_LR_ACTIVE, ICH_LR_HW, ICH_LR_INTID_MASK, ICH_LR_PENDING
from pyvmm.arch.pas import GRANULE_SIZE, GranuleProtectionFault
from pyvmm.arch.rmi import REC_MPIDR_MASK, RecParams, RmiFid, RmiStatus, rec_index
from pyvmm.arch.rmi2 import RecEnter2
from rmm import run
from rmm.commands import rmi_command
from rmm.errors import RmiError
from rmm.granule import DELEGATED
from rmm.operation import Operation, require_delegated
from rmm.realm import Realm, RealmState
from rmm.rec import Rec
from rmm.rmi.rec import add_rec, check_room, measure_rec, remove_rec
from rmm.rmm import Rmm
from rmm.vgic import NO_LRS, unpack_lrs

#: Members of RmiRecEnter: flags and gprs[0]; what follows is read for a host call.
_ENTER: Final = Struct(f"<Q{RecEnter2.gprs.offset - 8}xQ{RecEnter2.gprs.struct.size - 8}x")
_LISTED: Final = ICH_LR_PENDING | ICH_LR_ACTIVE


class RecCreation(Operation):
    """A REC that is being created: its realm may change meanwhile, so that is checked again."""

    __slots__ = ("_rmm", "params", "realm")

    def __init__(self, rmm: Rmm, rec: int, realm: Realm, params: RecParams) -> None:
        super().__init__(rmm, rec, missing=rmm.limits.rec_aux_count)
        self.realm = realm
        self._rmm = rmm
        self.params = params

    def check(self) -> int:
        """Return the index of the REC; RmiError if the realm cannot have it."""
        index = rec_index(self.params.mpidr)
        if self.params.mpidr & ~REC_MPIDR_MASK or index in self.realm.recs:
            raise RmiError(RmiStatus.ERROR_INPUT)
        check_room(self._rmm.limits, self.realm)
        return index

    def create(self) -> None:
        """Create the REC, and measure it if it is runnable."""
        index = self.check()
        self._rmm.granules.move(self.owner, DELEGATED)
        created = add_rec(self._rmm, self.realm, self.owner, index, self.params)
        created.aux = tuple(self.donated)
        measure_rec(self.realm, self.params)


@rmi_command(RmiFid.RMI_REC_CREATE)
def rec_create(rmm: Rmm, rd: int, rec: int, params_ptr: int) -> None:
    """Create a REC of a new realm, by an operation that needs memory; a runnable one is measured.

    Spec: DEN0137 2.0, RMI_REC_CREATE.
    Raises: RmiError(ERROR_INPUT) if ``params_ptr`` is not the host's, ``rec`` is not DELEGATED, the
    realm does not exist, or the MPIDR is not valid or in use, (BLOCKED) if an operation has ``rec``
    or the realm; (ERROR_REALM) if the realm is not NEW or full.
    """
    params = RecParams(rmm.read_ns(params_ptr, GRANULE_SIZE))
    params.num_aux = 0  # a member of RMI 1.0 only
    require_delegated(rmm, rec)
    creation = RecCreation(rmm, rec, rmm.realm(rd), params)
    creation.check()
    creation.begin()


@rmi_command(RmiFid.RMI_REC_DESTROY)
def rec_destroy(rmm: Rmm, rec: int) -> None:
    """Destroy a REC, by an operation that returns memory.

    Spec: DEN0137 2.0, RMI_REC_DESTROY.
    Raises: RmiError(ERROR_INPUT) if the REC does not exist, (BLOCKED) if an operation has it;
    (ERROR_REC) if it runs.
    """
    destroyed = remove_rec(rmm, rec)
    rmm.release(rec)
    Operation(rmm, rec, returned=destroyed.aux).begin()


@rmi_command(RmiFid.RMI_REC_ENTER)
def rec_enter(rmm: Rmm, pe: int, rec: int, run_ptr: int) -> None:
    """Run a REC on the calling PE, with its ICH_*_EL2, until the host has to handle an exit.

    The host gets the registers back with ICH_HCR_EL2.En clear.
    Spec: DEN0137 2.0, RMI_REC_ENTER.
    Raises: RmiError(ERROR_INPUT) if ``run_ptr`` is not the host's or ``rec`` is not a REC,
    (BLOCKED) if an operation has it; (ERROR_REC) if it runs; (ERROR_REALM) if the realm is not
    ACTIVE; (ERROR_REC) if the REC is not runnable, waits for RMI_PSCI_COMPLETE, two list registers
    have the same interrupt or one is of hardware, or the flags do not fit the last exit.
    """
    flags, gpr0 = _ENTER.unpack(data := rmm.read_ns(run_ptr, _ENTER.size))
    entered = rmm.rec(rec)
    _check_state(entered)
    interface = rmm.machine.pe(pe).interface
    lrs = rmm.machine.list_registers(interface)
    if lrs != NO_LRS and not _are_legal(lrs):
        raise RmiError(RmiStatus.ERROR_REC)
    run.check_completion(entered, flags)
    context = entered.context
    rmm.machine.copy_interface(interface, context)
    leave = run.proceed(rmm, pe, entered, flags, gpr0, data)
    rmm.machine.copy_interface(context, interface)
    interface.ich_hcr &= ~ICH_HCR_EN
    try:
        rmm.exit_record_2.write(run_ptr, context, leave)
    except GranuleProtectionFault:
        raise RmiError(RmiStatus.ERROR_INPUT) from None


def _check_state(rec: Rec) -> None:
    if rec.running:
        raise RmiError(RmiStatus.ERROR_REC)
    if rec.realm.state is not RealmState.ACTIVE:
        raise RmiError(RmiStatus.ERROR_REALM)
    if not rec.runnable or rec.psci is not None:
        raise RmiError(RmiStatus.ERROR_REC)


@lru_cache(maxsize=64)  # a pending interrupt stays listed for many entries
def _are_legal(lrs: bytes) -> bool:
    listed = [lr for lr in unpack_lrs(lrs) if lr & _LISTED]
    intids = {lr & ICH_LR_INTID_MASK for lr in listed}
    return len(intids) == len(listed) and not any(lr & ICH_LR_HW for lr in listed)
