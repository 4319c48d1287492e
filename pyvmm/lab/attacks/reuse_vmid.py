"""Give two realms one VMID."""

from pyvmm.arch.rmi_revisions import VERSION_2_0
from pyvmm.lab import Host, Realm, attack


@attack(
    stopped_by="RMI_REALM_CREATE: the VMID is in use",
    spec="DEN0137 1.0, RMI_REALM_CREATE",
)
def reuse_vmid(host: Host) -> bool:
    """Create a realm with the VMID of another, so that they share what the TLBs contain."""
    Realm.victim(host)
    if host.revision == VERSION_2_0:
        host.note("create a realm with VMID 1, too", "RMI 2.0: the RMM chooses VMIDs")
        return False
    return (
        host.attempt("create a realm with VMID 1, too", lambda: Realm.create(host, vmid=1))
        is not None
    )
