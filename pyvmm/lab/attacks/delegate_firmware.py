"""Take the firmware's memory."""

from pyvmm.arch.rmi import RmiFid
from pyvmm.lab import Host, Realm, attack


@attack(
    stopped_by="RMI_GRANULE_DELEGATE and _UNDELEGATE: the granule is not the host's",
    spec="DEN0137 1.0, RMI_GRANULE_DELEGATE",
)
def delegate_firmware(host: Host) -> bool:
    """Delegate or undelegate memory of the RMM and of EL3, which is at the end of DRAM."""
    Realm.victim(host)
    base, size = host.dram
    accepted = []
    for owner, pa in (("the RMM", base + size), ("EL3", base + size + (2 << 20))):
        for fid in (RmiFid.RMI_GRANULE_DELEGATE, RmiFid.RMI_GRANULE_UNDELEGATE):
            call = host.attempt(f"{fid.name} of {owner}'s {pa:#x}", lambda: host.rmi(fid, pa))  # noqa: B023
            accepted.append(call is not None)
    return any(accepted)
