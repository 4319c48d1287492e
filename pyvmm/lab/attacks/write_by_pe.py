"""Change a realm's memory with an instruction."""

from pyvmm.lab import Host, Realm, Request, attack


@attack(
    stopped_by="the granule protection check: data abort with fault status 0x28",
    spec="Arm DDI 0487, Granule Protection Checks; DEN0137 1.0, RMI_GRANULE_DELEGATE",
)
def write_by_pe(host: Host) -> bool:
    """Overwrite a realm's secret with a store instruction of the host's kernel.

    The host cannot read the page; it may be enough to change it.
    """
    realm = Realm.victim(host)
    address = realm.secret
    host.attempt(f"str x2, [{address:#x}] on PE 2", lambda: host.access(address, 0x4141))
    answer = realm.ask(Request.CHECK)
    host.note("the realm compares its page with its registers", f"equal: {bool(answer)}")
    return not answer
