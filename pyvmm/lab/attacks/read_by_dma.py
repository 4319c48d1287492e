"""Read a realm's memory with a device."""

from pyvmm.lab import Break, Host, Realm, attack


@attack(
    stopped_by="the granule protection check on the accesses of a device",
    spec="Arm DDI 0487, Granule Protection Checks; Arm IHI 0070, SMMU: granule protection",
    breaks=(Break.GPC,),
)
def read_by_dma(host: Host) -> bool:
    """Read a realm's secret with a device that the host programs.

    A device has no translation that the realm controls; the host gives it a physical address.
    """
    realm = Realm.victim(host)
    device, address = host.device(), realm.secret
    data = host.attempt(f"the device reads {address:#x}", lambda: device.read(address, 16))
    return data is not None
