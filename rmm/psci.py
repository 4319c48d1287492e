"""PSCI for realms: the RMM keeps the state of the RECs, the host schedules them.

Spec: DEN0137 1.0, "PSCI"; Arm DEN0022 1.1.
"""

from typing import Final

from pyvmm.arch.psci import VERSION_1_1, AffinityState, PsciFid, PsciReturn
from pyvmm.arch.rmi import RecExitReason
from pyvmm.arch.smccc import VERSION_1_2, SmcccFid
from rmm.commands import realm_command, table
from rmm.realm import RealmState
from rmm.rec import HostExit, PsciRequest, Rec, index_of
from rmm.rmm import Rmm

Result = tuple[int, ...]


def _ask_host(*arguments: int) -> HostExit:
    """Pass the call to the host: its function id, then the arguments."""
    return HostExit(RecExitReason.PSCI, gprs=arguments)


@realm_command(SmcccFid.SMCCC_VERSION)
def smccc_version(_rmm: Rmm, _rec: Rec) -> Result:
    """Return the version of the calling convention."""
    return (VERSION_1_2,)


@realm_command(PsciFid.PSCI_VERSION)
def psci_version(_rmm: Rmm, _rec: Rec) -> Result:
    """Return the version of PSCI."""
    return (VERSION_1_1,)


@realm_command(PsciFid.PSCI_FEATURES)
def psci_features(_rmm: Rmm, _rec: Rec, fid: int) -> Result:
    """Return whether a function is implemented."""
    return (PsciReturn.SUCCESS if fid in PSCI_1_1 else PsciReturn.NOT_SUPPORTED.x0,)


@realm_command(PsciFid.CPU_SUSPEND_32, PsciFid.CPU_SUSPEND_64)
def cpu_suspend(_rmm: Rmm, rec: Rec, power_state: int, entry: int, context_id: int) -> HostExit:
    """Wait for an interrupt: the host resumes the REC at any time, with x0 = SUCCESS."""
    rec.reply(PsciReturn.SUCCESS)
    return _ask_host(power_state, entry, context_id)


@realm_command(PsciFid.CPU_OFF)
def cpu_off(_rmm: Rmm, rec: Rec) -> HostExit:
    """Turn off the calling REC until a CPU_ON."""
    rec.runnable = False
    return _ask_host()


@realm_command(PsciFid.CPU_ON_32, PsciFid.CPU_ON_64)
def cpu_on(_rmm: Rmm, rec: Rec, target: int, entry: int, context_id: int) -> Result | HostExit:
    """Turn on another REC at a protected ``entry``; the host completes the call."""
    if not rec.realm.rtt.is_protected(entry):
        return (PsciReturn.INVALID_ADDRESS.x0,)
    index = index_of(target)
    if not rec.realm.has_rec(index):
        return (PsciReturn.INVALID_PARAMETERS.x0,)
    if index == rec.index:
        return (PsciReturn.ALREADY_ON.x0,)
    rec.psci = PsciRequest(index, is_cpu_on=True, entry=entry, context_id=context_id)
    return _ask_host(target)


@realm_command(PsciFid.AFFINITY_INFO_32, PsciFid.AFFINITY_INFO_64)
def affinity_info(_rmm: Rmm, rec: Rec, target: int, level: int) -> Result | HostExit:
    """Return whether another REC is on; the host completes the call."""
    index = index_of(target)
    if level != 0 or not rec.realm.has_rec(index):
        return (PsciReturn.INVALID_PARAMETERS.x0,)
    if index == rec.index:
        return (AffinityState.ON,)
    rec.psci = PsciRequest(index, is_cpu_on=False)
    return _ask_host(target, level)


@realm_command(PsciFid.SYSTEM_OFF, PsciFid.SYSTEM_RESET)
def system_off(_rmm: Rmm, rec: Rec) -> HostExit:
    """Turn off the realm permanently; the host sees whether it requested off or reset."""
    rec.realm.state = RealmState.SYSTEM_OFF
    return _ask_host()


PSCI_1_1: Final = table(
    (
        smccc_version,
        psci_version,
        psci_features,
        cpu_suspend,
        cpu_off,
        cpu_on,
        affinity_info,
        system_off,
    )
)
