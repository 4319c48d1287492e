"""Read a realm's memory with an instruction."""

from pyvmm.lab import Host, Realm, attack


@attack(
    stopped_by="the granule protection check: data abort with fault status 0x28",
    spec="Arm DDI 0487, Granule Protection Checks; DEN0137 1.0, RMI_GRANULE_DELEGATE",
)
def read_by_pe(host: Host) -> bool:
    """Read a realm's secret with a load instruction of the host's kernel.

    The host chose the physical page, so it knows the address.
    """
    realm = Realm.victim(host)
    address = realm.secret
    return host.attempt(f"ldr x0, [{address:#x}] on PE 2", lambda: host.access(address)) is not None
