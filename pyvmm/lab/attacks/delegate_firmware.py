"""Take the firmware's memory."""

from functools import partial

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
        for name, call in (("delegate", host.delegate), ("undelegate", host.undelegate)):
            host.attempt(f"{name} {owner}'s {pa:#x}", partial(call, pa))
            accepted.append(not host.steps[-1].is_refused)
    return any(accepted)
