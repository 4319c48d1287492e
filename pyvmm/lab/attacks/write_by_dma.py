"""Change a realm's memory with a device."""

from pyvmm.lab import Break, Host, Realm, Request, attack


@attack(
    stopped_by="the granule protection check on the accesses of a device",
    spec="Arm DDI 0487, Granule Protection Checks; Arm IHI 0070, SMMU: granule protection",
    breaks=(Break.GPC,),
)
def write_by_dma(host: Host) -> bool:
    """Overwrite a realm's secret with a device that the host programs."""
    realm = Realm.victim(host)
    device, address = host.device(), realm.secret
    host.attempt(f"the device writes to {address:#x}", lambda: device.write(address, b"A" * 16))
    answer = realm.ask(Request.CHECK)
    host.note("the realm compares its page with its registers", f"equal: {bool(answer)}")
    return not answer
