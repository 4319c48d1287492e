"""Ask EL3 directly to move a granule."""

from pyvmm.arch.rmmd import RmmdFid
from pyvmm.lab import Host, Realm, attack


@attack(
    stopped_by="EL3: the functions for the RMM do not exist for the normal world",
    spec="TF-A, RMM-EL3 communication interface: RMM_GTSI_UNDELEGATE",
)
def call_el3(host: Host) -> bool:
    """Call the Monitor's function that moves granules, as the RMM does."""
    realm = Realm.victim(host)
    fid, granule = RmmdFid.GTSI_UNDELEGATE, realm.secret
    call = host.attempt(f"GTSI_UNDELEGATE of {granule:#x}", lambda: host.call(fid, granule))
    return call is not None
